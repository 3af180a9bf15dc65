"""One job at a time measures in a run, and a second one says for whom it waits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.records.lock import held, run_of
from evaluation.records.publish import publish
from tests.evaluation.synthetic import Synthetic

_HOLD = """
import sys
from pathlib import Path
from evaluation.records.lock import held

def say(line):
    print(line, flush=True)

with held(Path(sys.argv[1]), sys.argv[2], say):
    print("holds", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path, who: str) -> subprocess.Popen:
    """A process that holds the lock of ``folder`` until it is sent a line."""
    command = [sys.executable, "-c", _HOLD, str(folder), who]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.fixture
def first(tmp_path):
    """A process that holds the lock."""
    process = holder(tmp_path, "djinn layer 10")
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_job_says_for_whom_it_waits_and_goes_on(tmp_path, first):
    """It names the command, the process and the run, once; and it holds the lock when the first has ended."""
    second = holder(tmp_path, "load")
    said = second.stdout.readline()
    assert said.startswith(f"waiting for djinn layer 10 (pid {first.pid}), which measures in {tmp_path} since 20")
    first.communicate("\n")
    assert second.stdout.readline() == "holds\n"
    assert second.communicate("\n") == ("", None)


def test_a_job_that_was_killed_blocks_nobody(tmp_path, first):
    """The system ends its lock; what it left beside it is not asked."""
    first.send_signal(signal.SIGKILL)
    first.wait()
    said = []
    with held(tmp_path, "load", said.append):
        assert said == []


def test_an_error_ends_the_lock(tmp_path):
    """The next one does not wait."""
    with pytest.raises(KeyError), held(tmp_path, "load", print):
        raise KeyError
    said = []
    with held(tmp_path, "load", said.append):
        assert said == []


def test_a_published_run_has_no_lock(tmp_path):
    """Not while a job measures in the local one either."""
    folder = Synthetic(layers=(1,), samples=2, methods=("djinn",)).write(tmp_path / "results/local")
    for name in ("load", "overhead", "sweep", "capacity/djinn", "capabilities/djinn"):
        (folder / f"{name}.json").unlink()
    with held(folder, "load", print):
        target = publish(folder, tmp_path / "results/published", "h100")
    assert not list(target.rglob(".lock*"))


@pytest.mark.parametrize("mark", ["study.json", "machine.json", "studies/load.json"])
def test_the_run_of_a_record_is_the_folder_above_it_that_is_one(tmp_path, mark):
    """However deep the record lies; a record elsewhere is of none."""
    record = tmp_path / "local/raw/djinn/layer_1/round_1.json"
    assert run_of(record) is None
    (tmp_path / "local" / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "local" / mark).write_text("{}")
    assert run_of(record) == tmp_path / "local"
    assert run_of(tmp_path / "local/load.json") == tmp_path / "local"
