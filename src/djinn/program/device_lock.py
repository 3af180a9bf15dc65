"""The lock of a device: of all programs of the process, one at a time computes there.

There is one for each device and process, whichever runtimes share it. The CPU is one device. A fork begins with locks
of its own. The lock knows the turn that holds it, and releases one whose thread has died. What changes with the turn is
not known here (``turn``).
"""

import os
import threading
from typing import Any, Generic, Protocol, TypeVar

import torch

from djinn.state.referrers import frames_of_other_threads

_LOOK_SECONDS = 1.0  # whoever waits for the lock looks at this interval whether its holder has died


class Holder(Protocol):
    """What can hold the lock: a turn."""

    thread: int | None

    def bury(self) -> None:
        """Release the lock for a thread that has died, on another thread."""


H = TypeVar("H", bound=Holder)


class DeviceLock(Generic[H]):
    """Held by the turn of the program that computes on one device; see :func:`lock_of`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._releasing = threading.Lock()
        self.holder: H | None = None
        self.taken = 0  # how often it was acquired

    @property
    def locked(self) -> bool:
        """Whether a program computes."""
        return self._lock.locked()

    def busy_since(self, taken: int) -> bool:
        """Whether a program computes, or has computed since it was acquired ``taken`` times."""
        return self.locked or self.taken != taken

    def acquire(self, turn: H) -> None:
        """Wait for the lock and acquire it for ``turn``, on its thread."""
        while not self._lock.acquire(timeout=_LOOK_SECONDS):
            holder = self.holder
            if holder is not None and holder.thread not in frames_of_other_threads():
                holder.bury()
        self.taken += 1
        self.holder = turn

    def acquire_free(self, turn: H) -> bool:
        """Acquire the lock for ``turn`` if nobody has it, on its thread; whether that was so."""
        if not self._lock.acquire(blocking=False):
            return False
        self.taken += 1
        self.holder = turn
        return True

    def release(self, turn: H) -> None:
        """Release the lock if ``turn`` holds it; several threads may find its thread dead."""
        with self._releasing:
            if self.holder is turn:
                self.holder = None
                self._lock.release()


_locks: dict[tuple[int, str, int], DeviceLock[Any]] = {}  # by process and device; never more than there are devices


def lock_of(device: torch.device) -> DeviceLock[Any]:
    """Return the lock of ``device`` in this process."""
    return _locks.setdefault((os.getpid(), device.type, device.index or 0), DeviceLock())
