"""The only file with streams and events: copies storages between the device and host memory.

Swap out copies each storage to the host arena, waits, and only then frees its device memory by ``resize_(0)``, so that
every tensor and view of the program stays valid. Swap in is ``resize_(n)`` and a copy back: what is needed first goes
first, and the rest is submitted by the engine's own thread, behind the running computation. On the CPU device the same
code runs with copies that finish when they return.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from djinn.core import DeviceMemoryFull
from djinn.host_memory import Extent, HostArena
from djinn.state import SessionState, StateStorage


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """One storage in host memory."""

    item: StateStorage
    extent: Extent


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of ``storage`` as a uint8 tensor that aliases it."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class Restore:
    """A swap-in under way. Its waits order the calling thread's stream behind the copies, not the host."""

    def __init__(self, swapped: Iterable[Swapped]) -> None:
        self.swapped = tuple(swapped)
        self._pending = {entry.item.storage._cdata: threading.Event() for entry in self.swapped}
        self._events: dict[int, torch.cuda.Event | None] = {}
        self._resident = threading.Event()
        self._error: BaseException | None = None

    @property
    def resident(self) -> bool:
        """Whether all state is back on the device."""
        return self._resident.is_set()

    def submitted(self, address: int, event: torch.cuda.Event | None) -> None:
        """Note that the copy of the storage at ``address`` is in the queue and ends with ``event``."""
        self._events[address] = event
        self._pending[address].set()

    def finish(self, error: BaseException | None = None) -> None:
        """Note that everything is back, or why it is not."""
        self._error = error
        for pending in self._pending.values():
            pending.set()
        self._resident.set()

    def wait(self, address: int) -> None:
        """Let work submitted to the current stream from now on see the storage at ``address``, if it is ours."""
        pending = self._pending.get(address)
        if pending is None:
            return
        pending.wait()  # an event that is not yet recorded would be no event to wait for
        self._check()
        event = self._events.get(address)
        if event is not None:
            torch.cuda.current_stream().wait_event(event)

    def wait_all(self) -> None:
        """:meth:`wait` for every storage."""
        if self._resident.is_set():
            self._check()  # every copy has ended: the stream has nothing to wait for
            return
        for address in self._pending:
            self.wait(address)

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block the caller until all state is back; False after ``timeout`` seconds."""
        done = self._resident.wait(timeout)
        self._check()
        return done

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


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
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def swap_out(self, state: SessionState, compute: torch.cuda.Stream | None) -> tuple[Swapped, ...]:
        """Copy ``state`` to the host, then free its device memory; waits for both.

        ``compute`` is the stream that produced it (None on the CPU). Raises :class:`HostMemoryFull`, and leaves all as
        it was, if the arena has no room.
        """
        swapped: list[Swapped] = []
        try:
            for item in state.storages:
                swapped.append(Swapped(item=item, extent=self._arena.reserve(item.nbytes)))
            if self._out is not None:
                self._out.wait_stream(compute or torch.cuda.current_stream(self.device))
            with self._on(self._out):
                for entry in swapped:
                    self._arena.view(entry.extent, entry.item.nbytes).copy_(
                        raw_bytes(entry.item.storage), non_blocking=True
                    )
            if self._out is not None:
                self._out.synchronize()
        except BaseException:
            self.release(swapped)
            raise
        # Nothing reads the device's copy any more: the copies have ended, and the program's thread is parked.
        for entry in swapped:
            entry.item.storage.resize_(0)
        return tuple(swapped)

    def host_bytes(self, entry: Swapped) -> torch.Tensor:
        """The host copy of a storage: uint8, shape [nbytes], aliases the arena."""
        return self._arena.view(entry.extent, entry.item.nbytes)

    def release(self, swapped: Iterable[Swapped]) -> None:
        """Give the host memory back."""
        for entry in swapped:
            self._arena.release(entry.extent)

    def swap_in(
        self, swapped: tuple[Swapped, ...], compute: torch.cuda.Stream | None, go: Callable[[Restore], None]
    ) -> None:
        """Bring ``swapped`` back and return when its frontier is resident.

        ``go`` is called, with the restore under way, as soon as the program may be woken: ``compute`` then waits for the
        frontier by itself. The rest follows behind; the host copies are released when all is back. Raises
        :class:`DeviceMemoryFull` before ``go``, with the state intact on the host, if the device has no room.
        """
        restore = Restore(swapped)
        frontier = [entry for entry in swapped if not entry.item.rank[0]]
        history = [entry for entry in swapped if entry.item.rank[0]]
        ready = None
        try:
            # Memory is allocated on the stream that will use and free it, all of it before the program goes on: a
            # recycled block may still be in use by work queued there, so copies into it wait for that stream, and they
            # must not wait for what the program is about to queue.
            with self._on(compute):
                self._allocate(frontier)
                if self._in is not None and compute is not None:
                    self._in.wait_stream(compute)
                self._submit(restore, frontier, self._in)
                ready = self._in.record_event() if self._in is not None else None
                self._allocate(history)
                if self._in_behind is not None and compute is not None:
                    self._in_behind.wait_stream(compute)
        except torch.OutOfMemoryError as error:
            if self._in is not None:
                self._in.synchronize()
            for entry in swapped:
                entry.item.storage.resize_(0)
            wanted = sum(entry.item.nbytes for entry in swapped)
            raise DeviceMemoryFull(f"the device has no room for {wanted} bytes of session state: {error}") from error
        if ready is not None and compute is not None:
            compute.wait_event(ready)
        go(restore)
        self._behind.put(lambda: self._bring_back(restore, history, ready))
        if ready is not None:
            ready.synchronize()

    def _allocate(self, entries: Iterable[Swapped]) -> None:
        for entry in entries:
            entry.item.storage.resize_(entry.item.nbytes)

    def _submit(self, restore: Restore, entries: Iterable[Swapped], stream: torch.cuda.Stream | None) -> None:
        with self._on(stream):
            for entry in entries:
                raw_bytes(entry.item.storage).copy_(self.host_bytes(entry), non_blocking=True)
                event = stream.record_event() if stream is not None else None
                restore.submitted(entry.item.storage._cdata, event)

    def _bring_back(self, restore: Restore, history: list[Swapped], ready: torch.cuda.Event | None) -> None:
        try:
            if ready is not None:
                ready.synchronize()  # until then the interpreter belongs to whoever waits for the frontier
            self._submit(restore, history, self._in_behind)
            if self._in_behind is not None:
                self._in_behind.synchronize()
        except RuntimeError as error:  # the program's thread waits for these copies: it must hear of it
            restore.finish(error)
            return
        self.release(restore.swapped)
        restore.finish()

    def _work(self) -> None:
        while (job := self._behind.get()) is not None:
            job()

    def close(self) -> None:
        """End the engine's thread after what it was given."""
        self._behind.put(None)
        self._thread.join()
