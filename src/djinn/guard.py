"""Tensors of a parked session as its caller holds them: each use looks first whether the state is still there.

A :class:`GuardedTensor` holds no bytes. It knows whose state it is of and which part, and takes a plain tensor over the
bytes for the time of one operator, under the lock of the session, so that no signal moves the state meanwhile. Once the
session has gone on, whatever is done with it raises :class:`djinn.IllegalMove`. Only its shape, dtype and device can
still be asked for.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_iter, tree_map

from djinn.core import IllegalMove
from djinn.interrupts import holding


class Source(Protocol):
    """One parked session, up to the next signal that voids its tensors."""

    number: int
    lock: "threading.RLock"

    def check(self, name: str) -> None:
        """Raise :class:`IllegalMove`, which says that ``name`` is void, if the session has gone on."""

    def before_use(self) -> None:
        """Order the current stream behind whoever made the state."""

    def after_use(self) -> None:
        """Wait for what was done with it: the session may go on at once."""


Look = Callable[[], torch.Tensor]  # a plain tensor over the bytes, now

# What a tensor says of itself without its bytes: properties, as torch asks for them, and methods.
_PROPERTIES = ["shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "is_cuda", "is_cpu", "is_meta"]
_PROPERTIES += ["is_sparse", "is_quantized", "is_nested", "is_mps", "is_xpu"]
_METHODS = ["size", "stride", "storage_offset", "numel", "nelement", "dim", "ndimension", "element_size"]
_METHODS += ["is_contiguous", "is_floating_point", "is_complex", "__len__", "__hash__"]
_OF_ITSELF = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in _PROPERTIES]
    + [getattr(torch.Tensor, name) for name in _METHODS]
    + [torch.is_floating_point, torch.is_complex, torch.numel]
)

# These would change what a plain tensor is, and that one is gone after the operator.
_REFUSED = {
    torch.Tensor.requires_grad_: "cannot be a leaf of autograd",
    torch.Tensor.requires_grad.__set__: "cannot be a leaf of autograd",  # type: ignore[attr-defined]
    torch.Tensor.register_hook: "cannot have hooks",
    torch.Tensor.data.__set__: "cannot be put over another storage",  # type: ignore[attr-defined]
    torch.Tensor.resize_: "cannot be resized",
    torch.Tensor.resize_as_: "cannot be resized",
    torch.Tensor.share_memory_: "cannot be moved to shared memory",
    torch.Tensor.__setstate__: "cannot be filled from a pickle",
}


class GuardedTensor(torch.Tensor):
    """The tensor ``name`` of ``source``; ``look`` finds its bytes, and the rest is how it lies there.

    What an operator returns is guarded if it shares the bytes, and a plain tensor otherwise: ``clone()`` what is to
    outlive the pause. Pickling, ``torch.save`` and ``copy.deepcopy`` make a plain tensor of its own.
    """

    _source: Source
    _name: str
    _look: Look

    @staticmethod
    def __new__(
        cls,
        source: Source,
        name: str,
        look: Look,
        *,
        shape: torch.Size,
        stride: tuple[int, ...],
        offset: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "GuardedTensor":
        """Without bytes; ``stride`` and ``offset`` are in elements."""
        self: GuardedTensor = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=stride, storage_offset=offset, dtype=dtype, device=device
        )
        self._source, self._name, self._look = source, name, look
        return self

    @classmethod
    def over(cls, tensor: torch.Tensor, source: Source, name: str, look: Look) -> "GuardedTensor":
        """One that looks like ``tensor``."""
        shape, stride, offset = tensor.shape, tensor.stride(), int(tensor.storage_offset())
        return cls(
            source, name, look, shape=shape, stride=stride, offset=offset, dtype=tensor.dtype, device=tensor.device
        )

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look, then call ``func`` on plain tensors."""
        if func in _OF_ITSELF:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return _use(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stubs lack the class
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The same for operators that are called past ``__torch_function__``."""
        return _use(func, args, kwargs or {})

    def set_(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Refused, as what else would change the tensor itself; torch does not ask ``__torch_function__`` for it."""
        raise _refusal(self, "cannot be put over another storage")

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.unbind(0))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.clone(memory_format=torch.contiguous_format).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = memo.setdefault(id(self), self.clone())
        return copied


def _use(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    guards = [part for part in tree_iter((args, kwargs)) if isinstance(part, GuardedTensor)]
    if (what := _REFUSED.get(func)) is not None:
        raise _refusal(guards[0], what)
    sources = sorted({guard._source for guard in guards}, key=lambda source: source.number)
    use = functools.partial(_on_plain_tensors, func, args, kwargs, sources)
    return _under([source.lock for source in sources], use)


def _refusal(guard: GuardedTensor, what: str) -> IllegalMove:
    return IllegalMove(f"{guard._name} {what}, for it is the state of a session: clone() it first")


def _under(locks: list["threading.RLock"], function: Callable[[], Any]) -> Any:
    if not locks:
        return function()
    return holding(locks[0], functools.partial(_under, locks[1:], function))


def _on_plain_tensors(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[Source]
) -> Any:
    guard_of: dict[int, tuple[GuardedTensor, torch.Tensor]] = {}  # of each plain tensor, by its identity

    def plain(part: Any) -> Any:
        if not isinstance(part, GuardedTensor):
            return part
        part._source.check(part._name)
        tensor = part._look()
        guard_of[id(tensor)] = part, tensor
        return tensor

    args, kwargs = tree_map(plain, (args, kwargs))
    for source in sources:
        source.before_use()
    result = func(*args, **kwargs)
    for source in sources:
        source.after_use()
    return tree_map(lambda part: _guarded(part, guard_of), result)


def _guarded(part: Any, guard_of: dict[int, tuple[GuardedTensor, torch.Tensor]]) -> Any:
    """``part`` of a result: guarded, if it shares bytes with a tensor of a session."""
    if not isinstance(part, torch.Tensor) or isinstance(part, GuardedTensor) or part.layout is not torch.strided:
        return part
    if (same := guard_of.get(id(part))) is not None:
        return same[0]
    for guard, tensor in guard_of.values():
        if part.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            return GuardedTensor.over(part, guard._source, guard._name, _again(guard._look, part))
    return part


def _again(look: Look, view: torch.Tensor) -> Look:
    """Finds ``view`` again over the bytes that ``look`` finds: itself if autograd knows it, else by where it lies."""
    if view.requires_grad:
        return lambda: view
    dtype, shape, stride, offset = view.dtype, view.shape, view.stride(), view.storage_offset()

    def find() -> torch.Tensor:
        storage = look().untyped_storage()
        with torch.inference_mode(False):
            return torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride)

    return find
