"""The surroundings of a program: what the process has only one of, and each program its own.

These are torch's settings (``settings``) and the random generators (``generators``). A program begins with what its
caller had at START. At each turn its own are put on, and at the end of the turn those that were found are put back.
What the program changed in its turn it finds again at the next one.

All threads see what is on. What another thread changes or draws while a program computes counts as the program's.
"""

from typing import Any, Protocol

import torch

from djinn.generators import generators_of
from djinn.settings import Flags, Precision


class Shared(Protocol):
    """Something that a process has only one of."""

    def mark(self) -> object:
        """Return what changes with the value and is got faster; None if it cannot be told."""

    def read(self) -> tuple[object, Any]:
        """Return the mark and the value."""

    def put(self, value: Any, over: Any) -> None:
        """Set ``value`` in place of ``over``."""


class _Kept:
    """One shared thing: the program's own value, and the one that was found when it was put on."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._own_mark, self._own = shared.read()
        self._found_mark, self._found = self._own_mark, self._own
        self._on = False

    def inherit(self, other: "_Kept") -> None:
        """Begin with what ``other`` found and will put back."""
        if other._on:
            self._own_mark, self._own = other._found_mark, other._found

    def put_on(self) -> None:
        mark = self._shared.mark()
        if mark is None or mark != self._found_mark:
            self._found_mark, self._found = self._shared.read()
        self._on = True
        if mark is None or mark != self._own_mark:
            self._shared.put(self._own, self._found)

    def take_off(self) -> None:
        if not self._on:
            return
        try:
            mark = self._shared.mark()
            if mark is None or mark != self._own_mark:
                self._own_mark, self._own = self._shared.read()
            if mark is None or mark != self._found_mark:
                self._shared.put(self._found, self._own)
        finally:
            self._on = False


class Surroundings:
    """What one program on ``device`` carries from turn to turn; made on its caller's thread."""

    def __init__(self, device: torch.device) -> None:
        self._kept = [_Kept(shared) for shared in (Flags(), Precision(), *generators_of(device))]

    def inherit(self, other: "Surroundings") -> None:
        """Begin with what ``other``, which is on, found: so does a caller who starts a program while one computes."""
        for mine, its in zip(self._kept, other._kept, strict=True):
            mine.inherit(its)

    def put_on(self) -> None:
        """Keep what is found, and put on the program's own."""
        for kept in self._kept:
            kept.put_on()

    def take_off(self) -> None:
        """Keep what the program has come to, and put back what was found; all of it, also if one fails."""
        _take_off(self._kept)


def _take_off(kept: list[_Kept]) -> None:
    if kept:
        try:
            kept[-1].take_off()
        finally:
            _take_off(kept[:-1])
