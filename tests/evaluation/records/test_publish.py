"""Only a complete GPU run of one study is published, unchanged, and whole or not at all."""

import os
import shutil
import subprocess
import sys

import pytest

from evaluation.records.publish import main, publish
from evaluation.records.runs import CHECKSUMS, RunError, benchmark_path, load_run
from tests.evaluation.side_cells import EVERY
from tests.evaluation.synthetic import Synthetic, edit, record_path

SMALL = Synthetic(layers=(1, 10), samples=6, peers=("memory_saver",), beside=EVERY)


@pytest.fixture
def local(tmp_path):
    """A complete local run."""
    return SMALL.write(tmp_path / "results" / "local")


@pytest.fixture
def published(tmp_path):
    """Where published runs go; not there yet."""
    return tmp_path / "results" / "published"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_published_run_is_the_local_one_with_checksums(local, published):
    """The same bytes, readable again, with a sorted SHA256SUMS; files of other studies stay behind."""
    before = files(local)
    (local / "raw" / "djinn" / "layer_20").mkdir()
    record_path(local, "djinn", 20).write_text("{}")
    (local / "log.txt").write_text("x")
    target = publish(local, published, "h100-sxm-80gb")
    copied = files(target)
    listing = copied.pop(CHECKSUMS).decode()
    assert copied == before
    names = [line.split("  ")[1] for line in listing.splitlines()]
    assert names == sorted(before)
    assert [entry.name for entry in published.iterdir()] == ["h100-sxm-80gb"]
    assert load_run(target).name == "h100-sxm-80gb"


def test_what_jobs_took_goes_along(local, published):
    """Snakemake's benchmark files of the run's own records, and no others."""
    own = [benchmark_path(local, path) for path in (record_path(local, "djinn", 10), local / "capacity" / "djinn.json")]
    for path in [*own, local / "benchmarks" / "raw" / "djinn" / "layer_20" / "round_1.tsv"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("s\tmax_rss\n12.5\t300\n")
    target = publish(local, published, "h100")
    copied = {path.relative_to(target / "benchmarks").as_posix() for path in (target / "benchmarks").rglob("*.tsv")}
    assert copied == {"raw/djinn/layer_10/round_1.tsv", "capacity/djinn.tsv"}
    (target / "benchmarks" / "capacity" / "djinn.tsv").write_text("s\tmax_rss\n1\t300\n")
    with pytest.raises(RunError, match=r"benchmarks/capacity/djinn.tsv: changed since it was published"):
        load_run(target)


def test_the_checksum_file_is_that_of_sha256sum(local, published):
    """The tool that everybody has can check a published run."""
    target = publish(local, published, "h100")
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", CHECKSUMS], cwd=target, check=True)


def drop_samples(record):
    record["cells"][2]["samples"].pop()


def drop_cell(record):
    record["cells"].pop()


def drop_headline(record):
    record["cells"] = [cell for cell in record["cells"] if not cell["headline"]]


@pytest.mark.parametrize(
    ("message", "method", "change"),
    [
        ("layer_10/round_1.json: workload session, variant default: 5 samples of the 6", "djinn", drop_samples),
        ("layer_10/round_1.json: workload and variant .'session', 'ordered'.", "manual_offload", drop_cell),
        ("layer_10/round_1.json: no headline cell of workload activation", "manual_offload", drop_headline),
        ("no headline cell of workload session", "vanilla", drop_cell),
        ("mixed run", "djinn", lambda record: record["provenance"].update(source_sha256="b" * 64)),
    ],
)
def test_an_incomplete_or_mixed_run_is_refused_by_name(local, published, message, method, change):
    """Too few samples, a cell that other layers have, a workload without headline, two sources."""
    edit(record_path(local, method, 10), change)
    with pytest.raises(RunError, match=message):
        publish(local, published, "h100")
    assert not published.exists()


def test_a_missing_job_is_refused_by_name(local, published):
    """Every method, layer and round of the study must be there."""
    record_path(local, "recompute", 10).unlink()
    with pytest.raises(RunError, match=r"recompute/layer_10/round_1.json: missing; .* \(1 jobs\)"):
        publish(local, published, "h100")


@pytest.mark.parametrize("name", ["overhead.json", "load.json"])
def test_what_is_measured_once_belongs_to_it(local, published, name):
    """From another source it makes the run a mixed one; a run without it says so."""
    edit(local / name, lambda record: record["provenance"].update(source_sha256="0" * 64))
    with pytest.raises(RunError, match=f"{name}: mixed run: another source digest"):
        publish(local, published, "h100")
    (local / name).unlink()
    assert name not in files(publish(local, published, "h100"))


def test_out_of_memory_is_a_result(local, published):
    """A cell for which the device had no room needs no samples."""

    def refuse(record):
        record["cells"][1].update(outcome="out_of_memory", message="no room", samples=[], validation_samples=0)

    edit(record_path(local, "vanilla", 10), refuse)
    assert load_run(publish(local, published, "l4")).records


def test_a_functional_run_is_refused(tmp_path, published):
    """What a CPU measured is not a result."""
    folder = Synthetic(functional=True, layers=(1,), samples=6).write(tmp_path / "results" / "local")
    with pytest.raises(RunError, match="functional run"):
        publish(folder, published, "laptop")


@pytest.mark.parametrize("name", ["", "local", "h100_sxm", "../h100", "h100 sxm", "-h100", "h100-", ".h100", "h100\n"])
def test_a_bad_name_is_refused(local, published, name):
    """The name becomes a folder, a column and a file name."""
    with pytest.raises(RunError, match="--name"):
        publish(local, published, name)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("machine.json", lambda machine: machine["gpu"].update(name="NVIDIA H200"), "h100 of NVIDIA H200, name"),
        ("study.json", lambda study: study["model"].update(seed=7), "h100 of NVIDIA H100 .* seed 7"),
    ],
)
def test_a_run_that_stands_beside_one_is_of_its_gpu_and_model(local, published, file, change, says):
    """Else the paper would draw numbers of two machines or models as those of one."""
    target = publish(local, published, "h100")
    assert publish(local, published, "h100-durable").exists()
    edit(target / file, change)
    with pytest.raises(RunError, match=f"--name h100-durable: this run is of NVIDIA H100 .*, and .*{says}"):
        publish(local, published, "h100-durable", replace=True)


def test_an_existing_run_is_replaced_only_on_request(local, published):
    """Without --replace the old run stands; with it, nothing of the old one is left."""
    target = publish(local, published, "h100")
    before = files(target)
    edit(local / "machine.json", lambda machine: machine["gpu"].update(driver="another"))
    with pytest.raises(RunError, match="--replace"):
        publish(local, published, "h100")
    assert files(target) == before
    publish(local, published, "h100", replace=True)
    assert load_run(target).machine["gpu"]["driver"] == "another"
    assert [entry.name for entry in published.iterdir()] == ["h100"]


def test_a_failure_half_way_leaves_nothing(local, published, monkeypatch):
    """If copying fails, the old run stands and no part of the new one is left."""
    target = publish(local, published, "h100")
    before = files(target)

    def fail(source, copy):
        raise OSError("disk full")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(OSError, match="disk full"):
        publish(local, published, "h100", replace=True)
    assert files(target) == before
    assert [entry.name for entry in published.iterdir()] == ["h100"]


def test_a_failing_swap_puts_the_old_run_back(local, published, monkeypatch):
    """If the new folder cannot take the name, the one that stood there does again."""
    target = publish(local, published, "h100")
    before = files(target)
    rename, moves = os.rename, []

    def fail_second(source, to):
        moves.append(to)
        if len(moves) == 2:
            raise OSError("no")
        rename(source, to)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(OSError, match="no"):
        publish(local, published, "h100", replace=True)
    assert files(target) == before
    assert [entry.name for entry in published.iterdir()] == ["h100"]


def test_the_command_reports(local, published, monkeypatch, capsys):
    """Exit status 0 and where it went; 2 and why not."""
    arguments = ["publish", "--name", "h100", "--results", str(local.parent)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    assert capsys.readouterr().out == f"published {published / 'h100'}\n"
    assert main() == 2
    assert "exists already" in capsys.readouterr().err
