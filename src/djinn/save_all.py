"""Saves all durable sessions of a runtime before a deadline: a node is to be taken away.

Programs that compute are paused first. The session that was touched last is saved last: it is the one that somebody
may still be waiting for. What cannot be saved, or not in time, is left as it is, and told with the reason.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from djinn.core import ENDED, PARKED, IllegalMove, Phase
from djinn.session import Session
from djinn.wording import mebibytes

_SUFFIX = ".djinn"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One session of :meth:`djinn.Runtime.save_all`: its file and the bytes of it, or why there is none."""

    number: int
    path: Path | None = None
    nbytes: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.path is None:
            return f"session {self.number} is not saved: {self.reason}"
        return f"session {self.number}: {mebibytes(self.nbytes)} in {self.path}"


def save_all(
    sessions: Iterable[Session], folder: Path, names: Mapping[Session, str], within: float | None
) -> list[Saved]:
    """Save ``sessions`` to files ``NAME.djinn`` in ``folder``, within so many seconds; tell of each."""
    deadline = None if within is None else time.monotonic() + within
    living = [session for session in sessions if session.phase not in ENDED]
    for session in living:
        _ask_to_pause(session)
    rates: list[float] = []  # seconds for a byte of state, of the saves so far
    told: list[Saved] = []
    for session in _in_order(living, deadline):
        path = folder / f"{names.get(session, session.number)}{_SUFFIX}"
        if others := [one.number for one in told if one.path == path]:
            reason = f"its file {path.name} is that of session {others[0]} already: give it another name"
            told.append(Saved(number=session.number, reason=reason))
        else:
            told.append(_saved(session, path, deadline, rates))
    return sorted(told, key=lambda one: one.number)


def _ask_to_pause(session: Session) -> None:
    if session.phase is Phase.RUNNING and session.is_durable:
        try:
            session.pause()
        except IllegalMove:
            return  # it has come to rest meanwhile


def _in_order(sessions: Sequence[Session], deadline: float | None) -> list[Session]:
    """Return ``sessions`` when each has parked, if it does in time; the one that has rested longest first."""
    for session in sessions:
        if session.phase is Phase.RUNNING and session.is_durable:
            session.wait(_left(deadline))
    return sorted(sessions, key=lambda session: session.age_seconds, reverse=True)


def _saved(session: Session, path: Path, deadline: float | None, rates: list[float]) -> Saved:
    if session.phase not in PARKED:
        computes = session.phase is Phase.RUNNING
        return Saved(number=session.number, reason="it came to no layer in time" if computes else session.phase.value)
    size = sum(session.storage_sizes) + session.recorded_bytes
    left, needed = _left(deadline), size * max(rates, default=0.0)
    if left == 0:
        return Saved(number=session.number, reason="no time was left")
    if left is not None and needed > left:
        return Saved(number=session.number, reason=f"it needs some {needed:.1f} s, and {left:.1f} s are left")
    began = time.monotonic()
    try:
        nbytes = session.save(path)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are still to be saved
        return Saved(number=session.number, reason=str(error) or type(error).__name__)
    rates.append((time.monotonic() - began) / nbytes)
    return Saved(number=session.number, path=path, nbytes=nbytes)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)
