"""The only file that makes copies: moves session state between the device and the host arena.

Swap out copies each storage to the host arena and, when its copy has ended, frees its device memory by ``resize_(0)``,
so that every tensor and view stays valid as an object. Swap in is ``resize_(nbytes)`` and a copy back, in the order of
need.

What matters is the time until the frontier is there: a fraction of a millisecond in which cores that slept run slowly
and all threads share one interpreter. So nothing is looked up or made then that could be at the pause; the hidden
states are under way before anything else is done; and in their time of flight the calling thread submits the first of
the history and wakes the other threads, which hold, out of its way, until RESUME returns: on an H100 a program that
went on at once had its first kernel done 4 % sooner, and RESUME returned 55 % later, for it had to wait for the
interpreter. On the CPU device the same code runs with copies that end when they return.

To allocate the storages of a deep session takes longer than the frontier's flight. So RESUME allocates the first of the
history only, if there is room for the rest beyond doubt, and that is left to the program's own thread, before it goes
on. Should the room be gone by then, the program waits for it, with the state intact on the host.
"""

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

import torch

from djinn.core import DeviceMemoryFull
from djinn.host_memory import HostArena
from djinn.state import StateStorage
from djinn.streams import On, follow
from djinn.swapped import Batch, Swapped, SwappedState, raw_bytes

# Batches of the history, at most, that are submitted while the frontier is in flight, and one even if it has landed by
# then: they keep the link busy until the rest is allocated and the engine's thread has come awake.
_AHEAD = 4

# From how many more batches on RESUME asks whether there is room instead of allocating them: with the driver's answer
# that takes 0.2 ms on an H100, which the frontier's flight covers, as it does the allocation of fewer.
_ASK_FROM = 24


def _allocate(batches: Iterable[Batch]) -> None:
    for batch in batches:
        for entry in batch.entries:
            entry.item.storage.resize_(entry.item.nbytes)


def _free(entries: Iterable[Swapped]) -> None:
    for entry in entries:
        entry.item.storage.resize_(0)


def _copy_in(entries: Iterable[Swapped]) -> None:
    for entry in entries:
        entry.device.copy_(entry.host, non_blocking=True)


class TransferEngine:
    """Copies for one ``device`` through one ``arena``."""

    def __init__(self, device: torch.device, arena: HostArena) -> None:
        self.device = device
        self._arena = arena
        self._out = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Two streams inwards: a frontier must not queue behind the gigabytes of another session's history.
        self._in = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._in_behind = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._behind: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="djinn-transfer", daemon=True)
        self._thread.start()

    def swap_out(
        self,
        items: Sequence[StateStorage],
        *,
        earlier: Sequence[Swapped],
        compute: torch.cuda.Stream | None,
        go: Callable[[], None],
        wake: Callable[[], None],
        make_room: Callable[[int], int],
    ) -> SwappedState:
        """Copy ``items`` to the host and free their device memory; waits for both.

        Returns the state of them and of what was swapped out ``earlier``; ``compute`` is the stream that produced them,
        and is kept there with the callbacks. Raises :class:`HostMemoryFull`, and leaves all as it was, if the
        arena has no room.
        """
        entries: list[Swapped] = []
        ended: list[torch.cuda.Event] = []
        with ExitStack() as undo:
            extents = self._arena.reserve([item.nbytes for item in items])
            undo.callback(self._arena.release, extents)
            if self._out is not None:
                undo.callback(self._out.synchronize)  # first: host memory that a copy still writes is not given back
            follow(self._out, compute)
            if compute is not None:
                follow(self._out, torch.cuda.current_stream(self.device))  # where the caller may have edited
            with On(self._out):
                for item, extent in zip(items, extents, strict=True):
                    host, device = self._arena.view(extent, item.nbytes), raw_bytes(item.storage)
                    host.copy_(device, non_blocking=True)
                    entries.append(Swapped(item=item, extent=extent, host=host, device=device))
                    if self._out is not None:
                        ended.append(self._out.record_event())
            state = SwappedState([*earlier, *entries], compute=compute, go=go, wake=wake, make_room=make_room)
            undo.pop_all()
        # Nothing reads a storage whose copy has ended: the program's thread is parked. While one is freed the next is
        # in flight.
        for index, item in enumerate(items):
            if ended:
                ended[index].synchronize()
            item.storage.resize_(0)
        return state

    def release(self, entries: Iterable[Swapped]) -> None:
        """Give host memory back."""
        self._arena.release([entry.extent for entry in entries])

    def swap_in(self, state: SwappedState, *, busy: bool) -> None:
        """Bring ``state`` back; returns when its frontier is resident.

        ``busy``: another session may be filling the compute stream with work, which the copies are then to pass. The
        rest follows behind the program's computation, and the host copies are released when all is back. Raises
        :class:`DeviceMemoryFull` before the program goes on, with the state intact on the host, if the device has no
        room.
        """
        compute = state.compute
        # An idle compute stream brings the frontier back itself: nothing has to be ordered between streams.
        beside = busy and compute is not None
        stream = self._in if beside else compute
        first, rest = state.history[:_AHEAD], state.history[_AHEAD:]
        try:
            # Everything is allocated before the program goes on, on the stream that will use and free it: copies into a
            # recycled block must wait for the work that is queued there, and that must not be the program's own.
            with On(compute):
                if beside:
                    self._copy_beside(state.frontier, compute)
                else:
                    for batch in state.frontier:  # the first is under way while the next is allocated
                        _allocate([batch])
                        _copy_in(batch.entries)
                _allocate(first)
                if busy or len(rest) < _ASK_FROM or not self._has_room(rest):
                    _allocate(rest)
                    rest = []
        except torch.OutOfMemoryError as error:
            if stream is not None:
                stream.synchronize()
            _free(state.entries)
            raise DeviceMemoryFull(f"the device has no room for {state.nbytes} bytes of session state") from error
        ready, ahead = None, 0
        if stream is not None and self._in_behind is not None:
            ready = stream.record_event()
            self._in_behind.wait_event(ready)  # the link is the frontier's until it has landed
            if beside:
                follow(self._in_behind, compute)
            ahead = self._submit(state, first, until=ready)
        behind = state.history[ahead:]
        state.depart(ready, beside=beside, allocate=functools.partial(self._allocate_rest, state, rest, behind))
        state.go()
        state.wake()
        if not rest:
            self._behind.put(functools.partial(self._bring_back, state, behind))
        try:
            if ready is not None:
                ready.synchronize()
        finally:
            state.land()

    def _has_room(self, batches: Sequence[Batch]) -> bool:
        """Whether the device surely has room for ``batches``: in torch's cache, or twice of it with what is free.

        After a swap-out the cache holds the very blocks, and then the driver, who is slow to answer, is not asked.
        """
        if self.device.type == "cpu":
            return True
        wanted = sum(batch.nbytes for batch in batches)
        held = torch._C._cuda_memoryStats(self.device.index)  # torch.cuda.memory_stats would sort and flatten it
        cached = held["reserved_bytes"]["all"]["current"] - held["allocated_bytes"]["all"]["current"]
        return bool(cached >= wanted or cached + torch.cuda.mem_get_info(self.device)[0] >= 2 * wanted)

    def _allocate_rest(self, state: SwappedState, rest: Sequence[Batch], behind: Sequence[Batch], last: bool) -> bool:
        """On the program's thread: allocate ``rest`` and have the engine bring what is ``behind``; False without room.

        After the ``last`` attempt the state is given up.
        """
        if not rest:
            return True  # RESUME did it all
        nbytes = sum(batch.nbytes for batch in rest)
        while not self._try_to_allocate(rest, state.compute):
            if state.make_room(nbytes):
                continue
            if last:
                error = DeviceMemoryFull(f"the device has no room for {nbytes} bytes of session state")
                self._behind.put(functools.partial(self._bring_back, state, [], error))
            return last
        follow(self._in_behind, state.compute)  # somebody else may have computed since RESUME
        self._behind.put(functools.partial(self._bring_back, state, behind))
        return True

    def _try_to_allocate(self, batches: Sequence[Batch], stream: torch.cuda.Stream | None) -> bool:
        try:
            with On(stream):
                _allocate(batches)
        except torch.OutOfMemoryError:
            for batch in batches:
                _free(batch.entries)
            return False
        return True

    def _copy_beside(self, batches: Iterable[Batch], compute: torch.cuda.Stream | None) -> None:
        _allocate(batches)
        follow(self._in, compute)
        with On(self._in):
            for batch in batches:
                _copy_in(batch.entries)

    def _submit(self, state: SwappedState, batches: Sequence[Batch], *, until: torch.cuda.Event | None = None) -> int:
        """Submit the copies of ``batches``, of more than one only while ``until`` has not come; how many it were."""
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

    def _bring_back(self, state: SwappedState, batches: Sequence[Batch], error: Exception | None = None) -> None:
        if batches:
            state.hold()
        try:
            self._submit(state, batches)
            if self._in_behind is not None:
                self._in_behind.synchronize()
        except RuntimeError as failure:  # the program's thread waits for these copies: it must hear of it
            error = failure
        state.finish(error)
        self.release(state.entries)
        state.settle()

    def _work(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        """Do what comes next, and forget it: who waits for the next job must not hold the state of the last."""
        job = self._behind.get()
        if job is not None:
            job()
        return job is not None

    def close(self) -> None:
        """End the engine's thread after what it was given."""
        self._behind.put(None)
        self._thread.join()
