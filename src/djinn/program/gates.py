"""The read barrier: makes calls of torch wait for state that is still being swapped in.

It is on between two layers, and behind the forward pass, until all state is back. It is a function mode on the current
thread: torch shows it each call, before a tensor among the arguments is read. So it also sees what reads bytes past all
operators (``numpy()``, ``data_ptr()``, ``print``). A dispatch mode would see none of these. It would change bits in
inference mode, and break a program that enters inference mode with it and leaves without.

It is entered only where no other mode is on the stack, but a default device, and left only if it is on top. So a mode
that the program enters in between finds its order. It is off from the next layer or part on, and from the first call
when all state is back. Where a mode is on top of it, or a call is under way, it stays on the stack until the layer or
part after that.

Not seen is what torch itself calls without Python: functions of ``torch.jit``, C++ extensions, collectives.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from djinn.state.compiled import compiles, never_traced

_METHODS = (
    *("__len__", "dim", "element_size", "get_device", "is_complex", "is_contiguous", "is_floating_point"),
    *("is_inference", "ndimension", "nelement", "numel", "size", "storage_offset", "stride"),
)
_ATTRIBUTES = (
    *("device", "dtype", "is_cpu", "is_cuda", "is_leaf", "is_meta", "is_nested", "is_quantized", "is_sparse"),
    *("itemsize", "layout", "nbytes", "ndim", "requires_grad", "shape"),
)
# What reads no bytes. It is often asked of a whole cache, which must not make a program wait.
_READ_NOTHING = frozenset(
    [getattr(torch.Tensor, name) for name in _METHODS]
    + [getattr(torch.Tensor, name).__get__ for name in _ATTRIBUTES]
    + [torch.is_floating_point, torch.is_tensor, torch.numel]
)


class Waits(Protocol):
    """What the barrier makes calls wait for."""

    def wait_for(self, value: object) -> None:
        """Wait for the tensors that ``value`` leads to."""

    def wait_all(self) -> None:
        """Wait for everything, and stop the barrier."""

    @property
    def all_back(self) -> bool:
        """Whether there is nothing to wait for any more."""


class ReadBarrier(TorchFunctionMode):
    """Delays a call until its lane waits for the storages that it may read.

    Code between two layers may read more than the layers' own arguments: ``x + layer(norm(x))`` needs the old x. The
    barrier is off inside layers, where it would only cost time.
    """

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits
        self._on = False
        self.is_on_a_stack = False  # longer than it is on, if it was stopped within a call or under another mode

    @never_traced
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Wait for what ``func`` may read, then call it."""
        if self._on:
            if self._waits.all_back:
                self._waits.wait_all()
            elif func not in _READ_NOTHING:
                self._waits.wait_for((args, kwargs))
        return func(*args, **(kwargs or {}))

    def enter(self, *, behind_model: bool = False) -> bool:
        """Start the barrier on the current thread; False, and it is off, where it would miss a read.

        Code ``behind_model`` may call autograd, whose threads the barrier does not reach.
        """
        if compiles() or (behind_model and torch.is_grad_enabled()):
            self.exit()
            return False
        modes = [mode for mode in _get_current_function_mode_stack() if type(mode) is not DeviceContext]
        if not modes and not self.is_on_a_stack:
            self.__enter__()
            self.is_on_a_stack = True
        elif modes != [self]:
            self.exit()
            return False
        self._on = True
        return True

    def exit(self) -> None:
        """Stop the barrier, if it was started, and take it off where it is on top."""
        self._on = False
        stack = _get_current_function_mode_stack() if self.is_on_a_stack else []
        if stack and stack[-1] is self:
            self.__exit__(None, None, None)
            self.is_on_a_stack = False
