"""The caller context, captured at the call and restored on the session's thread, and the device lock.

A new thread inherits no CUDA stream, no grad, inference or autocast mode, no default device and no context variables.
All threads of the process share the same random generators. Not carried over are dispatch and function modes other
than the default device, and hooks on saved tensors.
"""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class CallerContext:
    """Captures the calling thread's stream, modes and context variables, for a program on ``device``."""

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
        """Set this stream and these modes on the current thread, until the block ends."""
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


class DeviceLock:
    """The lock of a device: one session at a time computes, with its own random state in the process's generators.

    The generators belong to the process. So another thread that draws meanwhile draws from the session's random state.
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
    def locked(self) -> bool:
        """Whether a session holds the lock."""
        return self._lock.locked()

    @property
    def is_mine(self) -> bool:
        """Whether the current thread holds the lock."""
        return self._holder == threading.get_ident()

    def random_state(self) -> list[torch.Tensor]:
        """The state of the process's generators now."""
        return [generator.get_state() for generator in self._generators]

    def acquire(self, random_state: list[torch.Tensor]) -> None:
        """Acquire the lock, then load ``random_state`` into the generators."""
        self._lock.acquire()
        self._holder = threading.get_ident()
        try:
            self._outside = self.random_state()
            self._put(random_state)
        except BaseException:
            self.release_held_by(threading.get_ident())
            raise

    def release(self) -> list[torch.Tensor]:
        """Release the lock and return the random state that the session has reached; an empty list without the lock."""
        if not self.is_mine:
            return []
        try:
            reached = self.random_state()
            self._put(self._outside)
            if len(self._generators) > 1:
                # A parked thread keeps its cuBLAS handle, and torch a workspace for each handle (32 MiB on an H100).
                # Nobody uses one here: one session computes at a time, and a stream's queued work comes before reuse.
                torch._C._cuda_clearCublasWorkspaces()
            return reached
        finally:
            self.release_held_by(threading.get_ident())

    def release_held_by(self, thread: int | None) -> None:
        """Release the lock if ``thread`` holds it, or has died with it."""
        if thread is not None and self._holder == thread:
            self._holder = None
            self._lock.release()

    def _put(self, random_state: list[torch.Tensor]) -> None:
        for generator, state in zip(self._generators, random_state, strict=True):
            generator.set_state(state)
