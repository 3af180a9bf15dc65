"""Waiting for what another thread does: it says so every second, and can be told to stop."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from djinn.core import Phase
from djinn.debugger.cutting import Cuttable
from djinn.debugger.looking import Busy
from djinn.program.caller import CallerContext
from djinn.session import Session

T = TypeVar("T")
Say = Callable[[str], None]

TICK_SECONDS = 0.1  # between two looks at what is waited for
SAY_SECONDS = 1.0  # between two lines of progress


class Interrupted(Exception):
    """The user has asked to stop waiting; the message is what goes on nevertheless, or empty."""


def _any(value: object) -> bool:
    return True


class Patience:
    """Waits for a front; ``meanwhile`` is called between two looks. Code of the user's is for ``device``."""

    def __init__(self, device: torch.device, *, meanwhile: Callable[[], object]) -> None:
        self._device = device
        self._meanwhile = meanwhile
        self._stop = threading.Event()

    def interrupt(self) -> None:
        """Make what waits on another thread stop waiting; the session goes on as it does."""
        self._stop.set()

    def begin(self) -> None:
        """Forget an earlier :meth:`interrupt`."""
        self._stop.clear()

    def patiently(self, attempt: Callable[[], T], what: str, say: Say, *, enough: Callable[[T], bool] = _any) -> T:
        """Return ``attempt()`` once it is ``enough``, and does not raise :class:`Busy` or ``TimeoutError``.

        Says ``what`` it waits for every second. Raises :class:`Interrupted`.
        """
        began = told = time.monotonic()
        while True:
            try:
                value = attempt()
                if enough(value):
                    return value
            except Busy:
                time.sleep(TICK_SECONDS)
            except TimeoutError:
                pass
            self._meanwhile()
            if self._stop.is_set():
                raise Interrupted
            if time.monotonic() - told >= SAY_SECONDS:
                told = time.monotonic()
                say(f"{what} ... {told - began:.0f} s")

    def each(self, items: Iterable[T], what: Callable[[T], str], say: Say) -> Iterator[T]:
        """Yield ``items``; every second it says ``what`` the next one is. Raises :class:`Interrupted` between two."""
        told = time.monotonic()
        for item in items:
            if self._stop.is_set():
                raise Interrupted
            if time.monotonic() - told >= SAY_SECONDS:
                told = time.monotonic()
                say(what(item))
            yield item

    def wait_for(self, session: Session, what: str, say: Say) -> None:
        """Wait until ``session`` parks or ends. Raises :class:`Interrupted`."""
        self.patiently(lambda: session.wait(TICK_SECONDS), what, say, enough=lambda phase: phase is not Phase.RUNNING)

    def cuttably(self, function: Callable[[], T], what: str, say: Say) -> T:
        """Return ``function()``, which is the user's own code, and may take for ever. Raises :class:`Interrupted`."""
        call = Cuttable(function, CallerContext(self._device))
        call.start()
        try:
            self.patiently(lambda: call.wait(TICK_SECONDS), what, say, enough=bool)
        except BaseException:
            if not call.cut():
                raise Interrupted("; what was executed has not ended yet, and what it gives is dropped") from None
            raise
        return call.result()
