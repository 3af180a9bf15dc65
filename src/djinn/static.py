"""Looks into objects without running a line of their code: only what Python itself keeps, read statically.

A program's objects may answer ``obj.x``, ``isinstance``, ``len`` or ``==`` by code of their own, which may raise, block
or compute. A walk through the session's state must not set it off.
"""

import types
from typing import Any

_MRO = type.__dict__["__mro__"]
_MODULE = type.__dict__["__module__"]
_NAME = type.__dict__["__name__"]
_NAMESPACE = type.__dict__["__dict__"]


def bases_of(cls: type) -> tuple[type, ...]:
    """The classes that ``cls`` inherits from, itself first, whatever its metaclass says."""
    bases: tuple[type, ...] = _MRO.__get__(cls)
    return bases


def name_of(cls: type) -> str:
    """The name of ``cls``."""
    name = _NAME.__get__(cls)
    return name if type(name) is str else "?"


def module_of(cls: type) -> str:
    """The name of the module in which ``cls`` says it was made, or nothing if that is no plain string."""
    try:
        module = _MODULE.__get__(cls)
    except AttributeError:  # deleted from the class
        return ""
    return module if type(module) is str else ""


def is_named(cls: type, name: str, module: str) -> bool:
    """Whether ``cls`` is, or inherits from, the class ``name`` of ``module``."""
    return any(name_of(base) == name and module_of(base) == module for base in bases_of(cls))


def dict_descriptor(cls: type) -> Any:
    """Python's own way to the attributes of an instance of ``cls``, or None: a property or a proxy's may run code."""
    for base in bases_of(cls):
        entry = _NAMESPACE.__get__(base).get("__dict__")
        # Extension types may have one too, and a lazy proxy's asks the object behind it. Python's own says what it is.
        if type(entry) is types.GetSetDescriptorType and (entry.__doc__ or "").startswith("dictionary for instance"):
            return entry
    return None


def instance_dict(obj: object) -> dict[Any, Any] | None:
    """The attributes that ``obj`` itself has, or None where Python keeps none or they cannot be had without code."""
    cls = type(obj)
    descriptor = dict_descriptor(cls)
    attributes = descriptor.__get__(obj, cls) if descriptor is not None else None
    return attributes if issubclass(type(attributes), dict) else None


def labels_in(obj: Any) -> dict[int, str]:
    """Ids of the elements of a dict, list or tuple, with what they are called in it: plain keys and positions only."""
    cls = type(obj)
    if not issubclass(cls, dict):
        return {id(value): str(index) for index, value in enumerate(elements_of(obj))}
    try:
        items = list(dict.items(obj))
    except RuntimeError:  # another thread changes it at this moment
        return {}
    return {id(value): f"{key}" for key, value in items if type(key) is str or type(key) is int}


def elements_of(obj: Any) -> tuple[object, ...]:
    """What a dict (its values), list or tuple holds, in order; nothing of any other object."""
    cls = type(obj)
    if issubclass(cls, dict):
        return tuple(dict.values(obj))
    if issubclass(cls, list):
        return tuple(list.__iter__(obj))
    if issubclass(cls, tuple):
        return tuple(tuple.__iter__(obj))
    return ()
