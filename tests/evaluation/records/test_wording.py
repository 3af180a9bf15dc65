"""No folder of a machine and no control character gets into a record."""

import json

import pytest

from evaluation.records.kinds import write_record
from evaluation.records.wording import folders_in, one_line, without_folders
from tests.evaluation.synthetic import Synthetic


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/models/llama", "llama"),
        ("checkpoint /data/llama", "checkpoint llama"),
        ("cannot open '/opt/x/lib.so': no such file", "cannot open 'lib.so': no such file"),
        ("C:\\Users\\me\\llama", "llama"),
        ("file:///home/me/llama", "file:llama"),
        ("x/home/me/llama", "llama"),
        ("--out=/tmp/a/b.json", "--out=b.json"),
        ("see https://docs.pytorch.org/docs/notes (at 3 GB/s)", None),
        ("results/local/load.json", None),
        ("1 / 2", None),
    ],
)
def test_of_an_absolute_path_the_last_name_is_left(text, left):
    """Addresses, rates and relative paths are none."""
    assert without_folders({"a": [text]}) == {"a": [text if left is None else left]}
    assert list(folders_in({"a": [text]})) == ([] if left is None else ["a.0"])
    assert not list(folders_in(without_folders(text)))


def test_a_name_is_one_line_of_printable_signs():
    """Letters of any script stay."""
    assert one_line("NVIDIA\x1b[31m\tH100\r\n 80GB\x00") == "NVIDIA [31m H100 80GB"
    assert one_line("英伟达 H100") == "英伟达 H100"


def test_what_is_written_names_no_folder_and_is_checked(tmp_path):
    """A message keeps its sense; a record that is none is not written."""
    record = Synthetic(samples=2, methods=("djinn",)).record("djinn", 1, 1)
    record["cells"][0].update(outcome="out_of_memory", samples=[], message="no room, see /home/me/log")
    write_record(tmp_path / "r.json", record)
    assert json.loads((tmp_path / "r.json").read_text())["cells"][0]["message"] == "no room, see log"
    record["cells"][1]["samples"][0]["bit_exact"] = False
    with pytest.raises(ValueError, match=r"^cells.1.samples.0.bit_exact: "):
        write_record(tmp_path / "other.json", record)
    assert not (tmp_path / "other.json").exists()
