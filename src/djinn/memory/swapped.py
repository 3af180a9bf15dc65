"""The record of one session's swapped-out state: its copies, their order, and who waits for which copy.

Owns the order of the copies and the events that mark their ends; ``transfer`` makes the copies. All that a swap-in
needs is prepared here at the pause, for then there is time.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from djinn.core import SessionAbandoned
from djinn.interrupts import Bell, at_once, holding
from djinn.memory.extents import Extent
from djinn.resumes import ResumeClock
from djinn.state.storages import REST, StateStorage

_LATCH_SECONDS = 0.1  # the longest wait at the latch of a RESUME, should nobody open it


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """One swapped-out storage: its copy in ``extent``, and ``device``, its own bytes, which the swap-in fills.

    ``device`` is uint8, shape [nbytes], and has no memory until then. ``copied`` marks the end of the copy to the
    host, on a GPU.
    """

    item: StateStorage
    extent: Extent
    device: torch.Tensor
    copied: torch.cuda.Event | None = None

    @property
    def host(self) -> torch.Tensor:
        """The copy in host memory: uint8, shape [nbytes]."""
        return self.extent.bytes


class Batch:
    """Copies that are submitted together; ``event`` marks their end (None on the CPU)."""

    def __init__(self, entries: Sequence[Swapped], *, cuda: bool) -> None:
        self.entries = entries
        self.addresses = [entry.item.storage._cdata for entry in entries]
        self.nbytes = sum(entry.item.nbytes for entry in entries)
        self.event = torch.cuda.Event() if cuda else None


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return the bytes of ``storage`` as a uint8 tensor that aliases it, writable in every mode."""
    return holding(
        torch.inference_mode(False), lambda: torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    )


class Depart(Protocol):
    """Resumes the parked program: the one step that cannot be undone."""

    def __call__(self, *first: Callable[[], object]) -> None:
        """Call the C functions ``first`` and wake the program, all in one step."""


class SwappedState:
    """State of one session in host memory, and later in the course of its swap-in.

    All that a swap-in needs is prepared here at the pause. ``compute`` is the stream of the program (None on the CPU).
    ``depart``, set once it is prepared, resumes the program. ``make_room`` is called with the bytes of device memory
    that are lacking, and returns how many it freed.

    The ``wait`` methods order the calling thread's stream behind the copies. They block the host only for copies that
    are not in the queue yet. They unwind the program if the state cannot be brought back.

    A swap-in that has not been completed has ``begun``. The host still has all the bytes, and :meth:`rewind` resets
    this record to what it was before.
    """

    def __init__(
        self,
        entries: Iterable[Swapped],
        *,
        compute: torch.cuda.Stream | None,
        make_room: Callable[[int], int],
    ) -> None:
        self.compute = compute
        self.depart: Depart = at_once  # until it is known how
        self.make_room = make_room
        self.look_ahead: Callable[[], None] = lambda: None  # what the program looks at when it wakes, at leisure
        self.begun = False
        self.departed = False  # whether the program has been resumed
        self.failures = 0  # of allocations on the program's thread, for another reason than a lack of memory
        self.entries = tuple(sorted(entries, key=lambda entry: entry.item.rank))
        self.clock = ResumeClock(self.nbytes)
        batch = functools.partial(Batch, cuda=compute is not None)
        frontier = [entry for entry in self.entries if entry.item.in_frontier]
        self.frontier = [batch(part) for part in (frontier[:1], frontier[1:]) if part]
        history = self.entries[len(frontier) :]
        # A layer reads all of its KV together, so that is one batch. Every other storage is a batch of its own.
        kv = [entry for entry in history if entry.item.rank != REST]
        rest = history[len(kv) :]
        self.history = [batch(list(part)) for _, part in itertools.groupby(kv, key=lambda entry: entry.item.rank)]
        self.history += [batch([entry]) for entry in rest]
        self._of_layer: dict[int, list[int]] = {}
        for entry in kv:
            self._of_layer.setdefault(entry.item.rank[1], []).append(entry.item.storage._cdata)
        self._changed = Bell()
        self._resident = False
        self._settled = False  # whether the host memory is released, too
        self._error: BaseException | None = None
        self._latch_open = False  # whether RESUME has returned; until then other threads wait
        self._latch = threading.Lock()
        self._latch.acquire()
        self.rewind()

    def rewind(self) -> None:
        """Reset the record: no copy is submitted."""
        self._missing = {entry.item.storage._cdata for batch in self.history for entry in batch.entries}
        self._events: dict[int, torch.cuda.Event] = {}
        self._ready: torch.cuda.Event | None = None
        self._last: torch.cuda.Event | None = None  # of the last submitted batch: copies end in their order
        self._beside = False
        self._allocate: Callable[[], bool] | None = None
        self.begun = False

    @property
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return sum(entry.item.nbytes for entry in self.entries)

    @property
    def resident(self) -> bool:
        """Whether all state is back on the device."""
        return self._resident

    @property
    def failed(self) -> bool:
        """Whether some of the state can never be brought back."""
        return self._error is not None

    @property
    def left_alone(self) -> bool:
        """Whether no swap-in is running that will bring back all of the state."""
        return not self.departed or self._allocate is not None

    def under_way(self, ready: torch.cuda.Event | None, *, beside: bool, allocate: Callable[[], bool] | None) -> None:
        """Record that the frontier's copies are in the queue and end with ``ready`` (None: they have ended).

        ``beside`` says that they are on another stream than the program's. ``allocate`` is the work of
        :meth:`allocate_rest`, if RESUME has not allocated everything.
        """
        self._ready = ready
        self._last = self._last or ready
        self._beside = beside
        self._allocate = allocate

    def allocate_rest(self) -> bool:
        """Allocate what RESUME has not, on the program's thread before it computes; False if there is no room now."""
        if self._allocate is not None:
            if not self._allocate():
                return False
            self._allocate = None
        return True

    def order(self) -> None:
        """Make the current stream wait for the frontier, if another stream copies it."""
        if self._beside and self._ready is not None:
            torch.cuda.current_stream().wait_event(self._ready)

    def wait_at_latch(self) -> None:
        """Block the calling thread until RESUME returns, without holding the interpreter lock."""
        if not self._latch_open and self._latch.acquire(timeout=_LATCH_SECONDS):
            self._latch.release()

    def open_latch(self) -> None:
        """Release the threads that wait at the latch, for RESUME returns now."""
        self._latch_open = True
        self._latch.release()

    def submitted(self, batch: Batch) -> None:
        """Record that the copies of ``batch`` are in the queue."""
        if batch.event is not None:
            self._events.update(dict.fromkeys(batch.addresses, batch.event))
            self._last = batch.event
        self._missing.difference_update(batch.addresses)
        self._changed.ring()

    def lacks(self, batch: Batch) -> bool:
        """Whether a copy of ``batch`` has not been submitted."""
        return not self._missing.isdisjoint(batch.addresses)

    def finish(self, error: BaseException | None = None) -> None:
        """Record that everything is back on the device, or the ``error`` that prevents it."""
        self._error = error
        if self.departed and error is None:
            self.clock.resident()
        self._resident = True
        self._changed.ring()

    def wait(self, address: int) -> None:
        """Order later work on the current stream behind the copy of the storage at ``address``, if it is ours."""
        if address in self._missing:  # its event is not recorded yet: waiting for that would not wait
            self._changed.wait(lambda: address not in self._missing or self.resident)
        self._check()
        event = self._events.get(address)
        if event is not None and not self.resident:
            torch.cuda.current_stream().wait_event(event)

    def wait_layer(self, layer: int) -> None:
        """Call :meth:`wait` for the KV of decoder layer ``layer``."""
        for address in self._of_layer.get(layer, ()):
            self.wait(address)

    def wait_all(self) -> None:
        """Do what :meth:`wait` does for every storage."""
        if not self.resident:
            self._wait_submitted()
            if self._last is not None:
                torch.cuda.current_stream().wait_event(self._last)
        self._check()

    def _wait_submitted(self) -> None:
        if self._missing:
            self._changed.wait(lambda: not self._missing or self.resident)

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block until all state is back; False after ``timeout`` seconds. Raises the error that prevents it."""
        done = True
        if timeout is None and self._last is not None:
            self._wait_submitted()
            self._last.synchronize()  # the engine's notice comes only when it gets the interpreter lock
        else:
            done = self._changed.wait(lambda: self._resident, timeout)
        if self._error is not None:
            raise self._error
        return done

    def settle(self) -> None:
        """Record that the host memory is released, and drop the references to the storages."""
        self.entries = ()
        self.frontier = self.history = []
        self._allocate = None
        self._settled = True
        self._changed.ring()

    def wait_settled(self, timeout: float | None = None) -> bool:
        """Block until nothing of this state is in host memory; False after ``timeout`` seconds."""
        return self._changed.wait(lambda: self._settled, timeout)

    def _check(self) -> None:
        if self._error is not None:
            raise SessionAbandoned(self._error)
