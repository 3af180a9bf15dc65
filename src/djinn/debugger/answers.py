"""How a command answers: what it was asked, the session that it is for, and where that stands, in lines."""

from dataclasses import dataclass

from djinn.core import ENDED, PARKED, Phase, SessionCancelled
from djinn.debugger import words
from djinn.debugger.desk import Desk
from djinn.debugger.looks import phase_of
from djinn.debugger.patience import Say
from djinn.debugger.stops import in_words
from djinn.debugger.values import Outcome, Refused
from djinn.session import Session
from djinn.wording import what_to_do


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One call of a command: its argument, whether the user has confirmed it, and where progress goes."""

    argument: str
    confirmed: bool
    say: Say


def failed(line: str) -> Outcome:
    """A line that says what went wrong."""
    return Outcome(lines=(line,), failed=True)


def said(*lines: str) -> Outcome:
    """Lines."""
    return Outcome(lines=lines)


def session_of(desk: Desk) -> Session:
    """The selected session. Raises :class:`Refused` if there is none."""
    if (session := desk.selected) is None:
        raise Refused("there is no session")
    return session


def parked(desk: Desk, asked: Asked) -> Session:
    """The selected session, if it is parked, its standing edits made. Raises :class:`Refused` otherwise."""
    session = session_of(desk)
    if session.phase not in PARKED:
        raise Refused(f"session {session.number} is {phase_of(session)}, not paused: {_what_now(session)}")
    desk.settle(session, asked.say)
    return session


def alive(desk: Desk) -> Session:
    """The selected session, if it has not ended. Raises :class:`Refused` otherwise."""
    session = session_of(desk)
    if session.phase in ENDED:
        raise Refused(f"session {session.number} is {phase_of(session)}: {_what_now(session)}")
    return session


def _what_now(session: Session) -> str:
    if session.phase is Phase.RUNNING:
        return "pause stops it at its next layer"
    return "tokens shows what came out, use N selects another" if session.phase in ENDED else what_to_do(session.phase)


def number(text: str, what: str) -> int:
    """``text`` as a whole number. Raises :class:`Refused` with ``what`` to type."""
    try:
        return int(text)
    except ValueError:
        raise Refused(f"{text!r} is no whole number: type {what}") from None


def stands(session: Session) -> str:
    """Say where ``session`` stands; of a program that has failed, its error."""
    if session.phase is Phase.FAILED:
        try:
            session.result(0)
        except SessionCancelled:
            return phase_of(session)
        except BaseException as error:  # noqa: BLE001 - whatever the program has raised
            return f"failed with {words.error_line(error)}"
    return session._stands()


def standing(desk: Desk, session: Session) -> Outcome:
    """Where ``session`` stands; of a program that has finished, its tokens too."""
    if session.phase in ENDED:
        desk.stops.leave(session)  # else it would have missed a breakpoint that was none
    lines = [f"session {session.number}: {stands(session)}"]
    edited = desk.edited(session)
    if session.phase is Phase.FINISHED:
        if ahead := desk.stops.ahead(session):  # where a condition did not hold the session did come there
            lines = [f"session {session.number}: finished without stopping after {in_words(ahead, 'any')}"]
        return said(*lines, *edited, *words.token_lines(desk.tokens()))
    return Outcome(lines=(*lines, *edited), failed=session.phase is Phase.FAILED)
