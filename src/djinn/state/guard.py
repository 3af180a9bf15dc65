"""Guards the tensors of a parked session that a caller holds: each use checks first that they are still valid.

A :class:`GuardedTensor` holds no bytes. It knows its session and which part of the state it is. For each operator it
makes a plain tensor over the bytes, under the session's lock, so that no signal moves the state meanwhile. Once the
session has gone on, every use raises :class:`djinn.IllegalMove`. Only shape, dtype and device can still be read.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch._ops import OpOverload
from torch.utils._pytree import tree_iter, tree_map

from djinn.core import IllegalMove
from djinn.interrupts import holding, patiently
from djinn.state.module_values import version_of
from djinn.state.tensors import storage_of


class Source(Protocol):
    """One pause of a session: it ends with the next signal, which voids the tensors."""

    number: int
    lock: "threading.RLock"
    paused: bool  # its state is on the device, and is no eviction candidate

    def check(self, name: str) -> None:
        """Raise :class:`IllegalMove` if the session has gone on, so that the tensor ``name`` is void."""

    def before_use(self) -> None:
        """Order the current stream behind the stream that computed the state."""

    def after_use(self) -> None:
        """Wait for the operator's kernels, for the session may go on at once."""

    def note_edit(self, name: str) -> None:
        """Note that the bytes of the tensor ``name`` may have been written."""


_TIMES = 8  # that the bytes of an operator's tensors may turn out to have left host memory

Look = Callable[[], torch.Tensor]  # a plain tensor over the bytes, now

# Metadata that needs no bytes: properties, as torch asks for them, and methods.
_PROPERTIES = ["shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "is_cuda", "is_cpu", "is_meta"]
_PROPERTIES += ["is_sparse", "is_quantized", "is_nested", "is_mps", "is_xpu"]
_METHODS = ["size", "stride", "storage_offset", "numel", "nelement", "dim", "ndimension", "element_size"]
_METHODS += ["is_contiguous", "is_floating_point", "is_complex", "__len__", "__hash__"]
_OF_ITSELF = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in _PROPERTIES]
    + [getattr(torch.Tensor, name) for name in _METHODS]
    + [torch.is_floating_point, torch.is_complex, torch.numel]
)

# These would change the plain tensor itself, which exists only for the time of the operator.
_REFUSED = {
    torch.Tensor.requires_grad_: "cannot be a leaf of autograd",
    torch.Tensor.requires_grad.__set__: "cannot be a leaf of autograd",  # type: ignore[attr-defined]  # the stubs lack it
    torch.Tensor.register_hook: "cannot have hooks",
    torch.Tensor.data.__set__: "cannot be put over another storage",  # type: ignore[attr-defined]  # likewise
    torch.Tensor.resize_: "cannot be resized",
    torch.Tensor.resize_as_: "cannot be resized",
    torch.Tensor.share_memory_: "cannot be moved to shared memory",
    torch.Tensor.__setstate__: "cannot be filled from a pickle",
}

# They give out the bytes themselves, or write them where torch does not count it.
_GIVE_BYTES = ["numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"]
_TOLD_OF_NO_WRITES = frozenset(
    [torch.Tensor.data.__get__]  # type: ignore[attr-defined]  # likewise
    + [getattr(torch.Tensor, name) for name in (*_GIVE_BYTES, "apply_", "map_", "map2_")]
)


class GuardedTensor(torch.Tensor):
    """The tensor ``name`` of ``source``; ``look`` finds its bytes, and the other arguments are its layout there.

    An operator's result is guarded if it shares the bytes, and a plain tensor otherwise. So ``clone()`` what is to
    outlive the pause. Pickling, ``torch.save`` and ``copy.deepcopy`` make a plain copy.
    """

    _source: Source
    _name: str
    _look: Look
    _own: bool  # whether it is a tensor of the program itself, or a view of one

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
        own: bool = False,
    ) -> "GuardedTensor":
        """Make the wrapper, without bytes; ``stride`` and ``offset`` are in elements."""
        self: GuardedTensor = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=stride, storage_offset=offset, dtype=dtype, device=device
        )
        # Code that goes past ``__torch_function__`` and the dispatcher gets an error instead of a data pointer.
        torch._C._set_throw_on_mutable_data_ptr(self)
        self._source, self._name, self._look, self._own = source, name, look, own
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check the session, then call ``func`` on plain tensors."""
        if func in _OF_ITSELF:
            return _as_torch_does(func, args, kwargs or {})
        return _use(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stubs lack the class
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do the same for operators that are called past ``__torch_function__``."""
        return _use(func, args, kwargs or {})

    def set_(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Refuse to replace the storage; torch does not ask ``__torch_function__`` for this method."""
        raise _refusal(self, "cannot be put over another storage")

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.unbind(0))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.clone(memory_format=torch.contiguous_format).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = memo.setdefault(id(self), self.clone())
        return copied


def guarded(tensor: torch.Tensor, source: Source, name: str, look: Look | None = None) -> torch.Tensor:
    """Guard ``tensor``, which ``look`` finds again; without ``look`` it is a tensor of the program itself.

    A tensor without shape or strides (sparse or nested) cannot be guarded, and is returned as it is. Its bytes never
    leave the device.
    """
    own = look is None
    look = look or (lambda: tensor)
    try:
        shape, stride, offset = tensor.shape, tensor.stride(), int(tensor.storage_offset())
    except (RuntimeError, NotImplementedError):
        return tensor
    dtype, device = tensor.dtype, tensor.device
    return GuardedTensor(
        source, name, look, shape=shape, stride=stride, offset=offset, dtype=dtype, device=device, own=own
    )


def _use(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    guards = [part for part in tree_iter((args, kwargs)) if isinstance(part, GuardedTensor)]
    if not guards:  # they are in a container that tree_iter does not open: torch finds them, and asks again
        return _as_torch_does(func, args, kwargs)
    if (what := _REFUSED.get(func)) is not None:
        raise _refusal(guards[0], what)
    sources = sorted({guard._source for guard in guards}, key=lambda source: (source.number, id(source.lock)))
    use = functools.partial(_on_plain_tensors, func, args, kwargs, sources)
    # What is on a disk is read back first, and what is coded is decoded, one tensor at a time. Host memory may be too
    # small for all of them at once.
    times = _TIMES + len(sources) + len(guards)
    return patiently(lambda: _under([source.lock for source in sources], use), times=times)


def _as_torch_does(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call ``func`` with ``__torch_function__`` off, and turn it on again whatever happens."""
    return holding(torch._C.DisableTorchFunctionSubclass(), functools.partial(func, *args, **kwargs))


def _refusal(guard: GuardedTensor, what: str) -> IllegalMove:
    return IllegalMove(f"{guard._name} {what}, for it is the state of a session: clone() it first")


def _under(locks: list["threading.RLock"], function: Callable[[], Any]) -> Any:
    if not locks:
        return function()
    return holding(locks[0], functools.partial(_under, locks[1:], function))


class _Used:
    """A guarded tensor as the argument of one operator: the plain tensor, and its form before the call."""

    def __init__(self, guard: GuardedTensor, tensor: torch.Tensor) -> None:
        self.guard = guard
        self.tensor = tensor
        storage = storage_of(tensor)
        self.address = storage._cdata if storage is not None else None
        self._nbytes = storage.nbytes() if storage is not None else 0
        self._form = self._now()
        self._version = version_of(tensor)

    def _now(self) -> tuple[object, ...]:
        return self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset(), self.tensor.dtype

    def may_be_written(self, func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
        """Whether ``func`` has written the tensor, or somebody can now whom torch does not see."""
        uncounted = self._version is None or isinstance(func, OpOverload)  # torch counts before it dispatches
        by_name = uncounted and _writes(func, kwargs)
        return by_name or version_of(self.tensor) != self._version or func in _TOLD_OF_NO_WRITES

    def check(self) -> None:
        """Raise if the operator has changed the tensor's shape or storage; the state is as before."""
        storage = storage_of(self.tensor)
        if storage is not None and storage._cdata == self.address and storage.nbytes() != self._nbytes:
            storage.resize_(self._nbytes)
        if self._now() != self._form or (storage._cdata if storage is not None else None) != self.address:
            raise _refusal(self.guard, "cannot be given another shape or other bytes in place")


def _on_plain_tensors(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[Source]
) -> Any:
    used: list[_Used] = []
    gradients = torch.is_grad_enabled() and any(
        isinstance(part, torch.Tensor) and not isinstance(part, GuardedTensor) and part.requires_grad
        for part in tree_iter((args, kwargs))
    )

    def plain(part: Any) -> Any:
        if not isinstance(part, GuardedTensor):
            return part
        part._source.check(part._name)
        tensor = part._look()
        if gradients and not part._own:
            if _writes(func, kwargs):
                raise _refusal(part, "cannot be edited by what has gradients")
            return tensor.clone()  # what autograd saves must not change with the state
        used.append(_Used(part, tensor))
        return tensor

    try:
        args, kwargs = tree_map(plain, (args, kwargs))
        for source in sources:
            source.before_use()
        result = func(*args, **kwargs)
        for source in sources:
            source.after_use()
        for one in used:
            one.check()
        return tree_map(lambda part: _guarded(part, used), result)
    finally:
        edited = [(one.guard._source, one.guard._name) for one in used if one.may_be_written(func, kwargs)]
        for source, name in edited:
            source.note_edit(name)
        # The traceback of an error holds this frame, and a tensor in it would keep the state on the device.
        args, kwargs, result = (), {}, None
        used.clear()


def _writes(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    """Whether ``func`` writes into one of its arguments, judged by its name."""
    name = getattr(func, "__name__", "").split(".")[0]
    return (
        name in ("__setitem__", "set_")
        or name.startswith("__i")
        or "out" in kwargs
        or bool(kwargs.get("inplace"))
        or (name.endswith("_") and not name.endswith("__"))
    )


def _guarded(part: Any, used: list[_Used]) -> Any:
    """Guard ``part`` of a result if it shares bytes with a tensor of a session."""
    if not isinstance(part, torch.Tensor) or isinstance(part, GuardedTensor):
        return part
    for one in used:
        if part is one.tensor:
            return one.guard
    storage = storage_of(part)
    for one in used:
        if storage is not None and storage._cdata == one.address:
            guard = one.guard
            look = None if guard._own else _again(guard._look, part)
            return guarded(part, guard._source, guard._name, look)
    return part


def _again(look: Look, view: torch.Tensor) -> Look:
    """Make a function that builds ``view`` again, at its offset in the bytes that ``look`` finds."""
    dtype, shape, stride, offset = view.dtype, view.shape, view.stride(), view.storage_offset()

    def find() -> torch.Tensor:
        storage = look().untyped_storage()
        return holding(
            torch.inference_mode(False),
            lambda: torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride),
        )

    return find
