"""The attributes of a model's modules as they are while no session computes: the outside's values.

A look reads all of them and keeps them by identity, with snapshots of what may change in place. A later look finds what
has changed since. :meth:`ModelAttributes.is_as_recorded` tells whether there is anything to find. That takes a fraction
of a millisecond, so RESUME only asks whether :meth:`ModelAttributes.is_quiet`: a few comparisons of the attributes that
hold state or nothing. Used under the device lock. What a session changes belongs to ``module_state``.

Never looked at: parameters, submodules, hooks, ``forward`` and compiled code, ``training``.
"""

import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

from djinn.interrupts import holding
from djinn.state.containers import is_plain, is_same
from djinn.state.module_values import (
    ABSENT,
    Kind,
    Snapshot,
    kind_of,
    may_change_in_place,
    nbytes_below,
    version_of,
)
from djinn.state.static import module_of
from djinn.state.tensors import counted_writes, is_tensor, plain_torch

_NOT_STATE = frozenset(vars(nn.Module())) | {"forward", "_compiled_call_impl", "_hf_hook", "_old_forward"}
_FIRST_BYTES = 16 << 20  # of a storage whose bytes are kept, if it was there before any call
_KEPT_BYTES = 1 << 20  # the same for later ones, which calls have left: there may be many
_WEIGHT_BYTES = 256 << 10  # a persistent buffer above this size counts as a weight
_WEIGHTS_ASKED = 64  # persistent buffers that RESUME asks about; those beyond count as weights

Key = tuple[int, str]
T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class Namespace:
    """A dictionary in which a module keeps attributes (its own, or that of its buffers), and what it held outside.

    ``layer`` is the decoder layer (1 .. N) of the module, None for a module that is in none, or in several. ``open``
    are the attributes that hold state or None.
    """

    module: nn.Module
    attributes: dict[str, Any]
    path: str = ""
    layer: int | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.of_torch = module_of(type(self.module)).startswith("torch.nn.")
        for name, value in list(self.attributes.items()):
            self.record(name, value, kept_bytes=_FIRST_BYTES)

    def key(self, name: str) -> Key:
        """Return what identifies the attribute ``name`` in the model."""
        return id(self.attributes), name

    def kind(self, name: str) -> tuple[type, str]:
        """Return what the attribute has in common with that of other modules of this class."""
        return type(self.module), name

    def get(self, name: str) -> Any:
        """Return the value on the module now."""
        return self.attributes.get(name, ABSENT)

    def put(self, name: str, value: object) -> None:
        """Set ``value`` on the module, or delete the attribute if it is to be absent."""
        if value is ABSENT:
            self.attributes.pop(name, None)
        else:
            self.attributes[name] = value

    def is_persistent(self, name: str) -> bool:
        """Whether the attribute is a buffer that the model saves with its weights."""
        held = vars(self.module)
        return self.attributes is held.get("_buffers") and name not in held.get("_non_persistent_buffers_set", ())

    def is_weight(self, name: str) -> bool:
        """Whether the attribute is saved with the weights and too large to be copied for a session."""
        return self.is_persistent(name) and nbytes_below(self.get(name)) > _WEIGHT_BYTES

    def kind_before(self, name: str) -> Kind:
        """Return the kind of the recorded value, before it changed."""
        snapshot = self.snapshots.get(name)
        return snapshot.kind if snapshot is not None else kind_of(self.seen.get(name, ABSENT))

    def record(self, name: str, value: object, *, kept_bytes: int = _KEPT_BYTES) -> None:
        """Record ``value`` as the outside's, with the bytes of storages of up to ``kept_bytes``."""
        self.snapshots.pop(name, None)
        self.open.discard(name)
        if value is ABSENT:
            self.seen.pop(name, None)
            return
        self.seen[name] = value
        if name not in _NOT_STATE and may_change_in_place(value):
            self.snapshots[name] = Snapshot(value, kept_bytes=0 if self.is_weight(name) else kept_bytes)
        if name not in _NOT_STATE and (value is None or self.holds_state(name)):
            self.open.add(name)

    def holds_state(self, name: str) -> bool:
        """Whether the recorded value is state."""
        return name in self.snapshots and self.snapshots[name].kind is Kind.STATE

    def plain_names(self) -> list[str]:
        """Return the names of the module's own plain data."""
        own = self.attributes is vars(self.module)
        return [name for name, value in self.seen.items() if own and name not in _NOT_STATE and is_plain(value)]

    def changes(self) -> Iterator[str]:
        """Yield the attributes that differ from the record: replaced, new, gone, or changed in place."""
        if not _are_identical(self.attributes, self.seen):
            for name in dict.fromkeys([*self.seen, *self.attributes]):
                if name not in _NOT_STATE and not is_same(self.seen.get(name, ABSENT), self.get(name)):
                    yield name
        for name, snapshot in self.snapshots.items():
            if self.attributes.get(name) is snapshot.value and snapshot.has_changed():
                yield name


class ModelAttributes:
    """The outside's values of the attributes of ``model``, whose decoder layers are ``layers``."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
        self._model = model
        self._device = device
        self._number_of = {id(layer): number for number, layer in enumerate(layers, start=1)}
        self.namespaces: dict[int, Namespace] = {}
        self.sessions: weakref.WeakSet[Any] = weakref.WeakSet()  # whose calls have begun and not ended
        self.written: set[tuple[type, str]] = set()  # by class: what calls write in place
        self.asked_about: set[Key] = set()  # persistent buffers of which :meth:`is_quiet` sees a change
        self._record: tuple[list[dict[str, Any]], list[int], list[str], list[Any]] = [], [], [], []
        self._in_place: list[tuple[Namespace, str]] = []
        self._told: dict[type, set[str]] = {}  # by class: plain data that tells about calls
        self._weights: list[tuple[int, int | None]] = []
        self._lengths: tuple[list[dict[str, Any]], list[int]] = [], []
        self._values: tuple[list[dict[str, Any]], list[str], list[Any]] = [], [], []
        self._versions: tuple[list[torch.Tensor], list[int]] = [], []
        self._containers: list[Snapshot] = []

    def find_modules(self) -> None:
        """Follow changes of the model's structure; new modules hold the outside's. :meth:`watch` must follow."""
        self._record = [], [], [], []
        found: dict[int, Namespace] = {}
        for path, layer, module in self._modules():
            held = vars(module)
            for attributes in (held, held.get("_buffers")):
                if type(attributes) is dict:
                    space = self.namespaces.get(id(attributes))
                    if space is None or space.module is not module:
                        space = Namespace(module=module, attributes=attributes)
                    space.path, space.layer = path, layer
                    found[id(attributes)] = space
        self.namespaces = found

    def _modules(self) -> Iterable[tuple[str, int | None, nn.Module]]:
        met: dict[int, tuple[str, int | None, nn.Module]] = {}
        todo: list[tuple[str, int | None, nn.Module]] = [("", None, self._model)]
        while todo:
            path, layer, module = todo.pop()
            number = self._number_of.get(id(module), layer)
            before = met.get(id(module))
            if before is not None:
                if before[1] in (number, None):
                    continue
                path, number = before[0], None  # it is in several layers
            met[id(module)] = path, number, module
            start = f"{path}." if path else ""
            children = list(vars(module)["_modules"].items())
            todo += [(start + name, number, child) for name, child in reversed(children) if child is not None]
        return met.values()

    def look(self, *, learning: bool = False) -> list[tuple[Namespace, str]]:
        """Record what the modules hold now as the outside's; return what has changed, and learn from it."""
        if self.is_as_recorded():
            self._weights = self._read_weights()
            return []
        self.find_modules()
        changed = [(space, name) for space in self.namespaces.values() for name in space.changes()]
        for space, name in changed:
            if learning and space.get(name) is space.seen.get(name):
                self.learn(space, name)
            space.record(name, space.get(name))
        self.watch()
        return changed

    def learn(self, space: Namespace, name: str) -> None:
        """Note that a call writes this attribute in place: sessions begin with a copy of it."""
        if not space.is_weight(name):
            self.written.add(space.kind(name))

    def tell(self, space: Namespace, names: Iterable[str]) -> None:
        """Note plain data that may tell about calls: from now on :meth:`is_quiet` sees a change of it."""
        self._told.setdefault(type(space.module), set()).update(names)

    def is_told(self, space: Namespace, name: str) -> bool:
        """Whether :meth:`is_quiet` has seen a change of this attribute, for it is known to tell about calls."""
        return name in self._told.get(type(space.module), ())

    def is_steady(self) -> bool:
        """Whether no weights have been written or replaced since the last :meth:`watch`, and no modules."""
        return self._read_weights() == self._weights

    def _read_weights(self) -> list[tuple[int, int | None]]:
        modules = [(space.module, vars(space.module)) for space in self.namespaces.values()]
        weights = [weight for _, held in modules for weight in held["_parameters"].values() if weight is not None]
        versions = _unseen(lambda: [(id(weight), version_of(weight)) for weight in weights])
        return [(id(module), None) for module, _ in modules] + versions

    def watch(self) -> None:
        """Prepare :meth:`is_as_recorded`, :meth:`is_quiet` and :meth:`is_steady` for what is recorded now."""
        self._weights = self._read_weights()
        if self._record[0]:
            return
        modules = {id(space.module): vars(space.module)["_modules"] for space in self.namespaces.values()}.values()
        records = [*(space.seen for space in self.namespaces.values()), *map(dict.copy, modules)]
        self._record = (
            [*(space.attributes for space in self.namespaces.values()), *modules],
            list(map(len, records)),
            list(chain.from_iterable(records)),
            list(chain.from_iterable(map(dict.values, records))),
        )
        self._in_place = [(space, name) for space in self.namespaces.values() for name in space.snapshots]
        dicts = [space.attributes for space in self.namespaces.values() if space.attributes and not space.of_torch]
        self._lengths = dicts, list(map(len, dicts))
        spaces, names, values = self._values = [], [], []
        self._containers = []
        self.asked_about = set()
        for space in self.namespaces.values():
            for name in space.open:
                if space.is_persistent(name):
                    if len(self.asked_about) == _WEIGHTS_ASKED or space.is_weight(name):
                        continue
                    self.asked_about.add(space.key(name))
                value, snapshot = space.seen[name], space.snapshots.get(name)
                spaces.append(space.attributes)
                names.append(name)
                values.append(value)
                if snapshot is not None and snapshot.counts and not is_tensor(value):
                    self._containers.append(snapshot)
            for name in self._told.get(type(space.module), ()):
                if name not in space.open and space.attributes is vars(space.module):
                    spaces.append(space.attributes)
                    names.append(name)
                    values.append(space.seen.get(name))
        tensors = _unseen(lambda: [value for value in values if is_tensor(value) and version_of(value) is not None])
        self._versions = tensors, _versions_of(tensors)

    def is_as_recorded(self) -> bool:
        """Whether no attribute of any module, and no module of any other, differs from the record."""
        dicts, lengths, names, values = self._record
        return (
            bool(dicts)
            and list(map(len, dicts)) == lengths
            and list(chain.from_iterable(dicts)) == names
            and all(map(operator.is_, chain.from_iterable(map(dict.values, dicts)), values))
            and not any(space.snapshots[name].has_changed() for space, name in self._in_place)
        )

    def is_quiet(self) -> bool:
        """Whether nobody but sessions has changed what the modules hold, as far as a few microseconds can tell."""
        dicts, lengths = self._lengths
        spaces, names, values = self._values
        tensors, versions = self._versions
        return (
            list(map(len, dicts)) == lengths
            and all(map(operator.is_, map(dict.get, spaces, names), values))
            and _versions_of(tensors) == versions
            and not (self._containers and self._is_changed_in_place())
        )

    def _is_changed_in_place(self) -> bool:
        with plain_torch():
            return any(snapshot.has_changed() for snapshot in self._containers)

    def wait_for_device(self) -> None:
        """Wait until the device has made what is left to others, who may compute on another stream."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def forget(self) -> None:
        """Drop the record, when no session will begin any more: it keeps what calls have left alive."""
        self.namespaces, self._record = {}, ([], [], [], [])
        self.watch()


def _versions_of(tensors: list[torch.Tensor]) -> list[int]:
    return _unseen(lambda: list(map(counted_writes, tensors)))


def _unseen(read: Callable[[], T]) -> T:
    """Return ``read()``; no mode of a program sees its calls, and an interrupt leaves nothing switched off."""
    return holding(torch._C.DisableTorchFunction(), read)


def _are_identical(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two dictionaries hold the same objects under the same keys in the same order."""
    return len(one) == len(other) and all(map(operator.is_, one.values(), other.values())) and list(one) == list(other)
