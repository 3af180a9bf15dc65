"""The configuration through the real Snakemake: files and settings of the command line, and what a change plans."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.published import PUBLISHED

ROOT = Path(__file__).parents[3]


def copy_of_the_workflow(folder):
    """Fill ``folder`` with what planning needs."""
    for name in ("rules", "profiles", "envs", "src", "examples", "results/published"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the workflow, in a folder with a blank in its name."""
    return copy_of_the_workflow(tmp_path_factory.mktemp("a copy"))


@pytest.fixture
def snakemake(warm):
    """Runs Snakemake in a folder; returns its exit status and what it says."""

    def run(folder, *arguments):
        done = warm.run("-m", "snakemake", *arguments, folder=folder)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def dry_run(snakemake):
    """The same of a dry run under settings."""
    return lambda folder, *settings: snakemake(folder, "-n", "paper_figures", "--config", "device=cpu", *settings)


def jobs(said):
    """How many jobs of which rule are planned."""
    words = [line.split() for line in said.splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdigit()}


def test_lists_and_maps_mean_what_they_mean_in_a_file(checkout, dry_run):
    """``--config`` takes numbers and truth values inside them, and a section keeps the keys that it does not name."""
    rows = "workloads=[{name: activation, batch: 1, tokens: 9, kv_cache: false}]"
    status, said = dry_run(checkout, "layers=[2, 3]", "functional={tokens: 16}", rows)
    assert status == 0, said
    assert jobs(said)["measure"] == 8


def test_a_file_of_the_command_line_goes_over_the_shipped_one_and_a_setting_over_both(checkout, dry_run):
    """Key by key."""
    (checkout / "more.yaml").write_text("layers: [5]\nmethods: [vanilla]\ndevice: cuda\npaper_runs: []\n")
    status, said = dry_run(checkout, "layers=[2, 3, 4]", "--configfile", "more.yaml")
    assert status == 0, said
    planned = jobs(said)
    assert (planned["measure"], planned["method_measure"]) == (3, 2)
    assert not re.search(r"paper_figures/(?!local\b)", said)  # no run but this machine's is drawn


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["layers=[1, 41]"], "config: layers: 41 is beyond llama-2-tiny; allowed: 1 to 40, or auto"),
        (["functional={tokens: 16, tokens: 32}"], "config: functional.tokens is given twice, in lines 1 and 1"),
        (["paper_runs=[x9]"], f"config: paper_runs: 'x9' is no published run. Allowed: {', '.join(PUBLISHED)}"),
        (["--configfile", "twice.yaml"], "config: rounds is given twice, in lines 1 and 2"),
    ],
)
def test_a_fault_is_said_once(checkout, dry_run, settings, message):
    """The message, without a traceback, and nothing is planned."""
    (checkout / "twice.yaml").write_text("rounds: 1\nrounds: 2\n")
    status, said = dry_run(checkout, *settings)
    assert status != 0
    assert said.count(message) == 1, said
    assert "Traceback" not in said
    assert "Job stats" not in said


def test_a_fault_of_the_shipped_file_is_said_once(checkout, dry_run):
    """Also one that Snakemake's own reader passes over."""
    shipped = checkout / "config.yaml"
    text = shipped.read_text()
    try:
        for content, message in (
            (text + "\ndevice: cpu\n", "config: device is given twice, in lines 3 and"),
            (text.encode("utf-16"), "config.yaml cannot be read as a configuration in UTF-8"),
        ):
            shipped.write_bytes(content.encode() if isinstance(content, str) else content)
            status, said = dry_run(checkout)
            assert status != 0
            assert said.count(message) == 1, said
            assert "Traceback" not in said
    finally:
        shipped.write_text(text)


def test_one_changed_number_of_load_measures_load_again_and_nothing_else(snakemake, tmp_path):
    """And draws again what follows; before, every job of the run was planned."""
    folder = copy_of_the_workflow(tmp_path)
    settings = ("--config", "device=cpu", "layers=[1]", "methods=[vanilla, djinn]", "paper_runs=[]")
    status, said = snakemake(folder, "--summary", "paper_figures", *settings)
    outputs = [line.split("\t")[0] for line in said.splitlines() if "\tmissing\t" in line]
    studies = [path for path in outputs if "/studies/" in path]
    assert (status, len(studies)) == (0, 11), said
    status, said = snakemake(folder, "--cores", "1", *studies, "results/local/study.json", *settings)
    assert status == 0, said
    now = time.time()
    for path in outputs:  # as if all had been measured and drawn since, at one moment
        if path not in studies and not path.endswith("study.json"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
            os.utime(folder / path, (now, now))
    status, said = snakemake(folder, "-n", "paper_figures", *settings)
    assert (status, jobs(said)) == (0, {}), said
    changed = "functional={load: [{sessions: 1, resumes: 3}, {sessions: 4, resumes: 8}]}"
    status, said = snakemake(folder, "-n", "paper_figures", *settings, changed)
    assert status == 0, said
    planned = {rule: count for rule, count in jobs(said).items() if rule.endswith(("study", "measure", "probe"))}
    assert planned == {"study": 1, "job_study": 1, "side_measure": 1}
    assert "results/local/load.json" in said
    assert jobs(said)["aggregate"] == 1
