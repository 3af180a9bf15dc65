"""What a runtime has taken, and gives back in one way: when it closes, when its constructor fails, and when it is lost.

These are the model's interceptors, host memory and threads. Each part is on record before it takes anything, so that an
interrupted constructor gives back what it has. Giving back can be repeated, for it may be interrupted too.

Who ends the sessions is not known here (``runtime``).
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from djinn.program.forward import Interceptors


class Part(Protocol):
    """What can be given back."""

    def close(self) -> None:
        """Give it back; a second call does nothing."""


P = TypeVar("P", bound=Part)


class Holdings:
    """The ``interceptors`` of a runtime, and the other parts that it has taken."""

    def __init__(self, interceptors: Interceptors) -> None:
        self.interceptors = interceptors
        self.complete = False  # whether the runtime has all that it needs
        self.returning = False  # whether it has begun to give back
        self.returned = False
        self._steps: list[Callable[[], None]] = []  # that give back what was taken

    def record(self, part: P) -> P:
        """Record ``part``, before it takes anything; return it."""
        self.undo(part.close)
        return part

    def undo(self, step: Callable[[], None]) -> None:
        """Record a ``step`` of giving back, before what it undoes; a second call of it does nothing."""
        self._steps.append(step)

    def give_back(self) -> None:
        """Give back everything, the last taken first."""
        self.returning = True
        self.interceptors.take_off()
        for step in reversed(self._steps):
            step()
        self.returned = True
