"""Runs the user's call on a thread of its own, parks it after a layer, and resumes it there.

The thread restores the caller context. It computes in its turn (``turn``), for the programs of a device share it. It
waits for state that is being swapped in. It makes no copies: the thread that signals does (``session``).
"""

import contextvars
import ctypes
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch._C._dynamo.eval_frame import set_eval_frame

from djinn.core import IllegalMove, SessionAbandoned, SessionCancelled
from djinn.memory.restore import Restore
from djinn.memory.transfer import TransferEngine
from djinn.program.caller import Beginning, Call
from djinn.program.device_lock import DeviceLock
from djinn.program.forward import Interceptors
from djinn.program.gates import ReadBarrier
from djinn.program.interceptor import Forward
from djinn.program.reads import tensors_read
from djinn.program.tape import Tape
from djinn.program.turn import Turn
from djinn.state.adopted import Adopted
from djinn.state.compiled import ends_a_graph, explained, never_traced
from djinn.state.cuda_graphs import is_recording
from djinn.state.discovery import StateScanner
from djinn.state.referrers import frames_of_other_threads
from djinn.state.storages import SessionState
from djinn.state.tensors import plain_torch, storage_of, untransformed

_ROOM_SECONDS = 0.01  # between attempts to allocate, if the memory that RESUME counted on was taken meanwhile

_running = threading.local()  # on a program's thread: the program


def current_program() -> "Program | None":
    """Return the program that the current thread runs, or None."""
    program: Program | None = getattr(_running, "program", None)
    return program


def refuse_holder(lock: DeviceLock[Turn], what: str) -> None:
    """Raise :class:`IllegalMove` in a program that holds the device: ``what`` it asks for needs that."""
    waiter = current_program()
    if waiter is not None and lock.holder is waiter.turn:
        raise IllegalMove(f"a program that holds the device cannot {what}: do it in `with djinn.waiting():`")


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What a program's thread calls.

    - ``parked`` gets the layer and the state. It raises :class:`SessionAbandoned` if the program is to end instead.
    - ``restore`` brings back what was swapped out, before the program is unwound. It returns whether all is there.
    - ``fetch`` brings what is on a disk, before that and without the turn. Returns whether it has done so.
    - ``ended`` gets the value that the call returned, or the error that it raised.
    """

    parked: Callable[[int, SessionState], None]
    restore: Callable[[], bool]
    fetch: Callable[[], bool]
    ended: Callable[[Any, BaseException | None], None]


class Program:
    """Runs the call of ``begun`` on a thread of its own, as a :class:`djinn.program.interceptor.Passage`.

    The thread waits for ``gate`` before it begins and while it is parked. Whoever starts or resumes the program
    releases ``gate`` once. The program then computes behind the swap-in that is ``restoring``, if there is one.

    While it is parked its thread must not keep the session alive. So ``parked`` takes the ``callbacks`` away, and
    whoever releases ``gate`` puts them back. A session that nobody can reach any more is then found by the collector.
    """

    def __init__(
        self,
        begun: Beginning,
        *,
        name: str,
        engine: TransferEngine,
        device: torch.device,
        interceptors: Interceptors,
        scanner: StateScanner,
        adopted: Adopted,
        turn: Turn,
        callbacks: Callbacks,
        tape: Tape | None = None,
    ) -> None:
        self.begun: Beginning | None = begun  # until the call has ended
        self._call: Call | None = begun.call
        self._tape = tape
        self.is_durable = tape is not None
        self._engine = engine
        self._device = device
        self._interceptors = interceptors
        self._scanner = scanner
        self._adopted = adopted
        self.turn = turn
        self._module_state = turn.module_state
        self.callbacks: Callbacks | None = callbacks  # None while it is parked
        self._caller_context = begun.caller
        self._context = begun.caller.context.copy()  # a fork begins without what this program sets in it
        self._inherited = tuple(self._context.values())  # they belong to the caller
        self.lane = engine.link.current()  # on which it computes
        self.pause_asked = False
        self.abandoned = False
        self.leaving = False  # whether the interpreter ends
        self.resting = False  # whether this thread will do nothing more, after that
        self._breakpoint: int | None = None
        self._hits_left = 0
        self.gate = threading.Lock()  # a bare lock: with an Event the waiter takes twice as long to go on
        self.gate.acquire()
        self.restoring: Restore | None = None  # until the program's lane waits for all of it
        self.restored: Restore | None = None  # by the last RESUME
        self._barrier = ReadBarrier(self)
        self._thread = threading.Thread(target=self._context.run, args=(self._run,), name=name, daemon=True)

    # -- on other threads --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, which waits at the gate. Raises ``RuntimeError`` if the system refuses one."""
        self._thread.start()

    def break_at(self, layer: int | None, visit: int) -> None:
        """Set the breakpoint: after decoder layer ``layer``, at hit count ``visit`` from now; None removes it."""
        self._breakpoint, self._hits_left = layer, visit

    @property
    def missed_breakpoint(self) -> int | None:
        """The breakpoint that the program has not reached yet, or None."""
        return self._breakpoint if self._hits_left > 0 else None

    @property
    def breakpoint_ahead(self) -> tuple[int, int] | None:
        """The breakpoint that the program has not reached yet, and its hit count from now on; or None."""
        return None if self._breakpoint is None or self._hits_left <= 0 else (self._breakpoint, self._hits_left)

    def interrupt(self) -> None:
        """Raise :class:`SessionAbandoned` in the program between two bytecodes, for it may never reach a layer."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SessionAbandoned)
        )

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout)

    @property
    def died(self) -> bool:
        """Whether the thread has ended, by the interpreter's list: ``Thread.is_alive`` is not safe to interrupt."""
        ident = self._thread.ident
        return ident not in (None, threading.get_ident()) and ident not in frames_of_other_threads()

    @property
    def is_current(self) -> bool:
        """Whether the program's thread is the current one."""
        return self._thread is threading.current_thread()

    # -- on its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._call is not None
        function, args, kwargs = self._call
        value: Any = None
        error: BaseException | None = None
        _running.program = self
        self.gate.acquire()
        try:
            with self._caller_context.entered():
                try:
                    self.turn.take()
                    self._interceptors.attach(self)
                    if self._must_end:
                        self._unwind()
                    self._module_state.begin()
                    try:
                        self.turn.enter_around()
                        if self._must_end:
                            self._unwind()
                        if self._tape is not None:
                            self._tape.begin(self, args, kwargs)
                        value = function(*args, **kwargs)
                    finally:
                        if self._tape is not None:
                            self._tape.end(at_the_end=True)
                        self._finish_restoring()
                        keep = self._module_state.is_empty or self._is_complete()
                        self.turn.leave_around()
                        self._module_state.end(keep=keep)
                finally:
                    self._barrier.exit()
                    self._interceptors.detach()
                    self.turn.give_up()
            if self.turn.failure is not None:  # its last end
                raise self.turn.failure
        except SessionAbandoned as end:
            error = end.cause or SessionCancelled("the session was cancelled: open another for a result")
        except BaseException as raised:  # noqa: BLE001 - whatever the program raises belongs to result()
            error = explained(raised)
        self._call = self.begun = None
        del _running.program
        self._its_callbacks.ended(value, error)
        del value, error  # the error's traceback holds this frame, and the frame would hold the error

    @never_traced
    def enter_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the layer's kernels wait for what they read: its arguments and its own KV."""
        if self.abandoned:
            self._unwind()
        if self.turn.given_up:
            raise IllegalMove("a program cannot call its model in a block `with djinn.waiting():`: call it behind that")
        if self._barrier.is_on_a_stack:
            self._barrier.exit()
        if self.restoring is not None:
            self._wait_for_call(args, kwargs, kv=self._scanner.kv_layers.read_by(layer))
        if self.restoring is not None:
            self.restoring.wait_layer(layer)

    def read_by(self, layer: int) -> Iterable[int]:
        """The indices of a cache's entries that decoder layer ``layer`` may read, and write."""
        return self._scanner.kv_layers.read_by(layer)

    @property
    def layers_noticed_by(self) -> str:
        """What may notice that layers run, and not only see what the model returns; an empty string for nothing."""
        return self._interceptors.layers_noticed_by()

    @ends_a_graph
    def run_layer(self, layer: int, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a decoder layer of a durable program, or answer for it from the tape."""
        assert self._tape is not None
        return self._tape.run_layer(self, layer, forward, args, kwargs)

    @ends_a_graph
    def run_model(self, module: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a pass of the model of a durable program, or answer for it from the tape."""
        assert self._tape is not None
        return self._tape.run_model(self, module, forward, args, kwargs)

    @never_traced
    def leave_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """Park if this is the breakpoint, or if a pause was requested."""
        if self.abandoned:
            self._unwind()
        self.turn.last_layer = time.monotonic()
        here = layer == self._breakpoint
        if (here or self.pause_asked) and is_recording(self._device):
            return  # nothing is computed here, and a graph that stands still would be lost
        if here:
            self._hits_left -= 1
        if self.pause_asked or (here and self._hits_left == 0):
            self._park(layer, args, kwargs, output)
            self._watch()
        elif self.restoring is not None:
            self.leave_part()

    @never_traced
    def enter_part(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the part's kernels wait for its arguments; state that the part keeps itself belongs to the frontier."""
        if self._barrier.is_on_a_stack:
            self._barrier.exit()
        if self.restoring is not None:
            self._wait_for_call(args, kwargs)

    @never_traced
    def leave_part(self) -> None:
        """Start the read barrier between layers and parts, while state is still being swapped in."""
        if self.restoring is not None:
            self.restoring.send_rest()  # now that the device has work, if RESUME has not: see `transfer`
            self._watch()

    @never_traced
    def leave_model(self) -> None:
        """Do the same behind a forward pass, where the user's own code may also call autograd."""
        if self.restoring is not None:
            self.restoring.send_rest()
            self._watch(behind_model=True)

    def _watch(self, *, behind_model: bool = False) -> None:
        """Start the barrier if state is still being swapped in; wait for that where it cannot be watched."""
        restoring = self.restoring
        if restoring is not None and (restoring.resident or not self._barrier.enter(behind_model=behind_model)):
            self.wait_all()

    def wait_all(self) -> None:
        """Wait for all state that is still being swapped in."""
        self._barrier.exit()
        if self.restoring is not None:
            self.restoring.wait_all()
            self.restoring = None

    @property
    def all_back(self) -> bool:
        """Whether no state is still being swapped in."""
        return self.restoring is None or self.restoring.resident

    def _finish_restoring(self) -> None:
        """Wait, when the call has ended, for the state that its value or error leads to; nobody else can read the rest.

        Its frames are gone, but for those in an error's traceback.
        """
        self._barrier.exit()
        if self.restoring is not None:
            self.restoring.wait_reachable()
            self.restoring = None

    def _wait_for_call(self, args: tuple[Any, ...], kwargs: dict[str, Any], kv: Iterable[int] | None = None) -> None:
        """Wait for what a module may read: its arguments, of a cache the entries ``kv``, and context variables."""
        inherited = set(map(id, self._inherited))  # the caller's, who keeps them on the device
        own = [value for value in contextvars.copy_context().values() if id(value) not in inherited]
        self.wait_for((args, kwargs, own), kv)

    def wait_for(self, value: object, kv: Iterable[int] | None = None) -> None:
        """Wait for the tensors that ``value`` leads to, for all state if that cannot be told."""
        with torch._C.DisableTorchFunction():  # these calls are ours, not operators of the program
            tensors = tensors_read(value, kv=kv)
            storages = [storage_of(untransformed(tensor)) for tensor in tensors or ()]
        if tensors is None:
            self.wait_all()
        for storage in storages:
            if storage is not None and self.restoring is not None:
                self.restoring.wait(storage._cdata)

    def _park(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        tracing = set_eval_frame(None)
        try:
            self._stand_still(layer, args, kwargs, output)
        finally:
            set_eval_frame(tracing)

    def _stand_still(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        self.wait_all()
        if self.restored is not None:
            self.restored.wait_resident()
            self.restored.wait_settled()  # the engine's thread holds the storages until then
            self.restored = None  # it refers to the session
        self.turn.clear_modules()
        state = self._scanner.state_at(
            layer,
            args=args,
            kwargs=kwargs,
            output=output,
            outermost=Program._run.__code__,
            caller=(self._call, self._inherited),
            adopted=self._adopted,
            context=self._context,
            modules=self._module_state.roots,
        )
        self.lane = self._engine.link.current()
        if self._tape is not None:
            with plain_torch(), torch.no_grad():
                self._tape.arrive(self, state)
            self._tape.end()
        self._barrier.enter()  # now, off the resume path
        self.turn.give_up()
        try:
            if self.turn.failure is None:
                self._its_callbacks.parked(layer, state)
                del state
                self.gate.acquire()
                if self.restoring is not None:
                    self.restoring.wait_at_latch()
        finally:
            self.turn.take()
        while not self._is_back():
            self.turn.give_up()  # another session may compute meanwhile, and make room
            if self.leaving:
                self.resting = True
                self.gate.acquire()  # for ever: a waiting thread does not disturb the interpreter's end
            if not self._its_callbacks.fetch():
                time.sleep(_ROOM_SECONDS)
            self.turn.take()
        self._adopted.hand_over()
        if self._must_end:
            self._unwind()
        if self.restoring is None:
            self._barrier.exit()
        else:
            # From here on, the device runs what the program submits after the frontier's copies.
            self.restoring.order()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give up the turn in this block; then the program goes on, or is unwound if it was cancelled meanwhile."""
        self.turn.given_up = True
        self.turn.give_up()
        try:
            if self.turn.failure is None:
                yield
        finally:
            self.turn.take()
            self.turn.given_up = False
            if self._must_end:
                self._unwind()

    def _is_complete(self) -> bool:
        """Wait for what is still being swapped in; whether all state is on the device then."""
        try:
            if self.restored is not None:
                self.restored.wait_resident()
        except (Exception, SessionAbandoned):  # noqa: BLE001 - some of it is lost; what the call raises says so
            return False
        return True

    def _is_back(self) -> bool:
        """Whether the state is on the device or being swapped in; for a program that ends it is swapped in here."""
        if self.restoring is not None:
            return self._engine.make_memory(self.restoring)
        return not self.abandoned or self._its_callbacks.restore()

    @property
    def _its_callbacks(self) -> Callbacks:
        """The callbacks of a program that is not parked."""
        assert self.callbacks is not None
        return self.callbacks

    @property
    def _must_end(self) -> bool:
        """Whether the program is to be unwound, for it was cancelled or its turn has failed."""
        return self.abandoned or self.turn.failure is not None

    def fail(self, error: Exception) -> NoReturn:
        """Unwind the call for ``error``, which its code cannot catch."""
        self.turn.failure = self.turn.failure or error
        self._unwind()

    def _unwind(self) -> NoReturn:
        """Unwind the call, when all the state that its ``finally`` blocks may touch is back."""
        self.abandoned = True  # whatever the program catches, it does not compute on
        self.wait_all()
        raise SessionAbandoned(self.turn.failure)
