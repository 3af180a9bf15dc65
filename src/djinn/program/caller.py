"""The caller context, captured at the call and restored on the session's thread.

A new thread inherits no CUDA stream, no grad, inference or autocast mode, no default device and no context variables.
What all threads share is not captured here but changes with the turn (``surroundings``). Not carried over are dispatch
and function modes other than the default device, and hooks on saved tensors.
"""

import contextvars
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from djinn.program.surroundings import Settings

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class CallerContext:
    """Captures the calling thread's stream, modes and context variables, for programs on ``device``.

    Nobody runs in its ``context``: a program gets a copy, so that another one can begin as it did.
    """

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


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a program begins with: its call, and its caller's context and settings of torch at START."""

    call: Call
    caller: CallerContext
    settings: Settings
