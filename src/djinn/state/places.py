"""Places of tensors in objects that a caller lends: where a tensor can be replaced while its bytes are away.

A place is an entry of a plain list or dict, or an attribute of a transformers cache or of one of its layers. They are
found without running code of these objects. Not a place is an entry of a tuple or set, an attribute of any other object
and a key of a dict. Knows no sessions.
"""

import functools
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from djinn.state.containers import is_cache
from djinn.state.static import instance_dict, name_of
from djinn.state.tensors import is_tensor

Container = dict[Any, Any] | list[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Place:
    """The entry ``key`` of ``container``, and its ``name`` as the caller would write it: ``cache.layers[3].keys``."""

    container: Container
    key: Any
    name: str

    def get(self) -> object:
        """Return what is in the place now, or None if there is no such place any more."""
        if type(self.container) is dict:
            return self.container.get(self.key)
        return next(iter(self.container[self.key : self.key + 1]), None)

    def putting(self, value: object) -> functools.partial[None]:
        """Return a C function that puts ``value`` into the place."""
        return functools.partial(self.container.__setitem__, self.key, value)

    def now_of(self, value: object) -> "Place | None":
        """Return the place of ``value`` in this container, for the entries of a list move; None if it has none."""
        if self.get() is value:
            return self
        entries = enumerate(list(self.container)) if type(self.container) is list else ()
        keys = [key for key, entry in entries if entry is value]
        return Place(container=self.container, key=keys[0], name=self.name) if keys else None


def checked_roots(roots: Sequence[object]) -> tuple[object, ...]:
    """Return ``roots``; raise ``TypeError`` if one is neither a transformers cache nor a plain list or dict."""
    if type(roots) not in (list, tuple):
        raise TypeError(f"adopt= must be a list of caches, not a {name_of(type(roots))}: pass adopt=[cache]")
    for root in roots:
        if not is_cache(type(root)) and type(root) not in (list, dict):
            raise TypeError(
                f"a {name_of(type(root))} cannot be adopted, for nothing in it can be replaced by a guard: "
                "adopt a transformers cache, or a list or dict of tensors"
            )
    return tuple(roots)


def places_in(roots: Sequence[object]) -> tuple[list[Place], set[int]]:
    """List the places of tensors in ``roots``, and ids of the objects that have the places."""
    places: list[Place] = []
    owners: set[int] = set()
    layers: set[int] = set()  # by id: the lists of layers
    alone = len(roots) == 1 and is_cache(type(roots[0]))
    todo = [("cache" if alone else f"adopt[{index}]", root, False) for index, root in enumerate(roots)]
    while todo:
        name, obj, is_layer = todo.pop()
        cache = not is_layer and is_cache(type(obj))
        container: Any = instance_dict(obj) if cache or is_layer else obj
        entries = _entries(container)
        if entries is None or id(obj) in owners:
            continue
        owners |= {id(obj), id(container)}
        if cache:
            layers |= {id(value) for key, value in entries if key == "layers"}
        for key, value in entries:
            label = f"{name}.{key}" if cache or is_layer else f"{name}[{key!r}]"
            if not is_tensor(value):
                if gc.is_tracked(value):
                    todo.append((label, value, id(container) in layers))
            else:
                places.append(Place(container=container, key=key, name=label))
    return places, owners


def _entries(container: object) -> list[tuple[Any, object]] | None:
    """List keys and values of a plain list or dict; None for anything else, and if a key may be more than a name."""
    if type(container) is list:
        return list(enumerate(container))
    if type(container) is dict:
        entries = list(container.items())
        return entries if all(type(key) in (str, int) for key, _ in entries) else None
    return None
