"""One session as its caller sees it: a program, its phase, its state, and the signals that change them.

The program's Python stack stays alive while it is parked (``program``), so neither the model's code nor the call has to
change.

Signals may be interrupted anywhere (``interrupts``). The runtime's signal thread serves all of them but RESUME, and the
caller only waits. RESUME runs on the caller's thread, for it must be fast. What it does before the program goes on can
be undone by the next signal, and done again. The program goes on in one step. A thread that moves the session, or
touches its state, holds ``_lock``. No thread waits for another thread's work while it holds ``_lock``.
"""

import functools
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from djinn.arguments import Keep, check_breakpoint, check_keep, check_program, check_timeout, name_of_program
from djinn.blocks import end_block
from djinn.core import (
    ENDED,
    PARKED,
    DeviceMemoryFull,
    DjinnError,
    IllegalMove,
    NotRestored,
    NotYet,
    Phase,
    SessionAbandoned,
    SessionCancelled,
    move,
)
from djinn.durable.copying import Copies, check_whole, copying, recorded
from djinn.durable.document import SavedSession, written
from djinn.durable.fork import anew, check_adopt
from djinn.durable.machine import machine_of
from djinn.durable.session_file import check_can_write, write
from djinn.interrupts import Bell, Hands, at_once, holding, patiently
from djinn.journal import Journal
from djinn.memory.placement import Residency, raw_bytes
from djinn.memory.policy import EvictionCandidate
from djinn.memory.restore import Restore
from djinn.memory.transfer import TransferEngine
from djinn.program.caller import Beginning, CallerContext
from djinn.program.device_lock import DeviceLock
from djinn.program.forward import Interceptors
from djinn.program.program import Callbacks, Program, current_program, refuse_holder
from djinn.program.replay import Recording
from djinn.program.surroundings import Settings
from djinn.program.tape import Tape
from djinn.program.turn import Turn
from djinn.program.values import KeptStorage
from djinn.resumes import Resume, ResumeClock
from djinn.state.adopted import Adopted
from djinn.state.discovery import StateScanner
from djinn.state.module_attributes import ModelAttributes
from djinn.state.module_state import ModuleState
from djinn.state.state_view import Look, StateView
from djinn.state.storages import LeftBehind, SessionState, StateStorage
from djinn.watch import wait_in_loop
from djinn.wording import mebibytes, phase_word, standing, what_to_do

_EVICT_SECONDS = 1.0  # how long an eviction waits for a session that is being resumed or read
_SEEDED = (
    "torch was seeded while another program computed. Unless that did so itself, it goes on from your seed, and "
    "session {} begins with what was there before: seed within the program, or before any session computes"
)
_INTERRUPT_SECONDS = 0.05  # between exceptions raised in a program that reaches no layer when the interpreter ends

AroundTurn = Callable[["Session"], AbstractContextManager[object]]
Step = Callable[[], object]  # a C function
Replayed = Callable[["Session"], "Session"]
Lead = Callable[[int, Recording, Sequence[object], Replayed], "Session"]  # see Runtime._lead


def _as_the_device_holds_it(item: StateStorage) -> torch.Tensor:
    return item.views[0].over(raw_bytes(item.storage))


class _Pause:
    """The validity of state tensors between two signals: void when the session has gone on."""

    def __init__(self, session: "Session", *, paused: bool) -> None:
        self.number = session.number
        self.paused = paused
        self.lock = session._lock
        self._session = session

    def check(self, name: str) -> None:
        session = self._session
        if session._pause is not self:
            phase = session.phase
            again = "read session.state again, and " if phase in PARKED else ""
            raise IllegalMove(
                f"{name} of session {self.number} is void, for the session has gone on and is {phase.value}: "
                f"{again}clone() what is to outlive a signal"
            )

    def before_use(self) -> None:
        self._session._engine.link.current().follow(self._session._its.lane)

    def after_use(self) -> None:
        self._session._engine.link.current().synchronize()

    def note_edit(self, name: str) -> None:
        self._session._residency.edits += 1
        if self._session._tape is not None:
            self._session._tape.note_edit(name)


class Session:
    """One program that can be paused, edited and resumed; made by :meth:`djinn.Runtime.open`.

    Every method may be called from any thread. The program parks after decoder layer L (1 .. N) at the hit count
    ``visit``, or at the next layer after :meth:`pause`. A call that is interrupted (Ctrl-C) leaves the session as it
    was, or has done its work. A ``with`` closes it; after an error in the block it waits for the program at most five
    seconds.
    """

    def __init__(
        self,
        number: int,
        *,
        breakpoint: tuple[int | None, int],
        adopt: Sequence[object],
        living: dict[int, Adopted],
        depth: int,
        device: torch.device,
        interceptors: Interceptors,
        engine: TransferEngine,
        hands: Hands,
        scanner: StateScanner,
        journal: Journal,
        device_lock: DeviceLock[Turn],
        around_turn: AroundTurn | None,
        attributes: ModelAttributes,
        keep: Keep,
        keep_budget: Callable[[], None],
        lead: Lead,
        attend: Callable[[], None],
        tape: Tape | None,
        saving: Hands | None,
    ) -> None:
        self._number = number
        self._tape, self._saving = tape, saving  # of a durable session
        self._layer: int | None = None
        self._depth = depth
        self._interceptors = interceptors
        self._engine = engine
        self._device = device
        self._hands = hands
        self._scanner = scanner
        self._device_lock = device_lock
        self._around_turn = around_turn
        self._journal = journal
        self._attributes = attributes
        self._keep = keep
        self._keep_budget = keep_budget
        self._lead = lead
        self._attend = attend
        self._process = os.getpid()
        self._phase = Phase.CREATED
        self._since = time.monotonic()
        self._changed = Bell()
        self._lock = threading.RLock()
        self._pause: _Pause | None = None  # whose tensors are not void
        self._breakpoint = breakpoint  # layer and hit count, until the program exists
        self._program: Program | None = None
        self._name = ""  # of the program
        self._callbacks = Callbacks(parked=self._parked, fetch=self._fetch, restore=self._restore, ended=self._ended)
        self._outcome: tuple[Any, BaseException | None] | None = None  # of the program that has ended
        self._arrivals = 0  # how often it has come to rest
        self._told = 0  # how many of them a caller has waited for
        self._error_told = False  # whether result() has raised its error
        self._resume_clock: ResumeClock | None = None  # of the last RESUME
        phase = functools.partial(_phase_of, weakref.ref(self))  # the program's thread has it while it is parked
        self._adopted = Adopted(adopt, number=number, phase=phase, living=living)
        self._adopted.check_free()
        waits = functools.partial(_waits, weakref.ref(self))
        self._residency = Residency(engine, number=number, adopted=self._adopted, lock=self._lock, waits=waits)
        self._departure: tuple[Restore, list[Step]] | None = None  # the steps that let its program go, once prepared

    # -- what a caller does ------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Its number in the runtime's :meth:`djinn.Runtime.status` and log; the first session is 1."""
        return self._number

    @property
    def layer(self) -> int | None:
        """The decoder layer after which it is parked, or was last; None before its first pause."""
        return self._layer

    @property
    def breakpoint(self) -> int | None:
        """The decoder layer after which it is to park; None without a breakpoint, or behind it."""
        program = self._program
        return self._breakpoint[0] if program is None else program.missed_breakpoint

    @property
    def phase(self) -> Phase:
        """The phase that the session is in now."""
        self._hands.settle()
        return self._phase

    @property
    def doing(self) -> str:
        """What a running program does: computes, or has or waits for the device; ``-`` in any other phase.

        Of a program that has the device and has come to no layer for a second it says for how long.
        """
        program = self._program
        return program.turn.doing if self._phase is Phase.RUNNING and program is not None else "-"

    @property
    def age_seconds(self) -> float:
        """Seconds since the session entered this phase."""
        return time.monotonic() - self._since

    def break_at(self, layer: int, *, visit: int = 1) -> "Session":
        """Set the breakpoint: after decoder layer ``layer`` (1 .. N), at hit count ``visit`` from now on.

        Replaces a breakpoint that has not been reached. The session must be parked or not yet started. Raises
        ``ValueError`` for a layer that the model lacks, ``TypeError`` for what is no whole number, and
        :class:`IllegalMove` while the program computes or has ended.
        """
        self._serve(functools.partial(self._break_at, *check_breakpoint(layer, visit, self._depth)))
        return self

    def _break_at(self, layer: int, visit: int) -> None:
        if self._phase is not Phase.CREATED:
            self._check_parked("a breakpoint can be set")
        self._breakpoint = layer, visit
        if self._program is not None:
            self._program.break_at(layer, visit)

    def _aim(self, layer: int | None, noted: Callable[[], object]) -> None:
        """Replace the breakpoint by ``layer``, None for none, also while the program computes: for the debugger.

        ``noted`` is called with that: an interrupt leaves both undone, or done.
        """

        def aim() -> None:
            self._breakpoint = layer, 1
            if self._program is not None:
                self._program.break_at(layer, 1)
            noted()

        self._serve(aim)

    def start(self, program: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Session":
        """Run ``program(*args, **kwargs)`` on the session's thread until it ends or parks; returns at once.

        The thread has the caller context: CUDA stream, grad and inference mode, autocast, default device and context
        variables. From the caller it also has torch's settings, such as the attention kernels, the default dtype and
        TF32, and the random generators of torch, Python and NumPy. While it computes all threads see them: end a block
        such as ``with sdpa_kernel(...)``, and seed again, when :meth:`wait` has returned.

        Warns if torch was seeded while another program computed, for then that one has the seed.

        Raises ``TypeError`` for what a call would not run: what is not callable, async and generator functions.
        """
        self._enter()
        check_program(program)
        turn = self._turn()
        if turn.seeded_in_a_turn:
            warnings.warn(_SEEDED.format(self.number), stacklevel=2)
        caller = CallerContext(self._device)
        self._begin(Beginning(call=(program, args, kwargs), caller=caller, settings=turn.settings), turn)
        return self

    def _begin(self, begun: Beginning, turn: Turn) -> None:
        prepared = Program(
            begun,
            name=f"djinn-{self.number}",
            engine=self._engine,
            device=self._device,
            interceptors=self._interceptors,
            scanner=self._scanner,
            adopted=self._adopted,
            turn=turn,
            callbacks=self._callbacks,
            tape=self._tape,
        )
        program, *arguments = begun.call
        self._name = name_of_program(program)
        self._serve(functools.partial(self._start, prepared, arguments))

    def _begin_as(self, begun: Beginning) -> None:
        """Do what :meth:`start` does, with the caller's context and settings of another START."""
        self._begin(begun, self._turn(begun.settings))

    def _turn(self, settings: Settings | None = None) -> Turn:
        return Turn(
            self._device_lock,
            self._device,
            ModuleState(self._attributes),
            number=self.number,
            around=None if self._around_turn is None else functools.partial(self._around_turn, self),
            settings=settings,
        )

    def _start(self, program: Program, arguments: object) -> None:
        if self._phase is not Phase.CREATED:
            raise IllegalMove(f"a session is started once; this one is {self._phase.value}: open another")
        program.break_at(*self._breakpoint)
        self._adopted.check_free(arguments)
        program.start()  # first: the system may refuse the thread
        self._adopted.claim()
        self._program = program
        self._move(Phase.RUNNING)
        program.gate.release()

    def pause(self) -> None:
        """Request a pause after the current layer, or the next one; returns at once, and :meth:`wait` waits for it.

        Two requests make one pause. Raises :class:`IllegalMove` unless the program computes.
        """
        self._serve(self._ask_to_pause)

    def _ask_to_pause(self) -> None:
        if self._phase is not Phase.RUNNING:
            hint = "it has stopped already" if self._phase in PARKED else what_to_do(self._phase)
            raise IllegalMove(f"a session that is {self._phase_word} cannot be paused: {hint}")
        self._its.pause_asked = True

    def wait(self, timeout: float | None = None) -> Phase:
        """Block until the session parks or ends, at most ``timeout`` seconds; returns the phase it is in.

        FINISHED means that the program ended without reaching its breakpoint. Raises :class:`IllegalMove` in a program
        that would wait for itself, or for a session that needs the device lock which the program holds.
        """
        check_timeout(timeout)
        self._enter()
        self._wait(lambda: not self._moves, timeout)
        return self._told_phase()

    async def wait_async(self, timeout: float | None = None) -> Phase:
        """Do what :meth:`wait` does in a task of an asyncio event loop, which goes on meanwhile; can be cancelled."""
        check_timeout(timeout)
        self._enter()
        await wait_in_loop([self._changed], self._rests, timeout)
        return self._told_phase()

    def _told_phase(self) -> Phase:
        """Return the phase, of which the caller is now told; until it moves, a watch over all is not told of it."""
        if not self._moves:
            self._told = self._arrivals
        return self._phase

    @property
    def state(self) -> StateView:
        """The state of the parked session by name, to read or edit.

        ``hidden_states`` is what layer L returned, ``kv.J.*`` the KV cache of decoder layer J. Arguments of the layer
        have their own names (``position_embeddings.0``), state in attributes of modules ``modules.PATH.ATTRIBUTE``.
        Other live tensors are named by function and local variable.
        Raises :class:`IllegalMove` unless the session is parked.
        """
        self._enter()
        state = self._check_parked("the state can be read")
        assert self.layer is not None
        same = weakref.ref(state)  # a view that somebody keeps must not hold the storages
        return StateView(
            state,
            breakpoint=self.layer,
            source=lambda: self._pause_of(same()),
            device_of=lambda index: self._residency.device_of(self._state_of(same()).storages[index]),
            bytes_of=lambda index: self._residency.bytes_of(self._state_of(same()).storages[index]),
            peek=lambda index, look: self._peek(same(), index, look),
            left=self._residency.left,
        )

    def _peek(self, state: SessionState | None, index: int | None, look: Look[object]) -> object:
        """Return ``look(tier, bytes)`` of a storage of ``state``; the bytes are None unless it is in host memory.

        Without an ``index`` it is what stays on the device.
        """

        def peek() -> object:
            self._check_parked("the state can be read")
            storages = self._state_of(state).storages
            return look("device", None) if index is None else look(*self._residency.peek(storages[index]))

        self._enter()
        return holding(self._lock, peek)

    def _state_of(self, state: SessionState | None) -> SessionState:
        """Return ``state``, if it is still the session's."""
        if state is None or self._residency.state is not state:
            raise IllegalMove("this view of the state is void, for the session has gone on: read session.state again")
        return state

    def _pause_of(self, state: SessionState | None) -> _Pause:
        self._state_of(state)
        if self._phase is Phase.IO_WAIT and self._residency.may_leave:
            # It may be evicted at any time: reads must go to the copy in host memory.
            self._serve_with_host_memory(self._to_host)
        pause = self._pause
        if pause is None:
            raise IllegalMove("this view of the state is void, for the session has gone on: read session.state again")
        return pause

    def _to_host(self) -> None:
        if self._phase is Phase.IO_WAIT and not self._its.abandoned:
            self._swap_out()
            self._attend()

    @property
    def left_behind(self) -> tuple[LeftBehind, ...]:
        """The tensors that were found and stay on the device: name, bytes and reason.

        Raises :class:`IllegalMove` unless the session is parked.
        """
        self._enter()
        self._check_parked("what was left behind is known")
        return self._residency.left

    @property
    def frontier(self) -> dict[str, Callable[[], torch.Tensor]]:
        """The tensors that layer L+1 reads, by name: functions that return each as the device holds it at the call.

        For checkers, which call them when RESUME has returned. Raises :class:`IllegalMove` unless the session is
        parked.
        """
        self._enter()
        items = self._check_parked("the frontier can be read").frontier
        return {item.views[0].name: functools.partial(_as_the_device_holds_it, item) for item in items}

    @property
    def storage_sizes(self) -> list[int]:
        """Bytes of each storage of the parked session, in the order of need; their sum is the session state."""
        return self._residency.sizes

    @property
    def host_bytes(self) -> int:
        """Bytes of the session's state in host memory."""
        return self._residency.host_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of the session's state that were spilled to the disk."""
        return self._residency.disk_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes of the session's state on the device, while parked."""
        return self._residency.device_bytes

    @property
    def left_bytes(self) -> int:
        """Bytes of the tensors in :attr:`left_behind`."""
        return sum(line.nbytes for line in self._residency.left)

    def io_wait(self, *, force: bool = True, keep: Keep | None = None) -> None:
        """IO_WAIT: swap the parked session out; returns when its device memory is free.

        ``keep="frontier"`` leaves on the device what layer L+1 reads (about 1 % of a session with KV cache), so that
        RESUME returns at once. It leaves when the memory is needed, after all histories. ``keep="nothing"`` leaves
        nothing; by default the runtime's ``keep`` decides. Without ``force`` all of the state stays on the device until
        another session needs the memory, so that an early RESUME costs nothing. Waits while the arena has no room yet
        and still grows, and while others are spilled to the disk, if there is one. Raises :class:`IllegalMove` unless
        PAUSED, :class:`djinn.HostMemoryFull` (and stays PAUSED) if arena and disk have no room, ``ValueError`` for
        another ``keep``.
        """
        keep = self._keep if keep is None else check_keep(keep)
        self._serve_with_host_memory(functools.partial(self._io_wait, force, keep))
        if not force or keep != "nothing":
            self._keep_budget()

    def _io_wait(self, force: bool, keep: Keep) -> None:
        self._check_parked("IO_WAIT is possible")
        if self._phase is Phase.IO_WAIT:
            raise IllegalMove("IO_WAIT is possible while a session is paused; this one is io_wait already: resume() it")
        if force:
            kept = [item for item in self._residency.may_leave if item.in_frontier and keep == "frontier"]
            self._swap_out(len(kept))
        self._pause = _Pause(self, paused=False)
        self._told = self._arrivals
        self._move(Phase.IO_WAIT)
        if force:
            self._attend()
            self._journal.left_behind(self.number, self._residency.left, taken_bytes=self._residency.away_bytes)

    def save(self, path: "str | os.PathLike[str]") -> int:
        """Write the parked session to the file ``path``, from which :meth:`djinn.Runtime.restore` makes it go on.

        Returns the bytes of the file. The session stays as it is; what is written is a copy of its state in host
        memory, so that it may go on meanwhile. A file that is there is replaced at the end, at once: after a crash it
        is the old or the new one, whole. Only its owner can read it. Raises
        :class:`IllegalMove` unless the session is parked and was opened with ``durable=True``, or if somebody else
        holds tensors that a file must have. Raises :class:`djinn.HostMemoryFull` if there is no room for the copy, and
        ``OSError`` if the system refuses to write.
        """
        target = Path(path).absolute()  # now: the folder of the process may change
        self._check_can_save(target)
        tape, saving = self._recorded("save")
        self._check_in_no_signal()
        nbytes: int = saving.do(functools.partial(self._save, target, tape))
        return nbytes

    def _check_can_save(self, path: Path) -> None:
        """Raise what :meth:`save` raises before it copies anything, for a front that asks first."""
        self._check_can_copy("save", "saved")
        check_can_write(path)

    def _check_can_copy(self, what: str, done: str) -> None:
        self._enter()
        tape, _ = self._recorded(what)
        self._check_parked(f"a session can be {done}")
        check_whole(self._number, self._residency.left, tape, done)

    def _recorded(self, what: str) -> tuple[Tape, Hands]:
        """Return the tape of a durable session, and the thread that copies its state."""
        if self._tape is None or self._saving is None:
            raise IllegalMove(f"session {self.number} was not recorded: open it with durable=True to {what} it")
        return self._tape, self._saving

    def _save(self, path: Path, tape: Tape) -> int:
        began = time.perf_counter()
        layer, recording = copying(self._residency, "saved", functools.partial(self._copy, tape, "saved"))
        # Without the lock: a disk may be slow, and signals to the session would hold up those to all others.
        saved = SavedSession(
            program=self._name,
            layer=layer,
            machine=machine_of(self._device),
            recording=recording,
        )
        nbytes = write(path, *written(saved))
        text = "session %d: saved, %s in %.1f s, of which %s are what the model returned"
        seconds = time.perf_counter() - began
        self._journal.note(logging.INFO, text, self.number, mebibytes(nbytes), seconds, mebibytes(tape.nbytes))
        return nbytes

    def fork(self, *, adopt: Sequence[object] = ()) -> "Session":
        """Return another session, parked where this one is, with a copy of its state, edits included.

        This one stays as it is, and both go on by themselves. An edit of one is not found by the other. Either result
        is that of an uninterrupted run with the same edits, bit for bit. The fork is durable too, and has the
        breakpoint that is still ahead.

        The program runs again up to its breakpoint, as in :meth:`djinn.Runtime.restore`: what it does beside calling
        the model happens again. It begins as at :meth:`start`, with the caller context and arguments of then. Of these
        the fork has copies: tensors, arrays, caches, containers, random generators, and what decides about generation.
        Other objects, and what the program reaches in another way, both share. For what the session has adopted
        ``adopt`` gives the fork others, in the same order, with the contents of START.

        Raises :class:`IllegalMove` unless the session is parked and was opened with ``durable=True``, or if somebody
        else holds tensors that the fork must have. It is also raised if ``adopt`` does not fit, or if an argument
        cannot be copied, which it names. Raises :class:`djinn.NotRestored`, which names what differs, if the program
        does not come there again, such as an argument that it has written to. Raises :class:`djinn.HostMemoryFull` if
        there is no room for a copy of the state, and :class:`djinn.DeviceMemoryFull` if the program finds none on the
        device. Raises :class:`SessionCancelled` if somebody cancels the fork on its way. No fork is left behind then.
        """
        self._check_can_fork(adopt)
        tape, saving = self._recorded("fork")
        self._check_in_no_signal()
        began = time.perf_counter()
        copy = functools.partial(self._copy_to_fork, tape, adopt)
        copied: _Copied = saving.do(functools.partial(copying, self._residency, "forked", copy))
        try:
            fork = self._lead(copied.layer, copied.recording, adopt, copied.lead)
        except NotRestored as error:
            raise NotRestored(f"session {self.number} cannot be forked: {error}") from error.__cause__
        text, seconds = "session %d: forked from session %d in %.1f s", time.perf_counter() - began
        self._journal.note(logging.INFO, text, fork.number, self.number, seconds)
        return fork

    def _check_can_fork(self, adopt: Sequence[object] = ()) -> None:
        """Raise what :meth:`fork` raises before it copies anything, for a front that asks first."""
        self._check_can_copy("fork", "forked")
        check_adopt(self._number, self._adopted.roots, adopt)
        refuse_holder(self._device_lock, "fork")

    def _copy_to_fork(self, tape: Tape, adopt: Sequence[object], made: Copies) -> "_Copied":
        layer, recording = self._copy(tape, "forked", made)
        begun, ahead = self._its.begun, self._its.breakpoint_ahead
        assert begun is not None
        with begun.caller.entered():  # on the stream on which either program reads its arguments
            call = anew(begun.call, self.number, tape.arguments, self._adopted.roots, adopt)
        return _Copied(layer=layer, recording=recording, begun=replace(begun, call=call), breakpoint=ahead)

    def _copy(self, tape: Tape, done: str, made: Copies) -> tuple[int, Recording]:
        """Return the layer at which the session is parked, and copies of all that leads there again; under the lock."""
        state = self._check_parked(f"a session can be {done}")
        assert self._pause is not None
        assert self._layer is not None
        self._pause.before_use()
        return self._layer, recorded(self._residency, state, tape, done, made)

    @property
    def is_durable(self) -> bool:
        """Whether it was opened with ``durable=True``, so that it can be saved and forked."""
        return self._tape is not None

    @property
    def recorded_bytes(self) -> int:
        """Bytes in host memory of what the model returned so far to a durable session; 0 for any other.

        A fork shares with its origin what was before it.
        """
        return sum(kept.raw.numel() for kept in self._recorded_storages)

    @property
    def _recorded_storages(self) -> list[KeptStorage]:
        return [] if self._tape is None else self._tape.storages

    def _swap_out(self, keep: int = 0) -> None:
        """Swap out all but the first ``keep`` storages, and prepare the way back."""
        try:
            self._residency.swap_out(keep)
        finally:
            self._prepare_departure()

    def resume(self) -> None:
        """RESUME: go on with the program; returns when the device holds what layer L+1 needs.

        The rest of the state is swapped in behind the running computation, which waits for exactly what it reads. If
        there is no room, state of other sessions in IO_WAIT is evicted. State on the disk is read back first, all of
        it. Raises :class:`IllegalMove` unless parked, :class:`djinn.DeviceMemoryFull` (state intact on the host, can be
        retried). If other work takes the device memory for the history before the program can, the program waits until
        there is room. Raises :class:`djinn.DiskFailed`, and :class:`djinn.HostMemoryFull` if arena and disk are full:
        what is on the disk stays there, and the call can be tried again.
        """
        self._go_on(pause_asked=False)

    def step(self, timeout: float | None = None) -> Phase:
        """RESUME, and wait until the program parks after the next decoder layer; returns the phase it is in.

        That is layer L+1, and after layer N the first of the next forward pass. FINISHED means that no layer came.
        The breakpoint stays, and a step past it counts as a hit. After ``timeout`` seconds it returns RUNNING; the
        program still parks after that layer. Raises what :meth:`resume` and :meth:`wait` raise, and ``TimeoutError`` if
        the state is still on the disk then.
        """
        check_timeout(timeout)
        self._check_may_wait()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._go_on(pause_asked=True, deadline=deadline)
        return self.wait(_left(deadline))

    def _go_on(self, *, pause_asked: bool, deadline: float | None = None) -> None:
        called = time.perf_counter()
        self._enter()
        resume = functools.partial(holding, self._lock, functools.partial(self._resume, called, pause_asked))
        try:
            self._engine.with_room(self._number, functools.partial(patiently, resume, deadline))
        except TimeoutError:
            waits = f"session {self._number} is still on the disk, and is read from there meanwhile: call it again"
            raise TimeoutError(waits) from None

    def _resume(self, called: float, pause_asked: bool) -> None:
        self._check_parked("RESUME is possible")
        self._residency.check_back()
        program, restore = self._its, self._residency.restore
        program.pause_asked = pause_asked  # every time: what an interrupted step asked for is void
        if restore is None:
            program.lane.synchronize()
            self._engine.link.current().synchronize()  # where the caller may have edited
            clock = ResumeClock(0, called=called)
            self._let_go(self._leaving(clock, None))
        else:
            clock = restore.clock
            clock.called = called
            if restore.frontier:
                busy = functools.partial(self._device_lock.busy_since, self._device_lock.taken)
                self._engine.swap_in(restore, busy=busy, let_go=lambda: self._let_go(self._way_of(restore)))
            else:  # nothing is missing: the program's thread brings the history
                self._let_go(self._way_of(restore))
        clock.ready()

    def _let_go(self, steps: "list[Step]") -> None:
        """Let the program go; no interrupt splits the ``steps``."""
        at_once(functools.partial(setattr, self, "_since", time.monotonic()), *steps)

    def _prepare_departure(self) -> None:
        """Prepare, at the pause, the step in which RESUME lets the program go."""
        restore = self._residency.restore
        if restore is not None:
            self._departure = restore, self._leaving(restore.clock, restore)

    def _way_of(self, restore: Restore) -> "list[Step]":
        """Return the steps that let the program go behind ``restore``."""
        if self._departure is None or self._departure[0] is not restore:  # an interrupted pause has not prepared them
            self._prepare_departure()
        assert self._departure is not None
        return self._departure[1]

    def _leaving(self, clock: ResumeClock, restore: Restore | None) -> "list[Step]":
        """Return the steps that let the program go."""
        program = self._its
        clock.tell = functools.partial(self._journal.resumed, self.number)
        departed = [] if restore is None else [functools.partial(setattr, restore, "departed", True)]
        return [
            *departed,
            functools.partial(setattr, program, "restoring", restore),
            functools.partial(setattr, program, "restored", restore),
            functools.partial(setattr, program, "callbacks", self._callbacks),
            functools.partial(setattr, self._residency, "state", None),
            functools.partial(setattr, self, "_departure", None),
            functools.partial(setattr, self, "_pause", None),
            functools.partial(setattr, self, "_phase", Phase.RUNNING),
            functools.partial(setattr, self, "_resume_clock", clock),
            program.gate.release,
        ]

    @property
    def last_resume(self) -> Resume | None:
        """What the last RESUME swapped in and how long it took, as far as it is known; None before the first."""
        clock = self._resume_clock
        return None if clock is None else clock.read()

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block until all state of the last RESUME is on the device; False after ``timeout`` seconds."""
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_resident_by(deadline):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def _is_resident_by(self, deadline: float | None) -> bool:
        """Wait for all state until the ``deadline``; False then, or if it has gone to the disk or come from there."""
        residency = self._residency
        if residency.spilled:
            self._changed.wait(lambda: not residency.spilled, _left(deadline))
            return False
        restore = residency.restore
        if restore is not None and restore.left_alone:  # the program's thread has yet to allocate, in its turn
            self._check_may_wait()
        if restore is not None and not restore.wait_resident(_left(deadline)):
            return False
        return residency.restore is restore and not residency.spilled

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the program's return value, or raise its error; ``TimeoutError`` after ``timeout`` seconds.

        Raises :class:`IllegalMove` if the session is parked, or parks while this waits, for then it has no result.
        Raises :class:`SessionCancelled` if it was cancelled or closed.
        """
        check_timeout(timeout)
        self._enter()
        self._wait(lambda: not self._moves, timeout)
        self._told_phase()
        # Read the phase first: the outcome is set before the phase changes, and cleared after it has changed.
        phase, moves, outcome = self._phase, self._moves, self._outcome
        if outcome is not None:
            value, error = outcome
            if error is not None:
                self._error_told = True
                raise error
            return value
        if phase in ENDED or self._phase is Phase.CLOSED:
            raise SessionCancelled("the session is closed, and its result is gone: call result() before close()")
        if moves and timeout is not None:
            raise TimeoutError(f"the program has not ended after {timeout:.3g} seconds: wait longer, or cancel() it")
        if moves:
            raise IllegalMove("the session has parked meanwhile, and goes on again: call result() again")
        raise IllegalMove(f"a session that is {phase.value} has no result yet: {what_to_do(phase)}")

    def cancel(self) -> None:
        """Unwind the program by an exception where it is parked or at its next layer; does not wait for its end.

        Its ``finally`` blocks run. State that was swapped out is swapped in first, for they may touch it. Without room
        on the device the program stays parked until there is room. A program that has ended stays as it is. Raises
        :class:`IllegalMove` for a session that was never started.
        """
        self._serve(self._cancel)

    def _cancel(self) -> None:
        if self._phase is Phase.CREATED:
            raise IllegalMove("a session that was never started cannot be cancelled: close() it")
        self._abandon()

    def _abandon(self) -> None:
        """Make the program unwind itself, if it has not ended."""
        program = self._program
        if program is not None and not program.abandoned and self._phase not in ENDED:
            self._pause = None
            program.abandoned = True
            if self._phase in PARKED:
                program.callbacks = self._callbacks
                program.gate.release()

    def close(self, timeout: float | None = None) -> None:
        """End the session in any phase and release what it holds; a second call does nothing.

        A program that has not ended is cancelled and waited for, at most ``timeout`` seconds. Raises ``TimeoutError``
        if it has not reached its next layer by then. The same is raised if the device has no room for the state, which
        the program may touch while it unwinds. After that, or an interrupt, it is cancelled: call it again.
        """
        check_timeout(timeout)
        self._close_by(None if timeout is None else time.monotonic() + timeout, timeout)

    def _close_by(self, deadline: float | None, timeout: float | None) -> None:
        """Do what :meth:`close` does until the ``deadline``, which is the end of a ``timeout``."""
        self._enter()
        if self._phase is Phase.CLOSED:
            return
        if self._program is not None and self._program.is_current:
            raise IllegalMove("a session cannot be closed by its own program: return from it, and close it elsewhere")
        self._check_may_wait()  # before the program is cancelled
        parked = self._phase in PARKED
        try:
            self._serve(self._begin_to_close, _left(deadline))
            if not self._wait(lambda: self._phase in ENDED, _left(deadline)):
                raise TimeoutError
            self._hands.do(self._close, _left(deadline))
        except TimeoutError:
            if timeout is None:
                raise
            restore = self._residency.restore
            if nbytes := self.disk_bytes:
                reason = f"{nbytes} bytes of its state are still to be read from the disk: close() it again"
            elif restore is not None and restore.left_alone and (nbytes := restore.nbytes):
                reason = (
                    f"the device has no room yet for {nbytes} bytes of state, which its program may still touch: free "
                    "device memory, and close() it again"
                )
            elif parked:
                reason = "its program is still being unwound: close() it again"
            else:
                reason = "the program has not come to its next layer: end what it waits for, and close() it again"
            raise TimeoutError(f"session {self.number} is not closed after {timeout:.3g} seconds: {reason}") from None

    def _begin_to_close(self) -> None:
        if self._phase is Phase.CREATED:
            self._move(Phase.CLOSED)
        self._abandon()

    def _close(self) -> None:
        """Release everything, on the runtime's thread; no other thread moves a session whose program has ended."""
        if self._program is not None:
            self._program.join()
        self._residency.clear()
        self._adopted.release(lost=False)
        with self._lock:
            error = self._outcome and self._outcome[1]
            if error is not None and not self._error_told and not isinstance(error, SessionCancelled):
                text = "session %d is closed, and nobody asked for its %s: call result() before close()"
                self._journal.note(logging.WARNING, text, self.number, type(error).__name__)
            del error  # its traceback holds this frame
            if self._phase is not Phase.CLOSED:
                self._move(Phase.CLOSED)
            self._program = self._outcome = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if self._process == os.getpid():  # a fork has nothing to give back
            end_block(self.close, error)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session cannot be copied or pickled: keep its result(), or copies of what is in its state")

    def __repr__(self) -> str:
        return f"<Session {self.number}: {self._stands()}>"

    def _stands(self) -> str:
        program, outcome = self._program, self._outcome
        return standing(
            self._phase,
            layer=self.layer,
            device_bytes=self.device_bytes,
            host_bytes=self.host_bytes,
            disk_bytes=self.disk_bytes,
            breakpoint=self.breakpoint,
            cancelled=program is not None and program.abandoned,
            was_cancelled=self._was_cancelled,
            error=None if outcome is None else outcome[1],
        )

    @property
    def _was_cancelled(self) -> bool:
        """Whether it has failed because it was cancelled. One that was not may have another's end as its error."""
        phase, program, outcome = self._phase, self._program, self._outcome  # the phase first, as in result()
        by_that = outcome is not None and isinstance(outcome[1], SessionCancelled)
        return phase is Phase.FAILED and by_that and program is not None and program.abandoned

    @property
    def _phase_word(self) -> str:
        return phase_word(self._phase, was_cancelled=self._was_cancelled)

    def _replay(self, begin: Callable[[], object], ahead: tuple[int, int] | None = None) -> "Session":
        """``begin`` and lead the program to where it was parked; set the breakpoint ``ahead``, and return itself.

        Raises :class:`NotRestored`.
        """
        begin()
        if self.wait() in PARKED:
            if ahead is not None:
                self.break_at(ahead[0], visit=ahead[1])
            return self
        try:
            self.result()
        except DjinnError:
            raise
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryFull(f"the program needs more device memory than there is: {error}") from error
        except BaseException as error:
            if self._outcome is None or self._outcome[1] is not error:
                raise  # an interrupt of this thread; the program's own may be a SystemExit too
            what = f"the program raised {type(error).__name__} before it came to where it was parked: {error}"
            raise NotRestored(what) from error
        raise NotRestored("the program ended before it came to where it was parked")

    # -- what the runtime does ---------------------------------------------------------------------------------------

    def _rests(self) -> bool:
        """Whether the program does not compute now. Raises what :meth:`wait` raises."""
        self._enter()
        return self._wait(lambda: not self._moves, 0)

    @property
    def _is_news(self) -> bool:
        """Whether its program computes, or has parked or ended and no caller has waited for that."""
        return self._moves or (self._told != self._arrivals and self._phase is not Phase.CLOSED)

    def _idle(self) -> EvictionCandidate | None:
        """The eviction candidate: the session's state on the device, if it may be swapped out, else None."""
        if self._phase is not Phase.IO_WAIT or self._its.abandoned:
            return None
        items = self._residency.may_leave
        if not items:
            return None
        return EvictionCandidate(
            session=self.number,
            parked_at=self._since,
            sizes=tuple(item.nbytes for item in items),
            frontier=sum(item.in_frontier for item in items),
        )

    def _evict(self, keep: int) -> int:
        """Swap out the state on the device, except the first ``keep`` storages; return the bytes freed.

        Returns 0 if the host arena is full or a copy fails: the state is where it was. Raises :class:`NotYet`.
        """
        if not self._lock.acquire(timeout=_EVICT_SECONDS):
            return 0  # the thread that resumes it, or uses its tensors, may be waiting for this very call
        try:
            before = self.device_bytes
            if self._idle() is not None:
                try:
                    self._swap_out(keep)
                except NotYet:
                    raise
                except (RuntimeError, MemoryError):
                    pass
            freed = before - self.device_bytes
            if freed:
                self._attend()
                self._journal.note(logging.INFO, "session %d: %s evicted to make room", self.number, mebibytes(freed))
                self._journal.left_behind(self.number, self._residency.left, taken_bytes=self._residency.away_bytes)
            return freed
        finally:
            self._lock.release()

    @property
    def _waits_in_host_memory(self) -> bool:
        """Whether a RESUME, which may come at any time, has something to swap in."""
        return self._phase is Phase.IO_WAIT and self._residency.restore is not None

    @property
    def _at_rest(self) -> bool:
        """Whether no program has begun and not ended."""
        return self._phase is Phase.CREATED or self._phase in ENDED

    def _give_up(self) -> None:
        """Begin to end a session that nobody can reach any more, on the runtime's thread."""
        holding(self._lock, self._begin_to_close)

    def _leave(self) -> None:
        """Make a program that computes unwind at its next layer, for the interpreter ends."""
        program = self._program
        if program is not None and self._phase not in ENDED:
            program.leaving = True
            program.abandoned = program.abandoned or self._phase is Phase.RUNNING

    def _wait_left(self, timeout: float) -> None:
        """Wait for the thread of a program that computed when it was told to :meth:`_leave`.

        A program that has reached no layer in the first fifth of that time is interrupted wherever it is.
        """
        program = self._program
        if program is not None and program.abandoned and self._phase in PARKED:  # it waits for room
            until = time.monotonic() + timeout
            while not (program.resting or program.died) and time.monotonic() < until:
                program.join(_INTERRUPT_SECONDS / 10)
        if program is not None and self._phase is Phase.RUNNING:
            program.join(timeout / 5)
            until = time.monotonic() + timeout * 4 / 5
            while not (program.died or program.resting) and time.monotonic() < until:
                program.interrupt()
                program.join(_INTERRUPT_SECONDS)

    # -- helpers of both ----------------------------------------------------------------------------------------------

    def _serve(self, signal: Callable[[], None], timeout: float | None = None) -> None:
        """Run ``signal`` on the runtime's thread, under the lock."""
        self._enter()
        self._check_in_no_signal()
        self._hands.do(functools.partial(holding, self._lock, signal), timeout)

    def _check_in_no_signal(self) -> None:
        """Raise :class:`IllegalMove` in the middle of a signal on this thread, which holds the lock."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # not in the stubs
            raise IllegalMove("a signal was asked for in the middle of another, by a handler or a finaliser: ask later")

    def _serve_with_host_memory(self, signal: Callable[[], None]) -> None:
        """Do what :meth:`_serve` does; wait on the caller's thread, without the lock, while the arena is too small."""
        patiently(functools.partial(self._serve, signal))

    @property
    def _moves(self) -> bool:
        """Whether the program computes, or is about to be unwound."""
        program = self._program
        return self._phase is Phase.RUNNING or (self._phase in PARKED and program is not None and program.abandoned)

    def _wait(self, happened: Callable[[], bool], timeout: float | None) -> bool:
        """Block until ``happened()``, at most ``timeout`` seconds; return whether it has."""

        def looked() -> bool:
            program = self._program
            if not happened() and self._moves and program is not None and program.died:
                self._hands.do(self._bury)
            return happened()

        waiter, program = current_program(), self._program
        if waiter is None or program is None or happened():
            return self._changed.wait(looked, timeout)
        with waiter.turn.waiting_for(program.turn):
            return self._changed.wait(looked, timeout)

    def _check_may_wait(self) -> None:
        """Raise :class:`IllegalMove` in a program that would wait for ever for the end of this session's program."""
        waiter, program = current_program(), self._program
        if waiter is not None and program is not None and self._phase not in ENDED:
            with waiter.turn.waiting_for(program.turn):
                pass

    def _bury(self) -> None:
        """Release the device lock and fail the session, for the program's thread has died without reporting."""
        with self._lock:
            if self._moves:
                self._its.turn.bury()
                self._ended(None, DjinnError("the session's thread has died: open another session"))

    def _enter(self) -> None:
        """Begin a call: check that this is the session's process, and settle this thread's interrupted call."""
        if self._process != os.getpid():
            raise DjinnError(
                f"this session lives in process {self._process}; a fork has neither its thread nor its state"
            )
        self._hands.settle()

    def _check_parked(self, what: str) -> SessionState:
        state, program = self._residency.state, self._program
        if self._phase not in PARKED or state is None:
            hint = what_to_do(self._phase)
            if self._phase is Phase.FINISHED and program is not None and program.missed_breakpoint is not None:
                hint = f"it never came to its breakpoint, layer {program.missed_breakpoint}; open another session"
            outcome = self._outcome
            raise IllegalMove(f"{what} while a session is parked; this one is {self._phase_word}: {hint}") from (
                outcome and outcome[1]
            )
        if program is not None and program.abandoned:
            raise IllegalMove(f"{what} while a session is parked; this one was cancelled: close() it, and open another")
        return state

    @property
    def _its(self) -> Program:
        """The program of a session that was started."""
        assert self._program is not None
        return self._program

    # -- on the program's thread --------------------------------------------------------------------------------------

    def _parked(self, layer: int, state: SessionState) -> None:
        with self._lock:
            if self._its.abandoned:
                raise SessionAbandoned
            self._layer = layer
            self._its.pause_asked = False
            self._residency.park(state, self._its.lane)
            self._pause = _Pause(self, paused=True)
            self._arrivals += 1
            self._its.callbacks = None  # from here on the program's thread does not keep this session alive
            self._move(Phase.PAUSED)

    def _fetch(self) -> bool:
        turn, done = self._its.turn, self._residency.fetch()
        turn.failure = turn.failure or self._residency.failure
        return done

    def _restore(self) -> bool:
        # Not under the lock: no other thread touches the state of a cancelled session, and this may ask for room.
        if not self._residency.bring_back():
            return False
        with self._lock:
            if self._phase in PARKED:  # else a RESUME has let it go, and it waits for its turn
                self._residency.state = None
                self._move(Phase.RUNNING)
        return True

    def _ended(self, value: Any, error: BaseException | None) -> None:
        restored = self._its.restored
        with self._lock:
            lost = self._residency.failure is not None or (restored is not None and restored.failed)
            self._adopted.release(lost=lost)
            self._pause = None
            self._outcome = value, error
            self._arrivals += 1
            self._move(Phase.FINISHED if error is None else Phase.FAILED)

    def _move(self, target: Phase) -> None:
        before, self._phase = self._phase, move(self._phase, target)
        self._since = time.monotonic()
        if self._journal.listens(logging.INFO):
            self._journal.note(logging.INFO, "session %d: %s -> %s", self.number, before.value, self._stands())
        self._changed.ring()


@dataclass(frozen=True, kw_only=True)
class _Copied:
    """What leads a fork to where its origin is parked, and what it does from there on."""

    layer: int
    recording: Recording
    begun: Beginning
    breakpoint: tuple[int, int] | None

    def lead(self, fork: Session) -> Session:
        """Lead ``fork`` there, and return it."""
        return fork._replay(functools.partial(fork._begin_as, self.begun), self.breakpoint)


def _phase_of(session: "weakref.ref[Session]") -> Phase:
    """The phase of ``session``, which is as good as closed if nobody can reach it any more."""
    alive = session()
    return Phase.CLOSED if alive is None else alive._phase


def _waits(session: "weakref.ref[Session]") -> bool:
    """Whether ``session`` is in IO_WAIT, and nobody has begun to end it."""
    alive = session()
    return alive is not None and alive._phase is Phase.IO_WAIT and not alive._its.abandoned


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)
