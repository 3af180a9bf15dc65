"""Who else can reach a storage that a walk has found in a parked session.

Three questions, cheapest first. The storage: do more tensors or handles use it than were found? The reference counts:
is every tensor, and every container that leads to one, referred to only by what the walk has met? For those that are
not (the suspects; mostly temporaries on value stacks, which Python does not show): does a chain of referrers lead to
somebody, or does it end in nothing, which means a value stack of the session itself?

The last question looks at every object of the process, tens of milliseconds each time, so its answer is kept for the
call site: the same frames at the same instructions, with the same references met and not met, hold the same
temporaries. One more holder changes a count and asks again. An answer that rests on anything but temporaries is not
kept: garbage and objects of the program come and go, and a holder may take the place of one in the count.

Not seen: holders that the garbage collector does not know (a numpy array of objects, C and C++ that hold a Python
object) and value stacks of other threads. Nor, at a call site whose answer is kept, a holder that exactly replaces a
temporary which the same instruction held in the earlier session, as in ``f(x if first else None, model(x))``.
"""

import contextvars
import gc
import sys
import threading
import types
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from djinn.state import Node, Walk, local_variables

# What a chain of referrers need not pass: it belongs to the process, or C++ holds it without showing where.
_OUTSIDE = (type, types.ModuleType, nn.Module, contextvars.Context, torch._C._FunctionBase)
_TEMPORARIES = (tuple, dict, types.CellType)  # what a call keeps on the value stack, and a frame for captured variables
_MAX_CHAIN = 5  # referrers deep; a longer chain is somebody's data structure
_MAX_REFERRERS = 256  # at one depth; each costs a comparison with every reference in the process

Signature = tuple[object, ...]


class Ownership:
    """Decides which storages to leave, for all sessions of one runtime; remembers its answers by call site."""

    def __init__(self) -> None:
        self._held_at: dict[Signature, frozenset[int]] = {}  # which of the suspects, by position

    def left(
        self, walk: Walk, by_storage: Mapping[int, list[Node]], *, callers: frozenset[int], site: tuple[object, ...]
    ) -> set[int]:
        """Addresses of the storages in ``by_storage`` that somebody else can reach.

        ``callers`` are addresses known to be the caller's or the model's; ``site`` identifies the parked call site.
        """
        leave = {address for address, nodes in by_storage.items() if address in callers or _held_in_c(nodes)}
        candidates = {id(node.obj) for address, nodes in by_storage.items() if address not in leave for node in nodes}
        suspects = _suspects(walk, candidates)
        met = ((walk.nodes[key], surplus) for key, surplus in suspects.items())
        signature = (site, tuple((node.name, node.edges, node.mentions, surplus) for node, surplus in met))
        positions = self._held_at.get(signature)
        if positions is None:
            chains = _Chains(walk, suspects)
            positions = frozenset(index for index, key in enumerate(suspects) if key in chains.held)
            if chains.only_temporaries:
                self._held_at[signature] = positions
        if positions:
            reached = walk.reachable_from(key for index, key in enumerate(suspects) if index in positions)
            leave |= {
                address for address, nodes in by_storage.items() if any(id(node.obj) in reached for node in nodes)
            }
        return leave


def _held_in_c(nodes: list[Node]) -> bool:
    """Whether the storage cannot be emptied, or has users that are none of the tensors in ``nodes``."""
    tensors = [node.obj for node in nodes if isinstance(node.obj, torch.Tensor)]
    storage = tensors[0].untyped_storage()
    if storage.nbytes() == 0 or not storage.resizable():
        return True
    canary = torch.empty(1, device="cpu")
    alone = canary.untyped_storage()
    # One use per tensor and one for the handle in our hand; a handle in other hands shows in its reference count.
    spare = torch._C._storage_Use_Count(alone._cdata) - 1
    if torch._C._storage_Use_Count(storage._cdata) > len(tensors) + spare:
        return True
    if sys.getrefcount(storage) > sys.getrefcount(alone):
        return True
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True  # autograd may have saved it; of one that requires none, it keeps a use that is counted below
    views_of = [id(tensor._base) for tensor in tensors if tensor._base is not None]
    return any(_uses(tensor) > _uses(canary) + views_of.count(id(tensor)) for tensor in tensors)


def _uses(tensor: torch.Tensor) -> int:
    return int(tensor._use_count())  # type: ignore[attr-defined]  # C++ holders of the tensor; not in torch's stubs


def _suspects(walk: Walk, candidates: set[int]) -> dict[int, int]:
    """Candidates, and containers that lead to one, with the references to them that the walk has not met."""
    canary = Node([], "", (0, 0))
    walk.nodes[id(canary.obj)] = canary
    leading = _leading_to(walk, candidates)
    surplus = {key: sys.getrefcount(walk.nodes[key].obj) - walk.nodes[key].edges for key in [*leading, id(canary.obj)]}
    baseline = surplus.pop(id(canary.obj))
    del walk.nodes[id(canary.obj)]
    return {key: count - baseline for key, count in surplus.items() if count > baseline}


def _leading_to(walk: Walk, candidates: set[int]) -> list[int]:
    parents: dict[int, list[int]] = {}
    for key, node in walk.nodes.items():
        for child in node.children:
            parents.setdefault(child, []).append(key)
    seen: dict[int, None] = {}
    todo = [key for key in walk.nodes if key in candidates]
    while todo:
        key = todo.pop()
        if key not in seen:
            seen[key] = None
            todo += parents.get(key, [])
    return [key for key in walk.nodes if key in seen]


class _Chains:
    """Chains of referrers from ``suspects`` up to somebody outside the session; ``walk`` has met what is inside.

    ``held`` are the suspects that a chain connects with the outside; ``only_temporaries`` says whether the others are
    referred to by nothing but temporaries of the call.
    """

    def __init__(self, walk: Walk, suspects: Iterable[int]) -> None:
        self._inside = walk.nodes
        self._objects: dict[int, object] = {key: walk.nodes[key].obj for key in suspects}  # alive: ids stay theirs
        self._suspects = frozenset(self._objects)
        self._leads_to: dict[int, list[int]] = {}  # referrers outside the walk, and what they refer to of ``_objects``
        self._somebody = {id(vars(module)) for module in list(sys.modules.values()) if type(module) is types.ModuleType}
        self._somebody |= _locals_of_other_threads()
        if gc.get_freeze_count():
            gc.unfreeze()  # frozen containers are invisible to get_referrers
        self.held = self._climb()
        others = [key for key in self._leads_to if not self._reached([key]) <= self.held]
        self.only_temporaries = all(
            type(self._objects[key]) in _TEMPORARIES and self._suspects.issuperset(self._leads_to[key])
            for key in others
        )

    def _climb(self) -> set[int]:
        level = [key for key in [*self._suspects, *self._young_temporaries()] if not self._is_outside(key)]
        outside = set(self._objects).difference(level)
        held = self._reached(outside)
        for _ in range(_MAX_CHAIN):
            level = [key for key in level if not self._reached([key]) <= held]
            if not level or len(level) > _MAX_REFERRERS:
                break
            level = self._refer_to([self._objects[key] for key in level])
            outside = {key for key in level if self._is_outside(key)}
            held |= self._reached(outside)
            level = [key for key in level if key not in outside]
        return held | self._reached(level)

    def _young_temporaries(self) -> list[int]:
        """Temporaries that refer to suspects, as far as they are easily found: asking for both at once saves a look."""
        found = []
        for generation in (0, 1):
            for obj in gc.get_objects(generation=generation):
                if type(obj) in _TEMPORARIES and self._note(obj):
                    found.append(id(obj))
        return found

    def _refer_to(self, level: list[object]) -> list[int]:
        """Refers to ``level`` and was not yet known."""
        # The list that is iterated over is gone before anybody asks for referrers again.
        return [id(obj) for obj in gc.get_referrers(*level) if obj is not level and self._note(obj)]

    def _note(self, obj: object) -> bool:
        """Note what ``obj`` refers to, if it is outside the walk; whether it was not yet known to."""
        key = id(obj)
        if key in self._inside or type(obj) is Node or obj is self._objects:
            return False
        children = [id(child) for child in gc.get_referents(obj) if id(child) in self._objects]
        if not children:
            return False
        known = key in self._leads_to
        self._leads_to[key] = children
        self._objects[key] = obj
        return not known

    def _is_outside(self, key: int) -> bool:
        return key in self._somebody or issubclass(type(self._objects[key]), _OUTSIDE)

    def _reached(self, start: Iterable[int]) -> set[int]:
        """The suspects that ``start`` leads to."""
        seen: set[int] = set()
        todo = list(start)
        while todo:
            key = todo.pop()
            if key not in seen:
                seen.add(key)
                todo += self._leads_to.get(key, ())
        return seen & self._suspects


def _locals_of_other_threads() -> set[int]:
    own = threading.get_ident()
    found: set[int] = set()
    for ident, frame in sys._current_frames().items():
        current: types.FrameType | None = frame if ident != own else None
        while current is not None:
            found |= {id(value) for _, value, _ in local_variables(current)}
            current = current.f_back
    return found
