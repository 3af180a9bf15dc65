"""Who else can reach a storage that a walk has found in a parked session.

Three questions, cheapest first. The storage: do more tensors or handles use it than were found? The reference counts:
is every tensor, and every container that leads to one, referred to only by what the walk has met? The others are
suspects, mostly temporaries on value stacks, which Python does not show. For them: does a chain of referrers lead to
somebody, or does it end in nothing? Nothing means a value stack of the session itself (``referrers``).

The last question looks at every object of the process, tens of milliseconds each time. So its answer is kept for the
call site. The same frames at the same instructions, with the same references met and not met, hold the same
temporaries. One more holder changes a count and asks again. An answer that rests on anything but temporaries is not
kept. Garbage and objects of the program come and go, and a holder may take the place of one in the count. Nor is one
that was found while a thread was being traced, whose local variables cannot be read.

Not seen: holders that the garbage collector does not know (a numpy array of objects, C and C++ that hold a Python
object) and value stacks of other threads. Nor, at a call site whose answer is kept, a holder that exactly replaces a
temporary which the same instruction held in the earlier session, as in ``f(x if first else None, model(x))``.
"""

import sys
from collections.abc import Mapping

import torch
from torch import nn

from djinn.referrers import Chains, young_temporaries
from djinn.tensors import base_of, is_lazily_copied, is_the_allocator_s, storage_of
from djinn.walk import Node, Walk

_ENDS = (nn.Module, torch._C._FunctionBase)  # somebody's: C++ may hold such an object without showing where

Signature = tuple[object, ...]


class Ownership:
    """Decides which storages to leave, for all sessions of one runtime; remembers its answers by call site."""

    def __init__(self) -> None:
        # Which of the suspects, by position, and the temporaries on which that rests.
        self._held_at: dict[Signature, tuple[frozenset[int], object]] = {}
        self._canary = torch.empty(1, device="cpu")  # a tensor that nobody else has: what its counts show is the least

    def left(
        self, walk: Walk, by_storage: Mapping[int, list[Node]], *, callers: frozenset[int], site: tuple[object, ...]
    ) -> dict[int, str]:
        """Addresses of the storages in ``by_storage`` that somebody else can reach, and why that is thought.

        ``callers`` are addresses known to be the caller's; ``site`` identifies the parked call site.
        """
        leave: dict[int, str] = {}
        for address, nodes in by_storage.items():
            reason = "the caller holds it" if address in callers else self._held_in_c(nodes)
            if reason is not None:
                leave[address] = reason
        candidates = {id(node.obj) for address, nodes in by_storage.items() if address not in leave for node in nodes}
        suspects = _suspects(walk, candidates)
        held, unclear = self._held(walk, suspects, site)
        for keys, reason in (
            (held, "somebody outside the session holds it"),
            (unclear, "a thread that is being traced may hold it"),
        ):
            reached = walk.reachable_from(keys)
            for address, nodes in by_storage.items():
                if address not in leave and any(id(node.obj) in reached for node in nodes):
                    leave[address] = reason
        return leave

    def _held(self, walk: Walk, suspects: dict[int, int], site: tuple[object, ...]) -> tuple[set[int], set[int]]:
        """The suspects that somebody else holds, and those of which it cannot be told."""
        met = ((walk.nodes[key], surplus) for key, surplus in suspects.items())
        signature = (site, tuple((node.name, node.edges, node.mentions, surplus) for node, surplus in met))
        objects = {key: walk.nodes[key].obj for key in suspects}
        temporaries = young_temporaries(objects)
        positions, rested_on = self._held_at.get(signature, (frozenset[int](), None))
        if rested_on is None or rested_on != temporaries:
            chains = Chains(objects, inside=walk.nodes, ends=_ENDS, ignored=(Node,))
            if chains.traced:
                return chains.held, set(suspects) - chains.held
            positions = frozenset(index for index, key in enumerate(suspects) if key in chains.held)
            if chains.only_temporaries:
                self._held_at[signature] = positions, temporaries
        return {key for index, key in enumerate(suspects) if index in positions}, set()

    def _held_in_c(self, nodes: list[Node]) -> str | None:
        """Why the storage cannot be emptied, if so: what it is, or users that are none of the tensors in ``nodes``."""
        tensors = [node.tensor for node in nodes]
        storage, alone = storage_of(tensors[0]), storage_of(self._canary)
        assert storage is not None
        assert alone is not None
        if not is_the_allocator_s(storage) or is_lazily_copied(tensors[0]):
            return "numpy, DLPack or shared memory holds its bytes"
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            # Autograd may have saved it; of one that requires none, it keeps a use that is counted below.
            return "gradients are on: autograd may need it"
        # One use per tensor and one for the handle in our hand; a handle in other hands shows in its reference count.
        spare = torch._C._storage_Use_Count(alone._cdata) - 1
        if torch._C._storage_Use_Count(storage._cdata) > len(tensors) + spare:
            return "a tensor outside the session, or C or C++ code, uses its storage"
        if sys.getrefcount(storage) > sys.getrefcount(alone):
            return "somebody outside the session holds its storage"
        bases = [id(base) for base in map(base_of, tensors) if base is not None]
        if any(_uses(tensor) > _uses(self._canary) + bases.count(id(tensor)) for tensor in tensors):
            return "C or C++ code holds it"
        return None


def _uses(tensor: torch.Tensor) -> int:
    return int(torch._C.TensorBase._use_count(tensor))  # type: ignore[attr-defined]  # not in torch's stubs


def _suspects(walk: Walk, candidates: set[int]) -> dict[int, int]:
    """Candidates, and containers that lead to one, with the references to them that the walk has not met."""
    canary = Node([], "", (0, 0))
    walk.nodes[id(canary.obj)] = canary
    leading = [key for key in _leading_to(walk, candidates) if not walk.nodes[key].certain]
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
