"""Containers of a program: reads what they hold, and builds one like another, without running the program's code.

Containers are lists, tuples, dictionaries and deques, transformers' caches, data classes that are neither modules nor
configurations, and Python's UserDict: transformers' BatchEncoding is one. Subclasses may keep attributes of their own
beside their elements.
"""

import collections
import contextlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from djinn.state.static import bases_of, each_in, instance_dict, is_named, name_of, namespace_of, slots_of

_BUILT_IN = (collections.OrderedDict, collections.defaultdict, dict, list, tuple, collections.deque)
_CACHES = "transformers.cache_utils"  # known by its name: transformers is not imported
_NO_CONTAINERS = ("Module", "PreTrainedConfig", "Enum")  # they may be data classes, but lead to code and settings
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


def is_container(cls: type) -> bool:
    """Whether objects of ``cls`` are containers."""
    if built_in(cls) is not object or is_cache_or_layer(cls):
        return True
    spaces = [namespace_of(base) for base in bases_of(cls)]
    known = any("__dataclass_fields__" in space for space in spaces) or is_named(cls, "UserDict", "collections")
    return known and is_all_attributes(cls)


def is_all_attributes(cls: type) -> bool:
    """Whether objects of ``cls`` are nothing but their attributes: no code, no settings, nothing that only C knows."""
    made_by = (namespace_of(base).get("__new__") for base in bases_of(cls))
    first = next(one for one in made_by if type(one) is types.BuiltinFunctionType)
    return first is object.__new__ and not any(name_of(base) in _NO_CONTAINERS for base in bases_of(cls))


def parts_of(value: object, followed: Callable[[type], bool] = is_container) -> Iterator[object]:
    """Yield ``value`` and everything in its containers, each once; ``followed`` tells of a class if it is one."""

    def inner_of(part: object) -> list[object]:
        if not followed(type(part)):
            return []
        contents = contents_of(part)
        return [inner for _, inner in (*contents.attributes, *contents.items)]

    return each_in(value, inner_of)


def is_cache(cls: type) -> bool:
    """Whether ``cls`` is a cache of transformers."""
    return is_named(cls, "Cache", _CACHES)


def is_cache_or_layer(cls: type) -> bool:
    """Whether ``cls`` is a cache of transformers, or a layer of one."""
    return is_cache(cls) or is_named(cls, "CacheLayerMixin", _CACHES)


def built_in(cls: type) -> Any:
    """Return the container type of Python's that ``cls`` is or inherits from; ``object`` if there is none."""
    return next((base for base in _BUILT_IN if issubclass(cls, base)), object)


def is_struct_sequence(cls: type) -> bool:
    """Whether objects of ``cls`` are tuples of C with named elements, such as what ``tensor.topk()`` returns."""
    return issubclass(cls, tuple) and "n_sequence_fields" in namespace_of(cls)


def contents_of(obj: Any) -> Contents:
    """Return what the container ``obj`` holds now."""
    cls = type(obj)
    base = built_in(cls)
    items: tuple[tuple[object, object], ...] = ()
    if issubclass(cls, dict):
        items = tuple(base.items(obj))
    elif base is not object:
        items = tuple(enumerate(base.__iter__(obj)))
    if cls is base and cls is not collections.OrderedDict:  # it has no attributes
        return Contents(items=items, attributes=())
    attributes = *dict.items(instance_dict(obj) or {}), *_in_slots(obj)
    return Contents(items=items, attributes=attributes)


def _in_slots(obj: object) -> Iterator[tuple[object, object]]:
    for name, slot in slots_of(type(obj)).items():
        with contextlib.suppress(AttributeError):  # nothing is in it
            yield name, slot.__get__(obj)


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
    slots = slots_of(type(made)) if contents.attributes else {}
    attributes = instance_dict(made)
    for key, value in contents.attributes:
        if key in slots:
            slots[str(key)].__set__(made, value)
        else:
            assert attributes is not None
            attributes[key] = value
