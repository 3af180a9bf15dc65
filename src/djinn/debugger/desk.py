"""The desk: what the commands find in front of them. It shows the sessions, waits for them, and changes them.

One session is selected. What is shown are values of one moment (``values``), and waits for nobody. What is done waits,
says so every second, and can be told to stop.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from djinn.core import ENDED, PARKED, Phase
from djinn.debugger.edits import Change
from djinn.debugger.looking import Busy, Looker
from djinn.debugger.looks import Looks, changed, mark_of, phase_of
from djinn.debugger.memory import MemoryRing
from djinn.debugger.patience import TICK_SECONDS, Interrupted, Patience, Say
from djinn.debugger.stops import Stops
from djinn.debugger.values import Lens, MemorySample, Refused, SessionRow, StateRow, Tokens
from djinn.runtime import Runtime
from djinn.session import Session
from djinn.status import Status

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
        self._labels: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._saved: dict[int, tuple[tuple[int, int], Path, File | None]] = {}

    def close(self) -> None:
        """End the thread of the bench's own computing; nothing else is touched."""
        self._looker.close()

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

        At a breakpoint whose condition does not hold it goes on again. It stops at layer ``once_at`` too, unless it
        has stopped before.
        """
        self.sample()
        if once_at is not None:
            self.stops.add(session, once_at)
        while True:
            self.stops.arm(session)
            if step:
                self.patiently(lambda: session.step(TICK_SECONDS), what, say)
            else:
                session.resume()
            self.wait_for(session, what, say)
            if self._stays(session, say, step=step):
                break
            if self._stop.is_set():
                raise Interrupted
        if session.phase in PARKED:
            if once_at not in (None, session.layer):
                self.stops.drop(session, once_at)
            self.stops.arm(session)  # now: who leaves the debugger here has the next one ahead
        self.sample()

    def _stays(self, session: Session, say: Say, *, step: bool) -> bool:
        """Whether ``session`` has not stopped at a breakpoint whose condition does not hold."""
        condition = self.stops.reached(session)
        if condition is None or session.layer is None:
            return True
        self.stops.again(session)  # until the condition is known to hold
        if step:
            return True
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
        before = self.copied(session, "hidden_states", say)
        after = self.cuttably(lambda: changed(before, change), "waiting for the edit", say)
        self.patiently(lambda: self._looks.write(session, after), _FOR_THE_DEVICE, say)
        old, new = before.double(), after.double()
        return float(old.norm()), float(new.norm()), float((new - old).norm())

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
