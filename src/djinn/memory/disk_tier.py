"""The disk below the host arena: what waits longest in host memory is spilled to files, and read back when wanted.

A thread of its own does one thing after another: it spills the least recently used session when somebody finds the
arena full, and it reads sessions back. Whoever needs that waits for this thread, and holds no lock (``NotYet``).

A session is spilled without its lock, for a disk may be slow, and signals to it go on meanwhile. Only when the file is
whole its lock is taken. If the session has gone on, or was edited, or somebody has got hold of its bytes, the file is
dropped. Else the file is on record before the host memory is released. The way back is the same: the bytes are checked
and on record before the file goes.

Knows residencies and no sessions. The form of a file is ``spill_file``'s, and where it lies is ``spill_folder``'s.
"""

import ctypes
import logging
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from djinn.core import DiskFailed, HostMemoryFull, IllegalMove, NotYet
from djinn.interrupts import Hands
from djinn.journal import Journal
from djinn.memory.extents import Extent
from djinn.memory.host_copy import HostCopy, Packed
from djinn.memory.host_memory import HostArena
from djinn.memory.spill_file import Draft, SpillFile
from djinn.memory.spill_folder import SpillFolder
from djinn.wording import mebibytes

_LOCK_SECONDS = 1.0  # who holds a session's lock longer may be waiting for this very thread

_PASSING_SECONDS = 1.0  # for those that are on their way to the device to leave host memory
_LOOKS, _LOOK_SECONDS = 3, 0.005  # at sessions that stay, for one may have come since the last look

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Spill:
    """Storages of a session whose bytes are in ``file``, in the order of its parts."""

    parts: tuple[Packed, ...]
    file: SpillFile

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(part.nbytes for part in self.parts)


class Scratch:
    """Host memory beside the arena for ``nbytes``, full of zeros at first, which begins at ``address``."""

    def __init__(self, nbytes: int) -> None:
        pages = mmap.mmap(-1, nbytes)
        self.memory = memoryview(pages)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(pages))


class Resident(Protocol):
    """The state of one session, as the disk tier moves it. Methods are called under its ``lock``."""

    number: int
    lock: "threading.RLock"
    used: float  # when, by ``time.monotonic``
    claimed_until: float  # by whoever has had it read back
    spilled: tuple[Spill, ...]

    @property
    def passes(self) -> bool:
        """Whether it is on its way out of host memory."""

    def to_spill(self) -> "Waiting | None":
        """Return what waits in host memory, if nobody is using it."""

    def left_for(self, file: SpillFile, waiting: "Waiting") -> bool:
        """Record that what was ``waiting`` is in ``file``, and release the host memory; False if it has changed."""

    def came_back(self, spilled: tuple[Spill, ...], extents: Sequence[Extent]) -> bool:
        """Record that all that is ``spilled`` is in ``extents``; False if that has changed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Waiting:
    """What waits in host memory, how often it was edited by then, and its bytes, which nobody reuses meanwhile.

    The storages are not held: a session that has gone on would find that somebody has them, when it parks again.
    """

    copy: "weakref.ref[HostCopy]"
    edits: int
    names: list[str]
    memory: list[memoryview]


class DiskTier:
    """Keeps spilled sessions in a folder of its own within ``parent``, in files of at most ``most_bytes`` in all.

    ``residents`` are the states that may be spilled from the ``arena``. ``arrived`` is called when one is back there.
    """

    def __init__(
        self,
        parent: Path,
        most_bytes: int | None,
        arena: HostArena,
        journal: Journal,
        *,
        residents: Callable[[], Iterable[Resident]],
        arrived: Callable[[], None],
    ) -> None:
        self._folder = SpillFolder(parent)
        self._most_bytes = most_bytes
        self._arena = arena
        self._journal = journal
        self._residents = residents
        self._arrived = arrived
        self._files: set[SpillFile] = set()
        self._hands = Hands("djinn-disk")

    def start(self) -> None:
        """Start the thread and make the folder. Raises ``RuntimeError`` or ``OSError`` if the system refuses."""
        self._hands.start()
        self._hands.do(self._folder.make)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder.path

    @property
    def used_bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.nbytes for file in list(self._files))

    @property
    def free_bytes(self) -> int:
        """Bytes that it may still take."""
        free = self._folder.free_bytes
        return free if self._most_bytes is None else max(min(free, self._most_bytes - self.used_bytes), 0)

    # -- what others wait for ----------------------------------------------------------------------------------------

    def no_room(self, sizes: Sequence[int], full: HostMemoryFull) -> HostMemoryFull:
        """Return the error for ``sizes`` (bytes) which the arena refused as ``full``, unless it can get room."""
        if not self._arena.could_hold(sizes):
            return full
        return NotYet(str(full), partial(self._hands.do, partial(self._make_room, sizes, str(full))))

    def away(self, resident: Resident) -> NotYet:
        """Return the error for state that is on the disk: it is read back first."""
        text = "the host arena cannot hold session %d beside the others that are used at once: clone() their tensors"
        return NotYet(text % resident.number, partial(self._hands.do, partial(self._read_back, resident)))

    # -- on its thread -----------------------------------------------------------------------------------------------

    def _make_room(self, sizes: Sequence[int], full: str) -> None:
        """Spill the least recently used session, unless there is room by now. Raises :class:`HostMemoryFull`."""
        until, looks = time.monotonic() + _PASSING_SECONDS, 0
        while not self._arena.has_room(sizes):
            residents = sorted(self._residents(), key=lambda one: one.used)
            for resident in residents:
                waiting = _under(resident, resident.to_spill)
                if waiting is not None:
                    return self._spill(resident, waiting, full)
            looks = 0 if any(resident.passes for resident in residents) else looks + 1
            if looks == _LOOKS or time.monotonic() > until:
                raise HostMemoryFull(f"{full}; no session that waits there can go to {self.folder} now")
            time.sleep(_LOOK_SECONDS)
        return None

    def _spill(self, resident: Resident, waiting: Waiting, full: str) -> None:
        """Spill what is ``waiting``; without effect if that changes meanwhile: then there may be room."""
        time.sleep(max(resident.claimed_until - time.monotonic(), 0))
        began = time.perf_counter()
        file = self._write(resident, waiting, full)
        if not _under(resident, partial(resident.left_for, file, waiting)):
            return self.remove([file])
        text, seconds = "session %d: %s spilled to the disk in %.2f s", time.perf_counter() - began
        return self._journal.note(logging.INFO, text, resident.number, mebibytes(file.nbytes), seconds)

    def _write(self, resident: Resident, waiting: Waiting, full: str) -> SpillFile:
        document = {"format": "spilled", "session": resident.number, "process": os.getpid()}
        draft = Draft(list(zip(waiting.names, waiting.memory, strict=True)), document)
        lacking = f"{full}; {mebibytes(draft.nbytes)} of session {resident.number} cannot go to {self.folder}"
        try:
            if self._most_bytes is not None and self.used_bytes + draft.nbytes > self._most_bytes:
                raise HostMemoryFull(f"{lacking}: disk_bytes={self._most_bytes}, of which {self.used_bytes} are in use")
            file = draft.write(self._folder.new_path())
        except OSError as error:
            raise HostMemoryFull(f"{lacking}: {error}") from error.with_traceback(None)
        finally:
            waiting.memory.clear()  # who keeps the error would keep the bytes
            del draft
        self._files.add(file)
        return file

    def remove(self, files: Iterable[SpillFile]) -> None:
        """Remove ``files``. On any thread."""
        for file in files:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                text = "%s stays until the runtime is closed: %s"
                self._journal.note(logging.WARNING, text, str(file.path), str(error))
            self._files.discard(file)

    def _read_back(self, resident: Resident) -> None:
        """Bring all of its state to host memory, if it is still away.

        Raises :class:`HostMemoryFull` or :class:`DiskFailed`; then it is still there.
        """
        resident.used = time.monotonic()  # the last one to be spilled for itself
        while spilled := resident.spilled:
            began = time.perf_counter()
            extents = self._reserved([part.nbytes for spill in spilled for part in spill.parts])
            if extents is None:
                continue
            try:
                read(resident.number, spilled, [extent.memory for extent in extents])
                back = _under(resident, partial(resident.came_back, spilled, extents))
            except BaseException as error:  # noqa: BLE001 - it is raised again
                self._arena.release(extents)
                if resident.spilled is not spilled:
                    return None  # it has ended, and its files with it
                del spilled, extents  # who keeps the error would keep the storages
                raise error.with_traceback(None) from error.__cause__
            files = [spill.file for spill in spilled]
            del spilled  # it holds the storages
            if back:
                text, seconds = "session %d: %s read back from the disk in %.2f s", time.perf_counter() - began
                nbytes = sum(file.nbytes for file in files)
                self._journal.note(logging.INFO, text, resident.number, mebibytes(nbytes), seconds)
                self.remove(files)
                return self._arrived()
            self._arena.release(extents)
            if back is None:
                raise IllegalMove(f"session {resident.number} is in the middle of another signal: ask later")
            return None  # it goes on, or ends: whoever asked finds out
        return None

    def _reserved(self, sizes: Sequence[int]) -> list[Extent] | None:
        """Reserve ``sizes`` in the arena; None if another session had to leave first: try again."""
        try:
            return self._arena.reserve(sizes)
        except NotYet as growing:
            growing.wait(None)
        except HostMemoryFull as full:
            if not self._arena.could_hold(sizes):
                raise
            self._make_room(sizes, str(full))
        return None

    # -- the end -----------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert that the files are those which the sessions say, while nobody spills."""
        said = {spill.file for resident in self._residents() for spill in resident.spilled}
        assert said == self._files, "files that no session has, or lacks"
        assert {file.path for file in said} == self._folder.files

    def leave(self, timeout: float) -> None:
        """Remove all files, for the interpreter ends; waits for what is under way at most ``timeout`` seconds."""
        self._hands.drain(timeout)
        self._folder.close()

    def close(self) -> None:
        """End the thread, and remove the folder."""
        self._hands.close()
        self._folder.close()


def read(session: int, spilled: Iterable[Spill], targets: Sequence[memoryview]) -> None:
    """Read all that ``session`` has ``spilled`` into ``targets``, one for each storage. Raises :class:`DiskFailed`."""
    left = list(targets)
    for spill in spilled:
        here, left = left[: len(spill.parts)], left[len(spill.parts) :]
        try:
            spill.file.read(here)
        except OSError as error:
            del here, left, targets  # who keeps the error would keep the bytes
            raise _failed(session, spill, error) from error.with_traceback(None)


def read_each(session: int, spilled: Iterable[Spill]) -> Iterator[tuple[Packed, Scratch]]:
    """Read all that ``session`` has ``spilled``, one storage at a time. Raises :class:`DiskFailed`."""
    for spill in spilled:
        for place, part in enumerate(spill.parts):
            scratch = Scratch(part.nbytes)
            try:
                spill.file.read_one(place, scratch.memory)
            except OSError as error:
                raise _failed(session, spill, error) from error
            yield part, scratch


def _failed(session: int, spill: Spill, error: OSError) -> DiskFailed:
    return DiskFailed(
        f"the state of session {session} in {spill.file.path} could not be read: {error}. It stays there: see to the "
        "disk, and try again"
    )


def _under(resident: Resident, function: Callable[[], T]) -> T | None:
    """Call ``function`` under the lock of ``resident``; None if somebody else holds that for long."""
    if not resident.lock.acquire(timeout=_LOCK_SECONDS):
        return None
    try:
        return function()
    finally:
        resident.lock.release()
