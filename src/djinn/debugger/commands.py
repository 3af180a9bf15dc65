"""The one table of commands that every front has, and what each does on a desk.

A command is a line: its name, its key or a beginning that no other name has, and its arguments. It answers with lines.
What goes wrong is a line too.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from djinn.core import PARKED, Phase
from djinn.debugger import acts, edits, words
from djinn.debugger.answers import Asked, failed, number, parked, said, session_of, standing, stands
from djinn.debugger.desk import Desk
from djinn.debugger.patience import Interrupted, Say
from djinn.debugger.values import Outcome, Refused
from djinn.wording import counted


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: its arguments in words, what it does in a line, and the key of a screen."""

    name: str
    arguments: str
    help: str
    key: str
    act: Callable[[Desk, Asked], Outcome]


def perform(desk: Desk, line: str, *, confirmed: bool, say: Say) -> Outcome:
    """Do what ``line`` asks ``desk`` for."""
    if not line.strip():
        return Outcome()
    try:
        command, argument = find(line)
        if argument and not command.arguments:
            raise Refused(f"{command.name} takes no argument")
        return command.act(desk, Asked(argument=argument, confirmed=confirmed, say=say))
    except (KeyboardInterrupt, Interrupted) as error:
        beside = error if isinstance(error, Interrupted) else ""
        return failed(f"interrupted{_what_goes_on(desk)}{beside}")
    except Refused as error:
        return failed(str(error))
    except KeyError as error:
        return failed(str(error.args[0]))
    except Exception as error:  # noqa: BLE001 - commands run the code of models, tokenizers and programs
        return failed(words.error_line(error))


def _what_goes_on(desk: Desk) -> str:
    session = desk.selected
    if session is None:
        return ""
    hint = ": pause stops it" if session.phase is Phase.RUNNING else ""
    return f": session {session.number} is {stands(session)}{hint}"


def find(line: str) -> tuple[Command, str]:
    """Return the command that ``line`` begins with, and its argument. Raises :class:`Refused`.

    The line has its key, or the beginning of each of its words, if no other command's words begin so.
    """
    typed = line.split(maxsplit=2)
    fitting = [command for command in COMMANDS if _begins(command.name.split(), typed)]
    found = (
        [command for command in COMMANDS if command.key == typed[0]]
        or [command for command in fitting if " " in command.name]  # lens layers, which lens begins too
        or [command for command in fitting if command.name == typed[0]]
        or fitting
    )
    if len(found) == 1:
        words_taken = 1 if typed[0] == found[0].key else len(found[0].name.split())
        return found[0], "".join(line.split(maxsplit=words_taken)[words_taken:]).rstrip()
    if names := [command.name for command in found or COMMANDS if command.name.startswith(typed[0])]:
        raise Refused(f"{line.strip()!r} may be {' or '.join(names)}")
    raise Refused(f"there is no command {typed[0]}: help lists them")


def _begins(words_of_name: list[str], typed: list[str]) -> bool:
    return len(typed) >= len(words_of_name) and all(map(str.startswith, words_of_name, typed))


# -- looking ---------------------------------------------------------------------------------------------------------


def _sessions(desk: Desk, asked: Asked) -> Outcome:
    return said(*words.session_lines(desk.rows()))


def _use(desk: Desk, asked: Asked) -> Outcome:
    session = desk.select(number(asked.argument, "use N, a number that sessions shows"))
    return standing(desk, session)


def _tokens(desk: Desk, asked: Asked) -> Outcome:
    return said(*words.token_lines(desk.patient_tokens(asked.say)))


def _lens(desk: Desk, asked: Asked) -> Outcome:
    lens = desk.patient_lens(parked(desk, asked), *_tokens_of("lens", asked.argument, count=5), asked.say)
    return Outcome(lines=tuple(words.lens_lines(lens)), failed=bool(lens.note))


def _tokens_of(command: str, argument: str, *, count: int) -> tuple[int, int]:
    """Return how many tokens, by default ``count``, and of which sequence, from 0."""
    numbers = [number(word, f"{command} K SEQUENCE") for word in argument.split()]
    if len(numbers) > 2:
        raise Refused(f"{command} takes two numbers at most: how many tokens, and which sequence")
    count, sequence = [*numbers, *(count, 1)[len(numbers) :]]
    if count < 1:
        raise Refused(f"{command} shows at least 1 token, not {count}")
    return count, sequence - 1


def _lens_layers(desk: Desk, asked: Asked) -> Outcome:
    """Show the lens here and at every later layer of the pass, to which a fork goes; asks first, as ``fork`` does."""
    session = parked(desk, asked)
    wanted = _tokens_of("lens layers", asked.argument, count=1)
    if session.layer == desk.depth:
        raise Refused(f"no layer comes after layer {desk.depth}: lens shows this one")
    session._check_can_fork()
    lenses = [desk.patient_lens(session, *wanted, asked.say)]
    if lenses[0].note:
        return Outcome(lines=tuple(words.lens_lines(lenses[0])), failed=True)
    if not asked.confirmed:
        return acts.ask_to_fork(f"a fork of session {session.number} goes on to layer {desk.depth} and is closed")
    asked.say(f"the {acts.RUNS_AGAIN}")
    ended = []
    with session.fork() as fork:
        desk.label(fork, f"fork of {session.number}")
        layers = range((session.layer or 0) + 1, desk.depth + 1)
        for layer in desk.each(layers, lambda layer: f"waiting for layer {layer} of {desk.depth}", asked.say):
            desk.go(fork, f"waiting for layer {layer}", asked.say, step=True)
            if fork.phase not in PARKED or fork.layer != layer:
                ended = [f"no layer {layer} came in the fork's pass: {stands(fork)}"]
                break
            lenses.append(desk.patient_lens(fork, *wanted, asked.say))
    return Outcome(lines=(*words.layers_lines(lenses), *ended, acts.HAPPENED_AGAIN), failed=bool(ended))


def _state(desk: Desk, asked: Asked) -> Outcome:
    desk.measure_all(parked(desk, asked), asked.say)
    return said(*words.state_lines(desk.state()))


def _left(desk: Desk, asked: Asked) -> Outcome:
    lines = [str(line) for line in parked(desk, asked).left_behind]
    return said(*lines or ["nothing that was found stays on the device"])


def _memory(desk: Desk, asked: Asked) -> Outcome:
    desk.sample()
    return said(*words.memory_lines(desk.memory()))


def _status(desk: Desk, asked: Asked) -> Outcome:
    footer = str(desk.runtime.status()).rpartition("\n")[2]
    return said(*standing(desk, session_of(desk)).lines, *textwrap.wrap(footer, 79))


def _help(desk: Desk, asked: Asked) -> Outcome:
    return said(*help_lines())


def help_lines() -> list[str]:
    """Return a line for each command."""
    forms = [f"{command.name} {command.arguments}".strip() for command in COMMANDS]
    width = max(map(len, forms))
    return [f"{form:<{width}}  {command.help}" for form, command in zip(forms, COMMANDS, strict=True)]


def _quit(desk: Desk, asked: Asked) -> Outcome:
    lost = desk.would_be_lost()
    if asked.confirmed or not lost:
        left = [session for session in desk.runtime.sessions if session.phase in PARKED]
        stay = f"{counted(len(left), 'session')} left parked" if left and not desk.owns_runtime else ""
        return Outcome(lines=(stay,) if stay else (), quits=True)
    what = "it" if len(lost) == 1 else "them"
    return Outcome(
        lines=(f"lost with the end of the debugger: {counted(len(lost), 'session')}", *(f"  {line}" for line in lost)),
        question=f"Quit without {what}?",
    )


COMMANDS = (
    Command(
        name="break",
        arguments="[L L-L] [if X]",
        help="stop once after layers L, if X of h is true; alone: say",
        key="b",
        act=acts.set_breakpoint,
    ),
    Command(name="step", arguments="", help="go on to the next layer", key="s", act=acts.step),
    Command(
        name="token", arguments="", help="go on to the same layer in the next decode step", key="t", act=acts.token
    ),
    Command(name="resume", arguments="", help="go on to the breakpoint, or to the end", key="r", act=acts.resume),
    Command(name="pause", arguments="", help="stop a program that computes at its next layer", key="p", act=acts.pause),
    Command(
        name="wait", arguments="", help="IO_WAIT: state to host memory, the device is free", key="w", act=acts.wait
    ),
    Command(
        name="edit scale",
        arguments="X",
        help="multiply the hidden states by a number",
        key="*",
        act=partial(acts.edit, edits.scale),
    ),
    Command(
        name="edit zero",
        arguments="POSITION",
        help="set a position to zero, -1 for the last",
        key="0",
        act=partial(acts.edit, edits.zero),
    ),
    Command(
        name="edit add",
        arguments="FILE",
        help="add a vector to every position: .pt, .npy, .safetensors",
        key="+",
        act=partial(acts.edit, edits.add),
    ),
    Command(
        name="edit expr",
        arguments="EXPRESSION",
        help="run a Python expression of h and torch; it is executed",
        key="e",
        act=partial(acts.edit, edits.expression),
    ),
    Command(
        name="always",
        arguments="[EDIT ...]",
        help="an edit now and at each later visit here; alone: list",
        key="a",
        act=acts.always,
    ),
    Command(
        name="never",
        arguments="[all]",
        help="end the standing edits of this layer, or all",
        key="N",
        act=acts.never,
    ),
    Command(
        name="copy",
        arguments="NAME PATH",
        help="write a tensor of the state to .pt, .npy or .safetensors",
        key="c",
        act=acts.copy,
    ),
    Command(name="name", arguments="[TEXT]", help="your name for the session; alone: none", key="n", act=acts.name),
    Command(name="save", arguments="PATH", help="write a durable session to a file", key="S", act=acts.save),
    Command(name="restore", arguments="PATH", help="read a saved session, parked as it was", key="R", act=acts.restore),
    Command(
        name="fork",
        arguments="",
        help="a second session from here; side effects happen again",
        key="f",
        act=acts.fork,
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
        name="lens layers",
        arguments="[K [SEQ]]",
        help="the same here and at each later layer, by a fork",
        key="L",
        act=_lens_layers,
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
