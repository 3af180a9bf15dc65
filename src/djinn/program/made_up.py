"""Follows numbers that nobody has computed, through a program that is answered from its tape.

Where a layer did not run the program has NaN, and may compute with it. What it computes so is made up too. That does no
harm in a tensor of its state, for the saved one takes its place at the breakpoint. It would in a number of Python's, in
another device's memory, or in an error that the program catches. So there the program is ended.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import overrides
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from djinn.state.compiled import never_traced
from djinn.state.tensors import is_tensor, storage_of

# Their results tell of the sizes only.
_LIKE = frozenset(f"aten::{word}_like" for word in ("empty", "zeros", "ones", "full", "rand", "randn")) | frozenset(
    f"aten::new_{word}" for word in ("empty", "empty_strided", "zeros", "ones", "full")
)
# In host memory these read without an operator.
_READS = frozenset(
    id(getattr(torch.Tensor, name))
    for name in (
        "tolist",
        "numpy",
        "__array__",
        "__dlpack__",
        "__reduce_ex__",
        "__repr__",
        "__format__",
        "untyped_storage",
        "data_ptr",
    )
)


class MadeUp:
    """The storages that hold made-up numbers. It is on for one thread, from :meth:`put_on` to :meth:`take_off`.

    ``refuse`` ends the program; its argument says what the program does with such a number.
    """

    def __init__(self, refuse: Callable[[str], NoReturn]) -> None:
        self._refuse = refuse
        self._storages: dict[int, StorageWeakRef] = {}  # by address, which nobody else gets while it is here
        self._kept_at_most = 1000
        self._modes = _Operators(self), _Reads(self)
        self._is_put_on = False
        self.follows = False  # whether it does anything while it is on

    def put_on(self) -> None:
        """Follow what this thread computes."""
        self._is_put_on = self.follows = True
        for mode in self._modes:
            mode.__enter__()

    def take_off(self, *, at_the_end: bool = False) -> None:
        """Do it no more; modes that the program has entered meanwhile stay.

        A block in inference mode puts back at its end what torch's dispatcher did at its beginning. So in one they
        stay on and do nothing, but for :meth:`aside`.
        """
        self.follows = False
        if self._is_put_on and (at_the_end or not torch.is_inference_mode_enabled()):
            self._is_put_on = False
            operators, reads = self._modes
            _exit(operators, torch._C._len_torch_dispatch_stack, _python_dispatch)
            _exit(reads, torch._C._len_torch_function_stack, overrides)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Stay off in this block, in which torch then is as fast as ever."""
        is_put_on = self._is_put_on
        self.take_off(at_the_end=True)
        try:
            yield
        finally:
            if is_put_on:
                self.put_on()
                self.follows = False

    def add(self, tensor: torch.Tensor) -> None:
        """Note that ``tensor`` is made up."""
        storage = storage_of(tensor)
        if storage is None:
            self._refuse("it puts into a tensor of a kind of its own")
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = StorageWeakRef(storage)
        if len(self._storages) > self._kept_at_most:
            self._storages = {key: one for key, one in self._storages.items() if not one.expired()}
            self._kept_at_most = max(1000, 2 * len(self._storages))

    def forget(self, tensors: Iterable[torch.Tensor]) -> None:
        """Note that all bytes under ``tensors`` were overwritten by what had been computed."""
        for storage in map(storage_of, tensors):
            if storage is not None:
                self._storages.pop(storage._cdata, None)

    def holds(self, storage: torch.UntypedStorage) -> bool:
        """Whether something in ``storage`` is made up."""
        return storage._cdata in self._storages

    def is_left_beside(self, kept: set[int]) -> bool:
        """Whether there is a storage of made-up numbers that is none of ``kept``, by address."""
        return any(not one.expired() and key not in kept for key, one in self._storages.items())

    def among(self, values: Any) -> bool:
        """Whether a tensor in ``values`` is made up."""
        storages = (storage_of(tensor) for tensor in _tensors_in(values))
        return any(storage is not None and self.holds(storage) for storage in storages)

    def run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator of torch, of which ``operator`` knows what it writes."""
        schema = getattr(operator, "_schema", None)  # operators that take functions have none
        with torch._C.DisableTorchFunction():
            made_up = self.follows and (not schema or schema.name not in _LIKE) and self.among((args, kwargs))
            if made_up and not schema:
                self._refuse(f"it computes with it by {operator}")
        if not made_up:
            return operator(*args, **kwargs)
        try:
            output = operator(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the program might catch it
            self._refuse(f"by which {operator} raised {type(error).__name__}")
        with torch._C.DisableTorchFunction():
            self._note(operator, args, kwargs, output)
        return output

    def _note(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        parts = list(_parts_of(output))
        if any(type(part) in (bool, int, float, complex) for part in parts) or self._shapes(operator, args):
            self._refuse(f"it reads by {operator}")
        devices = {tensor.device for tensor in _tensors_in((args, kwargs)) if tensor.dim()}
        for tensor in filter(is_tensor, parts):
            if devices and tensor.device not in devices:
                self._refuse(f"it copies to {tensor.device}")
            self.add(tensor)
        given = dict(enumerate(args)) | kwargs
        for position, argument in enumerate(operator._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in _tensors_in(given.get(argument.name, given.get(position))):
                    self.add(tensor)

    def _shapes(self, operator: Any, args: tuple[Any, ...]) -> bool:
        """Whether the numbers that ``operator`` is given decide about the shape of its result."""
        if operator._schema.name == "aten::index":
            return any(index.dtype in (torch.bool, torch.uint8) and self.among(index) for index in _tensors_in(args[1]))
        return torch.Tag.dynamic_output_shape in operator.tags


class _Operators(TorchDispatchMode):
    """Sees the operators of a thread."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler for the mark that stands below

    def __init__(self, made_up: MadeUp) -> None:
        super().__init__()
        self._made_up = made_up

    @never_traced
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._made_up.run(func, args, kwargs or {})


class _Reads(TorchFunctionMode):
    """Sees the calls by which a thread reads numbers without an operator."""

    def __init__(self, made_up: MadeUp) -> None:
        super().__init__()
        self._made_up = made_up

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if id(func) in _READS:
            with torch._C.DisableTorchFunction():
                made_up = self._made_up.follows and self._made_up.among(args)
            if made_up:
                self._made_up._refuse(f"it reads by {func.__name__}")
        return func(*args, **(kwargs or {}))


def _parts_of(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _parts_of(inner)
    elif isinstance(value, dict):
        yield from _parts_of(list(value.values()))
    else:
        yield value


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    return filter(is_tensor, _parts_of(value))


def _exit(mode: Any, length: Callable[[], int], stack: Any) -> None:
    """End ``mode`` of this thread, wherever it is among the modes on ``stack``."""
    above = []
    while length():
        last = stack._pop_mode()
        if last is mode:
            stack._push_mode(mode)  # it takes itself off
            mode.__exit__(None, None, None)
            break
        above.append(last)
    for other in reversed(above):
        stack._push_mode(other)
