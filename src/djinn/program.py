"""The user's call on a thread of its own: it parks behind a layer, and is sent on from there.

The thread finds the caller's surroundings, computes by turns with the other sessions of the device, and waits for state
that is on its way back. It only waits and computes: the thread that signals does the copying (``session``).
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._C._dynamo.eval_frame import set_eval_frame

from djinn.caller import Surroundings, Turn
from djinn.core import SessionAbandoned, SessionCancelled
from djinn.discovery import Discovery
from djinn.forward import Watches
from djinn.gates import GapGate, tensors_in
from djinn.referrers import frames_of_other_threads
from djinn.state import SessionState
from djinn.swapped import SwappedState
from djinn.tensors import storage_of

_ROOM_SECONDS = 0.01  # between attempts to allocate, if what RESUME counted on has been taken meanwhile

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Program:
    """``call`` on a thread of its own; a :class:`djinn.forward.Passage` through the model.

    On that thread ``parked`` is told of the layer after which the program stands, and of its state. It raises
    :class:`SessionAbandoned` if the program is to end instead. ``restore`` is asked to bring back what was swapped out,
    for the program is to be unwound, and says whether there was room. ``ended`` is told of the value that the call
    returned, or of what it raised. Before it begins, and while it is parked, its thread waits for ``gate``, which
    whoever sends it on releases once; what is ``restoring`` then is what it goes on behind.
    """

    def __init__(
        self,
        call: Call,
        *,
        name: str,
        device: torch.device,
        watches: Watches,
        discovery: Discovery,
        turn: Turn,
        parked: Callable[[int, SessionState], None],
        restore: Callable[[], bool],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        self._call: Call | None = call
        self._device = device
        self._watches = watches
        self._discovery = discovery
        self._turn = turn
        self._parked = parked
        self._restore = restore
        self._ended = ended
        self._surroundings = Surroundings(device)
        self._inherited = tuple(self._surroundings.context.values())  # the caller's, whatever else holds them
        self._random_state = turn.random_state()
        self.stream = self._surroundings.stream  # on which it computes; None on the CPU
        self.pause_asked = False
        self.abandoned = False
        self.leaving = False  # the interpreter ends
        self.resting = False  # and this thread will do nothing more
        self._breakpoint: int | None = None
        self._visits_left = 0
        self.gate = threading.Lock()  # a bare lock: an Event costs its waiter twice the time to go on
        self.gate.acquire()
        self.restoring: SwappedState | None = None  # until the program's stream waits for all of it
        self.restored: SwappedState | None = None  # by the last RESUME
        self._gap = GapGate(self._wait_for)
        self._thread = threading.Thread(
            target=self._surroundings.context.run, args=(self._run,), name=name, daemon=True
        )

    # -- on other threads --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start its thread, which waits at the gate. Raises ``RuntimeError`` if the system refuses one."""
        self._thread.start()

    def break_at(self, layer: int | None, visit: int) -> None:
        """Park after decoder layer ``layer``, the ``visit``-th time from now; None: not by itself."""
        self._breakpoint, self._visits_left = layer, visit

    @property
    def missed_breakpoint(self) -> int | None:
        """The breakpoint that it has not come to yet."""
        return self._breakpoint if self._visits_left > 0 else None

    def interrupt(self) -> None:
        """Raise :class:`SessionAbandoned` in it between two bytecodes, for it may never come to a layer."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SessionAbandoned)
        )

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of its thread."""
        self._thread.join(timeout)

    @property
    def died(self) -> bool:
        """Whether its thread has ended; asked of the interpreter, for ``Thread.is_alive`` must not be interrupted."""
        ident = self._thread.ident
        return ident not in (None, threading.get_ident()) and ident not in frames_of_other_threads()

    @property
    def is_current(self) -> bool:
        """Whether this is asked by the program itself."""
        return self._thread is threading.current_thread()

    @property
    def ident(self) -> int | None:
        """Its thread's."""
        return self._thread.ident

    # -- on its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._call is not None
        function, args, kwargs = self._call
        value: Any = None
        error: BaseException | None = None
        self.gate.acquire()
        try:
            self._turn.take(self._random_state)
            self._watches.attach(self)
            try:
                with self._surroundings.entered():
                    if self.abandoned:
                        raise SessionAbandoned
                    value = function(*args, **kwargs)
                    self.leave_model()
            finally:
                self._gap.exit()
                self._watches.detach()
                self._turn.give_up()
        except SessionAbandoned as end:
            error = end.cause or SessionCancelled("the session was cancelled")
        except BaseException as raised:  # noqa: BLE001 - whatever the program raises belongs to result()
            error = raised
        self._call = None
        self._ended(value, error)
        del value, error  # the error's traceback holds this frame, and the frame would hold the error

    def enter_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the layer's kernels wait for what it reads: its arguments and its own KV."""
        if self.abandoned:
            self._unwind()
        if self.restoring is not None:
            self.enter_part(args, kwargs)
            self.restoring.wait_layer(layer)

    def leave_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """Park if this is the breakpoint."""
        if self.abandoned:
            self._unwind()
        here = layer == self._breakpoint
        if here:
            self._visits_left -= 1
        if self.pause_asked or (here and self._visits_left == 0):
            self._park(layer, args, kwargs, output)
        if self.restoring is not None:
            self.leave_part()

    def enter_part(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the part's kernels wait for its arguments; of the state it reads nothing else."""
        if self.restoring is not None:
            self._gap.exit()
            self._wait_for(tensors_in((args, kwargs)))

    def leave_part(self) -> None:
        """While state is still on its way, watch what runs between layers and parts."""
        if self.restoring is not None and (self.restoring.resident or not self._gap.enter()):
            self.leave_model()

    def leave_model(self) -> None:
        """Nothing runs past the end of a forward pass before all state is back."""
        self._gap.exit()
        if self.restoring is not None:
            self.restoring.wait_all()
            self.restoring = None

    def _wait_for(self, tensors: Iterable[torch.Tensor]) -> None:
        if self.restoring is not None:
            with torch._C.DisableTorchFunction():  # it is nobody's operator that is asked here
                storages = [storage_of(tensor) for tensor in tensors]
            for storage in storages:
                if storage is not None:
                    self.restoring.wait(storage._cdata)

    def _park(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        tracing = set_eval_frame(None)
        try:
            self._stand_still(layer, args, kwargs, output)
        finally:
            set_eval_frame(tracing)

    def _stand_still(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        self.leave_model()
        if self.restored is not None:
            self.restored.wait_resident()
        state = self._discovery.state_at(
            layer,
            args=args,
            kwargs=kwargs,
            output=output,
            outermost=Program._run.__code__,
            caller=(self._call, self._inherited),
            context=self._surroundings.context,
        )
        if self._device.type == "cuda":
            self.stream = torch.cuda.current_stream(self._device)
        self._gap.enter()  # now, when nobody waits for it
        self._random_state = self._turn.give_up()
        try:
            self._parked(layer, state)
            del state
            self.gate.acquire()
            if self.restoring is not None:
                self.restoring.hold()
        finally:
            self._turn.take(self._random_state)
        while not self._is_back():
            self._random_state = self._turn.give_up()  # whoever computes meanwhile may make room
            if self.leaving:
                self.resting = True
                self.gate.acquire()  # for ever: a thread that only waits is none that the interpreter's end disturbs
            time.sleep(_ROOM_SECONDS)
            self._turn.take(self._random_state)
        if self.abandoned:
            self._unwind()
        if self.restoring is None:
            self._gap.exit()
        else:
            # The device runs what the program submits from here on behind the frontier.
            self.restoring.order()

    def _is_back(self) -> bool:
        """Whether its state is on the device or on its way there, which it is brought on for a program that ends."""
        if self.restoring is not None:
            return self.restoring.allocate_rest()
        return not self.abandoned or self._restore()

    def _unwind(self) -> None:
        """End the call; what it touches on its way out is there."""
        self.leave_model()
        raise SessionAbandoned
