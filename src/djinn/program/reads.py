"""What a call may read: the tensors that its arguments lead to.

A layer's own code reads more than the tensors among its arguments. It asks a cache for the KV of its index, an object
for an attribute, a function for what that remembers. So objects are followed as in ``walk``: statically, and never into
modules and classes. Of a transformers cache a layer reads the entries of its own index.

Not followed are objects that Python's garbage collector does not know. The answer then is that nobody can tell.
"""

import gc
import types
from collections.abc import Iterable
from typing import Any

import torch

from djinn.state.containers import is_cache
from djinn.state.static import elements_of, instance_dict
from djinn.state.tensors import is_tensor
from djinn.state.walk import NEVER_ENTERED

_MOST = 1000  # objects that are followed; a call that is given more may read anything

_VALUES = (type(None), bool, int, float, complex, str, bytes, slice, type)
_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator)
_PLAIN = frozenset(map(id, _VALUES + _OF_TORCH))  # by id, for a metaclass may override the hash


def tensors_read(value: object, *, kv: Iterable[int] | None = None) -> list[torch.Tensor] | None:
    """Return the tensors that ``value`` leads to, or None if that cannot be told.

    ``kv`` are the indices of the entries of a cache that are read; None stands for all.
    """
    tensors: list[torch.Tensor] = []
    seen: set[int] = set()
    todo = [value]
    while todo:
        part: Any = todo.pop()
        cls = type(part)
        if cls is torch.Tensor:
            tensors.append(part)
        elif id(cls) not in _PLAIN and id(part) not in seen:
            seen.add(id(part))
            inner = _inner_of(part, kv)
            if inner is None or len(seen) > _MOST:
                return None
            todo += inner
            if is_tensor(part):
                tensors.append(part)
    return tensors


def _inner_of(part: Any, kv: Iterable[int] | None) -> Iterable[object] | None:
    """Return what ``part`` refers to, or None if that cannot be told."""
    cls = type(part)
    if cls is tuple or cls is list or cls is dict:
        return elements_of(part)
    if issubclass(cls, (dict, list, tuple)):
        return *elements_of(part), *(instance_dict(part) or {}).values()
    return _referents(part, kv)


def _referents(part: Any, kv: Iterable[int] | None) -> Iterable[object] | None:
    cls = type(part)
    if issubclass(cls, NEVER_ENTERED):
        return ()
    if not gc.is_tracked(part):
        return None
    if cls is types.FunctionType:  # its globals belong to everybody
        return part.__closure__, part.__defaults__, part.__kwdefaults__
    if kv is not None and is_cache(cls):
        return _read_of_cache(instance_dict(part) or {}, kv)
    return gc.get_referents(part)


def _read_of_cache(attributes: dict[str, object], kv: Iterable[int]) -> list[object]:
    """Return the attributes of a cache; of its layers only those at the indices ``kv``."""
    layers = elements_of(attributes.get("layers"))
    others = [value for name, value in attributes.items() if name != "layers"]
    return others + [layers[index] for index in kv if index < len(layers)]
