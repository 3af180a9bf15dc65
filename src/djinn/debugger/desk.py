"""The desk: what the commands find in front of them. It shows the sessions, waits for them, and changes them.

One session is selected. What is shown are values of one moment (``values``), and waits for nobody. What is done waits,
says so every second, and can be told to stop.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from djinn.core import ENDED, PARKED, Phase
from djinn.debugger.edits import Change
from djinn.debugger.looking import Busy, Looker
from djinn.debugger.looks import Looks, Mark, changed, mark_of, phase_of
from djinn.debugger.memory import MemoryRing
from djinn.debugger.patience import TICK_SECONDS, Patience, Say
from djinn.debugger.stops import Stops
from djinn.debugger.values import Lens, MemorySample, Refused, SessionRow, StateRow, Tokens
from djinn.runtime import Runtime
from djinn.session import Session
from djinn.status import Status
from djinn.wording import counted

File = tuple[int, int, int]  # one file at one time: its number, when it was written, its bytes
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]  # a program and its arguments

_FOR_THE_DEVICE = "waiting for the device"


def _file_at(path: Path) -> File | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Desk(Patience):
    """Shows and changes the sessions of ``runtime``; :meth:`close` ends its thread, and leaves the sessions alone.

    ``tokenizer`` turns ids into words: anything with ``decode(ids)``. ``call`` is the program that ``restore`` runs
    again, with its arguments; by default that of the selected session. ``owns_runtime`` is whether the sessions end
    with the front, so that ``quit`` asks.
    """

    def __init__(
        self, runtime: Runtime, *, tokenizer: Any = None, call: Call | None = None, owns_runtime: bool = False
    ) -> None:
        self._ring = MemoryRing(runtime)
        super().__init__(runtime._device, meanwhile=self._ring.take)
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.owns_runtime = owns_runtime
        self._call = call
        self._looker = Looker(runtime)
        self._looks = Looks(runtime, self._looker, tokenizer)
        self._number: int | None = None  # of the selected session
        self.stops = Stops(runtime.depth)
        self._begun: dict[int, Mark] = {}  # by session, where its standing edits were last begun
        self._untold: dict[int, Counter[int]] = {}  # by session, how often after which layer
        self._labels: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._saved: dict[int, tuple[tuple[int, int], Path, File | None]] = {}

    def close(self) -> None:
        """End the thread of the bench's own computing, and standing edits, which nobody would make; no more."""
        self._looker.close()
        for session in self.runtime.sessions:
            if session.phase not in ENDED:
                self.stops.leave(session)

    # -- what is shown -----------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """The number of decoder layers, N."""
        return self.runtime.depth

    @property
    def selected(self) -> Session | None:
        """The session that commands go to: that of ``use``, else the first that is not closed."""
        sessions = {session.number: session for session in self.runtime.sessions}
        return sessions.get(self._number or 0) or next(iter(sessions.values()), None)

    def select(self, number: int) -> Session:
        """Select the session of this number. Raises :class:`Refused` if there is none."""
        for session in self.runtime.sessions:
            if session.number == number:
                self._number = number
                return session
        numbers = ", ".join(str(session.number) for session in self.runtime.sessions) or "none"
        raise Refused(f"there is no session {number}: there are {numbers}")

    def rows(self) -> tuple[SessionRow, ...]:
        """The sessions that are not closed, in the order of their numbers."""
        sessions = {session.number: session for session in self.runtime.sessions}
        selected = self.selected
        return tuple(
            self._row(status, sessions[status.number], selected)
            for status in self.runtime.status()
            if status.number in sessions
        )

    def _row(self, status: Status, session: Session, selected: Session | None) -> SessionRow:
        return SessionRow(
            number=status.number,
            phase=status.phase,
            said=phase_of(session),
            layer=status.layer,
            stops=() if status.phase in ENDED else tuple(self.stops.ahead(session)),
            named=self._names.get(status.number, ""),
            tier=status.tier,
            device_bytes=status.device_bytes,
            host_bytes=status.host_bytes,
            disk_bytes=status.disk_bytes,
            left_bytes=status.left_bytes,
            recorded_bytes=status.recorded_bytes,
            age_seconds=status.age_seconds,
            doing=status.doing,
            durable=session.is_durable,
            saved=self.is_saved(session),
            label=self._labels.get(status.number, ""),
            selected=session is selected,
        )

    def tokens(self) -> Tokens:
        """The tokens that the selected session's program has so far. Waits for nobody: see ``Tokens.note``."""
        try:
            return self._looks.tokens(self.selected, moving=False)
        except Busy:
            return Tokens(note=self._busy)

    def lens(self, count: int = 5, *, sequence: int = 0) -> Lens:
        """What the layer would say next: the ``count`` likeliest tokens behind the last one of ``sequence``, from 0.

        Waits for nobody: while a program computes there is a note in place of the guesses.
        """
        try:
            return self._looks.lens(self.selected, count, sequence, moving=False)
        except Busy:
            return Lens(layer=None, label="logit lens", note=self._busy)

    def state(self) -> tuple[StateRow, ...]:
        """The tensors of the selected session's state, with the numbers that :meth:`measure` has computed; no bytes."""
        return self._looks.state(self.selected)

    def measure(self, name: str) -> None:
        """Compute the numbers of one tensor of the selected session, for :meth:`state`.

        Raises :class:`Busy` while a program computes on the device that has to read it, :class:`Refused` if that would
        move the state, and what ``session.state`` raises.
        """
        if (session := self.selected) is not None:
            self._looks.measure(session, name, moving=False)

    def sample(self) -> MemorySample:
        """Take a sample of the device memory; fronts call it at their interval."""
        return self._ring.take()

    def memory(self) -> tuple[MemorySample, ...]:
        """The last 600 samples, the oldest first."""
        return self._ring.samples

    @property
    def is_free(self) -> bool:
        """Whether no program computes on the device, or is about to: then nothing is left out for that."""
        return self._looker.computing is None

    @property
    def _busy(self) -> str:
        number = self._looker.computing
        return f"the device is busy: session {number} computes" if number else "the device is busy"

    # -- what is done ------------------------------------------------------------------------------------------------

    def go(self, session: Session, what: str, say: Say, *, step: bool = False, once_at: int | None = None) -> None:
        """RESUME ``session``, or make it ``step``, and wait until it parks or ends. Raises :class:`Interrupted`.

        At a breakpoint whose condition does not hold it goes on again, and where only a standing edit is to be made. It
        stops at layer ``once_at`` too, unless it has stopped before. If it parked behind an interrupt, at a condition
        that holds, it stays there.
        """
        self.sample()
        if not step and self.stops.reached(session) is not None and self._stays(session, say, step=False):
            self.stops.arm(session, waits=False)  # it came there behind an interrupt, and nobody had tried
            return
        had = {} if once_at is None else self.stops.add(session, once_at)
        for _ in self.each(itertools.count(), lambda times: f"{what}, stopped {counted(times, 'time')} meanwhile", say):
            self.stops.arm(session, waits=True)
            arrivals = session._arrivals
            try:
                if step:
                    self.patiently(lambda: session.step(TICK_SECONDS), what, say)
                else:
                    session.resume()
            except BaseException:
                if session.phase in PARKED and session._arrivals == arrivals:  # it has not gone on
                    if once_at is not None:
                        self.stops.put_back(session, once_at, had)
                    self.stops.arm(session, waits=False)
                raise
            self.wait_for(session, what, say)
            if self._stays(session, say, step=step):
                break
        if session.phase in PARKED:
            if once_at is not None:
                self.stops.take_back(session, once_at, had)
            self.stops.arm(session, waits=False)  # now: who leaves the debugger here has the next one ahead
        self.sample()

    def settle(self, session: Session, say: Say) -> None:
        """Do with ``session``, which is parked, what :meth:`go` has left when it was interrupted."""
        if self.stops.standing(session):
            self._make_standing(session, say)
            if self.stops.reached(session) is None:  # else :meth:`go` tries the condition first
                self.stops.arm(session, waits=False)

    def _make_standing(self, session: Session, say: Say) -> None:
        """Make the standing edits of this layer, all or nothing, unless they were made at this very visit."""
        layer = session.layer or 0
        changes = self.stops.standing(session).get(layer)
        if not changes or session.phase not in PARKED or self._is_over(session):
            return
        self._begun[session.number] = mark_of(session)
        try:
            self._change(session, changes, say)
        except Refused as error:
            self._end_visit(session)  # it would fail again
            why = f"its standing edit was not made: {error}"
            raise Refused(f"session {session.number} is paused after layer {layer}: {why}") from None
        self._untold.setdefault(session.number, Counter())[layer] += 1

    def _is_over(self, session: Session) -> bool:
        """Whether an edit was written since they were begun at this visit: an interrupt may come behind that."""
        visit, edits = mark_of(session)
        begun_at, edits_then = self._begun.get(session.number, (-1, -1))
        return begun_at == visit and edits_then < edits

    def _end_visit(self, session: Session) -> None:
        """Have no standing edit made any more at this visit."""
        self._begun[session.number] = (session._arrivals, -1)

    def edited(self, session: Session) -> list[str]:
        """Say how often standing edits of ``session`` were made since this was asked for last."""
        made = self._untold.pop(session.number, Counter())
        return [f"edited {counted(times, 'time')} after layer {layer}" for layer, times in sorted(made.items())]

    def _stays(self, session: Session, say: Say, *, step: bool) -> bool:
        """Make the standing edits; say whether ``session`` has stopped for more than those, and its condition holds."""
        passes, condition = self.stops.passes(session), self.stops.reached(session)
        if condition is not None:
            self.stops.again(session)  # until the condition is known to hold
        self._make_standing(session, say)
        if condition is None or session.layer is None or step:
            return step or not passes
        hidden = self.copied(session, "hidden_states", say)
        try:
            holds = self.cuttably(lambda: condition.holds(hidden), "waiting for the condition", say)
        except Refused as error:
            raise Refused(f"session {session.number} is paused after layer {session.layer}: {error}") from None
        if holds:
            self.stops.drop(session, session.layer)
        return holds

    def patient_tokens(self, say: Say) -> Tokens:
        """Do what :meth:`tokens` does; waits for the device, and reads a state from where it is."""
        look = functools.partial(self._looks.tokens, self.selected, moving=True)
        return self.patiently(look, _FOR_THE_DEVICE, say)

    def patient_lens(self, session: Session, count: int, sequence: int, say: Say) -> Lens:
        """Do what :meth:`lens` does with ``session``, likewise."""
        look = functools.partial(self._looks.lens, session, count, sequence, moving=True)
        return self.patiently(look, _FOR_THE_DEVICE, say)

    def measure_all(self, session: Session, say: Say) -> None:
        """Do what :meth:`measure` does with the whole state, likewise."""
        names = [row.name for row in self._looks.state(session) if not row.measured]
        for name in self.each(names, lambda name: f"measuring {name}, of {len(names)} tensors", say):
            look = functools.partial(self._looks.measure, session, name, moving=True)
            self.patiently(look, _FOR_THE_DEVICE, say)

    def edit(self, session: Session, change: Change, say: Say) -> tuple[float, float, float]:
        """Change the hidden states of ``session``, all or nothing; return norms: before, after, of the change."""
        old, new = (each.double() for each in self._change(session, [change], say))
        return float(old.norm()), float(new.norm()), float((new - old).norm())

    def _change(self, session: Session, changes: Sequence[Change], say: Say) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.copied(session, "hidden_states", say)
        after = self.cuttably(lambda: changed(before, changes), "waiting for the edit", say)
        self.patiently(lambda: self._looks.write(session, after), _FOR_THE_DEVICE, say)
        return before, after

    def stand(self, session: Session, change: Change) -> None:
        """Have ``change``, which was made at this visit, made at every later one of this layer."""
        self.stops.stand(session, change)
        self._end_visit(session)

    def copied(self, session: Session, name: str, say: Say) -> torch.Tensor:
        """Return a copy of one tensor of the state, in host memory."""
        return self.patiently(lambda: self._looks.copied(session, name), _FOR_THE_DEVICE, say)

    def label(self, session: Session, text: str) -> None:
        """Say in the list of sessions where ``session`` comes from."""
        self._labels[session.number] = text

    def name(self, session: Session, text: str) -> None:
        """Give ``session`` a name of the user's own in the list; an empty one takes it away."""
        self._names[session.number] = text

    def note_saved(self, session: Session, path: Path) -> None:
        """Note that ``session`` is in the file ``path`` as it is."""
        self._saved[session.number] = (mark_of(session), path.absolute(), _file_at(path))

    def is_saved(self, session: Session) -> bool:
        """Whether it is parked as the bench has saved it, and its file is still the one that was written."""
        if session.phase not in PARKED or session.number not in self._saved:
            return False
        mark, path, file = self._saved[session.number]
        return mark == mark_of(session) and file is not None and file == _file_at(path)

    def call_to_restore(self) -> Call:
        """Return the program that a saved session runs, and its arguments. Raises :class:`Refused` if none is known."""
        session = self.selected
        program = None if session is None else session._program
        call = self._call or (None if program is None else program._call)
        if call is None:
            raise Refused("restore runs the program of the selected session again: select one that has not ended")
        return call

    def would_be_lost(self) -> list[str]:
        """Name the sessions that end with the front and are not saved as they are."""
        if not self.owns_runtime:
            return []
        lost = [session for session in self.runtime.sessions if session.phase in (*PARKED, Phase.RUNNING)]
        return [f"session {session.number}: {session._stands()}" for session in lost if not self.is_saved(session)]
