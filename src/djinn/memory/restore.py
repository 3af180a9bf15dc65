"""The way of one host copy back to the device: what is under way, what has arrived, and who waits for what.

Made at the pause, so that RESUME finds all it needs. Methods stand in the order of time. Each says whose thread calls
it:

- **caller's**: the thread that called RESUME;
- **program's**: the thread that was parked and goes on;
- **engine's**: the one that submits what RESUME has not.

``transfer`` makes the copies.
"""

import functools
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import torch

from djinn.core import SessionAbandoned
from djinn.interrupts import Bell, at_once
from djinn.memory.host_copy import Batch, HostCopy, Stored
from djinn.memory.lanes import Lane, Link, Mark
from djinn.resumes import ResumeClock
from djinn.state.storages import REST, StateStorage
from djinn.state.tensors import plain_torch

_PATIENCE_SECONDS = 0.02  # for the program to begin its work, before the rest is sent for without it
_LATCH_SECONDS = 0.1  # the longest wait at the latch of a RESUME, should nobody open it


class Restore:
    """Brings ``copy`` back for a program that computes on the lane ``compute``; ``session`` is that one's number.

    A swap-in that has not been completed has ``begun``. The host still has all the bytes, and :meth:`rewind` makes this
    record what it was before. When the program goes on, it has ``departed``.

    The ``wait`` methods order the calling thread's lane behind the copies. They block the thread only for copies that
    are not submitted yet. They unwind the program if the state cannot be brought back.
    """

    def __init__(self, copy: HostCopy, *, session: int, compute: Lane, link: Link) -> None:
        self.copy = copy
        self.session = session
        self.compute = compute
        self.clock = ResumeClock(copy.nbytes)
        self.coded = copy.coded
        self.frontier: list[Stored] = copy.frontier
        self.history = [Batch(entries, link.mark()) for entries in copy.history]
        self.ready = link.mark()  # the end of the frontier's copies
        self.begun = False
        self.departed = False
        self.follow_up: Callable[[], object] | None = None  # makes the engine's thread copy what is still missing
        self.failures = 0  # of allocations on the program's thread, for another reason than a lack of memory
        self._link = link
        self._batch_at = {address: batch for batch in self.history for address in batch.addresses}
        self._of_layer: dict[int, list[Batch]] = {}
        for batch in self.history:
            rank = batch.entries[0].item.rank
            if rank != REST:
                self._of_layer.setdefault(rank[1], []).append(batch)
        self._changed = Bell()
        self._resident = False
        self._settled = False  # whether the host memory is released, too
        self._error: BaseException | None = None
        self._latch_open = not self.frontier  # whether RESUME has returned; until then the program waits, if it flies
        self._latch = threading.Lock()
        self._latch.acquire()
        self.rewind()

    def rewind(self) -> None:
        """Forget a swap-in that has not been completed. Caller's or program's thread."""
        self._missing = set(self.history)  # batches whose copies are not submitted
        self._in_flight: deque[Batch] = deque()  # those whose copies may not have ended, in the order of submission
        self._under_way = 0  # bytes that these move
        self.last: Mark | None = None  # of the last submitted batch: marks are reached in their order
        self.allocated = 0  # batches of the history, from the first on
        self.beside = False  # whether the frontier comes on another lane than the program's
        self.follow_up = None
        self.begun = False

    # -- what others ask ---------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return self.copy.nbytes

    @property
    def state_bytes(self) -> int:
        """Bytes that it takes on the device."""
        return self.copy.state_bytes

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
        return not self.departed or self.lacks_memory or self.follow_up is not None

    @property
    def lacks_memory(self) -> bool:
        """Whether some of the history has no device memory yet."""
        return self.allocated < len(self.history) and not self._resident

    # -- until the program computes -----------------------------------------------------------------------------------

    def open_latch(self) -> None:
        """Release the threads that wait at the latch, for RESUME returns now. Caller's thread."""
        self._latch_open = True
        self._latch.release()
        self._changed.ring()  # whoever waits for all state may send for the rest now

    def wait_at_latch(self) -> None:
        """Block until RESUME returns, without the interpreter lock. Program's thread."""
        if not self._latch_open and self._latch.acquire(timeout=_LATCH_SECONDS):
            self._latch.release()

    def order(self) -> None:
        """Order the program's lane behind the frontier, if another lane brings that. Program's thread."""
        if self.beside:
            self._link.current().wait(self.ready)

    def leave_rest(self, follow_up: Callable[[], object]) -> None:
        """Leave the rest to whoever sends for it, by ``follow_up``. Caller's or program's thread."""
        self.follow_up = follow_up
        self._changed.ring()

    def send_rest(self) -> None:
        """Let the engine's thread go on, if it waits for that. Any thread but the engine's.

        Not before the program departs: an interrupt may still undo the swap-in.
        """
        if self.departed and (follow_up := self.follow_up) is not None:
            # It may be called twice, but an interrupt must not lose it.
            at_once(follow_up, functools.partial(setattr, self, "follow_up", None))

    # -- while the history is under way -------------------------------------------------------------------------------

    def lacks(self, batch: Batch) -> bool:
        """Whether the copies of ``batch`` are still to be submitted. Engine's thread."""
        return batch in self._missing

    def submitted(self, batch: Batch) -> None:
        """Record that the copies of ``batch`` are submitted. Caller's or engine's thread."""
        self.last = batch.mark
        self._in_flight.append(batch)
        self._under_way += batch.moved_bytes
        self._missing.discard(batch)
        self._changed.ring()

    def let_land(self, nbytes: int) -> None:
        """Block until no more than ``nbytes``, or one batch, of what is submitted are under way. Engine's thread.

        It lets go of the interpreter once: each time costs the program's thread some 0.1 ms to wake up.
        """
        landing: Batch | None = None
        while self._under_way > nbytes and len(self._in_flight) > 1:
            landing = self._in_flight.popleft()
            self._under_way -= landing.moved_bytes
        if landing is not None:
            landing.mark.synchronize()

    def wait(self, address: int) -> None:
        """Order later work behind the copy of the storage at ``address``, if it is in the history. Program's thread."""
        batch = self._batch_at.get(address)
        if batch is not None:
            self._wait_batch(batch)

    def wait_layer(self, layer: int) -> None:
        """Do so for what decoder layer ``layer`` alone reads: its KV, and its modules' state. Program's thread."""
        for batch in self._of_layer.get(layer, ()):
            self._wait_batch(batch)

    def _wait_batch(self, batch: Batch) -> None:
        if batch in self._missing:  # its mark is not recorded yet: waiting for that would not wait
            self.send_rest()
            self._changed.wait(lambda: batch not in self._missing or self._resident)
        self._check()
        if not self._resident:
            self._link.current().wait(batch.mark)

    def wait_all(self) -> None:
        """Do so for everything. Program's thread."""
        self.send_rest()
        if not self._resident:
            self._wait_submitted()
            if self.last is not None:
                self._link.current().wait(self.last)
        self._check()

    def wait_reachable(self) -> None:
        """Do so for what somebody can still read, for the program has ended. Program's thread.

        Copies that nobody can read are dropped, if they are not submitted yet. The engine's thread holds what it is
        submitting: whether anybody else does is known only afterwards.
        """
        dropped = {batch for batch in self.history if batch in self._missing and _is_unreachable(batch)}
        self._missing -= dropped
        self._changed.ring()
        self.send_rest()
        self._wait_submitted()
        for batch in self.history:
            if batch not in dropped and not _is_unreachable(batch):
                self._wait_batch(batch)

    def _wait_submitted(self) -> None:
        if self._missing:
            self._changed.wait(lambda: self._is_back() or not self._missing)

    def _is_back(self) -> bool:
        """Send for the rest, if nobody has, and return whether all state is back."""
        self.send_rest()
        return self._resident

    def _check(self) -> None:
        if self._error is not None:
            raise SessionAbandoned(self._error)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self, error: BaseException | None = None) -> None:
        """Record that all state is on the device, or the ``error`` that prevents it. Engine's or program's thread."""
        self._error = error
        if self.departed and error is None:
            self.clock.resident()
        self._resident = True
        self._changed.ring()

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block until all state is back; False after ``timeout`` seconds. Raises the error that prevents it.

        Where no frontier flew, the program sends for the rest with its first work. If it has not done so yet, it may be
        waiting for whoever waits here, who then does it.
        """
        done = True
        until = None if timeout is None else time.monotonic() + timeout
        self._changed.wait(lambda: not self._missing or self._resident, min(_PATIENCE_SECONDS, timeout or math.inf))
        if timeout is None and self.last is not None:
            self._wait_submitted()
            self.last.synchronize()  # the engine's notice comes only when it gets the interpreter lock
        else:
            done = self._changed.wait(self._is_back, None if until is None else max(until - time.monotonic(), 0))
        if self._error is not None:
            raise self._error
        return done

    def settle(self) -> None:
        """Record that the host memory is released, and drop the references to the storages. Engine's thread."""
        self.copy = HostCopy(entries=())
        self.frontier, self.history = [], []
        self._missing, self._batch_at, self._of_layer = set(), {}, {}
        self._in_flight.clear()
        self._settled = True
        self._changed.ring()

    def wait_settled(self, timeout: float | None = None) -> bool:
        """Block until nothing of this state is in host memory; False after ``timeout`` seconds."""
        return self._changed.wait(lambda: self._settled, timeout)


def _is_unreachable(batch: Batch) -> bool:
    """Whether nobody but this record can reach the storages: by tensors, or by the storage objects themselves."""
    most_uses, most_references = _held_by_nobody_else()
    held = [_held_by(entry.item) for entry in batch.entries]
    return all(uses <= most_uses and references <= most_references for uses, references in held)


def _held_by(item: StateStorage) -> tuple[int, int]:
    return int(torch._C._storage_Use_Count(item.storage._cdata)), sys.getrefcount(item.storage)


@functools.cache
def _held_by_nobody_else() -> tuple[int, int]:
    """Measure these counts where only a :class:`StateStorage` is left, for each release counts in its own way."""
    with plain_torch():
        item = StateStorage(storage=torch.empty(1, device="cpu").untyped_storage(), nbytes=4, rank=REST, views=())
    return _held_by(item)
