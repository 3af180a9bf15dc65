"""One session: a program on its own thread, parked by a hook at its breakpoint and sent on by RESUME.

The program's Python stack stays alive while it is parked, so neither the model's code nor the call has to change. The
thread that signals (IO_WAIT, RESUME) does the copying; the session's own thread only waits and computes, one session at
a time per device.
"""

import contextvars
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import torch

from djinn.core import DjinnError, IllegalMove, Phase, SessionAbandoned, move
from djinn.forward import GapGate, KvLayers, LayerHooks, tensors_in
from djinn.ownership import Ownership
from djinn.state import FRONTIER, NamedView, SessionState, Walk, local_variables, state_of
from djinn.transfer import SwappedState, TransferEngine, raw_bytes


class StateView(Mapping[str, torch.Tensor]):
    """The named tensors of a parked session: on the device while PAUSED, in host memory during IO_WAIT.

    Tensors alias the state: what is written into them is what the program finds when it goes on. They are void after
    RESUME. ``view[name] = tensor`` copies ``tensor`` in; its shape and dtype must be the same.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._tensors:
            raise KeyError(f"no tensor {name!r} in the session's state; it has: {', '.join(self._tensors)}")
        return self._tensors[name]

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        current = self[name]
        if value.shape != current.shape or value.dtype != current.dtype:
            raise ValueError(
                f"{name} is {current.dtype} {list(current.shape)}; "
                f"it cannot be replaced by {value.dtype} {list(value.shape)}"
            )
        current.copy_(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Session:
    """Made by :meth:`djinn.Runtime.open`; every method may be called from any thread.

    ``breakpoint`` is the decoder layer L (1 .. N) after which the program parks, at the ``visit``-th time that it gets
    there; the program parks once.
    """

    def __init__(
        self,
        *,
        breakpoint: int,
        visit: int,
        hooks: LayerHooks,
        kv_layers: KvLayers,
        engine: TransferEngine,
        ownership: Ownership,
        model_storages: frozenset[int],
        turn: threading.Lock,
    ) -> None:
        self.breakpoint = breakpoint
        self._visits_left = visit
        self._hooks = hooks
        self._kv_layers = kv_layers
        self._engine = engine
        self._ownership = ownership
        self._model_storages = model_storages
        self._turn = turn  # held by the one session of the device that computes
        self._phase = Phase.CREATED
        self._changed = threading.Condition()
        self._signals = threading.RLock()  # one signal at a time
        self._wake = threading.Event()
        self._abandoned = False
        self._future: Future[Any] = Future()
        self._thread: threading.Thread | None = None
        self._stream: torch.cuda.Stream | None = None
        self._roots: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None
        self._state: SessionState | None = None
        self._swapped: SwappedState | None = None  # from IO_WAIT on; after RESUME, the restore under way
        self._awaited: SwappedState | None = None  # the same after RESUME, until the session's stream waits for all
        self._gate = GapGate(self._wait_for)

    # -- what a caller does ------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the session stands now."""
        return self._phase

    def start(self, program: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Session":
        """Run ``program(*args, **kwargs)`` on the session's thread until it ends or parks; returns at once.

        The thread computes as the caller would: same CUDA stream, grad and inference mode, autocast, context variables.
        """
        with self._signals:
            if self._phase is not Phase.CREATED:
                raise IllegalMove(f"a session is started once; this one is {self._phase.value}")
            self._roots = (program, args, kwargs)
            if self._engine.device.type == "cuda":
                self._stream = torch.cuda.current_stream(self._engine.device)
            modes = _current_modes(self._engine.device, self._stream)
            context = contextvars.copy_context()
            self._thread = threading.Thread(
                target=context.run, args=(self._run, modes), name=f"djinn-session-{id(self):x}", daemon=True
            )
            self._move(Phase.RUNNING)
            self._thread.start()
        return self

    def wait(self, timeout: float | None = None) -> Phase:
        """Block until the session parks or ends, at most ``timeout`` seconds; returns the phase it is in."""
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
        with self._signals:
            tensors: dict[str, torch.Tensor] = {}
            for view, raw in self._parked_views():
                name, count = view.name, 2
                while name in tensors:
                    name, count = f"{view.name}~{count}", count + 1
                tensors[name] = view.over(raw)
            return StateView(tensors)

    def _parked_views(self) -> Iterator[tuple[NamedView, torch.Tensor]]:
        if self._phase is Phase.PAUSED and self._state is not None:
            for item in self._state.storages:
                raw = raw_bytes(item.storage)
                yield from ((view, raw) for view in item.views)
        elif self._phase is Phase.IO_WAIT and self._swapped is not None:
            for entry in self._swapped.entries:
                yield from ((view, entry.host) for view in entry.item.views)
        else:
            raise IllegalMove(f"the state of a session that is {self._phase.value} cannot be read; it must be parked")

    @property
    def frontier(self) -> dict[str, torch.Tensor]:
        """What layer L+1 reads, by name, as the device holds it at this moment; for checkers.

        Raises :class:`IllegalMove` before the pause and while the state is not on the device.
        """
        if self._state is None or self._phase is Phase.IO_WAIT:
            raise IllegalMove(f"a session that is {self._phase.value} has no frontier on the device")
        return {item.views[0].name: item.views[0].over(raw_bytes(item.storage)) for item in self._state.frontier}

    @property
    def storage_sizes(self) -> list[int]:
        """Bytes of each storage found at the pause, in the order of need; their sum is the session state."""
        return [item.nbytes for item in self._state.storages] if self._state is not None else []

    def io_wait(self) -> None:
        """IO_WAIT: swap the parked session out; returns when its device memory is free.

        Raises :class:`IllegalMove` unless PAUSED, :class:`djinn.HostMemoryFull` (and stays PAUSED) if the arena has no
        room.
        """
        with self._signals:
            move(self._phase, Phase.IO_WAIT)
            assert self._state is not None
            self._swapped = self._engine.swap_out(self._state, self._stream)
            self._move(Phase.IO_WAIT)

    def resume(self) -> None:
        """RESUME: returns when the device holds what layer L+1 needs; the program is on its way by then.

        The rest of the state follows behind the running computation, which waits for exactly what it reads. Raises
        :class:`IllegalMove` unless parked, :class:`djinn.DeviceMemoryFull` (state intact on the host, can be retried).
        """
        with self._signals:
            if self._phase is Phase.IO_WAIT and self._swapped is not None:
                self._engine.swap_in(self._swapped, self._stream, self._go)
            elif self._phase is Phase.PAUSED:
                if self._stream is not None:
                    self._stream.synchronize()
                self._go()
            else:
                raise IllegalMove(f"RESUME needs a parked session; this one is {self._phase.value}")

    def _go(self) -> None:
        self._awaited = self._swapped
        self._move(Phase.RUNNING)
        self._wake.set()

    def wait_resident(self, timeout: float | None = None) -> bool:
        """Block until all state of the last RESUME is on the device; False after ``timeout`` seconds."""
        swapped = self._swapped
        return swapped is None or swapped.wait_resident(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """What the program returned; raises what it raised, and ``TimeoutError`` after ``timeout`` seconds.

        A session that is still parked then raises :class:`IllegalMove` at once: it would never end.
        """
        if self._phase in (Phase.CREATED, Phase.PAUSED, Phase.IO_WAIT):
            raise IllegalMove(f"a session that is {self._phase.value} has no result yet")
        return self._future.result(timeout)

    def close(self) -> None:
        """End the session wherever it stands and give back what it holds; a second call does nothing.

        A program that has not ended is unwound by an exception at its breakpoint or at the next layer.
        """
        with self._signals:
            if self._phase is Phase.CLOSED:
                return
            was = self._phase
            self._abandoned = True
            self._wake.set()
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join()
            if self._swapped is not None:
                if was is Phase.IO_WAIT:
                    self._engine.release(self._swapped.entries)
                else:
                    self._swapped.wait_resident()
            self._state = self._swapped = self._awaited = self._roots = None
            self._future = Future()
            self._future.set_exception(DjinnError("the session is closed"))
            self._move(Phase.CLOSED)

    # -- on the session's own thread -----------------------------------------------------------------------------------

    def _run(self, modes: Callable[[ExitStack], None]) -> None:
        assert self._roots is not None
        program, args, kwargs = self._roots
        self._hooks.attach(self)
        self._turn.acquire()
        try:
            with ExitStack() as stack:
                modes(stack)
                value = program(*args, **kwargs)
                self.leave_model()
        except SessionAbandoned:
            pass  # close() asked for it and waits
        except BaseException as error:  # noqa: BLE001 - whatever the program raises belongs to result()
            self._future.set_exception(error)
            self._move(Phase.FAILED)
        else:
            self._future.set_result(value)
            self._move(Phase.FINISHED)
        finally:
            self._gate.exit()
            self._turn.release()
            self._hooks.detach()

    def enter_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the layer's kernels wait for what it reads: its arguments and its own KV."""
        if self._abandoned:
            raise SessionAbandoned
        if self._awaited is not None:
            self._gate.exit()
            self._wait_for(tensors_in((args, kwargs)))
            for entry in self._awaited.entries:
                if entry.item.rank[1] == layer:
                    self._awaited.wait(entry.item.storage._cdata)

    def leave_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """Park if this is the breakpoint; while state is still on its way, watch what runs between the layers."""
        if layer == self.breakpoint and self._visits_left > 0:
            self._visits_left -= 1
            if self._visits_left == 0:
                self._park(args, kwargs, output)
        if self._awaited is not None and (self._awaited.resident or not self._gate.enter()):
            self.leave_model()

    def leave_model(self) -> None:
        """Nothing runs past the end of a forward pass before all state is back."""
        self._gate.exit()
        if self._awaited is not None:
            self._awaited.wait_all()
            self._awaited = None

    def _wait_for(self, tensors: Iterable[torch.Tensor]) -> None:
        if self._awaited is not None:
            for tensor in tensors:
                if type(tensor) is torch.Tensor:
                    self._awaited.wait(tensor.untyped_storage()._cdata)

    def _park(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        self._state = self._discover(args, kwargs, output)
        self._turn.release()
        try:
            self._move(Phase.PAUSED)
            self._wake.wait()
        finally:
            self._turn.acquire()
        if self._abandoned:
            raise SessionAbandoned

    def _discover(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> SessionState:
        walk = Walk(kv_layer_of=self._kv_layers.finder(), breakpoint=self.breakpoint)
        walk.meet(output, "hidden_states", FRONTIER, counted=False)
        for name, value in kwargs.items():
            walk.meet(value, name, FRONTIER, counted=False)
        for index, value in enumerate(args[1:], start=1):
            walk.meet(value, f"args.{index}", FRONTIER, counted=False)
        site: list[object] = [self.breakpoint]
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not Session._run.__code__:
            site.append((frame.f_code, frame.f_lasti))
            if frame.f_globals.get("__package__") != __package__:
                for name, value, counted in local_variables(frame):
                    walk.meet(value, f"{frame.f_code.co_qualname}.{name}", (3, 0), counted=counted)
            frame = frame.f_back
        walk.run()
        return state_of(
            walk,
            device=self._engine.device,
            left=lambda walk, by_storage: self._ownership.left(
                walk, by_storage, callers=self._model_storages | self._callers_storages(), site=tuple(site)
            ),
        )

    def _callers_storages(self) -> set[int]:
        """Storages that the program, its closure and its arguments lead to now: the caller can reach them."""
        walk = Walk(kv_layer_of=lambda obj: None, breakpoint=self.breakpoint)
        walk.meet(self._roots, "caller", FRONTIER)
        walk.run()
        return {
            node.obj.untyped_storage()._cdata
            for node in walk.tensors()
            if isinstance(node.obj, torch.Tensor) and node.obj.layout is torch.strided
        }

    def _move(self, target: Phase) -> None:
        with self._changed:
            self._phase = move(self._phase, target)
            self._changed.notify_all()


def _current_modes(device: torch.device, stream: torch.cuda.Stream | None) -> Callable[[ExitStack], None]:
    """A function that puts a new thread into the caller's modes; threads inherit none of them."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    autocast = torch.is_autocast_enabled(device.type)
    autocast_dtype = torch.get_autocast_dtype(device.type)

    def enter(stack: ExitStack) -> None:
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(grad))
        if autocast:
            stack.enter_context(torch.autocast(device.type, dtype=autocast_dtype))

    return enter
