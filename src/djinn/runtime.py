"""The runtime: opens the sessions of one model on one device, and makes room among them."""

import _thread
import atexit
import functools
import itertools
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from djinn.arguments import (
    Codec,
    Keep,
    check_around_turn,
    check_attentive,
    check_breakpoint,
    check_bytes,
    check_codec,
    check_disk,
    check_keep,
    check_layers,
    check_model,
    check_most_bytes,
    check_program,
    check_timeout,
    check_visit,
)
from djinn.blocks import EXIT_SECONDS, end_block
from djinn.core import PARKED, DjinnError, HostMemoryFull, IllegalMove, NotRestored, NotYet, Phase
from djinn.durable import document, session_file
from djinn.durable.machine import check_machine, machine_of
from djinn.durable.model_print import ModelPrint
from djinn.holdings import Holdings
from djinn.interrupts import Hands
from djinn.journal import Journal
from djinn.memory import blas_memory
from djinn.memory.beat import Attention, beat_of
from djinn.memory.coding import coding_of
from djinn.memory.disk_tier import DiskTier
from djinn.memory.host_memory import HostArena, available_bytes
from djinn.memory.lanes import link_of
from djinn.memory.page_lock import memory_lock_limit
from djinn.memory.placement import Residency
from djinn.memory.policy import Eviction, EvictionCandidate, evictions, over_budget
from djinn.memory.transfer import TransferEngine
from djinn.program.caller import Call
from djinn.program.device_lock import lock_of
from djinn.program.forward import Interceptors, device_of, storages_of_model
from djinn.program.program import refuse_holder
from djinn.program.replay import Recording, Replay
from djinn.program.tape import Tape
from djinn.save_all import Saved, save_all
from djinn.session import AroundTurn, Session
from djinn.state.adopted import Adopted
from djinn.state.cuda_graphs import WithoutGraphs
from djinn.state.discovery import StateScanner
from djinn.state.layers import KvLayers, find_layers, names_of
from djinn.state.module_attributes import ModelAttributes
from djinn.status import Status, StatusTable
from djinn.watch import wait_for_any
from djinn.wording import counted, mebibytes


class Runtime:
    """Runs programs around ``model`` so that they can be paused after any decoder layer.

    All paused sessions share ``host_memory_bytes`` of host memory, by default half of what the machine has free. For a
    model on a GPU they are page-locked: a first piece at once, the rest in the background. An IO_WAIT that comes before
    there is room waits; ``arena.wait_grown()`` waits for all. Sessions in IO_WAIT without ``force`` may keep
    ``idle_device_bytes`` on the device in all, by default as much as fits. ``layers`` are the decoder layers of a model
    whose layers cannot be found; :attr:`layers` tells their names. :meth:`close`, which a ``with`` calls, removes the
    interceptors from the model.

    If that is too little, those who have waited longest are spilled to files in a folder of the runtime's own in
    ``disk_folder``, of at most ``disk_bytes`` in all. They are read back when they are wanted. The files do not outlive
    the process: :meth:`djinn.Session.save` is for that.

    ``keep`` says what IO_WAIT leaves on the device unless it is told otherwise, see :meth:`djinn.Session.io_wait`.

    ``around_turn`` is called with the session whenever its program begins to compute: at its start, after RESUME, and
    after :func:`djinn.waiting`. It returns a context manager, which is entered on the program's thread and left when
    others may compute. So each session can have, for example, an adapter of its own. An error in it fails the program.

    ``attentive`` (seconds, 0.001 to 1, such as 0.005) is for sessions that wait long and must resume fast. A link that
    has been idle for 0.1 s is slow at first. So while a session's state is in host memory, one byte is copied to the
    GPU at this interval. All runtimes of a GPU share these beats; the shortest interval counts. They cost a small part
    of a core. On the CPU there is no link, and nothing is done.

    With ``codec="auto"`` state in bfloat16 is coded in host memory and on the disk, without loss, to some 0.7 of its
    bytes. So more sessions fit, and less goes over the link. It takes 62 MiB of device memory. Reading or editing coded
    state makes a plain copy of that tensor in host memory first. Where no kernels can be had all is as with ``"raw"``;
    :meth:`status` says why.

    Raises :class:`djinn.HostMemoryFull` if the system refuses the memory, and :class:`djinn.LayersNotFound`. Raises
    :class:`djinn.DjinnError` for a model that is compiled or belongs to another runtime, and ``OSError`` for a
    ``disk_folder`` in which nothing can be made. Raises ``ValueError`` for a
    model without parameters, on several devices, or whose weights are offloaded, and ``TypeError`` for an argument of
    another kind.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        host_memory_bytes: int | None = None,
        disk_folder: "str | os.PathLike[str] | None" = None,
        disk_bytes: int | None = None,
        idle_device_bytes: int | None = None,
        layers: Iterable[nn.Module] | None = None,
        around_turn: AroundTurn | None = None,
        keep: Keep = "nothing",
        attentive: float | None = None,
        codec: Codec = "raw",
    ) -> None:
        check_model(model)
        layers = check_layers(layers)
        host_memory_bytes = check_most_bytes("host_memory_bytes", host_memory_bytes, least=1)
        disk = check_disk(disk_folder, disk_bytes)
        idle_device_bytes = check_most_bytes("idle_device_bytes", idle_device_bytes, least=0)
        check_around_turn(around_turn)
        self._keep, codec = check_keep(keep), check_codec(codec)
        self._device = device = device_of(model)
        found = find_layers(model, layers)
        self.depth = len(found)  # number of decoder layers, N
        self._layers = names_of(model, found)
        self._model = model
        self._process = os.getpid()
        self._idle_device_bytes = idle_device_bytes
        self._around_turn = around_turn
        self._closed = False
        self._lost = False  # whether only its own threads can still reach it
        self._numbers = itertools.count(1)
        self._sessions: dict[int, Session] = {}
        self._adopted: dict[int, Adopted] = {}  # by the sessions that live, by number
        self._device_lock = lock = lock_of(device)
        self._without_graphs = WithoutGraphs(lambda: lock.locked)
        self._interceptors = Interceptors(model, found)
        self._attributes = ModelAttributes(model, found, device)
        self._saving: Hands | None = None  # once there is a durable session
        self._attention = Attention(
            beat_of(device), check_attentive(attentive), functools.partial(_waits_in_host_memory, weakref.ref(self))
        )
        self._holdings = holdings = Holdings(self._interceptors)
        try:
            self._interceptors.put_on()  # first: a model that another runtime has is refused before memory is taken
            for step in (self._without_graphs.take_off, self._attributes.forget, self._attention.close):
                holdings.undo(step)
            if device.type == "cuda":
                self._without_graphs.put_on()
            self._journal = holdings.record(Journal())
            self._journal.start()
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # locking takes memory of it
                self.arena = holdings.record(
                    _arena(
                        host_memory_bytes,
                        pinned=device.type == "cuda",
                        warn=functools.partial(self._journal.note, logging.WARNING),
                    )
                )
            self.disk = None if disk is None else _disk(self, *disk)
            self._engine, self._codec = _engine(self, device, codec)
            holdings.record(self._engine).start()
            self._hands = holdings.record(Hands("djinn-signals"))
            self._hands.start()
            model_storages = self._hands.do(lambda: frozenset(one._cdata for one in storages_of_model(model)))
            self._scanner = StateScanner(device, KvLayers(found), model_storages)
            self._at_exit = functools.partial(_leave, weakref.ref(self))
            holdings.undo(functools.partial(atexit.unregister, self._at_exit))
            atexit.register(self._at_exit)
            holdings.complete = True
        except BaseException:
            holdings.give_back()
            raise

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the decoder layers 1 .. N in order: their paths in the model."""
        return self._layers

    @property
    def attentive(self) -> float | None:
        """The seconds between two beats that were asked for; None for no beat."""
        return self._attention.seconds

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions that are not closed, in the order of :meth:`open`; also those whose names are lost."""
        return tuple(session for session in list(self._sessions.values()) if session._phase is not Phase.CLOSED)

    def open(
        self,
        *,
        breakpoint: int | None = None,
        visit: int = 1,
        adopt: Sequence[object] = (),
        durable: bool = False,
    ) -> Session:
        """Open a session that parks after decoder layer ``breakpoint`` (1 .. N), at hit count ``visit``.

        In ``model.generate`` with a KV cache, hit count 1 is the prefill and hit count k the (k-1)-th decode step.
        Without a breakpoint it runs until :meth:`djinn.Session.pause`. Raises :class:`IllegalMove` if the runtime is
        closed, and :class:`djinn.DjinnError` in a fork of its process.

        Objects of the caller stay on the device, for he may read them at any time. The session takes those that it may
        ``adopt``: transformers caches, lists and dicts of tensors. Between the program's start and end they are the
        session's. While one of their tensors is in host memory, every use of it raises :class:`IllegalMove`. RESUME
        puts the very tensors back before the program goes on, and :meth:`djinn.Session.close` before it unwinds. A
        tensor to which the caller has a reference of his own stays. Raises ``TypeError`` for anything else,
        :class:`IllegalMove` if a session that has not ended has adopted the same.

        A ``durable`` session can be saved to a file and forked, see :meth:`djinn.Session.save` and
        :meth:`djinn.Session.fork`. For that all that the model returns is kept in host memory too (64 KB for a decode
        step with 32,000 words), and digests are taken.
        """
        if breakpoint is not None:
            breakpoint, visit = check_breakpoint(breakpoint, visit, self.depth)
        else:
            check_visit(visit)
        return self._open((breakpoint, visit), adopt, Tape(self._device, self._print_of_model) if durable else None)

    def _open(self, breakpoint: tuple[int | None, int], adopt: Sequence[object], tape: Tape | None) -> Session:
        self._check_process()
        self._check_open()
        self._interceptors.check()
        number = next(self._numbers)
        session = Session(
            number,
            breakpoint=breakpoint,
            adopt=adopt,
            living=self._adopted,
            depth=self.depth,
            device=self._device,
            interceptors=self._interceptors,
            engine=self._engine,
            hands=self._hands,
            scanner=self._scanner,
            device_lock=self._device_lock,
            around_turn=self._around_turn,
            journal=self._journal,
            attributes=self._attributes,
            keep=self._keep,
            keep_budget=self._keep_budget,
            lead=self._lead,
            attend=self._attention.attend,
            tape=tape,
            saving=None if tape is None else self._saved_by(),
        )
        self._sessions[number] = session
        if self._closed:  # meanwhile; close() may not have seen this session
            self._sessions.pop(number, None)
        self._check_open()
        for closed in [one for one, other in list(self._sessions.items()) if other.phase is Phase.CLOSED]:
            self._sessions.pop(closed, None)
        return session

    @functools.cached_property
    def _print_of_model(self) -> Callable[[], dict[str, str]]:
        return ModelPrint(self._model).take

    def _saved_by(self) -> Hands:
        """Return the thread that writes and reads files; it is started for the first durable session."""
        if self._saving is None:
            hands = self._holdings.record(Hands("djinn-saves"))
            hands.start()
            self._saving = hands
        return self._saving

    def restore(
        self,
        path: "str | os.PathLike[str]",
        program: Callable[..., Any],
        /,
        *args: Any,
        adopt: Sequence[object] = (),
        allow_other: bool = False,
        **kwargs: Any,
    ) -> Session:
        """Restore a session that :meth:`djinn.Session.save` has written to ``path``; return it, parked as it was.

        ``program`` and its arguments are given anew, and must be the same: it runs again up to its breakpoint, and what
        it does beside calling the model happens again. The model answers from the file, and decoder layers do not run.
        Where that is not possible, or does not fit, all is computed again and compared (``docs/durable.md``).

        What the program may ``adopt`` is given anew too, see :meth:`open`.

        Raises :class:`djinn.NotRestored`, which names what differs: the file, the model's contents, the machine, the
        arguments, or what the program does. A session that was going on is not touched by that. Another GPU, driver or
        version is accepted with ``allow_other``: results then may differ in their last bits. Raises
        ``OSError`` if the file cannot be read, such as ``FileNotFoundError``, and :class:`djinn.DeviceMemoryFull` if
        the program finds no room on the device. Raises :class:`djinn.SessionCancelled` if somebody cancels it on its
        way, and :class:`IllegalMove` in a program that holds the device.
        """
        self._check_process()
        self._check_open()
        check_program(program)
        refuse_holder(self._device_lock, "restore")
        file = Path(path).absolute()
        try:
            return self._restore(file, (program, args, kwargs), adopt, allow_other)
        except NotRestored as error:
            raise NotRestored(f"{file}: {error}") from error.__cause__

    def _restore(self, file: Path, call: Call, adopt: Sequence[object], allow_other: bool) -> Session:
        saved = self._saved_by().do(functools.partial(_read, file, self._device, allow_other))
        program, args, kwargs = call

        def lead(session: Session) -> Session:
            return session._replay(functools.partial(session.start, program, *args, **kwargs))

        return self._lead(saved.layer, saved.recording, adopt, lead)

    def _lead(
        self, layer: int, recording: Recording, adopt: Sequence[object], lead: Callable[[Session], Session]
    ) -> Session:
        """Open a session, ``lead`` it by the ``recording`` to ``layer``, and return it; by computing if need be."""

        def led(*, computing: bool) -> Session:
            tape = Replay(self._device, self._print_of_model, recording, computing=computing)
            try:
                return lead(self._open((layer, recording.calls[layer]), adopt, tape))
            except BaseException:
                for session in list(self._sessions.values()):  # an interrupt may have come before anybody had its name
                    if session._tape is tape:
                        session.close()
                raise

        try:
            if recording.only_by_computing or self._interceptors.layers_noticed_by():
                return led(computing=True)
            try:
                return led(computing=False)
            except NotRestored as error:
                first = str(error)
            try:
                return led(computing=True)
            except NotRestored as error:
                words = first if str(error) == first else f"{first}; and all computed again, {error}"
                raise NotRestored(words) from error
        finally:
            recording.state.clear()  # an error that somebody keeps leads here

    def save_all(
        self,
        folder: "str | os.PathLike[str]",
        *,
        names: Mapping[Session, str] | None = None,
        within: float | None = None,
    ) -> list[Saved]:
        """Save every durable session that has not ended to ``folder/NAME.djinn``, within ``within`` seconds.

        Its name is its number, or what ``names`` says. Programs that compute are paused first. The session that was
        touched last is saved last. Returns a line for each session: its file, or why there is none, such as no time
        left. A save that has begun is not cut off; whether there is time for one is judged by those before. Raises
        ``NotADirectoryError`` if there is no such folder.
        """
        check_timeout(within)
        self._check_process()
        self._check_open()
        target = Path(folder)
        if not target.is_dir():
            raise NotADirectoryError(f"there is no folder {target} to save in: make it first")
        return save_all(self.sessions, target, names or {}, within)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise DjinnError(f"this runtime lives in process {self._process}; a fork cannot use it")

    def _check_open(self) -> None:
        if self._holdings.returned:
            raise IllegalMove("the runtime is closed: make another one for its model")
        if self._closed:
            raise IllegalMove(f"the runtime is being closed, and {self._not_ended}: close() it again")

    @property
    def _not_ended(self) -> str:
        number = len(self.sessions)
        return f"{counted(number, 'session')} {'has' if number == 1 else 'have'} not ended"

    def status(self) -> StatusTable:
        """Return the phase, layer and bytes of every session that is not closed."""
        rows = (
            Status(
                number=session.number,
                phase=session.phase,
                layer=session.layer if session.phase in PARKED else None,
                device_bytes=session.device_bytes,
                host_bytes=session.host_bytes,
                disk_bytes=session.disk_bytes,
                left_bytes=session.left_bytes,
                recorded_bytes=session.recorded_bytes,
                age_seconds=session.age_seconds,
                doing=session.doing,
                was_cancelled=session._was_cancelled,
            )
            for session in self.sessions
            if session.phase is not Phase.CLOSED
        )
        recorded = {id(kept): kept for session in self.sessions for kept in session._recorded_storages}
        arena, disk = self.arena, self.disk
        return StatusTable(
            rows,
            arena_ready_bytes=arena.ready_bytes,  # first: a refusal makes the whole as small as this
            arena_bytes=arena.nbytes,
            set_aside_bytes=arena.set_aside_bytes,
            beat=self._attention.said,
            codec=self._codec,
            codec_bytes=self._engine.codec_bytes,
            recorded_bytes=sum(kept.raw.numel() for kept in recorded.values()),
            disk_folder=None if disk is None else disk.folder,
            disk_bytes=0 if disk is None else disk.used_bytes,
            disk_free_bytes=0 if disk is None else disk.free_bytes,
        )

    def wait_any(self, sessions: Iterable[Session] | None = None, timeout: float | None = None) -> Session | None:
        """Block until one of ``sessions`` has parked or ended; return that, or None after ``timeout`` seconds.

        By default these are all sessions of the runtime that compute, or that have parked or ended when nobody waited.
        So each stop is returned once. Of several the one that has stopped longest ago is returned. Raises
        :class:`IllegalMove` if there is nothing to wait for, or in a program that holds the device.
        """
        check_timeout(timeout)
        self._check_open()
        if sessions is None:
            watched = [session for session in list(self._sessions.values()) if session._is_news]
        else:
            watched = _started(sessions)
        if not watched:
            raise IllegalMove("there is nothing to wait for: start() or resume() a session first")
        wait_for_any((one._changed for one in watched), lambda: any(one._rests() for one in watched), timeout)
        resting = [session for session in watched if session._rests()]
        if not resting:
            return None
        first = max(resting, key=lambda session: session.age_seconds)
        first._told_phase()
        return first

    def make_room(self, nbytes: int) -> int:
        """Swap out sessions in IO_WAIT until ``nbytes`` of device memory are freed; return the bytes freed.

        The session that has waited longest leaves first. Less is freed if there is no more, or if the host arena is
        full, and the disk if there is one. Waits while the arena has no room yet and still grows. Raises ``ValueError``
        for a negative number.
        """
        return self._make_room(check_bytes("nbytes", nbytes, least=0))

    def _make_room(self, nbytes: int, *, sparing: int | None = None) -> int:
        """Do what :meth:`make_room` does, but spare session ``sparing``, which needs the room."""
        if self._lost:
            return 0  # all sessions are being ended, and the runtime's thread waits for them
        return self._evict(lambda freed: evictions(self._idle(sparing), nbytes - freed))

    def _keep_budget(self) -> None:
        budget = self._idle_device_bytes
        if budget is not None:
            self._evict(lambda freed: over_budget(self._idle(), budget))

    def _evict(self, choose: Callable[[int], Sequence[Eviction]]) -> int:
        """Carry out what ``choose(bytes freed so far)`` chooses, as the arena gets room; return the bytes freed."""
        freed: int = 0
        get_room: Callable[[None], object] | None
        while True:
            done, get_room = self._hands.do(functools.partial(self._carry_out, functools.partial(choose, freed)))
            freed += done
            if get_room is None:
                return freed
            try:
                get_room(None)
            except HostMemoryFull:
                return freed

    def _idle(self, sparing: int | None = None) -> list[EvictionCandidate]:
        sessions = [session for session in list(self._sessions.values()) if session.number != sparing]
        return [idle for session in sessions if (idle := session._idle()) is not None]

    def _carry_out(self, choose: Callable[[], Sequence[Eviction]]) -> tuple[int, Callable[[None], object] | None]:
        """Return the bytes freed, and what waits for room in the arena if that was too small and will have some."""
        freed, get_room = 0, None
        for eviction in choose():  # only this thread evicts and closes: every candidate is still there
            try:
                freed += self._sessions[eviction.session]._evict(eviction.keep)
            except NotYet as early:
                get_room = early.wait  # not the error, whose traceback holds the session's state
        return freed, get_room

    def close(self, timeout: float | None = None) -> None:
        """Close every session, remove the interceptors from the model and free the host memory; can be called again.

        Programs that have not ended are cancelled and waited for. Raises ``TimeoutError`` after ``timeout`` seconds
        for all of them together. After that, or an interrupt, the other programs are cancelled too, and no session can
        be opened: call it again.
        """
        check_timeout(timeout)
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        for session in list(self._sessions.values()):
            session._check_may_wait()  # before anything is cancelled
        self._closed = True
        sessions = list(self._sessions.values())
        for session in sessions:
            if session.phase not in (Phase.CREATED, Phase.CLOSED):
                # All of them first: one may wait for another, which holds the device lock.
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                with suppress(TimeoutError):  # it is cancelled later, and its close says so
                    session._serve(session._cancel, left)
        for session in sessions:
            session._close_by(deadline, timeout)
        self._holdings.give_back()
        self.arena.check_integrity()
        if self.disk is not None:
            self.disk.check_integrity()

    def __del__(self) -> None:
        """Give back what is held by a runtime that nobody can reach any more, nor any of its sessions."""
        holdings: Holdings | None = vars(self).get("_holdings")
        if holdings is None or holdings.returned or sys.is_finalizing() or self._process != os.getpid():
            return
        if not holdings.complete:
            holdings.give_back()  # for a constructor that failed, and was interrupted in doing so
            return
        if holdings.returning:  # by a close that was interrupted, and may have ended the runtime's thread
            _thread.start_new_thread(holdings.give_back, ())
            return
        self._lost = True
        if all(session._at_rest for session in self._sessions.values()):
            self._interceptors.take_off()
        # The rest waits for other threads, as nothing may in the middle of a garbage collection.
        self._hands.posting(self._end_lost)()

    def _end_lost(self) -> None:
        try:
            for session in self._sessions.values():
                session._give_up()
            for session in self._sessions.values():
                session._close()
        finally:
            self._holdings.give_back()

    def _leave(self) -> None:
        """Stop the programs when the interpreter ends: a thread that computes on would crash the process."""
        if self._process != os.getpid():
            return
        deadline = time.monotonic() + EXIT_SECONDS
        sessions = list(self._sessions.values())
        for session in sessions:
            session._leave()
        for session in sessions:
            session._wait_left(max(deadline - time.monotonic(), 0))
        self._hands.drain(EXIT_SECONDS)
        self._engine.drain(EXIT_SECONDS)
        if self.disk is not None:
            self.disk.leave(EXIT_SECONDS)
        self._journal.drain(EXIT_SECONDS)

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if self._process != os.getpid():
            return self._interceptors.take_off()  # a fork has nothing else to give back
        return end_block(self.close, error)

    def __reduce__(self) -> NoReturn:
        # The end of a copy would take the interceptors off the model.
        raise TypeError("a runtime cannot be copied or pickled: make one where it is needed")

    def __repr__(self) -> str:
        if self._holdings.returned:
            return f"<Runtime of {type(self._model).__name__}: closed>"
        if self._closed:
            return f"<Runtime of {type(self._model).__name__}: being closed, {self._not_ended}>"
        sessions = self.sessions
        used = sum(session.host_bytes for session in sessions)
        beat = f", {self._attention.said}" if self._attention.said else ""
        memory = f"{mebibytes(used)} of {mebibytes(self.arena.nbytes)} of host memory in use"
        if self.disk is not None:
            memory += f", {mebibytes(self.disk.used_bytes)} on the disk"
        counts = f"{counted(self.depth, 'layer')}, {counted(len(sessions), 'session')}"
        return f"<Runtime of {type(self._model).__name__}: {counts}, {memory}{beat}>"


def _read(path: Path, device: torch.device, allow_other: bool) -> document.SavedSession:
    """Read the session in the file at ``path``, and check that its machine is this one."""
    saved = document.read(*session_file.read(path))
    if not allow_other:
        check_machine(saved.machine, machine_of(device))
    return saved


def _started(sessions: Iterable[Session]) -> list[Session]:
    """Return those of ``sessions`` that were started and are not closed. Raises ``TypeError`` for anything else."""
    if not isinstance(sessions, Iterable):
        raise TypeError(f"wait_any() takes several sessions, not {type(sessions).__name__}: pass them in a list")
    given = list(sessions)
    for session in given:
        if not isinstance(session, Session):
            raise TypeError(f"wait_any() waits for sessions, not for {type(session).__name__}: pass what open() made")
    return [session for session in given if session.phase not in (Phase.CREATED, Phase.CLOSED)]


def _engine(runtime: Runtime, device: torch.device, codec: Codec) -> tuple[TransferEngine, str]:
    """Make the engine of ``runtime``, and return what to say of its codec.

    A parked program's thread has the engine, and must not keep the runtime alive.
    """
    blas_memory.keep_small(device)  # before a program's thread makes a product
    link = link_of(device)
    coding, said = (None, "") if codec == "raw" else coding_of(device, link)
    make_room = functools.partial(_make_room, weakref.ref(runtime))
    arena, journal, disk = runtime.arena, runtime._journal, runtime.disk
    return TransferEngine(link, arena, journal, make_room=make_room, disk=disk, coding=coding), said


def _disk(runtime: Runtime, folder: Path, nbytes: int | None) -> DiskTier:
    residents = functools.partial(_residents, weakref.ref(runtime))
    attend = runtime._attention.attend
    tier = DiskTier(folder, nbytes, runtime.arena, runtime._journal, residents=residents, arrived=attend)
    runtime._holdings.record(tier).start()
    return tier


def _residents(runtime: weakref.ref[Runtime]) -> list[Residency]:
    alive = runtime()
    return [] if alive is None else [session._residency for session in list(alive._sessions.values())]


def _make_room(runtime: weakref.ref[Runtime], nbytes: int, session: int) -> int:
    alive = runtime()
    return 0 if alive is None else alive._make_room(nbytes, sparing=session)


def _leave(runtime: weakref.ref[Runtime]) -> None:
    if (alive := runtime()) is not None:
        alive._leave()


def _waits_in_host_memory(runtime: weakref.ref[Runtime]) -> bool:
    alive = runtime()
    return alive is not None and any(session._waits_in_host_memory for session in list(alive._sessions.values()))


def _arena(nbytes: int | None, *, pinned: bool, warn: Callable[..., None]) -> HostArena:
    """Make an arena of ``nbytes``, or of half the free memory; of the memory-lock limit if no more can be pinned."""
    if nbytes is not None:
        return HostArena(nbytes, pinned=pinned, warn=warn)
    half, limit = available_bytes() // 2, memory_lock_limit()
    try:
        return HostArena(half, pinned=pinned, warn=warn)
    except HostMemoryFull:
        if not pinned or not limit or limit >= half:
            raise
        return HostArena(limit, pinned=pinned, warn=warn)
