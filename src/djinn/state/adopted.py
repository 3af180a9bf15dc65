"""What a session has adopted: caches, lists and dicts of its caller, whose tensors leave the device with the session.

The caller can read an adopted cache at any time, also while its bytes are in host memory. So guards take the
``places`` of the tensors before a storage is emptied. Whatever is done with a guard raises :class:`djinn.IllegalMove`.
A guard stands exactly where a storage is empty. The very tensors are put back before the program goes on, on its own
thread.

A tensor to which somebody has a reference of his own stays on the device. The state scanner finds such references at
the park. Later ones show when the guards are in their places, for from then on nobody new can get hold of a tensor. It
has more references then than the walk has met.

Only the runtime's signal thread and the program's thread come here. Python raises no KeyboardInterrupt there.

Does not look for state (``walk``), and moves none (``placement``).
"""

import functools
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from djinn.core import PARKED, IllegalMove, Phase
from djinn.interrupts import at_once
from djinn.state.guard import guarded
from djinn.state.places import Place, checked_roots, places_in
from djinn.state.static import each_in, elements_of
from djinn.state.storages import StateStorage
from djinn.state.tensors import is_tensor, storage_of
from djinn.state.walk import Node


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Noted:
    """A tensor of the parked session in its ``place``: ``put`` puts it there, and holds it.

    ``others`` counts the session's references to it beside this one and those of its places.
    """

    place: Place
    put: functools.partial[None]
    others: int

    @property
    def tensor(self) -> torch.Tensor:
        tensor: torch.Tensor = self.put.args[1]
        return tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Guarded:
    """A place where ``guard`` stands in for the tensor of ``noted``, whose storage is that of ``item``."""

    noted: _Noted
    guard: torch.Tensor
    item: StateStorage
    again: "_Again"


class _Again:
    """Puts ``guard`` into ``place`` again, if the tensor that was there before is there; does not keep that alive."""

    __slots__ = ("guard", "place", "tensor")

    def __init__(self, place: Place, tensor: torch.Tensor, guard: torch.Tensor) -> None:
        self.place = place
        self.tensor = weakref.ref(tensor)
        self.guard = guard

    @property
    def applies(self) -> bool:
        """Whether the tensor is in the place now."""
        tensor = self.tensor()
        return tensor is not None and self.place.get() is tensor


class _Away:
    """The source of all guards of one session: nothing can be done with them."""

    paused = False

    def __init__(self, number: int, phase: Callable[[], Phase]) -> None:
        self.number = number
        self.lock = threading.RLock()
        self.lost = False
        self._phase = phase

    def check(self, name: str) -> NoReturn:
        phase = self._phase()
        session = f"session {self.number}"
        if self.lost:
            raise IllegalMove(f"{name} was lost with {session}, which is {phase.value}")
        if phase in PARKED:
            raise IllegalMove(f"{name} is in host memory with {session}, which is parked: resume() or close() it first")
        if phase is Phase.RUNNING:
            raise IllegalMove(f"{name} belongs to {session}, which is running: wait() for it, then read it again")
        raise IllegalMove(f"{name} was in host memory with {session} when it was read: read it again")

    def before_use(self) -> None:
        """Do nothing, for no use gets past the check."""

    def after_use(self) -> None:
        """Do nothing either."""

    def note_edit(self, name: str) -> None:
        """Nor here."""


class Adopted:
    """What session ``number`` has adopted: the ``roots``, and every tensor that has a place in them.

    ``phase`` tells the session's phase. ``living`` is shared by the sessions of a runtime: those that have begun and
    not ended, by number. Raises ``TypeError`` for roots in which a guard has no place.

    ``owners`` are ids of the objects in which the tensors have their places, since the last park.
    """

    def __init__(
        self, roots: Sequence[object], *, number: int, phase: Callable[[], Phase], living: "dict[int, Adopted]"
    ) -> None:
        self.roots = checked_roots(roots)
        self.number = number
        self._phase = phase
        self._living = living
        self._away = _Away(number, phase)
        self._places, self.owners = places_in(self.roots)
        self._noted: list[_Noted] = []  # while parked
        self._guarded: list[_Guarded] = []
        self._again: list[_Again] = []  # for what went back when the program went on

    def check_free(self, arguments: object = ()) -> None:
        """Raise :class:`IllegalMove` if another living session has adopted a part of this, or one of ``arguments``.

        They are looked for in nested tuples, lists and dicts: what an object leads to may belong to anybody.
        """
        if others := [other for other in list(self._living.values()) if other is not self]:
            mine = places_in(self.roots)[1] | {id(part) for part in each_in(arguments, elements_of)}
            for other in others:
                # What was found at the park is looked up first: an object may be gone, and its id another's.
                if not mine.isdisjoint(other.owners) and not mine.isdisjoint(places_in(other.roots)[1]):
                    what = f"session {other.number}, which is {other._phase().value}, has adopted this cache"
                    raise IllegalMove(f"{what}: wait for its result() or close() it first")

    def claim(self) -> None:
        """Begin to live: from now on no other session may adopt or be given what this one has adopted."""
        if self.roots:
            self._living[self.number] = self

    # -- on the program's thread --------------------------------------------------------------------------------------

    def find(self) -> None:
        """Find the places, and forget the last pause."""
        self._noted, self._again = [], []
        self._places, self.owners = places_in(self.roots)

    def note(self, met: Mapping[int, Node]) -> None:
        """Note the tensors in their places; ``met`` are the nodes of the walk, and the references that it met, by id.

        Other references are not counted: a reader on another thread may have one for a moment.
        """
        found = [(place, node) for place in self._places if (node := met.get(id(place.get()))) is not None]
        times = Counter(id(node.obj) for _, node in found)
        self._noted = [
            _Noted(place=place, put=place.putting(node.obj), others=node.edges - times[id(node.obj)])
            for place, node in found
            if is_tensor(node.obj)
        ]
        self._places = []

    def hand_over(self) -> None:
        """Put the tensors back, for the program goes on; what has no bytes any more stays guarded."""
        if self._noted:
            self._again = [one.again for one in self.put_back()]
            self._noted = []  # it would keep tensors alive that the program replaces

    def release(self, *, lost: bool) -> None:
        """End to live: all is the caller's again. If state was ``lost``, what was swapped out is guarded for ever."""
        self._away.lost = self._away.lost or lost or bool(self._guarded)
        if lost:
            at_once(*[one.place.putting(one.guard) for one in self._again if one.applies])
        self.roots, self._places, self._noted, self._guarded, self._again = (), [], [], [], []
        self._living.pop(self.number, None)

    # -- on the runtime's signal thread -------------------------------------------------------------------------------

    def put_guards(self, items: Iterable[StateStorage]) -> set[int]:
        """Guard the places of the storages of ``items``; return addresses of those that somebody has got hold of."""
        by_address = {item.storage._cdata: item for item in items}
        chosen = [(one, item) for one in self._noted if (item := by_address.get(_address_of(one))) is not None]
        new = [self._guard(one, item) for one, item in chosen if one.place.get() is one.tensor]
        self._guarded += new
        at_once(*[one.noted.place.putting(one.guard) for one in new])
        others = _others([one.tensor for one, _ in chosen])
        canary = torch.empty(0, device="cpu")
        alone = canary.untyped_storage()  # like that of an item it has one reference beside torch's own
        return {
            item.storage._cdata
            for one, item in chosen
            if others[id(one.tensor)] > one.others or sys.getrefcount(item.storage) > sys.getrefcount(alone)
        }

    def put_back(self) -> list[_Guarded]:
        """Put back the tensors whose storages have bytes; return what guarded them."""
        back = [one for one in self._guarded if one.item.storage.nbytes()]
        steps = []
        for one in back:
            place = one.noted.place
            if place.get() is one.guard:
                steps.append(one.noted.put)
            elif (moved := place.now_of(one.guard)) is not None:
                steps.append(moved.putting(one.noted.tensor))
        at_once(*steps)
        empty = len(back) < len(self._guarded)
        self._guarded = [one for one in self._guarded if not one.item.storage.nbytes()] if empty else []
        return back

    def _guard(self, noted: _Noted, item: StateStorage) -> _Guarded:
        name, tensor = noted.place.name, noted.tensor
        guard = guarded(tensor, self._away, name, functools.partial(self._away.check, name))
        return _Guarded(noted=noted, guard=guard, item=item, again=_Again(noted.place, tensor, guard))


def _address_of(noted: _Noted) -> int | None:
    storage = storage_of(noted.tensor)
    return storage._cdata if storage is not None else None


def _others(tensors: Sequence[object]) -> dict[int, int]:
    """Count the references to ``tensors`` by id, beside two for each entry: that of the list, and one more."""
    canary = object()
    counted = [*tensors, canary]
    times = Counter(map(id, counted))
    counts = {id(one): sys.getrefcount(one) - 3 * times[id(one)] for one in counted}
    alone = counts[id(canary)] + 1  # its one more is the variable; it has no entry in the other list
    return {key: count - alone for key, count in counts.items()}
