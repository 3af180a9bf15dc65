"""The only file with streams and events: moves session state between the device and the host arena.

Swap out copies each storage to the host arena and, when its copy has ended, frees its device memory by ``resize_(0)``,
so that every tensor and view stays valid as an object. Swap in is ``resize_(nbytes)`` and a copy back, in the order of
need.

What matters is the time until the frontier is there: a fraction of a millisecond in which cores that slept run slowly
and all threads share one interpreter. So nothing is looked up or made then that could be at the pause; the hidden
states are under way before anything else is done; and in their time of flight the calling thread allocates the rest,
submits the first of the history and wakes the other threads, which hold, out of its way, until RESUME returns: on an
H100 a program that went on at once had its first kernel done 4 % sooner, and RESUME returned 55 % later, for it had to
wait for the interpreter. What is left of the history is submitted by the engine's own thread. On the CPU device the
same code runs with copies that end when they return.
"""

import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from djinn.core import DeviceMemoryFull
from djinn.host_memory import Extent, HostArena
from djinn.state import REST, StateStorage

# Batches of the history, at most, that are submitted while the frontier is in flight, and one even if it has landed by
# then: they keep the link busy until the engine's thread has come awake.
_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """One storage in host memory.

    ``host`` is its copy and ``device`` its own bytes, which exist again after the swap-in: uint8, shape [nbytes].
    """

    item: StateStorage
    extent: Extent
    host: torch.Tensor
    device: torch.Tensor


class _Batch:
    """Copies that are submitted together, and end with ``event`` (None on the CPU)."""

    def __init__(self, entries: Sequence[Swapped], *, cuda: bool) -> None:
        self.entries = entries
        self.addresses = [entry.item.storage._cdata for entry in entries]
        self.event = torch.cuda.Event() if cuda else None


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of ``storage`` as a uint8 tensor that aliases it, writable in every mode."""
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class SwappedState:
    """State of one session in host memory, and then on its way back.

    Whatever a swap-in needs is brought here at the pause: ``compute`` is the stream of the program (None on the CPU);
    ``go`` is called when the program's work is ordered behind the frontier, and ``wake`` when there is time for it. The
    ``wait`` methods order the calling thread's stream behind the copies, not the host, except for copies that are not
    in the queue yet.
    """

    def __init__(
        self,
        entries: Iterable[Swapped],
        *,
        compute: torch.cuda.Stream | None,
        go: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self.compute = compute
        self.go = go
        self.wake = wake
        self.entries = tuple(sorted(entries, key=lambda entry: entry.item.rank))
        batch = functools.partial(_Batch, cuda=compute is not None)
        frontier = [entry for entry in self.entries if entry.item.in_frontier]
        self.frontier = [batch(part) for part in (frontier[:1], frontier[1:]) if part]
        history = self.entries[len(frontier) :]
        # What a layer reads of its KV it reads together; of the rest each goes by itself.
        kv = [entry for entry in history if entry.item.rank != REST]
        rest = history[len(kv) :]
        self.history = [batch(list(part)) for _, part in itertools.groupby(kv, key=lambda entry: entry.item.rank)]
        self.history += [batch([entry]) for entry in rest]
        self._of_layer: dict[int, list[int]] = {}
        for entry in kv:
            self._of_layer.setdefault(entry.item.rank[1], []).append(entry.item.storage._cdata)
        self._missing = {entry.item.storage._cdata for entry in history}  # not submitted yet
        self._events: dict[int, torch.cuda.Event] = {}
        self._changed = threading.Condition()
        self._resident = threading.Event()
        self._settled = threading.Event()  # and the host memory is given back
        self._error: BaseException | None = None
        self._ready: torch.cuda.Event | None = None
        self._last: torch.cuda.Event | None = None  # of what is submitted: copies end in their order
        self._beside = False
        self._returned = False  # whether RESUME has; until then nobody passes the turnstile
        self._turnstile = threading.Lock()
        self._turnstile.acquire()

    @property
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return sum(entry.item.nbytes for entry in self.entries)

    @property
    def resident(self) -> bool:
        """Whether all state is back on the device."""
        return self._resident.is_set()

    def depart(self, ready: torch.cuda.Event | None, *, beside: bool) -> None:
        """Note that the frontier's copies are in the queue and end with ``ready`` (None: they have ended).

        ``beside``: they are not on the program's own stream.
        """
        self._ready = ready
        self._last = self._last or ready
        self._beside = beside

    def order(self) -> None:
        """Let the current stream wait for the frontier, if another one brings it."""
        if self._beside and self._ready is not None:
            torch.cuda.current_stream().wait_event(self._ready)

    def hold(self) -> None:
        """Block the calling thread until RESUME returns, without the interpreter."""
        if not self._returned:
            with self._turnstile:
                pass

    def land(self) -> None:
        """Let go of those who hold: RESUME returns now."""
        self._returned = True
        self._turnstile.release()

    def submitted(self, batch: _Batch) -> None:
        """Note that the copies of ``batch`` are in the queue."""
        with self._changed:
            self._missing.difference_update(batch.addresses)
            if batch.event is not None:
                self._events.update(dict.fromkeys(batch.addresses, batch.event))
                self._last = batch.event
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Note that everything is back, or why it is not."""
        with self._changed:
            self._error = error
            self._resident.set()
            self._changed.notify_all()

    def wait(self, address: int) -> None:
        """Let work submitted to the current stream from now on see the storage at ``address``, if it is ours."""
        if address in self._missing:  # an event that is not recorded yet would be no event to wait for
            with self._changed:
                self._changed.wait_for(lambda: address not in self._missing or self.resident)
        self._check()
        event = self._events.get(address)
        if event is not None and not self.resident:
            torch.cuda.current_stream().wait_event(event)

    def wait_layer(self, layer: int) -> None:
        """:meth:`wait` for the KV of decoder layer ``layer``."""
        for address in self._of_layer.get(layer, ()):
            self.wait(address)

    def wait_all(self) -> None:
        """:meth:`wait` for every storage."""
        if not self.resident:
            self._wait_submitted()
            if self._last is not None:
                torch.cuda.current_stream().wait_event(self._last)
        self._check()

    def _wait_submitted(self) -> None:
        if self._missing:
            with self._changed:
                self._changed.wait_for(lambda: not self._missing or self.resident)

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block the caller until all state is back; False after ``timeout`` seconds."""
        done = True
        if timeout is None and self._last is not None:
            self._wait_submitted()
            self._last.synchronize()  # not the engine's word for it, which comes when it gets the interpreter
        else:
            done = self._resident.wait(timeout)
        self._check()
        return done

    def settle(self) -> None:
        """Note that the host memory is given back, and let go of the storages."""
        self.entries = ()
        self.frontier = self.history = []
        self._settled.set()

    def wait_settled(self, timeout: float | None = None) -> bool:
        """Block the caller until nothing of this state is in host memory; False after ``timeout`` seconds."""
        return self._settled.wait(timeout)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class _On:
    """Makes ``stream`` the current one: ``torch.cuda.stream`` for less, and for nothing where it already is."""

    __slots__ = ("_before", "_stream")

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._before: list[tuple[int, int, int]] = []

    def __enter__(self) -> None:
        stream = self._stream
        if stream is not None:
            device = torch._C._cuda_getDevice()
            before = torch._C._cuda_getCurrentStream(device)
            if before[0] != stream.stream_id or device != stream.device_index:
                self._before = [torch._C._cuda_getCurrentStream(stream.device_index), before]
                torch._C._cuda_setStream(stream.stream_id, stream.device_index, stream.device_type)

    def __exit__(self, *exc_info: object) -> None:
        for stream in self._before:
            torch._C._cuda_setStream(*stream)


def _follow(stream: torch.cuda.Stream | None, leader: torch.cuda.Stream | None) -> None:
    """Order what comes next on ``stream`` behind what is queued on ``leader``, if anything is."""
    if stream is not None and leader is not None and not leader.query():
        stream.wait_stream(leader)


def _allocate(batches: Iterable[_Batch]) -> None:
    for batch in batches:
        for entry in batch.entries:
            entry.item.storage.resize_(entry.item.nbytes)


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
    ) -> SwappedState:
        """Copy ``items`` to the host and free their device memory; waits for both.

        Returns the state of them and of what was swapped out ``earlier``; ``compute`` is the stream that produced them,
        and is kept there with ``go`` and ``wake``. Raises :class:`HostMemoryFull`, and leaves all as it was, if the
        arena has no room.
        """
        entries: list[Swapped] = []
        ended: list[torch.cuda.Event] = []
        with ExitStack() as undo:
            extents = self._arena.reserve([item.nbytes for item in items])
            undo.callback(self._arena.release, extents)
            if self._out is not None:
                undo.callback(self._out.synchronize)  # first: host memory that a copy still writes is not given back
            _follow(self._out, compute)
            if compute is not None:
                _follow(self._out, torch.cuda.current_stream(self.device))  # where the caller may have edited
            with _On(self._out):
                for item, extent in zip(items, extents, strict=True):
                    host, device = self._arena.view(extent, item.nbytes), raw_bytes(item.storage)
                    host.copy_(device, non_blocking=True)
                    entries.append(Swapped(item=item, extent=extent, host=host, device=device))
                    if self._out is not None:
                        ended.append(self._out.record_event())
            state = SwappedState([*earlier, *entries], compute=compute, go=go, wake=wake)
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
        try:
            # Everything is allocated before the program goes on, on the stream that will use and free it: copies into a
            # recycled block must wait for the work that is queued there, and that must not be the program's own.
            with _On(compute):
                if beside:
                    self._copy_beside(state.frontier, compute)
                else:
                    for batch in state.frontier:  # the first is under way while the next is allocated
                        _allocate([batch])
                        _copy_in(batch.entries)
                _allocate(state.history)
        except torch.OutOfMemoryError as error:
            if stream is not None:
                stream.synchronize()
            for entry in state.entries:
                entry.item.storage.resize_(0)
            raise DeviceMemoryFull(f"the device has no room for {state.nbytes} bytes of session state") from error
        ready, ahead = None, 0
        if stream is not None and self._in_behind is not None:
            ready = stream.record_event()
            self._in_behind.wait_event(ready)  # the link is the frontier's until it has landed
            if beside:
                _follow(self._in_behind, compute)
            ahead = self._submit(state, state.history[:_AHEAD], until=ready)
        state.depart(ready, beside=beside)
        state.go()
        state.wake()
        self._behind.put(lambda: self._bring_back(state, ahead))
        try:
            if ready is not None:
                ready.synchronize()
        finally:
            state.land()

    def _copy_beside(self, batches: Iterable[_Batch], compute: torch.cuda.Stream | None) -> None:
        _allocate(batches)
        _follow(self._in, compute)
        with _On(self._in):
            for batch in batches:
                _copy_in(batch.entries)

    def _submit(self, state: SwappedState, batches: Sequence[_Batch], *, until: torch.cuda.Event | None = None) -> int:
        """Submit the copies of ``batches``, of more than one only while ``until`` has not come; how many it were."""
        count = 0
        with _On(self._in_behind):
            for batch in batches:
                if count and until is not None and until.query():
                    break
                _copy_in(batch.entries)
                if batch.event is not None and self._in_behind is not None:
                    batch.event.record(self._in_behind)
                state.submitted(batch)
                count += 1
        return count

    def _bring_back(self, state: SwappedState, ahead: int) -> None:
        error: RuntimeError | None = None
        rest = state.history[ahead:]
        if rest:
            state.hold()
        try:
            self._submit(state, rest)
            if self._in_behind is not None:
                self._in_behind.synchronize()
        except RuntimeError as failure:  # the program's thread waits for these copies: it must hear of it
            error = failure
        state.finish(error)
        self.release(state.entries)
        state.settle()

    def _work(self) -> None:
        while (job := self._behind.get()) is not None:
            job()

    def close(self) -> None:
        """End the engine's thread after what it was given."""
        self._behind.put(None)
        self._thread.join()
