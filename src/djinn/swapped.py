"""State of one session in host memory, and then on its way back: what waits for which copy.

Owns the order of the copies and the events with which they end; ``transfer`` makes them. Whatever a swap-in needs is
brought together here at the pause, for then there is time.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from djinn.core import SessionAbandoned
from djinn.host_memory import Extent
from djinn.interrupts import Bell, at_once, holding
from djinn.state import REST, StateStorage

_HOLD_SECONDS = 0.1  # longest that others keep out of the way of a RESUME, should nobody end it


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """One storage in host memory: its copy in ``extent``, and ``device``, its own bytes, which the swap-in fills.

    ``device`` is uint8, shape [nbytes]; without memory until then. ``copied`` is the end of the copy out, on a GPU.
    """

    item: StateStorage
    extent: Extent
    device: torch.Tensor
    copied: torch.cuda.Event | None = None

    @property
    def host(self) -> torch.Tensor:
        """The copy: uint8, shape [nbytes]."""
        return self.extent.bytes


class Batch:
    """Copies that are submitted together, and end with ``event`` (None on the CPU)."""

    def __init__(self, entries: Sequence[Swapped], *, cuda: bool) -> None:
        self.entries = entries
        self.addresses = [entry.item.storage._cdata for entry in entries]
        self.nbytes = sum(entry.item.nbytes for entry in entries)
        self.event = torch.cuda.Event() if cuda else None


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of ``storage`` as a uint8 tensor that aliases it, writable in every mode."""
    return holding(
        torch.inference_mode(False), lambda: torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    )


class Depart(Protocol):
    """Sends the parked program on its way: the one step that cannot be undone."""

    def __call__(self, *first: Callable[[], object]) -> None:
        """Do ``first``, functions written in C, and wake the program, all in one step."""


class SwappedState:
    """State of one session in host memory, and then on its way back.

    Whatever a swap-in needs is brought here at the pause. ``compute`` is the stream of the program (None on the CPU).
    ``depart``, set once it is prepared, sends the program on. ``make_room`` is called with the bytes of device memory
    that are lacking, and returns how many it freed. The ``wait`` methods order the calling thread's stream behind the
    copies, not the host, except for copies that are not in the queue yet. They unwind the program if the state cannot
    come back.

    A swap-in that was not brought to its end has ``begun``; the host has everything, and :meth:`rewind` makes what is
    noted here as it was before.
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
        self.begun = False
        self.departed = False  # whether the program has been sent on
        self.failures = 0  # to allocate it on the program's thread, for another reason than a lack of memory
        self.entries = tuple(sorted(entries, key=lambda entry: entry.item.rank))
        batch = functools.partial(Batch, cuda=compute is not None)
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
        self._changed = Bell()
        self._resident = False
        self._settled = False  # and the host memory is given back
        self._error: BaseException | None = None
        self._landed = False  # whether RESUME has returned; until then nobody passes the turnstile
        self._turnstile = threading.Lock()
        self._turnstile.acquire()
        self.rewind()

    def rewind(self) -> None:
        """Note that no copy is on its way."""
        self._missing = {entry.item.storage._cdata for batch in self.history for entry in batch.entries}
        self._events: dict[int, torch.cuda.Event] = {}
        self._ready: torch.cuda.Event | None = None
        self._last: torch.cuda.Event | None = None  # of what is submitted: copies end in their order
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
    def left_alone(self) -> bool:
        """Whether nobody is about to bring it back, or what is left of it."""
        return not self.departed or self._allocate is not None

    def under_way(self, ready: torch.cuda.Event | None, *, beside: bool, allocate: Callable[[], bool] | None) -> None:
        """Note that the frontier's copies are in the queue and end with ``ready`` (None: they have ended).

        ``beside``: they are not on the program's own stream. ``allocate`` is what :meth:`allocate_rest` does, if RESUME
        has not done it all.
        """
        self._ready = ready
        self._last = self._last or ready
        self._beside = beside
        self._allocate = allocate

    def allocate_rest(self) -> bool:
        """On the program's thread, before it computes: allocate what RESUME has not; False if there is no room now."""
        if self._allocate is not None:
            if not self._allocate():
                return False
            self._allocate = None
        return True

    def order(self) -> None:
        """Let the current stream wait for the frontier, if another one brings it."""
        if self._beside and self._ready is not None:
            torch.cuda.current_stream().wait_event(self._ready)

    def hold(self) -> None:
        """Block the calling thread until RESUME returns, without the interpreter."""
        if not self._landed and self._turnstile.acquire(timeout=_HOLD_SECONDS):
            self._turnstile.release()

    def land(self) -> None:
        """Let go of those who hold: RESUME returns now."""
        self._landed = True
        self._turnstile.release()

    def submitted(self, batch: Batch) -> None:
        """Note that the copies of ``batch`` are in the queue."""
        if batch.event is not None:
            self._events.update(dict.fromkeys(batch.addresses, batch.event))
            self._last = batch.event
        self._missing.difference_update(batch.addresses)
        self._changed.ring()

    def lacks(self, batch: Batch) -> bool:
        """Whether a copy of ``batch`` is still to be submitted."""
        return not self._missing.isdisjoint(batch.addresses)

    def finish(self, error: BaseException | None = None) -> None:
        """Note that everything is back, or why it is not."""
        self._error = error
        self._resident = True
        self._changed.ring()

    def wait(self, address: int) -> None:
        """Let work submitted to the current stream from now on see the storage at ``address``, if it is ours."""
        if address in self._missing:  # an event that is not recorded yet would be no event to wait for
            self._changed.wait(lambda: address not in self._missing or self.resident)
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
            self._changed.wait(lambda: not self._missing or self.resident)

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block the caller until all state is back; False after ``timeout`` seconds. Raises why it cannot come back."""
        done = True
        if timeout is None and self._last is not None:
            self._wait_submitted()
            self._last.synchronize()  # not the engine's word for it, which comes when it gets the interpreter
        else:
            done = self._changed.wait(lambda: self._resident, timeout)
        if self._error is not None:
            raise self._error
        return done

    def settle(self) -> None:
        """Note that the host memory is given back, and let go of the storages."""
        self.entries = ()
        self.frontier = self.history = []
        self._allocate = None
        self._settled = True
        self._changed.ring()

    def wait_settled(self, timeout: float | None = None) -> bool:
        """Block the caller until nothing of this state is in host memory; False after ``timeout`` seconds."""
        return self._changed.wait(lambda: self._settled, timeout)

    def _check(self) -> None:
        if self._error is not None:
            raise SessionAbandoned(self._error)
