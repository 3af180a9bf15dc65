"""Shared by the workflow's tests: a copy of the repository, and Snakemake in it."""

import shutil

import pytest

from tests.workflow.settings import PARTS, ROOT


@pytest.fixture(scope="module")
def snakemake(warm):
    """Runs Snakemake in a folder and returns the finished process; its output is text."""
    return lambda folder, *arguments: warm.run("-m", "snakemake", "--cores", "1", *arguments, folder=folder)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what the workflow needs, with nothing of this machine's earlier runs."""
    folder = tmp_path_factory.mktemp("copy")
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "local", "*.egg-info"))
        elif source.exists():
            target.write_bytes(source.read_bytes())
    return folder


@pytest.fixture
def planned(snakemake):
    """How many jobs of which rule Snakemake would run in a folder."""

    def plan(folder, *arguments):
        done = snakemake(folder, "-n", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        words = [line.split() for line in (done.stdout + done.stderr).splitlines()]
        return {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdigit()}

    return plan
