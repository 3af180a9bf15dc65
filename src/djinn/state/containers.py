"""Containers of a program: reads what they hold, and builds one like another, without running the program's code.

Containers are lists, tuples, dictionaries and deques, transformers' caches, and data classes that are neither modules
nor configurations. Subclasses may keep attributes of their own beside their elements.
"""

import collections
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from djinn.state.static import bases_of, each_in, instance_dict, is_named, name_of, namespace_of

_BUILT_IN = (collections.OrderedDict, collections.defaultdict, dict, list, tuple, collections.deque)
_CACHES = "transformers.cache_utils"  # known by its name: transformers is not imported
_NO_CONTAINERS = ("Module", "PreTrainedConfig")  # they may be data classes, but lead to code and settings
_PLAIN = frozenset(
    map(id, (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size))
)  # by id, for a metaclass may override the hash


def is_plain(value: object) -> bool:
    """Whether ``value`` is data that never changes: None, a number, a string, a dtype, a device, a shape."""
    return id(type(value)) in _PLAIN


def is_same(one: object, other: object) -> bool:
    """Whether two values are one object, or equal plain data."""
    return one is other or (type(one) is type(other) and is_plain(one) and one == other)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a container holds: ``items`` by key or position, and ``attributes`` of its own."""

    items: tuple[tuple[object, object], ...]
    attributes: tuple[tuple[object, object], ...]

    def is_same_as(self, other: "Contents") -> bool:
        """Whether both hold the same, under the same keys and in the same order."""
        pairs = ((self.items, other.items), (self.attributes, other.attributes))
        return all(
            len(mine) == len(theirs)
            and all(is_same(a, c) and is_same(b, d) for (a, b), (c, d) in zip(mine, theirs, strict=True))
            for mine, theirs in pairs
        )


def parts_of(value: object) -> Iterator[object]:
    """Yield ``value`` and everything in its containers, each once."""
    return each_in(value, _inner_of)


def _inner_of(part: object) -> list[object]:
    if not is_container(type(part)):
        return []
    contents = contents_of(part)
    return [inner for _, inner in (*contents.attributes, *contents.items)]


def is_container(cls: type) -> bool:
    """Whether objects of ``cls`` are containers."""
    if built_in(cls) is not object or is_cache_or_layer(cls):
        return True
    if any(name_of(base) in _NO_CONTAINERS for base in bases_of(cls)):
        return False
    spaces = [namespace_of(base) for base in bases_of(cls)]
    return any("__dataclass_fields__" in space for space in spaces)


def is_cache(cls: type) -> bool:
    """Whether ``cls`` is a cache of transformers."""
    return is_named(cls, "Cache", _CACHES)


def is_cache_or_layer(cls: type) -> bool:
    """Whether ``cls`` is a cache of transformers, or a layer of one."""
    return is_cache(cls) or is_named(cls, "CacheLayerMixin", _CACHES)


def built_in(cls: type) -> Any:
    """Return the container type of Python's that ``cls`` is or inherits from; ``object`` if there is none."""
    return next((base for base in _BUILT_IN if issubclass(cls, base)), object)


def contents_of(obj: Any) -> Contents:
    """Return what the container ``obj`` holds now."""
    cls = type(obj)
    base = built_in(cls)
    items: tuple[tuple[object, object], ...] = ()
    if issubclass(cls, dict):
        items = tuple(base.items(obj))
    elif base is not object:
        items = tuple(enumerate(base.__iter__(obj)))
    attributes = instance_dict(obj) if cls is not base else None
    return Contents(items=items, attributes=tuple(dict.items(attributes or {})))


def like(obj: Any) -> Any:
    """Make an empty container of the type of ``obj``, which is no tuple."""
    base = built_in(type(obj))
    space = namespace_of(base)
    made = base.__new__(type(obj))
    if base is collections.deque:
        base.__init__(made, maxlen=space["maxlen"].__get__(obj))
    if base is collections.defaultdict:
        space["default_factory"].__set__(made, space["default_factory"].__get__(obj))
    return made


def fill(made: Any, contents: Contents) -> None:
    """Put ``contents`` into the container ``made``, which has its elements already if it is a tuple."""
    base = built_in(type(made))
    for key, value in contents.items:
        if issubclass(base, dict):
            base.__setitem__(made, key, value)
        elif base is not tuple:
            base.append(made, value)
    if contents.attributes:
        attributes = instance_dict(made)
        assert attributes is not None
        attributes.update(contents.attributes)
