"""One session: a program on its own thread, parked by a hook after a layer and sent on by RESUME.

The program's Python stack stays alive while it is parked, so neither the model's code nor the call has to change. The
thread that signals (IO_WAIT, RESUME) does the copying; the session's own thread only waits and computes, one session at
a time per device.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from djinn.caller import Surroundings, Turn
from djinn.core import (
    DeviceMemoryFull,
    DjinnError,
    HostMemoryFull,
    IllegalMove,
    Phase,
    SessionAbandoned,
    SessionCancelled,
    move,
)
from djinn.discovery import Discovery
from djinn.forward import LayerHooks
from djinn.gates import GapGate, tensors_in
from djinn.policy import Idle
from djinn.state import SessionState, StateStorage
from djinn.state_view import StateView
from djinn.transfer import SwappedState, TransferEngine, raw_bytes

_PARKED = (Phase.PAUSED, Phase.IO_WAIT)


class Session:
    """Made by :meth:`djinn.Runtime.open`; every method may be called from any thread.

    A program parks after decoder layer L (1 .. N), the ``visit``-th time that it gets there from now on, or at the next
    layer after :meth:`pause`.
    """

    def __init__(
        self,
        number: int,
        *,
        depth: int,
        hooks: LayerHooks,
        engine: TransferEngine,
        discovery: Discovery,
        turn: Turn,
        make_room: Callable[[int], int],
        keep_budget: Callable[[], None],
    ) -> None:
        self.number = number
        self.breakpoint: int | None = None
        self.layer: int | None = None  # after which it is parked
        self._depth = depth
        self._hooks = hooks
        self._engine = engine
        self._discovery = discovery
        self._turn = turn
        self._make_room = make_room
        self._keep_budget = keep_budget
        self._process = os.getpid()
        self._phase = Phase.CREATED
        self._since = time.monotonic()
        self._changed = threading.Condition()
        self._signals = threading.RLock()  # one signal at a time
        self._visits_left = 0
        self._pause_asked = False
        self._abandoned = False
        self._resuming = False
        self._wake = threading.Lock()  # a bare lock: an Event costs its waiter twice the time to go on
        self._wake.acquire()
        self._thread: threading.Thread | None = None
        self._surroundings: Surroundings | None = None
        self._stream: torch.cuda.Stream | None = None  # on which the program computes
        self._random_state: list[torch.Tensor] = []
        self._program: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._state: SessionState | None = None  # while parked
        self._swapped: SwappedState | None = None  # what is in host memory; after RESUME, on its way back
        self._restoring: SwappedState | None = None  # the same after RESUME, until the program's stream waits for all
        self._gap = GapGate(self._wait_for)

    # -- what a caller does ------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the session stands now."""
        return self._phase

    @property
    def age_seconds(self) -> float:
        """Since it entered this phase."""
        return time.monotonic() - self._since

    def break_at(self, layer: int, *, visit: int = 1) -> "Session":
        """Park next after decoder layer ``layer`` (1 .. N), the ``visit``-th time from now that the program gets there.

        Replaces a breakpoint that is still to come; for a session that is parked or not yet started. Raises
        ``ValueError`` for a layer that the model lacks, :class:`IllegalMove` while the program computes or has ended.
        """
        if not 1 <= layer <= self._depth:
            raise ValueError(f"breakpoint {layer} is not a layer of this model: 1 to {self._depth}")
        if visit < 1:
            raise ValueError(f"visit {visit}: the first time is visit 1")
        with self._signal():
            if self._phase is not Phase.CREATED:
                self._check_parked("a breakpoint can be set")
            self.breakpoint, self._visits_left = layer, visit
        return self

    def start(self, program: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Session":
        """Run ``program(*args, **kwargs)`` on the session's thread until it ends or parks; returns at once.

        The thread computes as the caller would: same CUDA stream, grad and inference mode, autocast, default device,
        context variables and random state.
        """
        with self._signal():
            if self._phase is not Phase.CREATED:
                raise IllegalMove(f"a session is started once; this one is {self._phase.value}")
            self._program = (program, args, kwargs)
            self._surroundings = Surroundings(self._engine.device)
            self._random_state = self._turn.random_state()
            self._thread = threading.Thread(
                target=self._surroundings.context.run, args=(self._run,), name=f"djinn-{self.number}", daemon=True
            )
            self._move(Phase.RUNNING)
            self._thread.start()
        return self

    def pause(self) -> None:
        """Park after the layer that the program is in, or the next one; returns at once, :meth:`wait` waits for it.

        Raises :class:`IllegalMove` unless the program computes.
        """
        with self._signal():
            if self._phase is not Phase.RUNNING:
                raise IllegalMove(f"a session that is {self._phase.value} cannot be paused")
            self._pause_asked = True

    def wait(self, timeout: float | None = None) -> Phase:
        """Block until the session parks or ends, at most ``timeout`` seconds; returns the phase it is in.

        FINISHED means that the program ended without reaching its breakpoint.
        """
        self._check_process()
        with self._changed:
            self._changed.wait_for(lambda: self._phase is not Phase.RUNNING, timeout)
            return self._phase

    @property
    def state(self) -> StateView:
        """The state of the parked session by name, to read or edit.

        ``hidden_states`` is what layer L returned, ``kv.J.*`` the KV cache of decoder layer J; arguments of the layer
        go by their names (``position_embeddings.0``), other live tensors by function and local variable. Raises
        :class:`IllegalMove` unless the session is parked.
        """
        with self._signal():
            state = self._check_parked("the state can be read")
            assert self.layer is not None

            def bytes_of(item: StateStorage) -> torch.Tensor:
                with self._signal():
                    if self._state is not state:
                        raise IllegalMove("this view of the state is void: the session has gone on")
                    return self._bytes_of(item)

            return StateView(state.storages, breakpoint=self.layer, bytes_of=bytes_of)

    def _bytes_of(self, item: StateStorage) -> torch.Tensor:
        if self._phase is Phase.PAUSED:
            return raw_bytes(item.storage)
        self._swap_out()  # during IO_WAIT state may leave the device at any time: a tensor of it must be the host's
        assert self._swapped is not None
        return next(entry.host for entry in self._swapped.entries if entry.item is item)

    @property
    def frontier(self) -> dict[str, Callable[[], torch.Tensor]]:
        """What layer L+1 reads, by name: functions that give it as the device holds it when they are called.

        For checkers, who call them when RESUME has returned. Raises :class:`IllegalMove` unless the session is parked.
        """
        with self._signal():
            items = self._check_parked("the frontier can be read").frontier
            return {
                item.views[0].name: lambda item=item: item.views[0].over(raw_bytes(item.storage))  # type: ignore[misc]
                for item in items
            }

    @property
    def storage_sizes(self) -> list[int]:
        """Bytes of each storage of the parked session, in the order of need; their sum is the session state."""
        return [item.nbytes for item in self._state.storages] if self._state is not None else []

    @property
    def host_bytes(self) -> int:
        """Bytes of its state in host memory."""
        swapped = self._swapped
        return swapped.nbytes if swapped is not None else 0

    @property
    def device_bytes(self) -> int:
        """Bytes of its state on the device, while parked."""
        state = self._state
        return sum(item.storage.nbytes() for item in state.storages) if state is not None else 0

    def io_wait(self, *, force: bool = True) -> None:
        """IO_WAIT: swap the parked session out; returns when its device memory is free.

        Without ``force`` the state stays on the device until the memory is wanted, so that an early RESUME costs
        nothing. Raises :class:`IllegalMove` unless PAUSED, :class:`djinn.HostMemoryFull` (and stays PAUSED) if the
        arena has no room.
        """
        with self._signal():
            if self._phase is not Phase.PAUSED:
                self._check_parked("IO_WAIT is possible")
                move(self._phase, Phase.IO_WAIT)
            if force:
                self._swap_out()
            self._move(Phase.IO_WAIT)
        if not force:
            self._keep_budget()

    def resume(self) -> None:
        """RESUME: returns when the device holds what layer L+1 needs; the program is on its way by then.

        The rest of the state follows behind the running computation, which waits for exactly what it reads. State of
        other sessions in IO_WAIT leaves the device if there is no room. Raises :class:`IllegalMove` unless parked,
        :class:`djinn.DeviceMemoryFull` (state intact on the host, can be retried).
        """
        self._check_process()
        with self._signals:
            self._check_parked("RESUME is possible")
            if self._swapped is not None:
                self._restore(self._swapped)
                return
            if self._stream is not None:
                self._stream.synchronize()
                torch.cuda.current_stream(self._engine.device).synchronize()  # where the caller may have edited
            self._go()
            self._wake.release()

    def _restore(self, swapped: SwappedState) -> None:
        self._resuming = True  # what it still has on the device is not to leave now
        try:
            while True:
                try:
                    return self._engine.swap_in(swapped, self._stream, go=self._go, wake=self._wake.release)
                except DeviceMemoryFull:
                    if not self._make_room(swapped.nbytes):
                        raise
        finally:
            self._resuming = False

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block until all state of the last RESUME is on the device; False after ``timeout`` seconds."""
        swapped = self._swapped
        return swapped is None or swapped.wait_resident(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """What the program returned; raises what it raised, and ``TimeoutError`` after ``timeout`` seconds.

        Raises :class:`IllegalMove` if the session is parked, or parks before its end: it would never come to it; and
        :class:`SessionCancelled` if it was cancelled or closed.
        """
        phase = self.wait(timeout)
        if phase is Phase.FINISHED:
            return self._value
        if phase is Phase.FAILED and self._error is not None:
            raise self._error
        if phase is Phase.CLOSED:
            raise SessionCancelled("the session is closed")
        if phase is Phase.RUNNING:
            raise TimeoutError(f"the program has not ended after {timeout} seconds")
        raise IllegalMove(f"a session that is {phase.value} has no result yet")

    def cancel(self) -> None:
        """Unwind the program by an exception where it is parked or at its next layer; returns at once.

        Its ``finally`` blocks run; they must not touch state that was swapped out, which is gone. A program that has
        ended stays as it is. Raises :class:`IllegalMove` for a session that was never started.
        """
        with self._signal():
            if self._phase is Phase.CREATED:
                raise IllegalMove("a session that was never started cannot be cancelled")
            self._abandon()

    def close(self, timeout: float | None = None) -> None:
        """End the session wherever it stands and give back what it holds; a second call does nothing.

        A program that has not ended is cancelled and waited for: ``TimeoutError`` if it has not come to its next layer
        after ``timeout`` seconds.
        """
        with self._signal():
            if self._phase is Phase.CLOSED:
                return
            if self._thread is threading.current_thread():
                raise IllegalMove("a session cannot be closed by its own program")
            self._abandon()
            if self._thread is not None:
                self._thread.join(timeout)
                if self._thread.is_alive():
                    raise TimeoutError(f"the program has not come to its next layer after {timeout} seconds")
            if self._swapped is not None:
                self._swapped.wait_settled()
            self._state = self._swapped = self._restoring = self._value = self._error = None
            self._move(Phase.CLOSED)

    # -- what the runtime does ---------------------------------------------------------------------------------------

    def idle(self) -> Idle | None:
        """Its state on the device, if that may leave."""
        state = self._state
        if self._phase is not Phase.IO_WAIT or state is None or self._resuming:
            return None
        sizes = tuple(item.nbytes for item in self._on_device(state))
        return Idle(session=self.number, parked_at=self._since, sizes=sizes) if sizes else None

    def evict(self, keep: int) -> int:
        """Swap out what lies on the device, but for the first ``keep`` storages; the bytes that were freed.

        0 if another signal is being served or the host arena is full.
        """
        if not self._signals.acquire(blocking=False):  # two sessions that resume must not wait for each other
            return 0
        try:
            before = self.host_bytes
            if self._phase is Phase.IO_WAIT:
                self._swap_out(keep)
            return self.host_bytes - before
        except HostMemoryFull:
            return 0
        finally:
            self._signals.release()

    # -- helpers of both ----------------------------------------------------------------------------------------------

    @contextmanager
    def _signal(self) -> Iterator[None]:
        self._check_process()
        with self._signals:
            yield

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise DjinnError(
                f"this session lives in process {self._process}; a fork has neither its thread nor its state"
            )

    def _check_parked(self, what: str) -> SessionState:
        if self._phase not in _PARKED or self._state is None:
            missed = ""
            if self._phase is Phase.FINISHED and self._visits_left > 0:
                missed = f": it never came to its breakpoint, layer {self.breakpoint}"
            raise IllegalMove(
                f"{what} while a session is parked; this one is {self._phase.value}{missed}"
            ) from self._error
        return self._state

    def _on_device(self, state: SessionState) -> list[StateStorage]:
        swapped = {id(entry.item) for entry in self._swapped.entries} if self._swapped is not None else ()
        return [item for item in state.storages if id(item) not in swapped]

    def _swap_out(self, keep: int = 0) -> None:
        assert self._state is not None
        leaving = self._on_device(self._state)[keep:]
        if leaving:
            earlier = self._swapped.entries if self._swapped is not None else ()
            self._swapped = SwappedState([*earlier, *self._engine.swap_out(leaving, self._stream)])

    def _go(self) -> None:
        self._restoring = self._swapped
        self._state = None
        self._move(Phase.RUNNING)

    def _abandon(self) -> None:
        self._abandoned = True
        if self._phase in _PARKED:
            if self._swapped is not None:
                self._engine.release(self._swapped.entries)
                self._swapped.settle()
            self._swapped = None
            self._go()
            self._wake.release()

    def _move(self, target: Phase) -> None:
        with self._changed:
            self._phase = move(self._phase, target)
            self._since = time.monotonic()
            self._changed.notify_all()

    # -- on the session's own thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._program is not None
        assert self._surroundings is not None
        program, args, kwargs = self._program
        try:
            self._turn.take(self._random_state)
            self._hooks.attach(self)
            try:
                with self._surroundings.entered():
                    self._value = program(*args, **kwargs)
                    self.leave_model()
            finally:
                self._gap.exit()
                self._hooks.detach()
                self._turn.give_up()
        except SessionAbandoned:
            self._end(SessionCancelled("the session was cancelled"))
        except BaseException as error:  # noqa: BLE001 - whatever the program raises belongs to result()
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._program = None
        self._move(Phase.FINISHED if error is None else Phase.FAILED)

    def enter_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the layer's kernels wait for what it reads: its arguments and its own KV."""
        if self._abandoned:
            raise SessionAbandoned
        if self._restoring is not None:
            self._gap.exit()
            self._wait_for(tensors_in((args, kwargs)))
            self._restoring.wait_layer(layer)

    def leave_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """Park if this is the breakpoint; while state is still on its way, watch what runs between the layers."""
        if self._abandoned:
            raise SessionAbandoned
        self._visits_left -= layer == self.breakpoint
        if self._pause_asked or (layer == self.breakpoint and self._visits_left == 0):
            self._park(layer, args, kwargs, output)
        if self._restoring is None:
            self._gap.exit()
        elif self._restoring.resident or not self._gap.enter():
            self.leave_model()

    def leave_model(self) -> None:
        """Nothing runs past the end of a forward pass before all state is back."""
        self._gap.exit()
        if self._restoring is not None:
            self._restoring.wait_all()
            self._restoring = None

    def _wait_for(self, tensors: Iterable[torch.Tensor]) -> None:
        if self._restoring is not None:
            for tensor in tensors:
                if type(tensor) is torch.Tensor:
                    self._restoring.wait(tensor.untyped_storage()._cdata)

    def _park(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        self.leave_model()
        self.wait_resident()
        self._state = self._discovery.state_at(
            layer, args=args, kwargs=kwargs, output=output, outermost=Session._run.__code__, caller=self._program
        )
        self.layer = layer
        self._swapped = None
        self._pause_asked = False
        if self._engine.device.type == "cuda":
            self._stream = torch.cuda.current_stream(self._engine.device)
        self._gap.enter()  # now, when nobody waits for it
        self._random_state = self._turn.give_up()
        self._move(Phase.PAUSED)
        self._wake.acquire()
        if self._restoring is not None:
            self._restoring.hold()
        self._turn.take(self._random_state)
        if self._abandoned:
            raise SessionAbandoned
        if self._restoring is not None:
            self._restoring.order()
