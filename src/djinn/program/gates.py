"""The read barrier: makes operators wait for state that is still being swapped in.

It is on between two layers, and behind the forward pass, until all state is back. It is a dispatch mode on the current
thread's stack of modes. Behind the forward pass a function mode stands beside it. The user's own code runs there, and
may read a tensor's bytes past all operators: ``numpy()``, ``tolist()``, ``data_ptr()``.

It is entered only where the stacks are empty, and left only if it is on top. So a mode that the program enters in
between finds its order. It comes off at the next layer or part, and at the first call when all state is back.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from djinn.state.compiled import compiles, never_traced
from djinn.state.static import elements_of
from djinn.state.tensors import is_tensor

_VALUES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)

_READ_RAW = frozenset(
    [
        torch.Tensor.__array__,
        torch.Tensor.__dlpack__,
        torch.Tensor.__reduce_ex__,
        torch.Tensor.__cuda_array_interface__.__get__,
        torch.Tensor.data_ptr,
        torch.Tensor.numpy,
        torch.Tensor.share_memory_,
        torch.Tensor.storage,
        torch.Tensor.tolist,
        torch.Tensor.untyped_storage,
    ]
)


def parts_of(value: object) -> tuple[list[torch.Tensor], list[object]]:
    """Return the tensors in nested tuples, lists and dictionaries, and the other objects there that may lead to more.

    These are the forms in which operators take tensors.
    """
    tensors: list[torch.Tensor] = []
    others: list[object] = []
    seen: set[int] = set()
    todo = [value]
    while todo:
        part = todo.pop()
        if is_tensor(part):
            tensors.append(part)
        elif (elements := elements_of(part)) and id(part) not in seen:
            seen.add(id(part))
            todo += elements
        elif not issubclass(type(part), (*_VALUES, dict, list, tuple)):
            others.append(part)
    return tensors, others


class Waits(Protocol):
    """What the barrier makes operators wait for."""

    def wait_for(self, value: object) -> bool:
        """Wait for the tensors in ``value``; False if it holds objects that may lead to others."""

    def wait_all(self) -> None:
        """Wait for everything, and stop the barrier."""

    @property
    def all_back(self) -> bool:
        """Whether there is nothing to wait for any more."""


class ReadBarrier(TorchDispatchMode):
    """Delays an operator until its lane waits for the storages that it reads.

    Code between two layers may read more than the layers' own arguments: ``x + layer(norm(x))`` needs the old x. The
    barrier is off inside layers, where it would only cost time, and in inference mode, where it would change bits.
    """

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits
        self._on = False
        self._calls = _CallBarrier(waits)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from doing itself, by an import of the compiler, what the mark on the next method does."""
        return False

    @never_traced
    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Wait for what ``func`` reads, then run it."""
        if self._on:
            self._waits.wait_for((args, kwargs))
        return func(*args, **(kwargs or {}))

    def enter(self, *, behind_model: bool = False) -> bool:
        """Start the barrier on the current thread; False, and it is off, where it would miss or change operators.

        Code ``behind_model`` is the user's own. It may read past operators, enter inference mode, and call autograd,
        whose threads the barrier does not reach.
        """
        if compiles() or (behind_model and torch.is_grad_enabled()):
            self.exit()
            return False
        if not self._on:
            if torch.is_inference_mode_enabled() or _get_current_dispatch_mode_stack():
                return False
            self.__enter__()
            self._on = True
        if behind_model and not self._calls.enter():
            self.exit()
            return False
        return True

    def exit(self) -> None:
        """Stop the barrier, if it was started."""
        self._calls.exit()
        if self._on:
            self._on = False
            stack = _get_current_dispatch_mode_stack()
            if stack and stack[-1] is self:
                self.__exit__(None, None, None)


class _CallBarrier(TorchFunctionMode):
    """Delays a call that reads a tensor's bytes past all operators; takes the barrier off when all state is back."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits
        self._on = False
        self._pushed = False  # longer than it is on, if it was stopped within a call or under another mode

    @never_traced
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Wait for the tensor if ``func`` reads it raw, then call it."""
        if self._on:
            if self._waits.all_back or torch.is_inference_mode_enabled():
                self._waits.wait_all()
            elif func in _READ_RAW:
                self._waits.wait_for((args, kwargs))
        return func(*args, **(kwargs or {}))

    def enter(self) -> bool:
        """Start it on the current thread; False where another mode is on the stack."""
        stack = _get_current_function_mode_stack()
        if not self._pushed and not stack:
            self.__enter__()
            self._pushed = True
        elif [*stack] != [self]:
            return False
        self._on = True
        return True

    def exit(self) -> None:
        """Stop it, if it was started."""
        self._on = False
        stack = _get_current_function_mode_stack() if self._pushed else []
        if stack and stack[-1] is self:
            self.__exit__(None, None, None)
            self._pushed = False
