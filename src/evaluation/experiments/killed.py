"""A process that pauses sessions and is then killed from outside, by SIGKILL, while they are paused.

Another process has nothing of theirs but what was written to a folder by then.
"""

import errno
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from evaluation.command import Refusal
from evaluation.measure.child import Child, Program
from evaluation.measure.job import Report
from evaluation.study.plan import Study


class NotKilled(Refusal):
    """The process ended in another way, so that nothing is known of what survives a kill."""

    status = 1


def killed_when_paused(program: Program, study: Study, *arguments: object, report: Report) -> tuple[Any, int]:
    """Run ``program`` in a process until it says ``paused``, and kill it; what it said, and the signal that ended it.

    It is given how many threads torch computes with here, for the one that goes on is given the same settings. Raises
    :class:`NotKilled`.
    """
    with Child(program, study, torch.get_num_threads(), *arguments, report=report) as process:
        said = process.hear("paused")
        ended_by = process.kill()
    if ended_by != signal.SIGKILL:
        raise NotKilled(f"the process with the paused sessions was to be killed, and ended by signal {ended_by}")
    return said, ended_by


class DiskFull(Refusal):
    """There is no room for the files of sessions."""


@contextmanager
def naming_a_full_disk(folder: Path) -> Iterator[None]:
    """Raise :class:`DiskFull` where the system refuses to write into ``folder`` for lack of room."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFull(f"{folder.parent} has no room left for the files of the paused sessions: {error}") from error


@contextmanager
def folder_on_disk() -> Iterator[Path]:
    """A folder for files of sessions, where records go: what is elsewhere for such things may lie in memory."""
    with tempfile.TemporaryDirectory(prefix=".killed-", dir=".") as name:
        yield Path(name).absolute()


def filesystem_of(folder: Path) -> str:
    """The kind of file system that ``folder`` lies in, such as ext4, as the kernel calls it."""
    kinds = {}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, kind, *_ = line.split()
        kinds[place] = kind  # of two at one place the later one is seen
    mounted = [place for place in kinds if os.path.commonpath([place, folder]) == place]
    return kinds[max(mounted, key=len)]
