"""What the last RESUME of a session moved, and how long it took.

A :class:`ResumeClock` is made at the pause, for then there is time. RESUME reads the time twice. The engine's thread
reads it once, when it notices that all state is back. Nobody waits for a clock.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Resume:
    """One RESUME: the bytes that it swapped in, and the seconds from its call to two moments.

    ``nbytes`` are counted as they were in host memory, coded or not.
    ``ready_seconds``: it returned, for the device had what layer L+1 needs. None until then, and if the call was
    interrupted.
    ``resident_seconds``: the runtime noticed that all state was on the device. None until then.
    """

    nbytes: int
    ready_seconds: float | None
    resident_seconds: float | None

    @property
    def bytes_per_second(self) -> float | None:
        """The mean rate until all state was on the device; None before that, and if nothing was swapped in."""
        return self.nbytes / self.resident_seconds if self.nbytes and self.resident_seconds else None


class ResumeClock:
    """The times of one RESUME of ``nbytes``, which was ``called`` then; without bytes all state is on the device.

    ``tell`` is called once, with :meth:`read`, when both moments are known; it must not block.
    """

    def __init__(self, nbytes: int, *, called: float | None = None) -> None:
        self.called = called
        self.tell: Callable[[Callable[[], Resume]], None] | None = None
        self._nbytes = nbytes
        self._ready: float | None = None
        self._resident: float | None = None
        self._told = threading.Lock()  # whoever acquires it first tells

    def ready(self) -> None:
        """RESUME returns now."""
        self._ready = time.perf_counter()
        if not self._nbytes:
            self._resident = self._ready
        self._tell()

    def resident(self) -> None:
        """All state is on the device now."""
        self._resident = time.perf_counter()
        self._tell()

    def _tell(self) -> None:
        if self._ready is None or self._resident is None or self.tell is None:
            return
        if self._told.acquire(blocking=False):
            self.tell(self.read)

    def read(self) -> Resume:
        """What is known so far."""
        ready, resident = self._ready, self._resident
        if ready is not None and resident is not None:  # the engine's thread may notice it before RESUME returns
            resident = max(ready, resident)
        return Resume(
            nbytes=self._nbytes,
            ready_seconds=self._since_the_call(ready),
            resident_seconds=self._since_the_call(resident),
        )

    def _since_the_call(self, moment: float | None) -> float | None:
        return None if moment is None or self.called is None else moment - self.called
