"""Runs a user's own code on a thread of its own, so that it can be cut off wherever it is.

For that an exception is raised in it, between two bytecodes: an operation in C, such as a tensor's, is ended first. It
may come when the code has ended. Then it meets a thread that has nothing more to do.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from djinn.program.caller import CallerContext

T = TypeVar("T")

_CUT_SECONDS = 1.0  # how long whoever cuts it off waits for its end


class CutOff(SystemExit):
    """Raised in code that is cut off. It ends its thread without a word, as any ``SystemExit`` does."""


class Cuttable(Generic[T]):
    """A call of ``function()`` in the ``caller`` context; :meth:`start` begins it."""

    def __init__(self, function: Callable[[], T], caller: CallerContext) -> None:
        self._function = function
        self._caller = caller
        self._value: Any = None
        self._error: BaseException | None = None
        self._ended = False
        self._running = threading.Lock()  # bare: whoever waits on an Event may be interrupted while he holds its lock
        self._thread = threading.Thread(target=caller.context.run, args=(self._run,), name="djinn-edit", daemon=True)

    def start(self) -> None:
        """Begin the call. Raises ``RuntimeError`` if the system refuses a thread."""
        self._running.acquire()
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._caller.entered():
                self._value = self._function()
        except BaseException as error:  # noqa: BLE001 - it belongs to who asks for the result
            self._error = error
        self._ended = True
        self._running.release()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the call, at most so long; return whether it has ended."""
        if not self._ended and self._running.acquire(timeout=seconds):
            self._running.release()
        return self._ended

    def result(self) -> T:
        """Return what the call that has ended returned, or raise its error."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame
        value: T = self._value
        return value

    def cut(self) -> bool:
        """Cut the call off, and wait a second for its end; return whether it has ended."""
        if not self._ended:
            ident = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(CutOff))
        return self.wait(_CUT_SECONDS)
