"""The front's own computing on the device: in pieces, each in a turn of its own, and only while nobody else computes.

A piece is short, so that a program which is resumed meanwhile waits for little. Between two pieces the lock is free,
and whoever wants it comes first. Nothing is kept on the device: a piece returns what lies in host memory.

Pieces run on a thread of their own, on which no signal is delivered. So Ctrl-C never leaves the lock taken.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

from djinn.core import Phase
from djinn.interrupts import Hands, holding
from djinn.program.device_lock import DeviceLock
from djinn.runtime import Runtime

T = TypeVar("T")

_YIELD_SECONDS = 0.0002  # after a piece, for a thread that waits to take the lock


class Busy(Exception):
    """A program computes, or is about to: look again later."""


class Looker:
    """Takes turns on the device of ``runtime`` for the front; :meth:`close` ends its thread.

    It holds the lock as a :class:`djinn.program.device_lock.Holder`.
    """

    waits_for = None  # no program, so that nobody finds a circle here

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.lock: DeviceLock[Any] = runtime._device_lock
        self.device = runtime._device
        self.thread: int | None = None
        self._hands: Hands | None = None  # from the first piece on
        runtime._engine.fronts.add(self)
        self._starting = threading.Lock()

    @property
    def computing(self) -> int | None:
        """The number of a session that computes or is about to; 0 for a program of another runtime; None for none."""
        for session in self._runtime.sessions:
            program = session._program
            if session._phase is Phase.RUNNING and program is not None and not program.turn.given_up:
                return session.number
        return 0 if self.lock.locked else None

    def piece(self, function: Callable[[], T]) -> T:
        """Return ``function()``, called in a turn, without gradients. Raises :class:`Busy` while a program computes."""
        hands = self._hands or holding(self._starting, self._started)
        value: T = hands.do(lambda: self._in_a_turn(function))
        return value

    def _started(self) -> Hands:
        if self._hands is None:
            hands = Hands("djinn-looks")
            hands.start()
            self._hands = hands
        return self._hands

    def close(self) -> None:
        """End the thread; a later :meth:`piece` starts another. Who resumes may let go of the interpreter again."""
        self._runtime._engine.fronts.discard(self)
        hands, self._hands = self._hands, None
        if hands is not None:
            hands.close()

    def bury(self) -> None:
        """Release the lock for a thread that has died."""
        self.lock.release(self)

    def _in_a_turn(self, function: Callable[[], T]) -> T:
        self.thread = threading.get_ident()  # first: whoever waits for the lock looks for this thread
        if self.computing is not None or not self.lock.acquire_free(self):
            raise Busy
        try:
            with torch.no_grad(), self._on_the_device():
                return function()
        finally:
            self._leave()

    def _on_the_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _leave(self) -> None:
        try:
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
                torch._C._cuda_clearCublasWorkspaces()  # this thread has a handle of its own, and torch memory for it
        finally:
            self.lock.release(self)
            time.sleep(_YIELD_SECONDS)
