"""Settings that come from the command line, through the real Snakemake."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the workflow, in a folder with a blank in its name."""
    folder = tmp_path_factory.mktemp("a copy")
    for name in ("rules", "profiles", "envs", "src", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


def dry_run(folder, *settings):
    """What ``snakemake -n`` says, and its exit status."""
    command = [sys.executable, "-m", "snakemake", "-n", "paper_figures", "--config", "device=cpu", *settings]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_lists_and_maps_mean_what_they_mean_in_a_file(checkout):
    """``--config`` takes numbers and truth values inside them, and a section keeps the keys that it does not name."""
    rows = "workloads=[{name: activation, batch: 1, tokens: 9, kv_cache: false}]"
    status, said = dry_run(checkout, "layers=[2, 3]", "functional={tokens: 16}", rows)
    assert status == 0, said
    assert ["measure", "8"] in [line.split() for line in said.splitlines()]


def test_a_fault_is_said_once(checkout):
    """The message, without a traceback, and nothing is planned."""
    status, said = dry_run(checkout, "layers=[1, 41]")
    assert status != 0
    assert said.count("config: layers: 41 is beyond llama-2-tiny; allowed: 1 to 40, or auto") == 1, said
    assert "Traceback" not in said
    assert "Job stats" not in said
