"""A folder for the files of sessions that an experiment makes, where records go, and what is told of its disk."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evaluation.command import Refusal


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
