"""The surroundings of a program: what the process has only one of, and each program its own.

These are torch's settings (``settings``) and the random generators (``generators``). A program begins with what its
caller had at START. At each turn its own are put on, and at the end of the turn those that were found are put back.
What the program changed in its turn it finds again at the next one.

All threads see what is on. What another thread changes or draws while a program computes counts as the program's.
Programs on several devices may compute at once. They share what is on, and the last to end its turn puts back what the
first has found.
"""

import os
import threading
from typing import Any, Protocol

import torch

from djinn.interrupts import holding
from djinn.program.generators import TorchGenerator, generators_of, generators_of_process
from djinn.program.settings import Flags, Precision

Settings = tuple[tuple[object, Any], ...]  # the marks and values of torch's settings


class Shared(Protocol):
    """Something that a process has only one of."""

    def mark(self) -> object:
        """Return what changes with the value and is got faster; None if it cannot be told."""

    def read(self) -> tuple[object, Any]:
        """Return the mark and the value."""

    def put(self, value: Any, over: Any) -> None:
        """Set ``value`` in place of ``over``."""


_SETTINGS = (Flags, Precision)


class _Kept:
    """One shared thing: the program's own value, and the one that was found when it was put on."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._own_mark, self._own = shared.read()
        self._found_mark, self._found = self._own_mark, self._own
        self._on = False

    @property
    def own(self) -> tuple[object, Any]:
        """The mark and the value of the program's own."""
        return self._own_mark, self._own

    def begin_with(self, own: tuple[object, Any]) -> None:
        """Begin with this mark and value."""
        self._own_mark, self._own = own

    @property
    def is_seeded_since(self) -> bool:
        """Whether this is a generator of torch's that got another seed since it was put on."""
        return isinstance(self._shared, TorchGenerator) and self._shared.is_seeded_since(self._own)

    def inherit(self, other: "_Kept") -> None:
        """Begin with what ``other``, which is on, has found."""
        self.begin_with((other._found_mark, other._found))

    def put_on(self, beside: "_Kept | None") -> None:
        """Put on the program's own; who is on ``beside`` this has found what was there."""
        mark = self._shared.mark()
        if beside is not None:
            self._found_mark, self._found = beside._found_mark, beside._found
        elif mark is None or mark != self._found_mark:
            self._found_mark, self._found = self._shared.read()
        self._on = True
        if beside is not None or mark is None or mark != self._own_mark:
            self._shared.put(self._own, None if beside is not None else self._found)

    def take_off(self, *, last: bool) -> None:
        """Keep the program's own; put back what was found if this is the ``last`` that is on."""
        if not self._on:
            return
        try:
            mark = self._shared.mark()
            if mark is None or mark != self._own_mark:
                self._own_mark, self._own = self._shared.read()
            if last and (mark is None or mark != self._found_mark):
                self._shared.put(self._found, self._own)
        finally:
            self._on = False


class _Exchange:
    """Of one process: the surroundings that are on, and the lock that is held meanwhile.

    The lock is re-entrant, for a signal's handler may start a session in just these microseconds.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.on: list[Surroundings] = []


_exchanges: dict[int, _Exchange] = {}  # by process: a fork begins with one of its own


def _exchange() -> _Exchange:
    return _exchanges.setdefault(os.getpid(), _Exchange())


class Surroundings:
    """What one program on ``device`` carries from turn to turn; made on its caller's thread.

    A caller may start a program while others compute. What is on is theirs then, and the caller's is what they found.
    With ``settings`` the program begins with these, and not with the caller's.
    """

    def __init__(self, device: torch.device, settings: Settings | None = None) -> None:
        self._thread = 0  # on which it is on
        self._device = device
        self.seeded_in_a_turn = False  # whether torch was seeded since the turn began in which a program computes now
        holding(_exchange().lock, self._capture)
        of_torch = self._of_process[: len(_SETTINGS)]
        for kept, own in zip(of_torch, settings or (), strict=settings is not None):
            kept.begin_with(own)
        self.settings: Settings = tuple(kept.own for kept in of_torch)  # with which the program begins

    def _capture(self) -> None:
        settings = [kind() for kind in _SETTINGS]
        self._of_process = [_Kept(shared) for shared in (*settings, *generators_of_process())]
        self._of_device = [_Kept(shared) for shared in generators_of(self._device)]
        on = _exchange().on
        if any(other._thread == threading.get_ident() for other in on):
            return  # a program starts another: what it has is on
        for other in on[:1]:
            for mine, its in zip(self._of_process, other._of_process, strict=True):
                mine.inherit(its)
        self.seeded_in_a_turn = any(
            kept.is_seeded_since for other in on for kept in (*other._of_process, *other._of_device)
        )
        for other in on:
            if other._device == self._device:
                for mine, its in zip(self._of_device, other._of_device, strict=True):
                    mine.inherit(its)

    def put_on(self) -> None:
        """Keep what is found, and put on the program's own."""
        holding(_exchange().lock, self._put_on)

    def _put_on(self) -> None:
        on = _exchange().on
        self._thread = threading.get_ident()
        beside: list[_Kept] | list[None] = on[0]._of_process if on else [None] * len(self._of_process)
        on.append(self)
        for kept, found in zip(self._of_process, beside, strict=True):
            kept.put_on(found)
        for kept in self._of_device:
            kept.put_on(None)

    def take_off(self) -> None:
        """Keep what the program has come to, and put back what was found; all of it, also if one fails."""
        holding(_exchange().lock, self._take_off)

    def _take_off(self) -> None:
        on = _exchange().on
        if self in on:
            on.remove(self)
            try:
                _take_off(self._of_device, last=True)
            finally:
                _take_off(self._of_process, last=not on)


def _take_off(kept: list[_Kept], *, last: bool) -> None:
    if kept:
        try:
            kept[-1].take_off(last=last)
        finally:
            _take_off(kept[:-1], last=last)
