"""Where a record comes from."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from evaluation.records import provenance as module
from evaluation.records.fields import checked
from evaluation.records.provenance import (
    command,
    git_state,
    measuring_sources,
    provenance,
    sitting,
    source_sha256,
    versions,
)
from evaluation.records.record import Provenance
from evaluation.study import devices
from tests.evaluation.nvml import Card, FakeNvml


def git(folder, *arguments):
    """Run git there, whoever the user is."""
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository with one file in its index."""
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    return tmp_path


def test_the_commit_is_named_and_a_change_makes_it_dirty(repository):
    """A clean tree, an untracked file and a changed one are told apart."""
    git(repository, "commit", "-m", "first")
    clean = git_state(repository)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (repository / "notes").write_text("untracked")
    assert git_state(repository) == clean
    (repository / "code.py").write_text("2\n")
    assert git_state(repository) == {**clean, "dirty": True}


def test_without_a_commit_the_reason_is_given(repository, tmp_path_factory, monkeypatch):
    """No commit, no repository, somebody else's repository around a copy, and no git each have their reason."""
    assert git_state(repository) == {"unavailable": "no commit yet"}
    git(repository, "commit", "-m", "first")
    (repository / "copy").mkdir()
    (repository / "copy" / "code.py").write_text("1\n")
    assert git_state(repository / "copy") == {"unavailable": "the sources are not tracked by git"}
    outside = tmp_path_factory.mktemp("outside")
    assert git_state(outside) == {"unavailable": "the sources are not tracked by git"}
    monkeypatch.setenv("PATH", str(outside))
    assert git_state(repository) == {"unavailable": "git is not installed"}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the sources that a test may change."""
    target = tmp_path / "src"
    shutil.copytree(module.SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "SOURCE", target)
    return target


def test_the_digest_is_of_what_measures(copy):
    """The system's and the harness's modules change it, by content and by name; the paper's tools do not."""
    before = source_sha256()
    for name in ("figures/crossover", "analysis/aggregate", "records/probe"):
        with (copy / "evaluation" / f"{name}.py").open("a") as file:
            file.write("# edited\n")
    (copy / "evaluation" / "records" / "record.schema.json").write_text("{}")
    assert source_sha256() == before
    seen = {before}
    (copy / "djinn" / "paper.py").write_text("")  # a name of the paper's, in the system
    seen.add(source_sha256())
    with (copy / "evaluation" / "measure" / "harness.py").open("a") as file:
        file.write("# edited\n")
    seen.add(source_sha256())
    (copy / "evaluation/measure/clocks.py").rename(copy / "evaluation/measure/timers.py")
    seen.add(source_sha256())
    assert len(seen) == 4


def test_the_digest_does_not_depend_on_the_folder(copy):
    """Two checkouts of the same sources have the same digest, though their paths differ."""
    in_copy = source_sha256()
    shutil.copytree(copy, copy.parent / "elsewhere")
    module.SOURCE = copy.parent / "elsewhere"  # the fixture puts the old one back
    assert source_sha256() == in_copy


def test_what_measures_imports_nothing_that_is_left_out(warm, tmp_path):
    """No module outside the digest takes part in a measurement."""
    left_out = set(module.SOURCE.rglob("*.py")) - set(measuring_sources())
    assert {"probe.py", "crossover.py"} <= {path.name for path in left_out}
    # What a job writes its record by cannot be left unimported.
    read = {"probe", "publish", "runs", "together", "machine"}
    written = {path for path in (module.SOURCE / "evaluation" / "records").glob("*.py") if path.stem not in read}
    left_out -= {*written, *(module.SOURCE / "evaluation" / f"{name}.py" for name in ("__init__", "command"))}
    names = [".".join(path.relative_to(module.SOURCE).with_suffix("").parts) for path in left_out]
    (tmp_path / "imported.py").write_text(
        "import sys\n"
        "from evaluation.methods import benchmark_djinn, benchmark_manual_offload\n"
        "from evaluation.methods import benchmark_recompute, benchmark_vanilla\n"
        f"sys.exit(', '.join(sorted(set({names!r}) & set(sys.modules))) or 0)"
    )
    done = warm.run("-m", "imported", folder=tmp_path, PYTHONPATH=str(module.SOURCE))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("spec", "program"),
    [
        (types.SimpleNamespace(name="evaluation.experiments.load"), "python -m evaluation.experiments.load"),
        (None, "load.py"),
    ],
    ids=["module", "script"],
)
def test_the_command_can_be_repeated_and_names_no_folder(monkeypatch, tmp_path, spec, program):
    """Paths below the working folder stay relative to it; of others only the name is kept; spaces are quoted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=spec))
    paths = ["--out", str(tmp_path / "a b" / "r.json"), "--study=/home/me/study.json"]
    monkeypatch.setattr(sys, "argv", ["/home/me/load.py", "--layer", "3", *paths])
    assert command() == f"{program} --layer 3 --out 'a b/r.json' --study=study.json"


def test_provenance_is_what_a_record_asks_for(monkeypatch):
    """Exactly the keys of the schema but for the conditions, valid, without the folders of this machine."""
    found = provenance("cpu")
    assert set(checked(Provenance, found).model_dump()) == {*found, "conditions"}
    assert str(Path.cwd()) not in json.dumps(found)
    assert found["driver"] == {"unavailable": "measured without a GPU"}
    assert found["sitting"] == provenance("cpu")["sitting"]


@pytest.fixture
def card(monkeypatch):
    """A GPU whose record is written."""
    found = Card(uuid="GPU-zyxw-1111")
    monkeypatch.setattr(devices, "pynvml", FakeNvml(cards=[found], driver="580.1"))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: found.name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_a_record_of_a_gpu_says_its_sitting_and_driver_and_not_its_uuid(card):
    """The digest is of the UUID and the boot."""
    found = provenance("cuda")
    checked(Provenance, found)
    assert found["driver"] == "580.1"
    assert found["sitting"] == sitting(card.uuid) != provenance("cpu")["sitting"]
    assert "zyxw" not in json.dumps(found)


def test_another_gpu_or_another_boot_is_another_sitting(monkeypatch, tmp_path):
    """Where the kernel hides the boot's id its time stands for it, and without both there is no sitting."""
    boot, started = tmp_path / "boot_id", tmp_path / "stat"
    monkeypatch.setattr(module, "_BOOT", boot)
    monkeypatch.setattr(module, "_STARTED", started)
    assert sitting("GPU-1") is None
    started.write_text("cpu 1 2\nbtime 1764\n")
    seen = {sitting("GPU-1")}
    boot.write_text("b5a6-933f\n")
    seen |= {sitting("GPU-1"), sitting("GPU-2"), sitting(None)}
    boot.write_text("b5a6-9340\n")
    seen.add(sitting("GPU-1"))
    assert len(seen) == 5
    assert all(re.fullmatch("[0-9a-f]{12}", one) for one in seen)
    assert sitting("GPU-1") == sitting("GPU-1")


def test_versions_are_those_that_run():
    """Python, torch and transformers are named with the version that is imported."""
    import torch
    import transformers

    found = versions()
    assert found["torch"] == torch.__version__
    assert found["transformers"] == transformers.__version__
    assert {"tokenizers", "huggingface_hub", "safetensors"} <= found.keys()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert os.sep not in "".join(found.values())
