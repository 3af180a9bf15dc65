"""What a front shows: values of one moment. Nothing here asks a session or holds a tensor."""

import functools
from dataclasses import dataclass

import torch

from djinn.core import Phase


@dataclass(frozen=True, kw_only=True)
class SessionRow:
    """One session: what :class:`djinn.Status` has, and what a front needs beside it.

    ``label`` tells where it comes from, such as "fork of 1", and ``named`` is the user's own word for it. ``selected``
    is whether commands go to it. ``saved`` is whether the bench has saved it as it is now. ``said`` is its phase in a
    word.
    """

    number: int
    phase: Phase
    said: str  # its phase in a word; "cancelled" where it has failed by that
    layer: int | None  # after which it is parked
    stops: tuple[int, ...]  # the layers at which it is still to stop, in the order in which they come
    tier: str
    device_bytes: int
    host_bytes: int
    disk_bytes: int
    left_bytes: int
    recorded_bytes: int
    age_seconds: float
    doing: str  # of a program that runs: whether it has the turn; else "-"
    durable: bool
    saved: bool
    label: str
    named: str
    selected: bool


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token; ``text`` is its id in digits without a tokenizer."""

    id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens that the program has so far, a tuple for each of its sequences.

    ``texts`` are the sequences in words, empty without a tokenizer. ``source`` names the tensor that they were read
    from. ``note`` says why there are none, or no texts of them; else it is empty.
    """

    sequences: tuple[tuple[Token, ...], ...] = ()
    texts: tuple[str, ...] = ()
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A token that may come next, its logit and its probability."""

    token: Token
    logit: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Lens:
    """What the last token of one sequence would say next after ``layer``, by the model's final norm and head.

    ``label`` heads the list. ``guesses`` begin with the likeliest. ``note`` says why there are none.
    """

    layer: int | None
    label: str
    guesses: tuple[Guess, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The smallest, the median and the largest of the tokens' standard deviations, see ``measures``."""

    least: float
    median: float
    most: float


@dataclass(frozen=True, kw_only=True)
class StateRow:
    """One tensor of the state. ``norm`` and ``spread`` are None where there is no such number, or not yet.

    ``measured`` is whether they were computed for the state as it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int | None
    measured: bool = False
    norm: float | None = None
    spread: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class MemorySample:
    """Device memory in use at one moment (seconds since the bench began), and the phase of every session by number.

    ``held_bytes`` of it are what sessions that compute had at their last stop, where nobody can tell what they have.
    """

    seconds: float
    nbytes: int
    phases: tuple[tuple[int, Phase], ...]
    held_bytes: int = 0

    @functools.cached_property
    def waits(self) -> bool:
        """Whether a session was in IO_WAIT."""
        return any(phase is Phase.IO_WAIT for _, phase in self.phases)

    @functools.cached_property
    def computes(self) -> bool:
        """Whether a session computed, or was about to."""
        return any(phase is Phase.RUNNING for _, phase in self.phases)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command has to say.

    With a ``question`` nothing has been done yet: ask it, and call :meth:`Bench.do` again with ``confirmed=True``.
    ``quits`` is whether the front is to end; ``failed`` whether the lines say what went wrong.
    """

    lines: tuple[str, ...] = ()
    question: str = ""
    quits: bool = False
    failed: bool = False


class Refused(Exception):
    """A command that cannot be done; the message is for the user."""
