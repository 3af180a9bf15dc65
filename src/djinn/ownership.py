"""Who else can reach a storage that a walk has found in a parked session.

Three questions, cheapest first. The storage: do more tensors or handles use it than were found? The reference counts:
is every tensor, and every container that leads to one, referred to only by what the walk has met? For those that are
not (the suspects; mostly temporaries on value stacks, which Python does not show): does a chain of referrers lead to
somebody, or does it end in nothing, which means a value stack of the session itself?

The last question costs tens of milliseconds, so its answer is kept for the call site: the same frames at the same
instructions with the same surplus counts hold the same temporaries. One more holder changes a count and asks again.
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

_OUTSIDE = (type, types.ModuleType, nn.Module, contextvars.Context)
_MAX_CHAIN = 5  # referrers deep; a longer chain is somebody's data structure

Signature = tuple[object, ...]


class Ownership:
    """Decides which storages to leave, for all sessions of one runtime; remembers the call sites it has cleared."""

    def __init__(self) -> None:
        self._cleared: set[Signature] = set()

    def left(
        self, walk: Walk, by_storage: Mapping[int, list[Node]], *, callers: frozenset[int], site: tuple[object, ...]
    ) -> set[int]:
        """Addresses of the storages in ``by_storage`` that somebody else can reach.

        ``callers`` are addresses known to be the caller's or the model's; ``site`` identifies the parked call site.
        """
        leave = {address for address, nodes in by_storage.items() if address in callers or _held_in_c(nodes)}
        candidates = {id(node.obj) for address, nodes in by_storage.items() if address not in leave for node in nodes}
        suspects = _suspects(walk, candidates)
        signature = (site, tuple((walk.nodes[key].name, surplus) for key, surplus in suspects.items()))
        if signature not in self._cleared:
            held = _held_outside(walk, suspects)
            if held:
                reached = walk.reachable_from(held)
                leave |= {
                    address for address, nodes in by_storage.items() if any(id(node.obj) in reached for node in nodes)
                }
            else:
                self._cleared.add(signature)
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
    if torch.is_grad_enabled():
        return any(tensor.requires_grad for tensor in tensors)  # autograd may have saved it
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


def _held_outside(walk: Walk, suspects: Iterable[int]) -> set[int]:
    """Those of ``suspects`` that a chain of referrers connects with something outside the session."""
    if gc.get_freeze_count():
        gc.unfreeze()  # frozen containers are invisible to get_referrers
    in_other_threads = _locals_of_other_threads()
    inside = walk.nodes
    held: set[int] = set()
    targets = {key: {key} for key in suspects}  # object -> the suspects that it leads to
    level: list[object] = [inside[key].obj for key in targets]
    known = set(inside)  # ids whose referrers need no second look, kept alive by ``chain``
    chain: list[object] = [level]
    for _ in range(_MAX_CHAIN):
        for obj in level:
            if id(obj) in in_other_threads or isinstance(obj, _OUTSIDE):
                held |= targets[id(obj)]
        mine = {id(part) for part in (level, chain, targets, known, inside)}
        following: list[object] = []
        for referrer in gc.get_referrers(*level):
            if id(referrer) in mine or isinstance(referrer, Node):
                continue
            reached = set().union(*(targets.get(id(child), set()) for child in gc.get_referents(referrer)))
            if id(referrer) in known:
                if id(referrer) not in inside:
                    targets[id(referrer)] |= reached
                continue
            known.add(id(referrer))
            targets[id(referrer)] = reached
            following.append(referrer)
        level = following
        chain.append(level)
        if not level:
            return held
    return held.union(*(targets[id(obj)] for obj in level))


def _locals_of_other_threads() -> set[int]:
    own = threading.get_ident()
    found: set[int] = set()
    for ident, frame in sys._current_frames().items():
        current: types.FrameType | None = frame if ident != own else None
        while current is not None:
            found |= {id(value) for _, value, _ in local_variables(current)}
            current = current.f_back
    return found
