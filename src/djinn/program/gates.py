"""The read barrier: makes operators between two layers wait for state that is still being swapped in.

The barrier is a dispatch mode on the current thread's stack of modes. It comes off at a later layer. It is entered only
where the stack is empty, and left only if it is on top. So a mode that the program enters in between finds its order.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from djinn.state.compiled import compiles, never_traced
from djinn.state.static import elements_of
from djinn.state.tensors import is_tensor


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


class ReadBarrier(TorchDispatchMode):
    """Between layers, delays an operator until the storages that it reads are back.

    Code between two layers may read more than the layers' own arguments: ``x + layer(norm(x))`` needs the old x. The
    barrier is off inside layers, where it would only cost time, and in inference mode, where it would change bits.
    """

    def __init__(self, wait: Callable[[Iterable[torch.Tensor]], None]) -> None:
        super().__init__()
        self._wait: Callable[[Iterable[torch.Tensor]], None] | None = None
        self._wait_for = wait

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
        if self._wait is not None:
            self._wait(tensors_in((args, kwargs or {})))
        return func(*args, **(kwargs or {}))

    def enter(self) -> bool:
        """Start the barrier on the current thread; False, and it is off, where it would miss or change operators."""
        if compiles():
            self.exit()
            return False
        if self._wait is None:
            if torch.is_inference_mode_enabled() or _get_current_dispatch_mode_stack():
                return False
            self.__enter__()
            self._wait = self._wait_for
        return True

    def exit(self) -> None:
        """Stop the barrier, if it was started."""
        if self._wait is not None:
            self._wait = None
            stack = _get_current_dispatch_mode_stack()
            if stack and stack[-1] is self:
                self.__exit__(None, None, None)
