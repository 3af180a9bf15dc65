"""The bench: what every front of the debugger shows and does, without any front.

What is shown are values of one moment (``values``). What is done is a line, such as ``break 15`` (``commands``). One
session is selected, and commands go to it. Values may be read on one thread while a command runs on another.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from djinn.core import PARKED, Phase
from djinn.debugger import lens as logit_lens
from djinn.debugger import tokens as program_tokens
from djinn.debugger.commands import Interrupted, perform
from djinn.debugger.edits import Change, Refused
from djinn.debugger.looking import Busy, Looker
from djinn.debugger.measures import Measured, measure
from djinn.debugger.memory import MemoryRing
from djinn.debugger.values import Guess, Lens, MemorySample, Outcome, SessionRow, StateRow, Tokens
from djinn.program.program import Call
from djinn.runtime import Runtime
from djinn.session import Session
from djinn.status import Status

T = TypeVar("T")
Say = Callable[[str], None]

_TICK_SECONDS = 0.1  # between two looks at what is waited for
_SAY_SECONDS = 1.0  # between two lines of progress

Mark = tuple[int, int]  # which pause of a session, and how often it was edited


class Bench:
    """Shows and changes the sessions of ``runtime``; :meth:`close` ends its thread, and leaves the sessions alone.

    ``tokenizer`` turns ids into words: anything with ``decode(ids)``. ``call`` is the program that ``restore`` runs
    again, with its arguments; by default that of the selected session. ``owns_runtime`` is whether the sessions end
    with the front, so that ``quit`` asks.
    """

    def __init__(
        self, runtime: Runtime, *, tokenizer: Any = None, call: Call | None = None, owns_runtime: bool = False
    ) -> None:
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.call = call
        self.owns_runtime = owns_runtime
        self._looker = Looker(runtime)
        self._ring = MemoryRing(runtime)
        self._number: int | None = None  # of the selected session
        self._labels: dict[int, str] = {}
        self._saved: dict[int, Mark] = {}
        self._measured: dict[int, tuple[Mark, dict[str, Measured]]] = {}
        self._stop = threading.Event()

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
            layer=status.layer,
            breakpoint=session.breakpoint,
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
        """The tokens that the selected session's program has so far. Waits for nobody, as :meth:`lens`."""
        try:
            return self._tokens()
        except Busy:
            return Tokens(note=self._busy)

    def _tokens(self) -> Tokens:
        session = self.selected
        if session is None:
            return Tokens(note="there is no session")
        if session.phase is Phase.RUNNING:
            return Tokens(note="the program computes: pause it to see its tokens")
        if session.disk_bytes:
            return Tokens(note="the state is on the disk: step or resume reads it back")
        found = program_tokens.ids_of(session)
        if found is None:
            return Tokens(note=f"no tokens are known of a session that is {session.phase.value}")
        source, ids = found
        return program_tokens.in_words(self._read(ids, lambda: ids.detach().clone().cpu()), source, self.tokenizer)

    def lens(self, count: int = 5, *, sequence: int = 0) -> Lens:
        """What the layer would say next: the ``count`` likeliest tokens behind the last one of ``sequence``, from 0.

        Waits for nobody: while a program computes there is a note in place of the guesses.
        """
        try:
            return self._lens(count, sequence)
        except Busy:
            return Lens(layer=None, label="logit lens", note=self._busy)

    def _lens(self, count: int, sequence: int) -> Lens:
        session = self.selected
        if session is None or session.phase not in PARKED:
            return Lens(layer=None, label="logit lens", note="there is no paused session to look into")
        if session.disk_bytes:
            return Lens(layer=session.layer, label="logit lens", note="the state is on the disk")
        label = f"logit lens, layer {session.layer}"
        try:
            tail = self._tail
            scores = self._logits(session, tail, sequence)
        except (logit_lens.NoLens, Refused) as error:
            return Lens(layer=session.layer, label=label, note=str(error))
        label += f": {tail.norm_name} and {tail.head_name}"
        label += f", without {tail.beyond}" if tail.beyond else ""
        chances = scores.softmax(-1)
        best = scores.topk(min(max(count, 1), len(scores))).indices.tolist()
        guesses = tuple(
            Guess(
                token=program_tokens.token_of(one, self.tokenizer),
                logit=float(scores[one]),
                probability=float(chances[one]),
            )
            for one in best
        )
        return Lens(layer=session.layer, label=label, guesses=guesses)

    @functools.cached_property
    def _tail(self) -> logit_lens.Tail:
        model: nn.Module = self.runtime._model
        return logit_lens.find_tail(model, self.runtime.layers)

    def _logits(self, session: Session, tail: logit_lens.Tail, sequence: int) -> torch.Tensor:
        hidden = session.state["hidden_states"]
        if hidden.dim() not in (2, 3):
            raise Refused(f"the hidden states have {hidden.dim()} dimensions: the lens reads 2 or 3")
        if hidden.dim() == 3 and not 0 <= sequence < hidden.shape[0]:
            raise Refused(f"there is no sequence {sequence}: 0 to {hidden.shape[0] - 1}")
        rows = hidden if hidden.dim() == 2 else hidden[sequence]
        row = self._read(hidden, lambda: rows[-1:].detach().clone().cpu())
        return logit_lens.logits(tail, row, self.runtime._device, self._looker.piece)

    def state(self) -> tuple[StateRow, ...]:
        """The tensors of the selected session's state, with the numbers that :meth:`measure` has computed; no bytes."""
        session = self.selected
        if session is None or session.phase not in PARKED:
            return ()
        known = self._measured_of(session)
        rows = []
        for entry in session.state.entries:
            found = known.get(entry.name)
            rows.append(
                StateRow(
                    name=entry.name,
                    shape=entry.shape,
                    dtype=entry.dtype,
                    layer=entry.layer,
                    measured=found is not None,
                    norm=None if found is None else found.norm,
                    spread=None if found is None else found.spread,
                )
            )
        return tuple(rows)

    def measure(self, name: str) -> None:
        """Compute the numbers of one tensor of the selected session, for :meth:`state`.

        Raises :class:`Busy` while a program computes on the device that has to read it, and what ``session.state``
        raises. What is on the disk is read back.
        """
        session = self.selected
        if session is None:
            return
        known = self._measured_of(session)
        if name not in known:
            tensor = session.state[name]
            known[name] = measure(tensor, functools.partial(self._read, tensor))

    def _measured_of(self, session: Session) -> dict[str, Measured]:
        mark, known = self._measured.get(session.number, ((-1, -1), {}))
        if mark != mark_of(session):
            mark, known = mark_of(session), {}
            self._measured[session.number] = mark, known
        return known

    def sample(self) -> MemorySample:
        """Take a sample of the device memory; fronts call it at their interval."""
        return self._ring.take()

    def memory(self) -> tuple[MemorySample, ...]:
        """The last 600 samples, the oldest first."""
        return self._ring.samples

    # -- what is done ------------------------------------------------------------------------------------------------

    def do(self, line: str, *, confirmed: bool = False, say: Say = lambda text: None) -> Outcome:
        """Do what ``line`` asks for; ``say`` gets lines of progress meanwhile. Never raises what a command raises.

        Without ``confirmed`` a command that would lose something only asks (``Outcome.question``). It may take long:
        :meth:`interrupt`, from another thread, and Ctrl-C make it return.
        """
        self._stop.clear()
        return perform(self, line, confirmed=confirmed, say=say)

    def interrupt(self) -> None:
        """Make the command that runs on another thread stop waiting; the session goes on as it does."""
        self._stop.set()

    def wait_for(self, session: Session, what: str, say: Say) -> Phase:
        """Wait until ``session`` parks or ends; return the phase it is in. Raises :class:`Interrupted`."""
        return self.patiently(lambda: session.wait(_TICK_SECONDS), lambda phase: phase is not Phase.RUNNING, what, say)

    def patiently(self, attempt: Callable[[], T], enough: Callable[[T], bool], what: str, say: Say) -> T:
        """Return ``attempt()`` once it is ``enough``, and does not raise :class:`Busy` or ``TimeoutError``."""
        began = told = time.monotonic()
        while True:
            try:
                value = attempt()
                if enough(value):
                    return value
            except Busy:
                time.sleep(_TICK_SECONDS)
            except TimeoutError:
                pass
            self.sample()
            if self._stop.is_set():
                raise Interrupted
            if time.monotonic() - told >= _SAY_SECONDS:
                told = time.monotonic()
                say(f"{what} ... {told - began:.0f} s")

    def go(self, session: Session, step: Callable[[float], Phase] | None, what: str, say: Say) -> Phase:
        """RESUME ``session``, or make it ``step``, and wait until it parks or ends. Raises :class:`Interrupted`."""
        self.sample()
        if step is None:
            session.resume()
        else:
            self.patiently(lambda: step(_TICK_SECONDS), _any, what, say)
        phase = self.wait_for(session, what, say)
        self.sample()
        return phase

    def measure_all(self, say: Say) -> None:
        """Do what :meth:`measure` does with the whole state; waits for the device."""
        names = [row.name for row in self.state() if not row.measured]
        told = time.monotonic()
        for index, name in enumerate(names):
            self.patiently(functools.partial(self.measure, name), _any, "waiting for the device", say)
            if time.monotonic() - told >= _SAY_SECONDS:
                told = time.monotonic()
                say(f"measured {index + 1} of {len(names)} tensors")

    def patient_lens(self, count: int, say: Say) -> Lens:
        """Do what :meth:`lens` does; waits for the device."""
        return self.patiently(lambda: self._lens(count, 0), _any, "waiting for the device", say)

    def patient_tokens(self, say: Say) -> Tokens:
        """Do what :meth:`tokens` does; waits for the device."""
        return self.patiently(self._tokens, _any, "waiting for the device", say)

    def call_to_restore(self) -> Call:
        """Return the program that a saved session runs, and its arguments. Raises :class:`Refused` if none is known."""
        session = self.selected
        program = None if session is None else session._program
        call = self.call or (None if program is None else program._call)
        if call is None:
            raise Refused("restore runs the program of the selected session again: select one that has not ended")
        return call

    def would_be_lost(self) -> list[str]:
        """Name the sessions that end with the front and are not saved as they are."""
        if not self.owns_runtime:
            return []
        lost = [session for session in self.runtime.sessions if session.phase in (*PARKED, Phase.RUNNING)]
        return [f"  session {session.number}: {session._stands()}" for session in lost if not self.is_saved(session)]

    def edit(self, session: Session, change: Change, say: Say) -> tuple[float, float]:
        """Change the hidden states of ``session``; return their norm before and after. Nothing is half done."""
        hidden = session.state["hidden_states"]
        if hidden.dim() < 2:
            raise Refused(f"the hidden states have shape {list(hidden.shape)}: there is nothing to edit")
        what = "waiting for the device"
        before = self.patiently(lambda: self._read(hidden, lambda: hidden.detach().clone().cpu()), _any, what, say)
        with torch.no_grad():
            after = change.apply(before.clone()).to(before.dtype).contiguous()

        def write() -> None:
            session.state["hidden_states"] = after

        self.patiently(lambda: self._read(hidden, write), _any, what, say)
        return float(before.double().norm()), float(after.double().norm())

    def label(self, session: Session, text: str) -> None:
        """Say in the list of sessions where ``session`` comes from."""
        self._labels[session.number] = text

    def note_saved(self, session: Session) -> None:
        """Note that ``session`` was saved as it is."""
        self._saved[session.number] = mark_of(session)

    def is_saved(self, session: Session) -> bool:
        """Whether it is parked as the bench has saved it."""
        return session.phase in PARKED and self._saved.get(session.number) == mark_of(session)

    @property
    def _busy(self) -> str:
        number = self._looker.computing
        return f"the device is busy: session {number} computes" if number else "the device is busy"

    def _read(self, tensor: torch.Tensor, function: Callable[[], T]) -> T:
        """Call ``function``, which reads or writes ``tensor``: in a turn if that is on the runtime's device."""
        if tensor.device.type == self.runtime._device.type:
            return self._looker.piece(function)
        return function()


def _any(value: object) -> bool:
    return True


def mark_of(session: Session) -> Mark:
    """Return what changes when ``session`` goes on or is edited."""
    return session._arrivals, session._residency.edits
