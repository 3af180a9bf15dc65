"""The transfer engine: copies session state between the device and the host arena. No other file makes copies.

Swap-out copies each storage to the host arena. When the copy has ended, it frees the device memory by ``resize_(0)``,
so that every tensor and view stays valid as an object. Swap-in is ``resize_(nbytes)`` and a copy back, in the order of
need.

The time that counts is the time until the frontier is resident. It is a fraction of a millisecond, in which cores wake
from sleep and all threads share one interpreter. Hence three rules:

- All that can be prepared is prepared at the pause.
- The copy of the hidden states is submitted before anything else is done.
- During that copy the calling thread submits the first of the history and wakes the other threads. These wait at a
  latch until RESUME returns.

The latch was measured on an H100. Without it the program's first kernel ended 4 % sooner, but RESUME returned 55 %
later, for it had to wait for the interpreter. On the CPU the same code runs with copies that end when they return.

Allocating the storages of a deep session takes longer than the copy of the frontier. So where there is surely room for
all, RESUME allocates only the first of the history. The program's own thread allocates the rest, before it goes on. If
the room is gone by then, the program waits for it, with the state intact on the host.
"""

import functools
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch

from djinn.core import DeviceMemoryFull, DjinnError
from djinn.interrupts import Hands
from djinn.journal import Journal
from djinn.memory.host_memory import HostArena
from djinn.memory.streams import On, current_stream, follow, put_back
from djinn.memory.swapped import Batch, Swapped, SwappedState, raw_bytes
from djinn.state.storages import StateStorage

# The most batches of the history that are submitted during the frontier's copy; one is submitted even after it. They
# keep the link busy until the rest is allocated and the engine's thread has woken up.
_AHEAD = 4

# With at least this many further batches RESUME checks for room instead of allocating them. Asking the driver takes
# 0.2 ms on an H100. The frontier's copy covers that time, and also the allocation of fewer batches.
_ASK_FROM = 24

_ATTEMPTS = 5  # to copy the history: a copy that fails may succeed the next time
_ATTEMPT_SECONDS = 0.02  # between attempts


def _allocate(batches: Iterable[Batch]) -> None:
    for batch in batches:
        for entry in batch.entries:
            entry.item.storage.resize_(entry.item.nbytes)


def _free(entries: Iterable[Swapped]) -> None:
    for entry in entries:
        entry.item.storage.resize_(0)


def lacks_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory was refused; the CPU's allocator has no class of its own for that."""
    refused = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return refused or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _copy_in(entries: Iterable[Swapped]) -> None:
    for entry in entries:
        entry.device.copy_(entry.host, non_blocking=True)


class TransferEngine:
    """Copies session state between one ``device`` and one ``arena``; ``journal`` is told of copies that failed."""

    def __init__(self, device: torch.device, arena: HostArena, journal: Journal) -> None:
        self.device = device
        self._arena = arena
        self._journal = journal
        self._out = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Two streams inwards: a frontier must not queue behind the gigabytes of another session's history.
        self._in = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._in_behind = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._behind = Hands("djinn-transfer")

    def start(self) -> None:
        """Start the engine's thread."""
        self._behind.start()

    def copy_out(self, items: Sequence[StateStorage], *, compute: torch.cuda.Stream | None) -> list[Swapped]:
        """Submit copies of ``items`` to host memory; :meth:`free` waits for them.

        ``compute`` is the stream that computed ``items``. Raises :class:`HostMemoryFull`, and leaves all as it was, if
        the arena has no room.
        """
        entries: list[Swapped] = []
        with ExitStack() as undo:
            extents = self._arena.reserve([item.nbytes for item in items])
            undo.callback(self._arena.release, extents)
            undo.callback(entries.clear)
            if self._out is not None:
                undo.callback(self._out.synchronize)  # first: no release of host memory that a copy still writes
            follow(self._out, compute)
            with On(self._out):
                for item, extent in zip(items, extents, strict=True):
                    device = raw_bytes(item.storage)
                    try:
                        extent.bytes.copy_(device, non_blocking=True)
                        copied = self._out.record_event() if self._out is not None else None
                        entries.append(Swapped(item=item, extent=extent, device=device, copied=copied))
                    finally:
                        del device  # the traceback of an error would hold it, and keep the storage from leaving
            undo.pop_all()
            return entries

    def free(self, entries: Sequence[Swapped]) -> None:
        """Free the device memory of ``entries``, each when its copy has ended.

        Nothing reads them, for the program's thread is parked. While one is freed the next is being copied. A storage
        that cannot be freed keeps its bytes: numpy or DLPack holds it, or it failed twice for any reason.
        """
        for entry in entries:
            if entry.copied is not None:
                entry.copied.synchronize()
            for _ in range(2):
                try:
                    entry.item.storage.resize_(0)
                    break
                except BaseException as error:  # noqa: BLE001 - whatever it is, the bytes are still there
                    text = "a storage of %d bytes stays on the device: %s"
                    self._journal.note(logging.DEBUG, text, entry.item.nbytes, str(error))

    def release(self, entries: Iterable[Swapped]) -> None:
        """Release the host memory of ``entries``."""
        self._arena.release([entry.extent for entry in entries])

    def swap_in(self, state: SwappedState, *, busy: bool) -> None:
        """Swap ``state`` in and resume the program; returns when the frontier is resident.

        ``busy`` says that another session may have work on the compute stream, which the copies must overtake. The
        history follows behind the program's computation, and the host copies are released when all is back. Raises
        :class:`DeviceMemoryFull` before the program goes on, with the state intact on the host, if the device has no
        room. An interrupt before the program goes on leaves a state that has ``begun``; this can be called again.
        """
        self.undo(state)
        before = current_stream(self.device)
        state.begun = True
        try:
            ready, rest, behind = self._begin(state, busy)
            # If a rest is to be allocated, the program's thread does that and submits the copies.
            state.depart(*([] if rest else [self._behind.posting(functools.partial(self._bring_back, state, behind))]))
            if ready is not None:
                if not ready.query():  # the copy is in flight: this thread has time, the program's will have none
                    state.look_ahead()
                ready.synchronize()
        except BaseException as error:
            put_back(before)  # an interrupt may have come between two streams
            if not state.departed:
                self.undo(state)
                if lacks_memory(error):
                    message = (
                        f"the device has no room for {state.nbytes} bytes of session state: free device memory, or "
                        "swap out other sessions, and resume() again"
                    )
                    raise DeviceMemoryFull(message, wanted_bytes=state.nbytes) from error
            raise
        finally:
            if state.departed:
                state.open_latch()

    def undo(self, state: SwappedState) -> None:
        """Undo a swap-in of ``state`` that was not completed, if there is one."""
        if state.begun:
            for stream in (state.compute, self._in, self._in_behind):
                if stream is not None:
                    stream.synchronize()
            _free(state.entries)
            state.rewind()

    def restore(self, state: SwappedState) -> bool:
        """Swap all of ``state`` in and wait for it, on the program's thread; False, and no effect, without room."""
        self.undo(state)
        state.begun = True
        try:
            with On(state.compute):
                batches = [*state.frontier, *state.history]
                _allocate(batches)
                for batch in batches:
                    _copy_in(batch.entries)
            if state.compute is not None:
                state.compute.synchronize()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the host has everything
            self._journal.note(logging.DEBUG, "session state could not be brought back yet: %s", str(error))
            self.undo(state)
            return False
        self._give_back(state)
        return True

    def _begin(self, state: SwappedState, busy: bool) -> tuple[torch.cuda.Event | None, list[Batch], list[Batch]]:
        """Submit the frontier's copies, and as much of the history as fits into their time.

        Returns the event that marks the end of the frontier's copies, the batches that are still to be allocated, and
        those that are still to be copied.
        """
        compute = state.compute
        # An idle compute stream copies the frontier itself: then no streams have to be ordered.
        beside = busy and compute is not None
        stream = self._in if beside else compute
        first, rest = state.history[:_AHEAD], state.history[_AHEAD:]
        # Everything is allocated before the program goes on, on the stream that will use and free it. Copies into a
        # recycled block must wait for the work that is queued there, and that must not be the program's own work.
        with On(compute):
            if beside:
                self._copy_beside(state.frontier, compute)
            else:
                for batch in state.frontier:  # the first is being copied while the next is allocated
                    _allocate([batch])
                    _copy_in(batch.entries)
            _allocate(first)
            if busy or len(rest) < _ASK_FROM or not self._has_room(rest):
                _allocate(rest)
                rest = []
        ready, ahead = None, 0
        if stream is not None and self._in_behind is not None:
            ready = stream.record_event()
            self._in_behind.wait_event(ready)  # the frontier has the link to itself
            if beside:
                follow(self._in_behind, compute)
            ahead = self._submit(state, first, until=ready)
        behind = state.history[ahead:]
        allocate = functools.partial(self._allocate_rest, state, rest, behind) if rest else None
        state.under_way(ready, beside=beside, allocate=allocate)
        return ready, rest, behind

    def _has_room(self, batches: Sequence[Batch]) -> bool:
        """Whether the device surely has room for ``batches``: in torch's cache, or twice over with the free memory.

        After a swap-out the cache holds the very blocks. Then the driver, which answers slowly, is not asked.
        """
        if self.device.type == "cpu":
            return True
        wanted = sum(batch.nbytes for batch in batches)
        held = torch._C._cuda_memoryStats(self.device.index)  # torch.cuda.memory_stats would sort and flatten it
        cached = held["reserved_bytes"]["all"]["current"] - held["allocated_bytes"]["all"]["current"]
        return bool(cached >= wanted or cached + torch.cuda.mem_get_info(self.device)[0] >= 2 * wanted)

    def _allocate_rest(self, state: SwappedState, rest: Sequence[Batch], behind: Sequence[Batch]) -> bool:
        """Allocate ``rest`` on the program's thread, and make the engine copy ``behind``; False without room.

        If the allocation keeps failing for another reason the state is given up, which unwinds the program.
        """
        nbytes = sum(batch.nbytes for batch in rest)
        while (error := self._try_to_allocate(rest, state.compute)) is not None:
            state.failures += not lacks_memory(error)
            if state.failures > _ATTEMPTS:
                self._give_up(state, error)
                return True
            if not state.make_room(nbytes):
                return False
        follow(self._in_behind, state.compute)  # another session may have computed since RESUME
        self._behind.posting(functools.partial(self._bring_back, state, behind))()
        return True

    def _try_to_allocate(self, batches: Sequence[Batch], stream: torch.cuda.Stream | None) -> BaseException | None:
        """Allocate all of ``batches``, or none of them and return the error."""
        try:
            with On(stream):
                _allocate(batches)
        except BaseException as error:  # noqa: BLE001 - whatever it was, the host has everything
            for batch in batches:
                _free(batch.entries)
            return error
        return None

    def _copy_beside(self, batches: Iterable[Batch], compute: torch.cuda.Stream | None) -> None:
        _allocate(batches)
        follow(self._in, compute)
        with On(self._in):
            for batch in batches:
                _copy_in(batch.entries)

    def _submit(self, state: SwappedState, batches: Sequence[Batch], *, until: torch.cuda.Event | None = None) -> int:
        """Submit the copies of ``batches``, after the first only until ``until`` has ended; return how many."""
        count = 0
        with On(self._in_behind):
            for batch in batches:
                if count and until is not None and until.query():
                    break
                _copy_in(batch.entries)
                if batch.event is not None and self._in_behind is not None:
                    batch.event.record(self._in_behind)
                state.submitted(batch)
                count += 1
        return count

    def _bring_back(self, state: SwappedState, batches: Sequence[Batch]) -> None:
        """Copy ``batches`` on the engine's thread, and release the host memory when all state is back.

        The program's thread waits for these copies, so it must be told of any failure.
        """
        if batches:
            state.wait_at_latch()
        for attempt in range(_ATTEMPTS):
            try:
                self._submit(state, [batch for batch in batches if state.lacks(batch)])
                if self._in_behind is not None:
                    self._in_behind.synchronize()
                break
            except BaseException as failure:  # noqa: BLE001 - see above
                if attempt == _ATTEMPTS - 1:
                    self._give_up(state, failure)
                    return
                time.sleep(_ATTEMPT_SECONDS)
        self._give_back(state)

    def _give_back(self, state: SwappedState) -> None:
        """Finish the swap-in: all state is on the device again."""
        state.finish()
        self._settle(state)

    def _settle(self, state: SwappedState) -> None:
        """Release the host memory, and notify the waiters even if that fails."""
        try:
            self.release(state.entries)
        except MemoryError:
            self.release(state.entries)
        finally:
            state.settle()

    def _give_up(self, state: SwappedState, cause: BaseException) -> None:
        """Fail the program, which can never go on, and drop the state."""
        error = DjinnError(f"{state.nbytes} bytes of session state could not be brought back to the device: {cause}")
        error.__cause__ = cause
        state.finish(error)
        self._settle(state)

    def drain(self, timeout: float) -> None:
        """Wait for the jobs of the engine's thread, at most ``timeout`` seconds."""
        self._behind.drain(timeout)

    def close(self) -> None:
        """End the engine's thread after its jobs."""
        self._behind.close()
