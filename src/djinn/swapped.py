"""State of one session in host memory, and then on its way back: what waits for which copy.

Owns the order of the copies and the events with which they end; ``transfer`` makes them. Whatever a swap-in needs is
brought together here at the pause, for then there is time.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from djinn.host_memory import Extent
from djinn.state import REST, StateStorage


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """One storage in host memory.

    ``host`` is its copy and ``device`` its own bytes, which exist again after the swap-in: uint8, shape [nbytes].
    """

    item: StateStorage
    extent: Extent
    host: torch.Tensor
    device: torch.Tensor


class Batch:
    """Copies that are submitted together, and end with ``event`` (None on the CPU)."""

    def __init__(self, entries: Sequence[Swapped], *, cuda: bool) -> None:
        self.entries = entries
        self.addresses = [entry.item.storage._cdata for entry in entries]
        self.nbytes = sum(entry.item.nbytes for entry in entries)
        self.event = torch.cuda.Event() if cuda else None


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of ``storage`` as a uint8 tensor that aliases it, writable in every mode."""
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class SwappedState:
    """State of one session in host memory, and then on its way back.

    Whatever a swap-in needs is brought here at the pause: ``compute`` is the stream of the program (None on the CPU);
    ``go`` is called when the program's work is ordered behind the frontier, ``wake`` when there is time for it, and
    ``make_room`` with the bytes of device memory that are lacking: it returns how many it freed. The ``wait`` methods
    order the calling thread's stream behind the copies, not the host, except for copies that are not in the queue yet.
    """

    def __init__(
        self,
        entries: Iterable[Swapped],
        *,
        compute: torch.cuda.Stream | None,
        go: Callable[[], None],
        wake: Callable[[], None],
        make_room: Callable[[int], int],
    ) -> None:
        self.compute = compute
        self.go = go
        self.wake = wake
        self.make_room = make_room
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
        self._missing = {entry.item.storage._cdata for entry in history}  # not submitted yet
        self._events: dict[int, torch.cuda.Event] = {}
        self._changed = threading.Condition()
        self._resident = threading.Event()
        self._settled = threading.Event()  # and the host memory is given back
        self._error: BaseException | None = None
        self._ready: torch.cuda.Event | None = None
        self._last: torch.cuda.Event | None = None  # of what is submitted: copies end in their order
        self._beside = False
        self._allocate: Callable[[bool], bool] = lambda last: True
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

    def depart(self, ready: torch.cuda.Event | None, *, beside: bool, allocate: Callable[[bool], bool]) -> None:
        """Note that the frontier's copies are in the queue and end with ``ready`` (None: they have ended).

        ``beside``: they are not on the program's own stream. ``allocate`` is what :meth:`allocate_rest` does.
        """
        self._ready = ready
        self._last = self._last or ready
        self._beside = beside
        self._allocate = allocate

    def allocate_rest(self, *, last: bool) -> bool:
        """On the program's thread, before it computes: allocate what RESUME has not; False if there is no room now.

        The ``last`` attempt is always the end of it: without room, the state is given up.
        """
        return self._allocate(last)

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

    def submitted(self, batch: Batch) -> None:
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
        self._allocate = lambda last: True
        self._settled.set()

    def wait_settled(self, timeout: float | None = None) -> bool:
        """Block the caller until nothing of this state is in host memory; False after ``timeout`` seconds."""
        return self._settled.wait(timeout)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
