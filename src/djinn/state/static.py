"""Reads objects statically: only what Python itself keeps, without running a line of their code.

A program's objects may answer ``obj.x``, ``isinstance``, ``len`` or ``==`` by code of their own. That code may raise,
block or compute. A walk through the session's state must not run it.
"""

import collections
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_MRO = type.__dict__["__mro__"]
_MODULE = type.__dict__["__module__"]
_NAME = type.__dict__["__name__"]
_NAMESPACE = type.__dict__["__dict__"]


def imported(name: str) -> types.ModuleType | None:
    """Return the module ``name`` if it is imported whole: while some thread imports it, it lacks much of its own."""
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def bases_of(cls: type) -> tuple[type, ...]:
    """Return the classes that ``cls`` inherits from, itself first, without asking its metaclass."""
    bases: tuple[type, ...] = _MRO.__get__(cls)
    return bases


def name_of(cls: type) -> str:
    """Return the name of ``cls``."""
    name = _NAME.__get__(cls)
    return name if type(name) is str else "?"


def module_of(cls: type) -> str:
    """Return the name of the module that ``cls`` records, or ``""`` if that is no plain string."""
    try:
        module = _MODULE.__get__(cls)
    except AttributeError:  # deleted from the class
        return ""
    return module if type(module) is str else ""


def namespace_of(cls: type) -> types.MappingProxyType[str, Any]:
    """Return what the body of ``cls`` defines, by name."""
    space: types.MappingProxyType[str, Any] = _NAMESPACE.__get__(cls)
    return space


def is_named(cls: type, name: str, module: str) -> bool:
    """Whether ``cls`` is, or inherits from, the class ``name`` of ``module``."""
    return any(name_of(base) == name and module_of(base) == module for base in bases_of(cls))


def dict_descriptor(cls: type) -> Any:
    """Return Python's own descriptor of ``__dict__`` for ``cls``, or None: a property's or a proxy's may run code."""
    for base in bases_of(cls):
        entry = namespace_of(base).get("__dict__")
        # Extension types may define one too, as a lazy proxy that asks its target. The docstring identifies Python's,
        # and OrderedDict's has none.
        python_s = base is collections.OrderedDict or (
            type(entry) is types.GetSetDescriptorType and (entry.__doc__ or "").startswith("dictionary for instance")
        )
        if python_s:
            return entry
    return None


def instance_dict(obj: object) -> dict[Any, Any] | None:
    """Return the attributes of ``obj`` itself, or None if it has none or reading them would run code."""
    cls = type(obj)
    descriptor = dict_descriptor(cls)
    attributes = descriptor.__get__(obj, cls) if descriptor is not None else None
    return attributes if issubclass(type(attributes), dict) else None


def slots_of(cls: type) -> dict[str, types.MemberDescriptorType]:
    """Return Python's own descriptors of the slots of ``cls``, by name."""
    spaces = [space for base in reversed(bases_of(cls)) if (space := namespace_of(base)).get("__slots__")]
    return {
        name: entry for space in spaces for name, entry in space.items() if type(entry) is types.MemberDescriptorType
    }


def labels_in(obj: Any) -> dict[int, str]:
    """Map ids of the elements of a dict, list or tuple to their labels: plain keys and positions only."""
    cls = type(obj)
    if not issubclass(cls, dict):
        return {id(value): str(index) for index, value in enumerate(elements_of(obj))}
    try:
        items = list(dict.items(obj))
    except RuntimeError:  # another thread changes it at this moment
        return {}
    return {id(value): f"{key}" for key, value in items if type(key) is str or type(key) is int}


def each_in(value: object, inner: Callable[[object], Iterable[object]]) -> Iterator[object]:
    """Yield ``value`` and all that ``inner`` returns of it, of that, and so on, each object once."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        part = todo.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            todo += inner(part)


def elements_of(obj: Any) -> tuple[object, ...]:
    """Return the values of a dict, or the elements of a list or tuple, in order; ``()`` for any other object."""
    cls = type(obj)
    if issubclass(cls, dict):
        return tuple(dict.values(obj))
    if issubclass(cls, list):
        return tuple(list.__iter__(obj))
    if issubclass(cls, tuple):
        return tuple(tuple.__iter__(obj))
    return ()
