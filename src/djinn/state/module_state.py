"""State that a session's call keeps in attributes of modules: it changes with the turn.

While the session computes, its values are on the modules. When it gives up the turn they come off, and the outside's
values are on the modules again. The session's are what its call changed in its turns: tensors, caches and containers of
them, and plain data that tells about the call. That is what is beside them, and what changes in a turn that changes no
weights and no modules: else it may tell of these. All else stands. The switch moves references only. Nothing is copied
on RESUME.

A call may also write into a tensor that was there before. When that is found, the session keeps the written object, for
its frames may hold views of it. The outside gets a copy with the earlier bytes. Sessions that begin later get a copy of
their own at once. At the end the call's last values stay on the modules, as after a plain call.

A change by another thread while the session computes is not told apart from the session's own.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from djinn.state.module_attributes import Key, ModelAttributes, Namespace
from djinn.state.module_values import ABSENT, Copies, Kind, Snapshot, kind_of, version_of
from djinn.state.tensors import is_tensor, plain_torch


@dataclass(kw_only=True, eq=False)
class _Owned:
    """An attribute that is the session's, and the outside's value of it, while the session's is on the module.

    ``copy`` and ``version`` tell whether the session's value still is the unwritten copy with which it began.
    """

    space: Namespace
    name: str
    outside: Any = ABSENT
    copy: "weakref.ref[torch.Tensor] | None" = None
    version: int | None = None


@contextmanager
def _looking() -> Iterator[None]:
    with plain_torch(), torch.no_grad():
        yield


class ModuleState:
    """The module state of one session; used on its thread, under the device lock."""

    def __init__(self, attributes: ModelAttributes) -> None:
        self._attributes = attributes
        self._owned: dict[Key, _Owned] = {}
        self._values: dict[int, dict[str, Any]] = {}  # of each module, while they are off; nothing else holds them
        self.begun = False  # whether the call has begun, and not ended
        self._on = False
        self._all_known = False  # whether the record was exact for all attributes when this turn began

    @property
    def is_empty(self) -> bool:
        """Whether nothing is the session's yet."""
        return not self._owned

    @property
    def roots(self) -> list[tuple[str, int | None, dict[str, Any]]]:
        """The session's values while they are off: the module's name, its decoder layer, and values by attribute."""
        modules = {id(owned.space.module): owned.space for owned in self._owned.values()}
        return [
            (f"modules.{space.path}" if space.path else "modules", space.layer, self._values[key])
            for key, space in modules.items()
            if self._values.get(key)
        ]

    def begin(self) -> None:
        """Begin the call: what calls are known to write in place, this one gets a copy of.

        Raises ``RuntimeError`` without room on the device, and has then changed nothing.
        """
        with _looking():
            self._attributes.look()
            copies, begun = Copies(), []
            for space in self._attributes.namespaces.values():
                for name, snapshot in space.snapshots.items():
                    if space.kind(name) in self._attributes.written:
                        copy = copies.of(snapshot)
                        if copy is not snapshot.value:
                            begun.append((space, name, copy))
        for space, name, copy in begun:
            self._own(space, name, copy=copy, outside=space.get(name))
            space.put(name, copy)
        self.begun = self._on = self._all_known = True
        self._attributes.sessions.add(self)

    def put_on(self) -> None:
        """Put the session's values on the modules, and keep the outside's."""
        if self._on or not self.begun:
            return
        if not self._attributes.is_quiet():
            with _looking():
                self._give_way(self._attributes.look())
        for owned in self._owned.values():
            space = owned.space
            owned.outside = space.get(owned.name)
            space.put(owned.name, self._values_of(space).pop(owned.name, ABSENT))
        self._on = True

    def _give_way(self, changed: list[tuple[Namespace, str]]) -> None:
        """Give up what is saved with the weights and somebody else has ``changed``: those are new weights."""
        for space, name in changed:
            if space.is_persistent(name) and self._owned.pop(space.key(name), None) is not None:
                self._values_of(space).pop(name, None)

    def take_off(self) -> None:
        """Take the session's values off the modules, with what it has changed in this turn."""
        if not self._on:
            return
        with _looking():
            self._claim()
        self._on = self._all_known = False
        for owned in self._owned.values():
            space, value = owned.space, owned.space.get(owned.name)
            if value is not ABSENT:
                self._values_of(space)[owned.name] = value
            space.put(owned.name, owned.outside)
            owned.outside = None
        self._attributes.watch()

    def _values_of(self, space: Namespace) -> dict[str, Any]:
        return self._values.setdefault(id(space.module), {})

    def _claim(self) -> None:
        """Find what the session has changed in this turn, and make it its own; all else is the outside's."""
        for key, owned in list(self._owned.items()):
            if kind_of(value := owned.space.get(owned.name)) is Kind.OTHER:
                owned.space.record(owned.name, value)  # code, or weights: it never changes with the turn
                del self._owned[key]
        if self._attributes.is_as_recorded():
            return
        self._attributes.find_modules()
        copies, plain, steady = Copies(), [], self._attributes.is_steady()
        for space in self._attributes.namespaces.values():
            for name in [name for name in space.changes() if space.key(name) not in self._owned]:
                kinds = {space.kind_before(name), kind_of(space.get(name))}
                if Kind.OTHER in kinds or not self._may_own(space, name):
                    steady = False
                    space.record(name, space.get(name))
                elif Kind.STATE in kinds:
                    self._separate(space, name, copies)
                else:
                    plain.append((space, name))
        self._claim_plain(plain, copies, steady=steady)
        if copies.made:
            self._attributes.wait_for_device()

    def _claim_plain(self, changed: list[tuple[Namespace, str]], copies: Copies, *, steady: bool) -> None:
        """Own what of the ``changed`` plain data tells about the call: not about weights, and not set by others."""
        holding, above = self._paths()
        for space, name in changed:
            known = self._all_known or self._attributes.is_told(space, name)
            if space.path in holding or (known and (steady or space.path in above)):
                self._separate(space, name, copies)
            else:
                space.record(name, space.get(name))
            self._attributes.tell(space, [name])
        holding, above = self._paths()
        for space in self._attributes.namespaces.values():
            if space.path in holding or space.path in above:
                self._attributes.tell(space, space.plain_names())

    def _paths(self) -> tuple[set[str], set[str]]:
        """Return the paths of the modules that hold what is the session's, and those of the modules above."""
        holding = {owned.space.path for owned in self._owned.values()}
        above = {path[:end] for path in holding for end, letter in enumerate(path) if letter == "."}
        return holding, above | ({""} if holding else set())

    def _may_own(self, space: Namespace, name: str) -> bool:
        """Whether a changed attribute may be the session's; changed weights are, if nobody else can have done it."""
        known = self._all_known or space.key(name) in self._attributes.asked_about
        return not space.is_persistent(name) or (known and not space.is_weight(name))

    def _own(self, space: Namespace, name: str, *, outside: object, copy: object = None) -> None:
        """Make an attribute the session's; ``copy`` is the copy of the outside's value with which it begins."""
        owned = self._owned[space.key(name)] = _Owned(space=space, name=name, outside=outside)
        if is_tensor(copy):
            owned.copy, owned.version = weakref.ref(copy), version_of(copy)

    def _separate(self, space: Namespace, name: str, copies: Copies) -> None:
        """Make a changed attribute the session's, and let the outside have what it had before."""
        outside, snapshot = space.seen.get(name, ABSENT), space.snapshots.get(name)
        if snapshot is not None and snapshot.has_changed():
            self._attributes.learn(space, name)
            outside = _copied(copies, snapshot)  # without room it stays the outside's
        space.record(name, outside)
        if outside is not space.get(name):
            self._own(space, name, outside=outside)

    def end(self, *, keep: bool) -> None:
        """End the call: its last values stay on the modules, unless ``keep`` is false, for then they are lost.

        A copy with which it began is written into the original, so that who holds that finds what the call wrote.
        Sessions that have begun keep what they would find without this one.
        """
        self._attributes.sessions.discard(self)
        self.begun = False
        if not self._on:
            return  # interrupted in the midst of a park, for the interpreter ends
        if keep and self._attributes.sessions:
            with _looking():
                self._claim()
                for other in self._attributes.sessions:
                    other._keep(self._owned)
        for owned in self._owned.values():
            value = owned.space.get(owned.name)
            if not keep:
                owned.space.put(owned.name, owned.outside)
            elif is_tensor(value) and owned.copy and value is owned.copy() and _is_alike(value, owned.outside):
                if owned.version is None or version_of(value) != owned.version:
                    _write(owned.outside, value)
                owned.space.put(owned.name, owned.outside)
        if self._owned:
            self._attributes.wait_for_device()
        self._owned, self._values, self._on = {}, {}, False
        with _looking():
            self._attributes.look(learning=True)

    def _keep(self, ending: dict[Key, _Owned]) -> None:
        """Keep the outside's values of what is ``ending`` with another session, unless this one has its own."""
        copies = Copies()
        for key, theirs in ending.items():
            if key not in self._owned:
                copy = _copied(copies, Snapshot(theirs.outside))
                self._own(theirs.space, theirs.name, outside=None)
                if theirs.copy is not None and theirs.space.get(theirs.name) is theirs.copy():
                    # The original stays on the module, with their bytes in it; this session's go into it at its end.
                    self._owned[key].copy = weakref.ref(copy) if is_tensor(copy) else None
                if copy is not ABSENT:
                    self._values_of(theirs.space)[theirs.name] = copy


def _copied(copies: Copies, snapshot: Snapshot) -> object:
    """Return a copy, or the value itself if the device has no room for one."""
    try:
        return copies.of(snapshot)
    except RuntimeError:
        return snapshot.value


def _is_alike(one: torch.Tensor, other: object) -> bool:
    if type(other) is not torch.Tensor:
        return False
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _write(target: torch.Tensor, value: torch.Tensor) -> None:
    with _looking(), torch.inference_mode(target.is_inference()):
        target.copy_(value)
