"""The commands that make a session go on, or change it. Each gets the desk and what was asked; see ``commands``."""

from collections.abc import Callable, Sequence
from pathlib import Path

from djinn.arguments import check_breakpoint
from djinn.core import PARKED, NotRestored
from djinn.debugger import edits, files
from djinn.debugger.answers import Asked, alive, number, parked, said, session_of, standing, stands
from djinn.debugger.desk import Desk
from djinn.debugger.edits import Change
from djinn.debugger.stops import in_words
from djinn.debugger.values import Outcome, Refused, StateRow
from djinn.durable.session_file import check_can_read
from djinn.session import Session
from djinn.wording import mebibytes, sized

RUNS_AGAIN = "program runs again up to here"  # of a fork
HAPPENED_AGAIN = "the program's side effects up to here have happened again"

# -- going on --------------------------------------------------------------------------------------------------------


def set_breakpoint(desk: Desk, asked: Asked) -> Outcome:
    """Set breakpoints, or say where they are."""
    session = alive(desk)
    if not asked.argument:
        ahead = desk.stops.ahead(session)
        return said(f"to stop after {in_words(ahead)}" if ahead else "no breakpoint: break L sets one")
    numbers, has_condition, text = asked.argument.partition("if")
    layers = [layer for word in numbers.split() for layer in _layers_of(word, desk.depth)]
    if not layers or (has_condition and not text.strip()):
        raise Refused("if stands between layers and an expression: for example break 5 if h.norm() > 100")
    desk.stops.set(session, dict.fromkeys(layers, edits.condition(text.strip()) if has_condition else None))
    return said(f"session {session.number} is to stop once after {in_words(desk.stops.ahead(session))}: resume")


def _layers_of(word: str, depth: int) -> range:
    """Return the layers that ``word`` names: one, or all of a range such as 16-30."""
    first, _, last = word.partition("-") if word[0] != "-" else (word, "", "")
    ends = [number(end, "break L, break L-L or break L L if EXPRESSION") for end in (first, last or first)]
    for end in ends:
        check_breakpoint(end, 1, depth)
    if ends[0] > ends[1]:
        raise Refused(f"{word} is no range: the lower layer comes first")
    return range(ends[0], ends[1] + 1)


def step(desk: Desk, asked: Asked) -> Outcome:
    """Go on to the next layer."""
    session = parked(desk, asked)
    desk.go(session, "waiting for the next layer", asked.say, step=True)
    return standing(desk, session)


def token(desk: Desk, asked: Asked) -> Outcome:
    """Go on to the same layer in the next decode step, or to a breakpoint before that."""
    session = parked(desk, asked)
    desk.stops.check_can_stand(session)
    layer = session.layer
    assert layer is not None
    where = next(iter(desk.stops.ahead(session)), layer)
    desk.go(session, f"waiting for layer {where}", asked.say, once_at=layer)
    outcome = standing(desk, session)
    if session.layer != layer and session.phase in PARKED:
        return Outcome(lines=(*outcome.lines, f"its breakpoint, layer {session.layer}, came first"))
    return outcome


def resume(desk: Desk, asked: Asked) -> Outcome:
    """Go on to the next breakpoint, or to the end."""
    session = parked(desk, asked)
    where = next(iter(desk.stops.ahead(session)), None)
    desk.go(session, "waiting for the end" if where is None else f"waiting for layer {where}", asked.say)
    return standing(desk, session)


def pause(desk: Desk, asked: Asked) -> Outcome:
    """Stop a program that computes."""
    session = alive(desk)
    session.pause()
    desk.wait_for(session, "waiting for its next layer", asked.say)
    if session.phase in PARKED:
        desk.settle(session, asked.say)
    return standing(desk, session)


def wait(desk: Desk, asked: Asked) -> Outcome:
    """IO_WAIT."""
    session = parked(desk, asked)
    session.io_wait()
    desk.sample()
    lines = [f"session {session.number}: {stands(session)}"]
    if left := session.left_behind:
        nbytes = sized(sum(line.nbytes for line in left))
        lines.append(f"{nbytes} stay on the device, such as {left[0]}" + ("" if len(left) == 1 else ": left lists all"))
    return said(*lines)


# -- changing --------------------------------------------------------------------------------------------------------


def edit(make: Callable[[str], Change], desk: Desk, asked: Asked) -> Outcome:
    """Change the hidden states by what ``make`` makes of the argument."""
    session = parked(desk, asked)
    if not asked.argument:
        raise Refused("an edit needs its argument: see help")
    return said(*_edited(desk, session, make(asked.argument), asked))


def _edited(desk: Desk, session: Session, change: Change, asked: Asked) -> tuple[str, str]:
    before, after, difference = desk.edit(session, change, asked.say)
    what = f"hidden_states of session {session.number}: {change.said}"
    return what, f"their norm was {before:.4g} and is {after:.4g}, that of the difference is {difference:.4g}"


def always(desk: Desk, asked: Asked) -> Outcome:
    """Make an edit now and at every later visit of this layer, or say which are made so."""
    if not asked.argument:
        standing = desk.stops.standing(alive(desk))
        lines = [f"after layer {layer}: {change.said}" for layer, changes in standing.items() for change in changes]
        return said(*lines or ["no standing edit: always EDIT makes one"])
    session = parked(desk, asked)
    kind, _, argument = asked.argument.partition(" ")
    makes = [make for name, make in edits.KINDS.items() if name.startswith(kind)]
    if len(makes) != 1 or not argument.strip():
        raise Refused(f"always takes {', '.join(edits.KINDS)}, and what that takes: for example always scale 2")
    desk.stops.check_can_stand(session)
    change = makes[0](argument.strip())
    now = _edited(desk, session, change, asked)
    desk.stand(session, change)
    return said(*now, f"so it is at every later visit of layer {session.layer}: never ends that")


def never(desk: Desk, asked: Asked) -> Outcome:
    """End the standing edits of this layer, or of all."""
    session = alive(desk)
    if asked.argument not in ("", "all"):
        raise Refused("type never for this layer, or never all")
    standing = desk.stops.standing(session)
    layers = [layer for layer in standing if asked.argument or layer == session.layer]
    if not layers:
        raise Refused(f"no standing edit {'' if asked.argument else 'of this layer'}".rstrip() + ": always lists them")
    desk.stops.lift(session, layers)
    return said(f"session {session.number} has no standing edit after {in_words(dict.fromkeys(layers), 'any')} now")


def name(desk: Desk, asked: Asked) -> Outcome:
    """Give the session a name of the user's own."""
    session = session_of(desk)
    desk.name(session, asked.argument)
    return said(f"session {session.number} {f'is called {asked.argument}' if asked.argument else 'has no name'}")


def copy(desk: Desk, asked: Asked) -> Outcome:
    """Write one tensor of the state to a file; asks before one is replaced."""
    session = parked(desk, asked)
    name, _, text = asked.argument.partition(" ")
    if not text.strip():
        raise Refused("type copy NAME PATH, for example copy hidden_states h.safetensors")
    row = _row_of(name, desk.state())
    path = Path(text.strip()).expanduser()
    files.check_writable(path, row.dtype)
    if path.exists() and not asked.confirmed:
        return Outcome(question=f"{path} is there already, and would be replaced. Copy?")
    tensor = desk.copied(session, row.name, asked.say)
    nbytes = files.write(path, row.name, tensor)
    return said(f"{row.name} of session {session.number}, shape {list(row.shape)}, is in {path}: {sized(nbytes)}")


def _row_of(name: str, rows: Sequence[StateRow]) -> StateRow:
    """Return the tensor of this ``name``, or whose name alone ends so, as where ``..`` stands for its begin."""
    end = name.lstrip(".")
    found = [row for row in rows if row.name == name] or [row for row in rows if end and row.name.endswith(end)]
    if len(found) > 1:
        raise Refused(f"{name} may be {' or '.join(row.name for row in found)}")
    if not found:
        raise Refused(f"there is no tensor {name} in the state: state lists them")
    return found[0]


def save(desk: Desk, asked: Asked) -> Outcome:
    """Write the session to a file; asks before one is replaced."""
    session = parked(desk, asked)
    if not asked.argument:
        raise Refused("type save PATH, for example save one.djinn")
    path = Path(asked.argument).expanduser()
    session._check_can_save(path.absolute())
    if path.exists() and not asked.confirmed:
        return Outcome(question=f"{path} is there already, and would be replaced. Save?")
    asked.say(f"writing {path}")
    nbytes = session.save(path)
    desk.note_saved(session, path)
    return said(f"session {session.number} is saved in {path}: {mebibytes(nbytes)}")


def restore(desk: Desk, asked: Asked) -> Outcome:
    """Read a session from a file, and select it; announces only what can begin."""
    if not asked.argument:
        raise Refused("type restore PATH, for example restore one.djinn")
    program, args, kwargs = desk.call_to_restore()
    path = Path(asked.argument).expanduser()
    try:
        check_can_read(path)
    except NotRestored as error:
        raise Refused(f"{path}: {error}") from None
    except FileNotFoundError:
        raise Refused(f"there is no file {path}") from None
    asked.say(f"reading {path}, then the program runs again up to its breakpoint")
    session = desk.runtime.restore(path, program, *args, **kwargs)
    desk.label(session, f"from {path.name}")
    desk.select(session.number)
    desk.note_saved(session, path)
    return standing(desk, session)


def ask_to_fork(what: str) -> Outcome:
    """Ask before a fork, which is for ``what``."""
    again = "what it does beside calling the model, such as printing, happens again"
    return Outcome(lines=(f"{what}: its {RUNS_AGAIN}", again), question="Fork?")


def fork(desk: Desk, asked: Asked) -> Outcome:
    """Fork the session, and select the fork; asks first, for side effects happen again."""
    session = parked(desk, asked)
    session._check_can_fork()
    if not asked.confirmed:
        return ask_to_fork(f"fork of session {session.number}")
    asked.say(f"the {RUNS_AGAIN}")
    other = session.fork()
    desk.stops.copy(session, other)
    desk.label(other, f"fork of {session.number}")
    desk.select(other.number)
    return Outcome(
        lines=(
            f"session {other.number} is a fork of {session.number}: edits of one do not reach the other",
            HAPPENED_AGAIN,
            *standing(desk, other).lines,
        )
    )
