"""Decides which storages of a parked session are externally referenced, and so must stay on the device.

It asks three questions, cheapest first:

1. The storage: do more tensors or handles use it than the walk found?
2. The reference counts: has each tensor, and each container that leads to one, references that the walk has not met?
   Such objects are the suspects. Most are temporaries on value stacks, which Python does not show.
3. The referrers of the suspects (``referrers``): does a chain of them end at an external holder? A chain that ends
   in nothing ends on a value stack of the session itself.

The third question looks at every object of the process, which takes tens of milliseconds. So its answer is cached by
call site. The same frames at the same instructions, with the same references met and not met, hold the same
temporaries. One more holder changes a count, and the question is asked again. In a loop over the layers the frames
stand at the same instructions in each round, so one answer serves all layers.

Temporaries of a call that lasts grow old, and are not found where young ones are looked for. So an answer that rests on
old ones knows them again by their addresses, and that they are what they were.

An answer that rests on anything but temporaries is not cached. Garbage and objects of the program come and go, and a
holder may take the place of one in the count. Nor is an answer cached that was found while a thread was being traced,
for the local variables of that thread cannot be read.

Not seen are holders that the garbage collector does not know (a numpy array of objects, C and C++ that hold a Python
object), and value stacks of other threads. At a call site with a cached answer one more is not seen. It is a holder
that exactly replaces a temporary of the earlier pause, as in ``f(x if first else None, model(x))``.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from djinn.state.referrers import Chains, Temporary, old_temporaries, young_temporaries
from djinn.state.tensors import base_of, is_lazily_copied, is_the_allocator_s, storage_of
from djinn.state.walk import Node, Walk

_ENDS = (nn.Module, torch._C._FunctionBase)  # external holders: C++ may hold such an object without showing where

Signature = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """The suspects that are ``held``, by position, and the old temporaries that it rests on, by their ``marks``."""

    held: frozenset[int]
    marks: Mapping[int, int]
    old: tuple[Temporary, ...]


class Ownership:
    """Finds the externally referenced storages of any session of one runtime; caches its answers by call site."""

    def __init__(self) -> None:
        self._held_at: dict[Signature, _Answer] = {}
        self._canary = torch.empty(1, device="cpu")  # a tensor with one holder: its counts are the minimum

    def externally_referenced(
        self, walk: Walk, by_storage: Mapping[int, list[Node]], *, callers: frozenset[int], site: tuple[object, ...]
    ) -> dict[int, str]:
        """Find the storages in ``by_storage`` that are referenced from outside the session: address and reason.

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
        """Find the suspects with an external holder, and those for which this cannot be decided."""
        met = ((walk.nodes[key], surplus) for key, surplus in suspects.items())
        counts = tuple((node.name, node.edges, node.mentions, surplus) for node, surplus in met)
        objects = _objects(walk, suspects)
        signature = (site, counts, young_temporaries(objects))
        answer = self._held_at.get(signature)
        if answer is None or old_temporaries(answer.marks, objects) != answer.old:
            chains = Chains(objects, inside=walk.nodes, ends=_ENDS, ignored=(Node,))
            if chains.traced:
                return chains.held, set(suspects) - chains.held
            held = frozenset(index for index, key in enumerate(suspects) if key in chains.held)
            lasts, marks = chains.only_temporaries, chains.old
            del chains, objects  # they refer to what is counted now
            answer = _Answer(held=held, marks=marks, old=old_temporaries(marks, _objects(walk, suspects)))
            if lasts:
                self._held_at[signature] = answer
        return {key for index, key in enumerate(suspects) if index in answer.held}, set()

    def _held_in_c(self, nodes: list[Node]) -> str | None:
        """Why the storage cannot be emptied, or None: its kind, or users other than the tensors in ``nodes``."""
        tensors = [node.tensor for node in nodes]
        storage, alone = storage_of(tensors[0]), storage_of(self._canary)
        assert storage is not None
        assert alone is not None
        if not is_the_allocator_s(storage) or is_lazily_copied(tensors[0]):
            return "numpy, DLPack or shared memory holds its bytes"
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            # Autograd may have saved it. If it saved a tensor without gradients, the use count below shows it.
            return "gradients are on: autograd may need it"
        # One use per tensor and one for our handle. Another owner of the handle shows in its reference count.
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


def _objects(walk: Walk, keys: Iterable[int]) -> dict[int, object]:
    return {key: walk.nodes[key].obj for key in keys}


def _suspects(walk: Walk, candidates: set[int]) -> dict[int, int]:
    """Find candidates, and containers that lead to one, with more references than the walk has met; how many more."""
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
