"""The one table of commands that every front has, and what each does on a bench.

A command is a line: its name, its key or a beginning that no other name has, and its arguments. It answers with lines.
What goes wrong is a line too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from djinn.core import ENDED, PARKED, DjinnError, Phase
from djinn.debugger import edits, words
from djinn.debugger.edits import Change, Refused
from djinn.debugger.values import Outcome
from djinn.session import Session
from djinn.wording import counted, mebibytes, what_to_do

if TYPE_CHECKING:
    from djinn.debugger.bench import Bench

Say = Callable[[str], None]


class Interrupted(Exception):
    """The user has asked to stop waiting."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One call of a command: its argument, whether the user has confirmed it, and where progress goes."""

    argument: str
    confirmed: bool
    say: Say


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: its arguments in words, what it does in a line, and the key of a screen."""

    name: str
    arguments: str
    help: str
    key: str
    act: Callable[[Bench, Asked], Outcome]


def perform(bench: Bench, line: str, *, confirmed: bool, say: Say) -> Outcome:
    """Do what ``line`` asks ``bench`` for."""
    if not line.strip():
        return Outcome()
    try:
        command, argument = find(line)
        return command.act(bench, Asked(argument=argument, confirmed=confirmed, say=say))
    except (KeyboardInterrupt, Interrupted):
        session = bench.selected
        stands = "" if session is None else f": session {session.number} is {_stands(session)}"
        return _failed(f"interrupted{stands}")
    except Refused as error:
        return _failed(str(error))
    except KeyError as error:
        return _failed(str(error.args[0]))
    except (DjinnError, ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        return _failed(_error_line(error))


def find(line: str) -> tuple[Command, str]:
    """Return the command that ``line`` begins with, and its argument. Raises :class:`Refused`.

    The line has its key, or the beginning of each of its words, if no other command's words begin so.
    """
    typed = line.split(maxsplit=2)
    found = [command for command in COMMANDS if command.key == typed[0] or command.name == typed[0]]
    found = found or [command for command in COMMANDS if _begins(command.name.split(), typed)]
    if len(found) == 1:
        words_taken = 1 if typed[0] == found[0].key else len(found[0].name.split())
        return found[0], "".join(line.split(maxsplit=words_taken)[words_taken:]).rstrip()
    if names := [command.name for command in found or COMMANDS if command.name.startswith(typed[0])]:
        raise Refused(f"{line.strip()!r} may be {' or '.join(names)}")
    raise Refused(f"there is no command {typed[0]}: help lists them")


def _begins(words_of_name: list[str], typed: list[str]) -> bool:
    return len(typed) >= len(words_of_name) and all(map(str.startswith, words_of_name, typed))


def _failed(line: str) -> Outcome:
    return Outcome(lines=(line,), failed=True)


def _error_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _said(*lines: str) -> Outcome:
    return Outcome(lines=lines)


def _session(bench: Bench) -> Session:
    if (session := bench.selected) is None:
        raise Refused("there is no session")
    return session


def _parked(bench: Bench) -> Session:
    session = _session(bench)
    if session.phase not in PARKED:
        raise Refused(f"session {session.number} is {session.phase.value}, not paused: {_what_now(session)}")
    return session


def _what_now(session: Session) -> str:
    if session.phase is Phase.RUNNING:
        return "pause stops it at its next layer"
    return "tokens shows what came out, use N selects another" if session.phase in ENDED else what_to_do(session.phase)


def _number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refused(f"{text!r} is no whole number: type {what}") from None


def _stands(session: Session) -> str:
    """Say where ``session`` stands; of a program that has failed, its error."""
    if session.phase is Phase.FAILED:
        error = _error_of(session)
        return f"failed with {_error_line(error)}" if error is not None else "failed"
    return session._stands()


def _error_of(session: Session) -> BaseException | None:
    try:
        session.result(0)
    except BaseException as error:  # noqa: BLE001 - whatever the program has raised
        return error.with_traceback(None)
    return None


def _standing(bench: Bench, session: Session) -> Outcome:
    lines = [f"session {session.number}: {_stands(session)}"]
    if session.phase is Phase.FINISHED:
        lines += words.token_lines(bench.tokens())
    return Outcome(lines=tuple(lines), failed=session.phase is Phase.FAILED)


# -- going on --------------------------------------------------------------------------------------------------------


def _break(bench: Bench, asked: Asked) -> Outcome:
    session = _session(bench)
    if not asked.argument:
        where = session.breakpoint
        return _said("no breakpoint: break L sets one" if where is None else f"to stop after layer {where}")
    layer = _number(asked.argument, "break L")
    session.break_at(layer)
    return _said(f"session {session.number} is to stop once after layer {layer}: resume")


def _step(bench: Bench, asked: Asked) -> Outcome:
    session = _parked(bench)
    bench.go(session, "waiting for the next layer", asked.say, step=True)
    return _standing(bench, session)


def _token(bench: Bench, asked: Asked) -> Outcome:
    session = _parked(bench)
    layer, pending = session.layer, session.breakpoint
    assert layer is not None
    if pending is None:
        session.break_at(layer)
    bench.go(session, f"waiting for layer {layer if pending is None else pending}", asked.say)
    outcome = _standing(bench, session)
    if pending is not None and session.phase in PARKED:
        return Outcome(lines=(*outcome.lines, f"its breakpoint, layer {pending}, came first"))
    return outcome


def _resume(bench: Bench, asked: Asked) -> Outcome:
    session = _parked(bench)
    where = session.breakpoint
    bench.go(session, "waiting for the end" if where is None else f"waiting for layer {where}", asked.say)
    return _standing(bench, session)


def _pause(bench: Bench, asked: Asked) -> Outcome:
    session = _session(bench)
    session.pause()
    bench.wait_for(session, "waiting for its next layer", asked.say)
    return _standing(bench, session)


def _wait(bench: Bench, asked: Asked) -> Outcome:
    session = _parked(bench)
    session.io_wait()
    bench.sample()
    lines = [f"session {session.number}: {_stands(session)}"]
    if left := session.left_bytes:
        lines.append(f"{mebibytes(left)} that were found stay on the device: left says why")
    return _said(*lines)


# -- changing --------------------------------------------------------------------------------------------------------


def _edit(make: Callable[[str], Change], bench: Bench, asked: Asked) -> Outcome:
    session = _parked(bench)
    if not asked.argument:
        raise Refused("an edit needs its argument: see help")
    change = make(asked.argument)
    before, after = bench.edit(session, change, asked.say)
    said = f"hidden_states of session {session.number}: {change.said}"
    return _said(said, f"their norm was {before:.4g} and is {after:.4g}")


def _save(bench: Bench, asked: Asked) -> Outcome:
    session = _parked(bench)
    if not asked.argument:
        raise Refused("type save PATH, for example save one.djinn")
    path = Path(asked.argument).expanduser()
    if path.exists() and not asked.confirmed:
        return Outcome(question=f"{path} is there already, and would be replaced. Save?")
    nbytes = session.save(path)
    bench.note_saved(session)
    return _said(f"session {session.number} is saved in {path}: {mebibytes(nbytes)}")


def _restore(bench: Bench, asked: Asked) -> Outcome:
    if not asked.argument:
        raise Refused("type restore PATH, for example restore one.djinn")
    program, args, kwargs = bench.call_to_restore()
    asked.say("the program runs again up to its breakpoint")
    path = Path(asked.argument).expanduser()
    session = bench.runtime.restore(path, program, *args, **kwargs)
    bench.label(session, f"from {path.name}")
    bench.select(session.number)
    bench.note_saved(session)
    return _standing(bench, session)


def _fork(bench: Bench, asked: Asked) -> Outcome:
    session: Any = _parked(bench)
    if not asked.confirmed:
        what = "the program runs again up to here, and what it does beside calling the model happens again"
        return Outcome(lines=(f"fork of session {session.number}: {what}",), question="Fork?")
    fork = getattr(session, "fork", None)
    if fork is None:
        raise Refused("this version of djinn has no fork")
    other: Session = fork()
    bench.label(other, f"fork of {session.number}")
    bench.select(other.number)
    return Outcome(
        lines=(
            f"session {other.number} is a fork of {session.number}, and selected: edits of one do not reach the other",
            "the program's side effects up to here have happened again, such as lines that it prints",
            *_standing(bench, other).lines,
        )
    )


# -- looking ---------------------------------------------------------------------------------------------------------


def _sessions(bench: Bench, asked: Asked) -> Outcome:
    return _said(*words.session_lines(bench.rows()))


def _use(bench: Bench, asked: Asked) -> Outcome:
    session = bench.select(_number(asked.argument, "use N, a number that sessions shows"))
    return _standing(bench, session)


def _tokens(bench: Bench, asked: Asked) -> Outcome:
    return _said(*words.token_lines(bench.patient_tokens(asked.say)))


def _lens(bench: Bench, asked: Asked) -> Outcome:
    _parked(bench)
    numbers = [_number(word, "lens K SEQUENCE") for word in asked.argument.split()]
    count, sequence, *_ = [*numbers, *(5, 1)[len(numbers) :]]
    lens = bench.patient_lens(count, sequence - 1, asked.say)
    return Outcome(lines=tuple(words.lens_lines(lens)), failed=bool(lens.note))


def _state(bench: Bench, asked: Asked) -> Outcome:
    bench.measure_all(_parked(bench), asked.say)
    return _said(*words.state_lines(bench.state()))


def _left(bench: Bench, asked: Asked) -> Outcome:
    lines = [str(line) for line in _parked(bench).left_behind]
    return _said(*lines or ["nothing that was found stays on the device"])


def _memory(bench: Bench, asked: Asked) -> Outcome:
    bench.sample()
    return _said(*words.memory_lines(bench.memory()))


def _status(bench: Bench, asked: Asked) -> Outcome:
    footer = str(bench.runtime.status()).rpartition("\n")[2]
    return _said(*_standing(bench, _session(bench)).lines, *textwrap.wrap(footer, 79))


def _help(bench: Bench, asked: Asked) -> Outcome:
    return _said(*help_lines())


def help_lines() -> list[str]:
    """Return a line for each command."""
    forms = [f"{command.name} {command.arguments}".strip() for command in COMMANDS]
    width = max(map(len, forms))
    return [f"{form:<{width}}  {command.help}" for form, command in zip(forms, COMMANDS, strict=True)]


def _quit(bench: Bench, asked: Asked) -> Outcome:
    lost = bench.would_be_lost()
    if asked.confirmed or not lost:
        parked = [session for session in bench.runtime.sessions if session.phase in PARKED]
        stay = f"{counted(len(parked), 'session')} left parked" if parked and not bench.owns_runtime else ""
        return Outcome(lines=(stay,) if stay else (), quits=True)
    what = "it" if len(lost) == 1 else "them"
    return Outcome(
        lines=(f"lost with the end of the debugger: {counted(len(lost), 'session')}", *(f"  {line}" for line in lost)),
        question=f"Quit without {what}?",
    )


COMMANDS = (
    Command(
        name="break", arguments="[L]", help="stop once after decoder layer L; alone: say where", key="b", act=_break
    ),
    Command(name="step", arguments="", help="go on to the next layer", key="s", act=_step),
    Command(name="token", arguments="", help="go on to the same layer in the next decode step", key="t", act=_token),
    Command(name="resume", arguments="", help="go on to the breakpoint, or to the end", key="r", act=_resume),
    Command(name="pause", arguments="", help="stop a program that computes at its next layer", key="p", act=_pause),
    Command(name="wait", arguments="", help="IO_WAIT: state to host memory, the device is free", key="w", act=_wait),
    Command(
        name="edit scale",
        arguments="X",
        help="multiply the hidden states by a number",
        key="*",
        act=partial(_edit, edits.scale),
    ),
    Command(
        name="edit zero",
        arguments="POSITION",
        help="set a position to zero, -1 for the last",
        key="0",
        act=partial(_edit, edits.zero),
    ),
    Command(
        name="edit add",
        arguments="FILE",
        help="add a vector to every position: .pt, .npy, .safetensors",
        key="+",
        act=partial(_edit, edits.add),
    ),
    Command(
        name="edit expr",
        arguments="EXPRESSION",
        help="run a Python expression of h and torch; it is executed",
        key="e",
        act=partial(_edit, edits.expression),
    ),
    Command(name="save", arguments="PATH", help="write a durable session to a file", key="S", act=_save),
    Command(name="restore", arguments="PATH", help="read a saved session, parked as it was", key="R", act=_restore),
    Command(
        name="fork", arguments="", help="make a second session from here; side effects happen again", key="f", act=_fork
    ),
    Command(name="sessions", arguments="", help="list the sessions", key="1", act=_sessions),
    Command(name="use", arguments="N", help="select session N", key="u", act=_use),
    Command(name="tokens", arguments="", help="show the program's tokens so far", key="2", act=_tokens),
    Command(
        name="lens",
        arguments="[K [SEQUENCE]]",
        help="show the K likeliest next tokens after this layer",
        key="3",
        act=_lens,
    ),
    Command(
        name="state", arguments="", help="show the tensors of the state, with norm and spread", key="4", act=_state
    ),
    Command(name="left", arguments="", help="show what stays on the device, and why", key="l", act=_left),
    Command(name="memory", arguments="", help="draw the device memory over time", key="5", act=_memory),
    Command(
        name="status", arguments="", help="say where the session stands, and the host memory", key="6", act=_status
    ),
    Command(name="help", arguments="", help="list the commands", key="?", act=_help),
    Command(name="quit", arguments="", help="end; asks if something would be lost", key="q", act=_quit),
)
