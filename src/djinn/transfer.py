"""The only file with streams and events: copies storages between the device and host memory.

Swap out copies each storage to the host arena, waits, and only then frees its device memory by ``resize_(0)``, so that
every tensor and view of the program stays valid. Swap in is ``resize_(n)`` and a copy back: what is needed first goes
first, and the rest is submitted by the engine's own thread, behind the running computation. On the CPU device the same
code runs with copies that finish when they return.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import torch

from djinn.core import DeviceMemoryFull
from djinn.host_memory import Extent, HostArena
from djinn.state import SessionState, StateStorage


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """One storage in host memory.

    ``host`` is its copy and ``device`` its own bytes, which exist again after the swap-in: uint8, shape [nbytes].
    """

    item: StateStorage
    extent: Extent
    host: torch.Tensor
    device: torch.Tensor


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of ``storage`` as a uint8 tensor that aliases it, writable in every mode."""
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _follow(stream: torch.cuda.Stream | None, leader: torch.cuda.Stream | None) -> None:
    """Order what comes next on ``stream`` behind what is queued on ``leader``, if anything is."""
    if stream is not None and leader is not None and not leader.query():
        stream.wait_stream(leader)


class SwappedState:
    """A session's state in host memory, and then on its way back.

    Whatever a swap-in needs is built here, at the pause. Its waits order the calling thread's stream behind the copies,
    not the host.
    """

    def __init__(self, entries: Iterable[Swapped]) -> None:
        self.entries = tuple(entries)
        self.frontier = tuple(entry for entry in self.entries if not entry.item.rank[0])
        self.history = tuple(entry for entry in self.entries if entry.item.rank[0])
        self._missing = {entry.item.storage._cdata for entry in self.entries}  # not submitted yet
        self._events: dict[int, torch.cuda.Event] = {}
        self._changed = threading.Condition()
        self._resident = threading.Event()
        self._error: BaseException | None = None

    @property
    def resident(self) -> bool:
        """Whether all state is back on the device."""
        return self._resident.is_set()

    def submitted(self, entries: Iterable[Swapped], event: torch.cuda.Event | None) -> None:
        """Note that the copies of ``entries`` are in the queue and end with ``event``.

        None if nobody will have to wait for them: they have ended before the program goes on.
        """
        with self._changed:
            for entry in entries:
                address = entry.item.storage._cdata
                self._missing.discard(address)
                if event is not None:
                    self._events[address] = event
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
        if event is not None:
            torch.cuda.current_stream().wait_event(event)

    def wait_all(self) -> None:
        """:meth:`wait` for every storage."""
        for entry in self.entries if not self.resident else ():
            self.wait(entry.item.storage._cdata)
        self._check()

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block the caller until all state is back; False after ``timeout`` seconds."""
        done = self._resident.wait(timeout)
        self._check()
        return done

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


def _allocate(entries: Iterable[Swapped]) -> None:
    for entry in entries:
        entry.item.storage.resize_(entry.item.nbytes)


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

    def _on(self, stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
        # Entering a stream's context costs tens of microseconds: not for the one that is current anyway.
        if stream is None or stream == torch.cuda.current_stream(self.device):
            return nullcontext()
        return torch.cuda.stream(stream)

    def swap_out(self, state: SessionState, compute: torch.cuda.Stream | None) -> SwappedState:
        """Copy ``state`` to the host, then free its device memory; waits for both.

        ``compute`` is the stream that produced it (None on the CPU). Raises :class:`HostMemoryFull`, and leaves all as
        it was, if the arena has no room.
        """
        entries: list[Swapped] = []
        with ExitStack() as undo:
            undo.callback(self.release, entries)
            for item in state.storages:
                extent = self._arena.reserve(item.nbytes)
                host, device = self._arena.view(extent, item.nbytes), raw_bytes(item.storage)
                entries.append(Swapped(item=item, extent=extent, host=host, device=device))
            if self._out is not None:
                undo.callback(self._out.synchronize)  # first: host memory that a copy still writes is not given back
            _follow(self._out, compute)
            with self._on(self._out):
                for entry in entries:
                    entry.host.copy_(entry.device, non_blocking=True)
            if self._out is not None:
                self._out.synchronize()
            undo.pop_all()
        # Nothing reads the device's copy any more: the copies have ended, and the program's thread is parked.
        for entry in entries:
            entry.item.storage.resize_(0)
        return SwappedState(entries)

    def release(self, entries: Iterable[Swapped]) -> None:
        """Give the host memory back."""
        for entry in entries:
            self._arena.release(entry.extent)

    def swap_in(self, state: SwappedState, compute: torch.cuda.Stream | None, go: Callable[[], None]) -> None:
        """Bring ``state`` back; returns when its frontier is resident.

        ``go`` is then called to wake the program; the rest follows behind its computation, and the host copies are
        released when all is back. Raises :class:`DeviceMemoryFull` before ``go``, with the state intact on the host, if
        the device has no room.
        """
        # An idle compute stream brings the frontier back itself: nothing has to be ordered between streams.
        stream = compute if compute is None or compute.query() else self._in
        ready = None
        try:
            # All memory is allocated before the program goes on, on the stream that will use and free it: copies into a
            # recycled block must wait for the work that is queued there, and that must not be the program's own. The
            # hidden states are on their way while everything else is prepared.
            with self._on(compute):
                for group in (state.frontier[:1], state.frontier[1:]):
                    _allocate(group)
                    if stream is not compute:
                        _follow(stream, compute)
                    ready = self._copy_in(group, stream)
                _allocate(state.history)
                _follow(self._in_behind, compute)
        except torch.OutOfMemoryError as error:
            if stream is not None:
                stream.synchronize()
            for entry in state.entries:
                entry.item.storage.resize_(0)
            wanted = sum(entry.item.nbytes for entry in state.entries)
            raise DeviceMemoryFull(f"the device has no room for {wanted} bytes of session state: {error}") from error
        state.submitted(state.frontier, None)
        try:
            if ready is not None:
                ready.synchronize()
        finally:
            # Not before: two more threads would compete with this one for the interpreter, and delay its return.
            go()
            self._behind.put(lambda: self._bring_back(state))

    def _copy_in(self, entries: Iterable[Swapped], stream: torch.cuda.Stream | None) -> torch.cuda.Event | None:
        with self._on(stream):
            for entry in entries:
                entry.device.copy_(entry.host, non_blocking=True)
            return stream.record_event() if stream is not None else None

    def _bring_back(self, state: SwappedState) -> None:
        try:
            for entry in state.history:
                state.submitted([entry], self._copy_in([entry], self._in_behind))
            if self._in_behind is not None:
                self._in_behind.synchronize()
        except RuntimeError as error:  # the program's thread waits for these copies: it must hear of it
            state.finish(error)
            return
        self.release(state.entries)
        state.finish()

    def _work(self) -> None:
        while (job := self._behind.get()) is not None:
            job()

    def close(self) -> None:
        """End the engine's thread after what it was given."""
        self._behind.put(None)
        self._thread.join()
