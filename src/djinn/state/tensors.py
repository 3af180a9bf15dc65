"""Inspects tensors by torch's own accessors, past overrides of subclasses and modes that a program has entered.

Knows which tensors cannot be emptied and refilled through their storage, and gives the reason.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch.utils import _python_dispatch

PlainTensor = torch._C.TensorBase  # its methods are torch's, whatever a subclass or an instance puts in front
counted_writes = vars(PlainTensor)["_version"].__get__  # a C function; raises for a tensor made in inference mode
_BASE, _DEVICE, _IS_NESTED, _IS_QUANTIZED, _LAYOUT = (
    vars(PlainTensor)[name] for name in ("_base", "device", "is_nested", "is_quantized", "layout")
)
_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Disable the program's modes, subclass overrides and transforms, until the block ends.

    On one line, for this may be a caller's thread: between a guard and its entry in a stack an interrupt would leave
    it on.
    """
    with _off("DisableTorchFunction"), _off("_DisableFuncTorch"), _no_modes(): yield  # fmt: skip # noqa: E701


def _off(name: str, module: object = torch._C) -> contextlib.AbstractContextManager[object]:
    made: contextlib.AbstractContextManager[object] = getattr(module, name, contextlib.nullcontext)()
    return made


_no_modes = functools.partial(_off, "_disable_current_modes", _python_dispatch)


def is_tensor(obj: object) -> TypeGuard[torch.Tensor]:
    """Whether ``obj`` is a tensor, by its type alone."""
    return issubclass(type(obj), torch.Tensor)


def device_of(tensor: torch.Tensor) -> torch.device | None:
    """Return the device of ``tensor``; None for a subclass that answers by code of its own."""
    if _answers_itself(tensor):
        return None
    device: torch.device = _DEVICE.__get__(tensor)
    return device


def base_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the tensor of which ``tensor`` is a view, or None; only C++ refers to it, no Python reference shows."""
    if _answers_itself(tensor) or _is_transformed(tensor):
        return None
    base: torch.Tensor | None = _BASE.__get__(tensor)
    return base


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """Return the storage of ``tensor``, or None if it has none of its own."""
    if _answers_itself(tensor) or _is_transformed(tensor) or not torch._C._has_storage(tensor):
        return None
    return PlainTensor.untyped_storage(tensor)


def untransformed(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor that the transforms of torch.func around ``tensor`` compute with; itself without these."""
    while _is_transformed(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def is_the_allocator_s(storage: torch.UntypedStorage) -> bool:
    """Whether the bytes of ``storage`` can be returned to torch's allocator and allocated again."""
    return storage.resizable() and not (storage.device.type == "cpu" and storage.is_shared())  # on a GPU: always shared


def is_lazily_copied(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is copy-on-write: it shares its bytes until a write."""
    return bool(torch._C._is_cow_tensor(tensor))  # type: ignore[attr-defined]  # not in torch's stubs


def not_swappable(tensor: torch.Tensor) -> str | None:
    """Return why the bytes of ``tensor`` cannot leave the device through its storage, or None if they can."""
    subclass = None if type(tensor) is torch.Tensor else f"it is a tensor of the subclass {_qualname(type(tensor))}"
    if _answers_itself(tensor):
        return subclass
    layout = _LAYOUT.__get__(tensor)
    kinds = (
        (_is_transformed(tensor), "it belongs to a transform of torch.func (vmap, grad, jvp)"),
        (_IS_NESTED.__get__(tensor), "it is a nested tensor"),
        (layout in _PARTS, "it is sparse"),
        (layout is not torch.strided, f"its layout is {layout}"),
        (_IS_QUANTIZED.__get__(tensor), "it is quantized"),
    )
    return next((reason for is_so, reason in kinds if is_so), subclass)


def nbytes_of(tensor: torch.Tensor) -> int:
    """Count the bytes of ``tensor``, in its storage or in its parts; 0 if they cannot be read."""
    storage = storage_of(tensor)
    if storage is not None:
        return storage.nbytes()
    if _answers_itself(tensor):
        return 0  # its parts, if any, are tensors of their own
    try:
        if _is_transformed(tensor):
            return nbytes_of(torch._C._functorch.get_unwrapped(tensor))
        parts = _PARTS.get(_LAYOUT.__get__(tensor), ())
        if parts:
            return sum(nbytes_of(getattr(PlainTensor, part)(tensor)) for part in parts)
        return PlainTensor.numel(tensor) * PlainTensor.element_size(tensor)
    except RuntimeError:
        return 0


def _qualname(cls: type) -> str:
    return str(type.__dict__["__qualname__"].__get__(cls))


def _answers_itself(tensor: torch.Tensor) -> bool:
    """Whether torch asks a subclass, by ``__torch_dispatch__``, even for the shape and the device."""
    return type(tensor) is not torch.Tensor and torch._C._dispatch_keys(tensor).has(torch._C.DispatchKey.Python)


def _is_transformed(tensor: torch.Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
