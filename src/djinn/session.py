"""One session as its caller sees it: a program, where it stands, its state, and the signals that move it.

The program's Python stack stays alive while it is parked (``program``), so neither the model's code nor the call has to
change. The thread that signals (IO_WAIT, RESUME) does the copying.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from djinn.caller import Turn
from djinn.core import (
    DjinnError,
    HostMemoryFull,
    IllegalMove,
    Phase,
    SessionCancelled,
    move,
)
from djinn.discovery import Discovery
from djinn.forward import Watches
from djinn.placement import Placement
from djinn.policy import Idle
from djinn.program import Program
from djinn.state import SessionState, StateStorage
from djinn.state_view import StateView
from djinn.swapped import raw_bytes
from djinn.transfer import TransferEngine

_PARKED = (Phase.PAUSED, Phase.IO_WAIT)


def _as_the_device_holds_it(item: StateStorage) -> torch.Tensor:
    return item.views[0].over(raw_bytes(item.storage))


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
        watches: Watches,
        engine: TransferEngine,
        discovery: Discovery,
        turn: Turn,
        make_room: Callable[[int], int],
        keep_budget: Callable[[], None],
    ) -> None:
        self.number = number
        self.layer: int | None = None  # after which it is parked
        self._depth = depth
        self._watches = watches
        self._device = engine.device
        self._discovery = discovery
        self._turn = turn
        self._keep_budget = keep_budget
        self._process = os.getpid()
        self._phase = Phase.CREATED
        self._since = time.monotonic()
        self._changed = threading.Condition()
        self._signals = threading.RLock()  # one signal at a time
        self._breakpoint: tuple[int | None, int] = (None, 1)  # layer and visit, until the program is there to be told
        self._program: Program | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._placement = Placement(engine, make_room)

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
            self._breakpoint = layer, visit
            if self._program is not None:
                self._program.break_at(layer, visit)
        return self

    def start(self, program: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Session":
        """Run ``program(*args, **kwargs)`` on the session's thread until it ends or parks; returns at once.

        The thread computes as the caller would: same CUDA stream, grad and inference mode, autocast, default device,
        context variables and random state.
        """
        with self._signal():
            if self._phase is not Phase.CREATED:
                raise IllegalMove(f"a session is started once; this one is {self._phase.value}")
            self._program = Program(
                (program, args, kwargs),
                name=f"djinn-{self.number}",
                device=self._device,
                watches=self._watches,
                discovery=self._discovery,
                turn=self._turn,
                parked=self._parked,
                ended=self._ended,
            )
            self._program.break_at(*self._breakpoint)
            self._move(Phase.RUNNING)
            self._program.start()
        return self

    def pause(self) -> None:
        """Park after the layer that the program is in, or the next one; returns at once, :meth:`wait` waits for it.

        Raises :class:`IllegalMove` unless the program computes.
        """
        with self._signal():
            if self._phase is not Phase.RUNNING or self._program is None:
                raise IllegalMove(f"a session that is {self._phase.value} cannot be paused")
            self._program.pause_asked = True

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
                    if self._placement.state is not state:
                        raise IllegalMove("this view of the state is void: the session has gone on")
                    return self._bytes_of(item)

            return StateView(state.storages, breakpoint=self.layer, bytes_of=bytes_of)

    def _bytes_of(self, item: StateStorage) -> torch.Tensor:
        if self._phase is Phase.IO_WAIT:
            self._swap_out()  # state may leave the device at any time: a tensor of it must be the host's
        return self._placement.bytes_of(item)

    @property
    def frontier(self) -> dict[str, Callable[[], torch.Tensor]]:
        """What layer L+1 reads, by name: functions that give it as the device holds it when they are called.

        For checkers, who call them when RESUME has returned. Raises :class:`IllegalMove` unless the session is parked.
        """
        with self._signal():
            items = self._check_parked("the frontier can be read").frontier
            return {item.views[0].name: functools.partial(_as_the_device_holds_it, item) for item in items}

    @property
    def storage_sizes(self) -> list[int]:
        """Bytes of each storage of the parked session, in the order of need; their sum is the session state."""
        return self._placement.sizes

    @property
    def host_bytes(self) -> int:
        """Bytes of its state in host memory."""
        return self._placement.host_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes of its state on the device, while parked."""
        return self._placement.device_bytes

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
        :class:`djinn.DeviceMemoryFull` (state intact on the host, can be retried). If somebody takes the device memory
        that it counted on for the history before the program can, the program waits until there is room.
        """
        self._check_process()
        with self._signals:
            self._check_parked("RESUME is possible")
            swapped = self._placement.swapped
            if swapped is not None:
                self._placement.swap_in(swapped, busy=self._turn.taken)
                return
            if self._its.stream is not None:
                self._its.stream.synchronize()
                torch.cuda.current_stream(self._device).synchronize()  # where the caller may have edited
            self._go()
            self._its.wake()

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block until all state of the last RESUME is on the device; False after ``timeout`` seconds."""
        swapped = self._placement.swapped
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
            if self._program is not None and self._program.is_current:
                raise IllegalMove("a session cannot be closed by its own program")
            self._abandon()
            if self._program is not None and not self._program.join(timeout):
                raise TimeoutError(f"the program has not come to its next layer after {timeout} seconds")
            self._placement.clear()
            self._program = self._value = self._error = None
            self._move(Phase.CLOSED)

    # -- what the runtime does ---------------------------------------------------------------------------------------

    def idle(self) -> Idle | None:
        """Its state on the device, if that may leave."""
        if self._phase is not Phase.IO_WAIT:
            return None
        sizes = tuple(item.nbytes for item in self._placement.may_leave)
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
        state = self._placement.state
        if self._phase not in _PARKED or state is None:
            missed = ""
            if self._phase is Phase.FINISHED and self._its.missed_breakpoint is not None:
                missed = f": it never came to its breakpoint, layer {self._its.missed_breakpoint}"
            raise IllegalMove(
                f"{what} while a session is parked; this one is {self._phase.value}{missed}"
            ) from self._error
        return state

    def _swap_out(self, keep: int = 0) -> None:
        self._placement.swap_out(keep, compute=self._its.stream, go=self._go, wake=self._its.wake)

    def _go(self) -> None:
        self._its.go(self._placement.swapped)
        self._placement.state = None
        self._move(Phase.RUNNING)

    def _abandon(self) -> None:
        if self._program is not None:
            self._program.abandon()
        if self._phase in _PARKED:
            self._placement.drop()
            self._go()
            self._its.wake()

    @property
    def _its(self) -> Program:
        """The program of a session that was started."""
        assert self._program is not None
        return self._program

    def _parked(self, layer: int, state: SessionState) -> None:
        self.layer = layer
        self._placement.park(state)
        self._move(Phase.PAUSED)

    def _ended(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error = value, error
        self._move(Phase.FINISHED if error is None else Phase.FAILED)

    def _move(self, target: Phase) -> None:
        with self._changed:
            self._phase = move(self._phase, target)
            self._since = time.monotonic()
            self._changed.notify_all()
