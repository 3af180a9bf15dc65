"""Watches the operators that a thread runs between two layers: they wait for state that is on its way.

The gate stands on the current thread's stack of modes and comes off at a later layer. It is put up only where the stack
is empty, and taken off only if it is on top. A mode that the program enters in between must find its own order.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from djinn.static import elements_of
from djinn.tensors import is_tensor


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Tensors in nested tuples, lists and dictionaries: the forms in which operators and layers take them."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        part = todo.pop()
        if is_tensor(part):
            yield part
        elif (elements := elements_of(part)) and id(part) not in seen:
            seen.add(id(part))
            todo += elements


class GapGate(TorchDispatchMode):
    """Between layers, holds an operator back until the storages that it reads are there.

    What runs between two layers may read more than the layers' own arguments (``x + layer(norm(x))`` wants the old x).
    Off inside layers, where it would cost time for nothing, and under inference mode, where it is not bit-neutral.
    """

    def __init__(self, wait: Callable[[Iterable[torch.Tensor]], None]) -> None:
        super().__init__()
        self._wait: Callable[[Iterable[torch.Tensor]], None] | None = None
        self._wait_for = wait

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Wait for what ``func`` reads, then run it."""
        if self._wait is not None:
            self._wait(tensors_in((args, kwargs or {})))
        return func(*args, **(kwargs or {}))

    def enter(self) -> bool:
        """Start watching the current thread; False, and no effect, where operators cannot be watched faithfully."""
        if self._wait is None:
            if torch.is_inference_mode_enabled() or _get_current_dispatch_mode_stack():
                return False
            self.__enter__()
            self._wait = self._wait_for
        return True

    def exit(self) -> None:
        """Stop watching, if it was."""
        if self._wait is not None:
            self._wait = None
            stack = _get_current_dispatch_mode_stack()
            if stack and stack[-1] is self:
                self.__exit__(None, None, None)
