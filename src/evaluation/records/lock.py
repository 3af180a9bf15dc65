"""Lets one job at a time measure in a run: two at once would share the device, and neither's times would be its own.

The lock is the system's, on the file ``.lock`` in the run's folder. It ends with the process that holds it, however
that ends. ``.lock.json`` beside it says who holds it; it is only read to tell for whom one waits. Neither file is a
part of the run: publishing leaves both behind.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from evaluation.records.atomic import write_json

_LOCK, _HOLDER = ".lock", ".lock.json"


def run_of(record: Path) -> Path | None:
    """The folder of the run that the file ``record`` is written into: the nearest above it that is one.

    A run's folder holds ``study.json``, ``studies`` or ``machine.json``. None where there is none, as for a job that a
    person starts by hand.
    """
    marks = ("study.json", "studies", "machine.json")
    return next(
        (folder for folder in record.absolute().parents if any((folder / mark).exists() for mark in marks)), None
    )


@contextlib.contextmanager
def held(run_folder: Path, who: str, say: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock of the run in ``run_folder`` for the command ``who``; waits while another process holds it.

    ``say`` is told once for whom. A holder that is killed leaves nothing that blocks.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for {_holder(run_folder)}")
        lock.acquire()
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(run_folder / _HOLDER, {"command": who, "pid": os.getpid(), "since": now})
        yield
    finally:
        (run_folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(run_folder: Path) -> str:
    """Who holds the lock, in words; it may be about to say so, or have just ended."""
    try:
        told = json.loads((run_folder / _HOLDER).read_text(encoding="utf-8"))
        return f"{told['command']} (pid {told['pid']}), which measures in {run_folder} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"another job, which measures in {run_folder}"
