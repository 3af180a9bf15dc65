"""The transfer engine: moves session state between the device and the host arena. No other file makes copies.

Swap-out copies each storage to the host arena. When the copy has ended, it frees the device memory by ``resize_(0)``,
so that every tensor and view stays valid as an object. Swap-in is ``resize_(nbytes)`` and a copy back, in the order of
need.

The time that counts is the time until the frontier is resident. It is a fraction of a millisecond, in which cores wake
from sleep and all threads share one interpreter. Hence four rules:

- All that can be prepared is prepared at the pause.
- The wire comes first. RESUME begins with the allocation and the copy of the hidden states; all else follows.
- While the frontier is in flight, the thread that resumes submits the first of the history and lets the program go. The
  program waits at a latch until RESUME returns.
- The engine's thread submits the rest. It goes on in the frontier's flight too, or when the program's thread has
  allocated the rest. It waits until the link has little left to do, and submits a little more. The program has the
  interpreter meanwhile.

The latch was measured on an H200. It stands before the program's turn. Behind that, with the turn taken in flight, the
first kernel ended 0.1 ms sooner (1.60 to 1.71 ms instead of 1.77). But RESUME returned 0.1 to 0.3 ms later (0.78 to
0.97 instead of 0.66), for it had to wait for the interpreter. On the CPU copies end when they return.

No call that submits lets go of the interpreter: whoever does so beside a thread that computes in Python gets it back
after 5 ms. RESUME lets go of it to wait for the frontier. Where a debugger is open, its screen computes beside that,
milliseconds at a time. Then RESUME polls for the frontier instead. A question to the driver for room lets go of it even
so, and a mark that could not be made at the pause. Python itself takes it from who has had it for 5 ms. Another session
may take the turn then, so RESUME looks for that behind each allocation.

Allocating the storages of a deep session takes longer than the copy of the frontier. So where there is surely room for
all, RESUME allocates only the first of the history. The program's own thread allocates the rest, before it goes on. If
the room is gone by then, the program waits for it, with the state intact on the host. If the frontier was kept, RESUME
allocates nothing.

Memory is made on the program's lane, before the program computes. A block of memory may be a recycled one, and copies
into it must wait for the work that is queued there. That must not be the program's own.
"""

import functools
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TypeVar

import torch

from djinn.core import DeviceMemoryFull, DiskFailed, DjinnError, HostMemoryFull, NotYet
from djinn.interrupts import Hands, forget_variables, patiently
from djinn.journal import Journal
from djinn.memory import captures
from djinn.memory.coding import Coding
from djinn.memory.disk_tier import DiskTier, Resident, Scratch, Spill, read_each
from djinn.memory.extents import Extent
from djinn.memory.host_copy import Batch, Packed, Stored
from djinn.memory.host_memory import HostArena
from djinn.memory.lanes import Lane, Link
from djinn.memory.restore import Restore
from djinn.memory.spill_file import SpillFile
from djinn.state.storages import StateStorage

T = TypeVar("T")

# With so much of the history submitted RESUME submits no further batch. It keeps the link busy for 2.5 ms (H200), and
# the program has its first kernel by then. With twice as much RESUME returned up to 0.1 ms later.
_AHEAD_BYTES = 128 << 20

# What the engine's thread submits at a stretch, and how little must be under way before it does. A stretch of coded
# state takes it 0.2 ms, in which the program lacks the interpreter. The link takes 1.2 ms for either (H200).
_STRETCH_BYTES = 64 << 20
_LEAST_BYTES = 64 << 20

# With at least so many further batches RESUME asks for room instead of allocating them. The question takes 0.06 to
# 0.15 ms on an H200, and 0.2 if it has to go to the driver. The allocation of a batch takes 0.01.
_ASK_FROM = 10

# It asks behind so many batches: the link shall be busy behind the frontier, and the frontier still in flight.
_BEFORE_ASKING = 4

# How long a RESUME keeps the interpreter at most, where a front is open: several times as long as a frontier flies.
_KEEP_SECONDS = 2e-3

_ATTEMPTS = 5  # to copy the history: a copy that fails may succeed the next time
_ATTEMPT_SECONDS = 0.02  # between attempts


def _allocate(entries: Iterable[Stored]) -> None:
    for entry in entries:
        entry.item.storage.resize_(entry.item.nbytes)


def _free(entries: Iterable[Stored]) -> None:
    for entry in entries:
        entry.item.storage.resize_(0)


def _copy_frontier(entries: Iterable[Stored], lane: Lane) -> None:
    for entry in entries:  # it is never coded
        lane.fill(entry.item.storage, entry.source, at_once=True)


def _stretch(batches: Sequence[Batch], nbytes: int) -> Iterator[Batch]:
    """Yield the first of ``batches``: as many as it takes to move ``nbytes``, and at least one."""
    before = itertools.accumulate((batch.moved_bytes for batch in batches), initial=0)
    pairs = itertools.takewhile(lambda pair: pair[1] < nbytes, zip(batches, before, strict=False))
    return (batch for batch, _ in pairs)


def _entries_of(batches: Iterable[Batch]) -> list[Stored]:
    return [entry for batch in batches for entry in batch.entries]


def lacks_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory was refused; the CPU's allocator has no class of its own for that."""
    refused = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return refused or isinstance(error, (torch.OutOfMemoryError, MemoryError))


class TransferEngine:
    """Moves session state over one ``link`` between the device and the ``arena``, below which there may be a ``disk``.

    ``make_room`` is called with the bytes of device memory that are lacking, and with the number of the session that
    needs them. It returns how many bytes it freed. ``journal`` is told of copies that failed. With a ``coding`` what
    leaves the device is coded where that pays.
    """

    def __init__(
        self,
        link: Link,
        arena: HostArena,
        journal: Journal,
        *,
        make_room: Callable[[int, int], int],
        disk: DiskTier | None = None,
        coding: Coding | None = None,
    ) -> None:
        self.link = link
        self.fronts: weakref.WeakSet[object] = weakref.WeakSet()  # open debuggers, which draw beside a RESUME
        self._coding = coding
        self._arena = arena
        self._disk = disk
        self._journal = journal
        self._make_room = make_room
        self._out = link.lane()
        # Two lanes inwards: a frontier must not queue behind the gigabytes of another session's history.
        self._in = link.lane()
        self._in_behind = link.lane()
        self._behind = Hands("djinn-transfer")
        self._decoder = Hands("djinn-decoder")

    @property
    def _keeps(self) -> bool:
        """Whether a RESUME keeps the interpreter until the frontier is there."""
        return bool(self.fronts)

    @property
    def codec_bytes(self) -> int:
        """Bytes of device memory through which coded state goes."""
        return 0 if self._coding is None else self._coding.device_bytes

    def start(self) -> None:
        """Start the engine's threads: a second one where state is coded."""
        self._behind.start()
        if self._coding is not None:
            self._decoder.start()
        self._behind.posting(captures.allow_on_this_thread)()

    # -- out: on the runtime's signal thread -------------------------------------------------------------------------

    def copy_out(self, items: Sequence[StateStorage], *, compute: Lane, beside: Sequence[int] = ()) -> list[Stored]:
        """Submit copies of ``items`` to host memory; :meth:`free` waits for them.

        ``compute`` is the lane that computed ``items``. Raises :class:`HostMemoryFull`, and leaves all as it was, if
        the arena has no room, or could never hold them ``beside`` others of these bytes. Raises its subclass
        :class:`NotYet` if there will be room.
        """
        entries: list[Stored] = []
        parts = self._planned(items, compute)
        sizes = [part.nbytes for part in parts]
        if beside:
            self.check_fits([*beside, *sizes])
        with ExitStack() as undo:
            extents = self._reserved(sizes)
            undo.callback(self._arena.release, extents)
            undo.callback(entries.clear)
            undo.callback(self._wait_sent_out)  # first: no release of host memory that a copy still writes
            self._out.follow(compute)
            for part, extent in zip(parts, extents, strict=True):
                entry = self.stored(part, extent)
                self._send_out(entry)
                entries.append(entry)
            undo.pop_all()
            return entries

    def _planned(self, items: Sequence[StateStorage], compute: Lane) -> list[Packed]:
        if self._coding is None:
            return [Packed(item=item) for item in items]
        plans = self._coding.plans(items, compute)
        return [Packed(item=item, coded=coded) for item, coded in zip(items, plans, strict=True)]

    def _send_out(self, entry: Stored) -> None:
        if entry.coded is None:
            self._out.empty(entry.item.storage, entry.source)
            self._out.record(entry.copied)
        else:
            assert self._coding is not None
            self._coding.pack(entry.item, entry.coded, entry.source, entry.copied)

    def _wait_sent_out(self) -> None:
        self._out.synchronize()
        if self._coding is not None:
            self._coding.synchronize_out()

    def stored(self, part: Packed, extent: Extent) -> Stored:
        """Return the record of ``part`` in ``extent``."""
        source, copied = extent.bytes.data_ptr(), self.link.mark()
        return Stored(item=part.item, coded=part.coded, extent=extent, source=source, copied=copied)

    def prepare(self, restore: Restore) -> None:
        """Make, at the pause, the marks that are recorded at the resume; one that cannot be made now is made there."""
        with suppress(Exception):
            for mark in (restore.ready, *(batch.mark for batch in restore.history)):
                self._out.record(mark)

    def decoding(self, function: Callable[[], None], timeout: float | None) -> None:
        """Call ``function``, which decodes state in host memory, on a thread of its own: it may take long."""
        self._decoder.do(function, timeout)

    def reserved_for(self, nbytes: int) -> Extent:
        """Reserve so much host memory, and wait for it if need be. Raises :class:`HostMemoryFull`."""
        (extent,) = patiently(functools.partial(self._reserved, [nbytes]))
        return extent

    def give_back(self, extent: Extent) -> None:
        """Release an ``extent`` that nothing was recorded in."""
        self._arena.release([extent])

    def _reserved(self, sizes: Sequence[int]) -> list[Extent]:
        try:
            return self._arena.reserve(sizes)
        except NotYet:
            raise
        except HostMemoryFull as full:
            raise (full if self._disk is None else self._disk.no_room(sizes, full)) from None

    def check_fits(self, sizes: Sequence[int]) -> None:
        """Raise :class:`HostMemoryFull` if the arena could not hold ``sizes`` even if it held nothing else."""
        if not self._arena.could_hold(sizes):
            raise HostMemoryFull(
                f"the host arena of {self._arena.nbytes} bytes cannot hold the {sum(sizes)} bytes of one session "
                "that must be there at once: make the runtime with more host_memory_bytes"
            )

    def free(self, entries: Sequence[Stored]) -> None:
        """Free the device memory of ``entries``, each when its copy has ended.

        Nothing reads them, for the program's thread is parked. While one is freed the next is being copied. A storage
        that cannot be freed keeps its bytes: numpy or DLPack holds it, or it failed twice for any reason.
        """
        for entry in entries:
            entry.copied.synchronize()
            for _ in range(2):
                try:
                    entry.item.storage.resize_(0)
                    break
                except BaseException as error:  # noqa: BLE001 - whatever it is, the bytes are still there
                    text = "a storage of %d bytes stays on the device: %s"
                    self._journal.note(logging.DEBUG, text, entry.item.nbytes, str(error))

    def release(self, entries: Iterable[Stored]) -> None:
        """Release the host memory of ``entries``."""
        self._arena.release([entry.extent for entry in entries])

    # -- in: on the caller's thread ----------------------------------------------------------------------------------

    def swap_in(self, restore: Restore, *, busy: Callable[[], bool], let_go: Callable[[], object]) -> None:
        """Swap in: while the frontier is in flight ``let_go()`` lets the program go; then wait until it is there.

        For a state whose frontier is in host memory, or a part of it; else RESUME has nothing to do here.
        The one step that lets the program go sets ``restore.departed``. ``busy()`` says whether another session may
        have work on the program's lane, or has computed there since: the frontier's copies must overtake that. The
        history follows behind the program's computation, and the host copies are released when all is back. Raises
        :class:`DeviceMemoryFull` before the program goes on, with the state intact on the host, if the device has no
        room. An interrupt before the program goes on leaves a state that has ``begun``; this can be called again.
        """
        if restore.begun:
            self.undo(restore)
        before = self.link.position()
        restore.begun = True
        try:
            self._send_frontier(restore, busy())
            self._send_ahead(restore, busy)
            if not restore.lacks_memory:  # else the program's thread makes it, and posts then: see `make_memory`
                restore.leave_rest(self._posting(restore))
            let_go()
            restore.send_rest()  # while nobody has the interpreter
            if self._keeps:
                restore.ready.synchronize_at_once(_KEEP_SECONDS)
            else:
                restore.ready.synchronize()
        except BaseException as error:
            self.link.return_to(before)  # an interrupt may have come between two lanes
            if not restore.departed:
                self.undo(restore)
                if lacks_memory(error):
                    raise self._no_room(restore.state_bytes) from error
            raise
        finally:
            if restore.departed:
                restore.send_rest()  # an interrupt may have come before
                restore.open_latch()

    def _send_frontier(self, restore: Restore, busy: bool) -> None:
        """Allocate the frontier and submit its copies: the first thing on the wire."""
        compute = restore.compute
        restore.beside = busy
        if busy:
            with compute.here():
                _allocate(restore.frontier)
            self._in.follow(compute, at_once=True)
            _copy_frontier(restore.frontier, self._in)
            self._in.record(restore.ready, at_once=True)
        else:  # an idle lane brings the frontier itself: then no lanes have to be ordered
            with compute.here():
                for entry in restore.frontier:  # the first is in flight while the next is allocated
                    _allocate([entry])
                    _copy_frontier([entry], compute)
            compute.record(restore.ready, at_once=True)

    def _send_ahead(self, restore: Restore, busy: Callable[[], bool]) -> None:
        """Submit the first of the history, each batch as soon as it has memory, while the frontier is in flight.

        All is allocated here if it is short, or room is doubtful, or another session computes.
        """
        for lane in self._lanes_behind(restore):
            lane.wait(restore.ready, at_once=True)  # the frontier has the link to itself
        if restore.beside:
            self._make_up_to(restore, len(restore.history), busy)
        ahead = sum(1 for _ in _stretch(restore.history, _AHEAD_BYTES))
        self._submit_in_flight(restore, range(min(ahead, _BEFORE_ASKING)), busy)
        if not self._has_room(restore):
            self._make_up_to(restore, len(restore.history), busy)
        self._submit_in_flight(restore, range(_BEFORE_ASKING, ahead), busy)

    def _submit_in_flight(self, restore: Restore, numbers: Iterable[int], busy: Callable[[], bool]) -> None:
        """Submit batches until the frontier has landed, the first even then."""
        for number in numbers:
            if number and restore.ready.ended:
                return
            self._make_up_to(restore, number + 1, busy)
            self._submit(restore, restore.history[number])

    def _make_up_to(self, restore: Restore, count: int, busy: Callable[[], bool]) -> None:
        """Allocate the first ``count`` batches of the history, those that are not.

        Where another session has computed it is memory of that one's, perhaps, and copies into it wait for its work.
        """
        batches = restore.history[restore.allocated : count]
        with restore.compute.here():
            _allocate(_entries_of(batches))
        restore.allocated += len(batches)
        if batches and (restore.beside or busy()):
            for lane in self._lanes_behind(restore):
                lane.follow(restore.compute, at_once=True)

    def _has_room(self, restore: Restore) -> bool:
        """Whether there is surely room for what is not allocated; not asked for a few batches, which take no longer."""
        rest = restore.history[restore.allocated :]
        return len(rest) >= _ASK_FROM and self.link.has_room(sum(batch.nbytes for batch in rest))

    def _posting(self, restore: Restore) -> Callable[[], object]:
        """Return what makes the engine's thread copy what is still missing."""
        return self._behind.posting(functools.partial(self._bring_back, restore))

    def undo(self, restore: Restore) -> None:
        """Undo a swap-in that was not completed, if there is one."""
        if restore.begun:
            for lane in (restore.compute, self._in, *self._lanes_that_fill()):
                lane.synchronize()
            _free(restore.copy.entries)
            restore.rewind()

    def with_room(self, session: int, attempt: Callable[[], T]) -> T:
        """Return ``attempt()``; while it raises :class:`DeviceMemoryFull`, make room for ``session`` and try again."""
        while True:
            try:
                return attempt()
            except DeviceMemoryFull as full:
                if not self._make_room(full.wanted_bytes, session):
                    forget_variables(full)
                    raise

    def _no_room(self, nbytes: int) -> DeviceMemoryFull:
        message = (
            f"the device has no room for {nbytes} bytes of session state: free device memory, or swap out other "
            "sessions, and resume() again"
        )
        return DeviceMemoryFull(message, wanted_bytes=nbytes)

    # -- on the program's thread -------------------------------------------------------------------------------------

    def make_memory(self, restore: Restore) -> bool:
        """Allocate what RESUME has not, before the program computes; False, and no effect, if there is no room now.

        If the allocation keeps failing for another reason the state is given up, which unwinds the program.
        """
        if not restore.lacks_memory:
            return True
        try:
            self.with_room(restore.session, functools.partial(self._make_rest, restore))
        except DeviceMemoryFull:
            return False
        except BaseException as error:  # noqa: BLE001 - it belongs to result()
            self._give_up(restore, error)
            return True
        if restore.frontier:  # else nothing is under way: the engine would have much to do before the first kernel
            restore.send_rest()
        return True

    def _make_rest(self, restore: Restore) -> None:
        """Allocate all that is lacking, or none of it."""
        rest = restore.history[restore.allocated :]
        try:
            with restore.compute.here():
                _allocate(_entries_of(rest))
        except BaseException as error:
            _free(_entries_of(rest))
            restore.failures += not lacks_memory(error)
            if restore.failures > _ATTEMPTS:
                raise
            raise self._no_room(sum(batch.nbytes for batch in rest)) from error
        restore.allocated = len(restore.history)
        for lane in self._lanes_behind(restore):
            lane.follow(restore.compute)  # another session may have computed since RESUME
        restore.leave_rest(self._posting(restore))

    def bring_back(self, restore: Restore) -> bool:
        """Swap everything in and wait for it, before the program is unwound; False, and no effect, without room."""
        try:
            self.with_room(restore.session, functools.partial(self._bring_all, restore))
        except DeviceMemoryFull:
            return False
        self.release_all(restore)
        return True

    def _bring_all(self, restore: Restore) -> None:
        self.undo(restore)
        restore.begun = True
        try:
            with restore.compute.here():
                _allocate(restore.copy.entries)
                self._bring_at_once([(entry, entry.source) for entry in restore.copy.entries], restore.compute)
        except BaseException as error:  # whatever it was, the host has everything
            self._journal.note(logging.DEBUG, "session state could not be brought back yet: %s", str(error))
            self.undo(restore)
            raise self._no_room(restore.state_bytes) from error

    def _bring_at_once(self, parts: Sequence[tuple[Packed, int]], compute: Lane) -> None:
        """Fill the storages of ``parts``, each from its address, and wait until that is done."""
        if self._coding is None:
            for part, source in parts:
                assert part.coded is None
                compute.fill(part.item.storage, source)
            compute.synchronize()
        else:
            for lane in self._coding.lanes_in:
                lane.follow(compute)
            mark = self.link.mark()
            self._coding.bring(parts, mark)
            mark.synchronize()

    def _lanes_behind(self, restore: Restore) -> list[Lane]:
        """Return the lanes that bring the history."""
        return self._coding.lanes_in if self._coding is not None and restore.coded else [self._in_behind]

    def _lanes_that_fill(self) -> list[Lane]:
        """Return all lanes that may bring the history, or all state of a program that is unwound."""
        return [self._in_behind, *(self._coding.lanes_in if self._coding is not None else ())]

    def fetch(self, session: int, spilled: Sequence[Spill], compute: Lane) -> bool:
        """Bring what is ``spilled`` straight to the device, before its program is unwound; False without room.

        So it needs no room in the arena. Raises :class:`DiskFailed` when that has failed several times: then the
        storages are full of zeros.
        """
        items = [part.item for spill in spilled for part in spill.parts]
        try:
            self.with_room(session, functools.partial(self._make_memory_for, items, compute))
        except DeviceMemoryFull:
            return False
        failure: Exception | None = None
        for _ in range(_ATTEMPTS):
            try:
                for part, scratch in read_each(session, spilled):
                    self._fill_from(scratch, part, compute)
                return True
            except Exception as error:  # noqa: BLE001 - the program's thread must hear of it when it is unwound
                failure = error
                time.sleep(_ATTEMPT_SECONDS)
        with suppress(Exception):
            for item in items:
                self._fill_from(Scratch(item.nbytes), Packed(item=item), compute)
        assert failure is not None
        text = f"the program of session {session} has ended without its state: {failure}"
        raise DiskFailed(text) from failure.with_traceback(None)

    def _fill_from(self, scratch: Scratch, part: Packed, compute: Lane) -> None:
        with compute.here():
            self._bring_at_once([(part, scratch.address)], compute)

    def _make_memory_for(self, items: Sequence[StateStorage], compute: Lane) -> None:
        try:
            with compute.here():
                for item in items:
                    item.storage.resize_(item.nbytes)
        except BaseException as error:  # whatever it was, the disk has everything
            for item in items:
                item.storage.resize_(0)
            raise self._no_room(sum(item.nbytes for item in items)) from error

    def away(self, resident: Resident) -> NotYet:
        """Return the error for state that is on the disk: it is read back first."""
        assert self._disk is not None
        return self._disk.away(resident)

    def remove(self, files: Iterable[SpillFile]) -> None:
        """Remove ``files`` of the disk."""
        if self._disk is not None:
            self._disk.remove(files)

    # -- on the engine's thread --------------------------------------------------------------------------------------

    def _submit(self, restore: Restore, batch: Batch) -> None:
        if restore.coded:
            assert self._coding is not None
            parts = [(entry, entry.source) for entry in batch.entries]
            self._coding.bring(parts, batch.mark, behind=restore.last, at_once=True)
        else:
            for entry in batch.entries:
                self._in_behind.fill(entry.item.storage, entry.source, at_once=True)
            self._in_behind.record(batch.mark, at_once=True)
        restore.submitted(batch)

    def _submit_missing(self, restore: Restore) -> None:
        """Submit the batches that nobody has dropped, and that an earlier attempt did not come to.

        A stretch of them is submitted when little is under way. So the link has always something to do, and most of the
        time the program has the interpreter to itself.
        """
        while missing := [batch for batch in restore.history if restore.lacks(batch)]:
            restore.let_land(_LEAST_BYTES)
            for batch in _stretch(missing, _STRETCH_BYTES):
                self._submit(restore, batch)

    def _bring_back(self, restore: Restore) -> None:
        """Copy what is still missing, and release the host memory when all state is back.

        The program's thread waits for these copies, so it must be told of any failure.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._submit_missing(restore)
                for lane in self._lanes_behind(restore):
                    lane.synchronize()
                break
            except BaseException as failure:  # noqa: BLE001 - see above
                if attempt == _ATTEMPTS - 1:
                    self._give_up(restore, failure)
                    return
                time.sleep(_ATTEMPT_SECONDS)
        self.release_all(restore)

    def release_all(self, restore: Restore) -> None:
        """Release the host memory of ``restore``: all state is on the device again, or on the disk."""
        restore.finish()
        self._settle(restore)

    def _settle(self, restore: Restore) -> None:
        """Release the host memory, and notify the waiters even if that fails.

        No frame of this thread may hold a storage by then: the next pause would take it for somebody else's.
        """
        try:
            self.release(restore.copy.entries)
        except MemoryError:
            self.release(restore.copy.entries)
        finally:
            restore.settle()

    def _give_up(self, restore: Restore, cause: BaseException) -> None:
        """Fail the program, which can never go on, and drop the state."""
        error = DjinnError(
            f"{restore.state_bytes} bytes of session state could not be brought back to the device: {cause}"
        )
        error.__cause__ = cause
        with suppress(Exception):  # what is under way reads the host memory, and writes to storages
            for lane in self._lanes_that_fill():
                lane.synchronize()
        restore.finish(error)
        self._settle(restore)

    def drain(self, timeout: float) -> None:
        """Wait for the jobs of the engine's threads, at most ``timeout`` seconds each."""
        self._behind.drain(timeout)
        self._decoder.drain(timeout)

    def close(self) -> None:
        """End the engine's threads after their jobs, and free the device memory for coding."""
        self._behind.close()
        self._decoder.close()
        self._coding = None
