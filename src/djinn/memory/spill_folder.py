"""The folder of spilled sessions: it is this process's own, and does not outlive it.

A living process holds a lock (flock) on a file in its folder. The system drops that lock when the process dies, however
it does, in whichever container. So a folder whose lock is free is a left-over, and the next one to come removes it.
"""

import fcntl
import itertools
import os
import re
import secrets
import stat
import weakref
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_LOCK = "lock"
_OURS = re.compile(r"djinn-[0-9a-f]{16}")


class SpillFolder:
    """A folder in ``parent``, from :meth:`make` until :meth:`close`; also garbage and the interpreter's end close it.

    In a fork nothing is removed, for the folder is the parent process's.
    """

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"djinn-{secrets.token_hex(8)}"
        self._numbers = itertools.count(1)
        self._lock: BinaryIO | None = None
        self._process = os.getpid()
        self._at_the_end = weakref.finalize(self, _remove, self.path, self._process)

    def make(self) -> None:
        """Remove what dead processes have left, and make the folder, which only its owner may enter.

        Raises ``OSError`` if the system refuses.
        """
        for left in self.path.parent.glob("djinn-*"):
            if _OURS.fullmatch(left.name):
                _remove_if_left(left)
        while self._lock is None:
            self._lock = self._made()

    def _made(self) -> BinaryIO | None:
        """Make the folder and lock it; None if another process has taken it for a left-over meanwhile."""
        self.path.mkdir(0o700, exist_ok=True)
        try:
            lock = (self.path / _LOCK).open("ab")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.path.samestat(os.fstat(lock.fileno()), (self.path / _LOCK).stat())
        except (FileNotFoundError, BlockingIOError):
            return None
        return lock if is_there else None

    def new_path(self) -> Path:
        """Return the path of a file that is still to be written."""
        return self.path / f"{next(self._numbers)}.djinn"

    @property
    def files(self) -> set[Path]:
        """The files that are there now; none when the folder is gone."""
        return {path for path in self.path.glob("*") if path.name != _LOCK}

    @property
    def free_bytes(self) -> int:
        """Bytes that the file system still has for this user; 0 when the folder is gone."""
        try:
            system = os.statvfs(self.path)
        except OSError:
            return 0
        return system.f_bavail * system.f_frsize

    def close(self) -> None:
        """Remove the folder with all that is in it; a second call does nothing."""
        _remove(self.path, self._process)
        self._at_the_end.detach()
        if self._lock is not None:
            self._lock.close()


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:
        _empty(path)


def _remove_if_left(path: Path) -> None:
    """Remove the folder ``path`` if it is this user's, and the process that has made it is dead."""
    with suppress(OSError):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return
        try:
            with (path / _LOCK).open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(path)
        except FileNotFoundError:
            path.rmdir()  # empty, if it was left before it was locked


def _empty(path: Path) -> None:
    """Remove ``path`` and what is in it, the lock behind all else: whoever is killed here leaves a left-over."""
    for file in sorted(path.glob("*"), key=lambda file: file.name == _LOCK):
        with suppress(OSError):
            file.unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()
