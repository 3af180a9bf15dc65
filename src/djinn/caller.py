"""What a program finds around itself, taken at the call and put up again on the session's thread.

A new thread inherits neither CUDA stream nor grad, inference and autocast modes, default device or context variables,
and every thread of the process draws from the same random generators. Not carried over: dispatch and function modes
other than the default device, and hooks on saved tensors.
"""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class Surroundings:
    """The calling thread's modes at this moment, for a program that computes on ``device``."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.context = contextvars.copy_context()
        self._grad = torch.is_grad_enabled()
        self._inference = torch.is_inference_mode_enabled()
        self._autocast = [
            (kind, torch.get_autocast_dtype(kind))
            for kind in dict.fromkeys(("cpu", device.type))
            if torch.is_autocast_enabled(kind)
        ]
        self._autocast_cache = torch.is_autocast_cache_enabled()
        self._default_device = torch.get_default_device()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the current thread into these modes."""
        with ExitStack() as stack:
            if self.stream is not None:
                stack.enter_context(torch.cuda.stream(self.stream))
            if self._default_device.type != "cpu":  # the default; a mode for it would cost time at every operator
                stack.enter_context(self._default_device)
            stack.enter_context(torch.inference_mode(self._inference))
            stack.enter_context(torch.set_grad_enabled(self._grad))
            for kind, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=self._autocast_cache))
            yield


class Turn:
    """The right to compute on a device: one session at a time holds it, and finds its own random state while it does.

    Random numbers that another thread draws meanwhile come from the session's generators: they are the process's.
    """

    def __init__(self, device: torch.device) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None  # the thread that computes
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            self._generators.append(torch.cuda.default_generators[device.index or 0])
        self._outside: list[torch.Tensor] = []

    @property
    def taken(self) -> bool:
        """Whether a session computes now."""
        return self._lock.locked()

    @property
    def is_mine(self) -> bool:
        """Whether the current thread holds it."""
        return self._holder == threading.get_ident()

    def random_state(self) -> list[torch.Tensor]:
        """The state of the process's generators now."""
        return [generator.get_state() for generator in self._generators]

    def take(self, random_state: list[torch.Tensor]) -> None:
        """Wait for the turn, then put up ``random_state``."""
        self._lock.acquire()
        self._holder = threading.get_ident()
        try:
            self._outside = self.random_state()
            self._put(random_state)
        except BaseException:
            self.take_from(threading.get_ident())
            raise

    def give_up(self) -> list[torch.Tensor]:
        """Let the next session compute; the random state that this one has reached. Nothing if it has no turn."""
        if not self.is_mine:
            return []
        try:
            reached = self.random_state()
            self._put(self._outside)
            if len(self._generators) > 1:
                # A parked thread keeps its cuBLAS handle, and torch a workspace for each handle (32 MiB on an H100).
                # Here nobody uses one: sessions compute by turns, and what a stream still runs is ordered before reuse.
                torch._C._cuda_clearCublasWorkspaces()
            return reached
        finally:
            self.take_from(threading.get_ident())

    def take_from(self, thread: int | None) -> None:
        """Let the next session compute if ``thread`` still has the turn, or has died with it."""
        if thread is not None and self._holder == thread:
            self._holder = None
            self._lock.release()

    def _put(self, random_state: list[torch.Tensor]) -> None:
        for generator, state in zip(self._generators, random_state, strict=True):
            generator.set_state(state)
