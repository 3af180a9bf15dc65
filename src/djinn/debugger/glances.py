"""What a screen shows of the selected session: asked for at a stop, piece by piece, until a command comes."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from djinn.core import DjinnError, Phase
from djinn.debugger.bench import Bench
from djinn.debugger.looking import Busy
from djinn.debugger.looks import mark_of
from djinn.debugger.values import Lens, Refused, StateRow, Tokens

_YIELD_SECONDS = 0.3  # between two looks of a state that is measured


Standing = tuple[int, Phase, int, int] | None  # of the selected session: its number, and what changes when it moves


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is shown of a session as ``mark`` says that it stands; ``whole`` if no number is lacking."""

    mark: Standing
    tokens: Tokens
    lens: Lens
    state: tuple[StateRow, ...]
    whole: bool


NOTHING = Look(mark=None, tokens=Tokens(), lens=Lens(layer=None, label="logit lens"), state=(), whole=False)


def standing(bench: Bench) -> Standing:
    """Return what changes when another session is selected, or the selected one moves or is edited."""
    session = bench.selected
    return None if session is None else (session.number, session.phase, *mark_of(session))


def glances(bench: Bench, *, turn: threading.Lock, given_up: Callable[[], bool]) -> Iterator[Look]:
    """Yield what there is to show of the selected session, and again as its norms are computed.

    It holds ``turn`` whenever it asks the bench, and ends early once it is ``given_up`` or the session has moved. The
    last look is ``whole`` unless a program that computes was in the way.
    """
    looked = time.monotonic()
    try:
        with turn:
            mark, free = standing(bench), bench.is_free
            look = Look(mark=mark, tokens=bench.tokens(), lens=bench.lens(), state=bench.state(), whole=False)
        yield look
        for name in [row.name for row in look.state if not row.measured]:
            with turn:
                if given_up() or standing(bench) != mark:
                    return
                try:
                    bench.measure(name)
                except Refused:  # to measure would move the state
                    break
                except Busy:
                    free = False
                    break
                if late := time.monotonic() - looked > _YIELD_SECONDS:
                    look = dataclasses.replace(look, state=bench.state())
            if late:
                looked = time.monotonic()
                yield look
        with turn:
            if given_up() or standing(bench) != mark:
                return
            look = dataclasses.replace(look, state=bench.state(), whole=free and bench.is_free)
    except (DjinnError, KeyError):  # the session has moved meanwhile
        return
    yield look
