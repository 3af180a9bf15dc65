"""Walks the object graph from the layer's arguments and the parked frames' locals to every reachable tensor.

Enters every Python container without knowing the model, in the order in which the program will need the tensors. Counts
the references that it meets. Runs no code of the program: see ``static`` and ``tensors``.
Not read: the value stacks of running frames (Python does not show them) and anything held only by C++.
"""

import contextvars
import functools
import gc
import itertools
import logging
import threading
import types
import weakref
from collections.abc import Callable, Container, Iterable, Iterator

import torch
from torch import nn

from djinn.core import is_ours
from djinn.state.static import instance_dict, labels_in, module_of, name_of
from djinn.state.storages import Rank, kv_rank
from djinn.state.tensors import base_of, is_tensor

# Entering these would leave the session: they lead to code, to the whole process, or to the weights.
NEVER_ENTERED = (
    type,
    types.ModuleType,
    types.CodeType,
    types.FrameType,
    types.BuiltinFunctionType,
    types.MappingProxyType,
    nn.Module,
    threading.Thread,
    logging.Logger,
    weakref.ref,
    functools._lru_cache_wrapper,
    contextvars.Context,
    contextvars.ContextVar,
)


class Node:
    """An object met by a :class:`Walk`: its name and rank, the references to it that were met, and its children.

    ``edges`` counts references that the object's reference count shows, ``mentions`` those that it may not show.
    ``certain`` says that the object is the session's own, whatever else refers to it.
    """

    __slots__ = ("certain", "children", "edges", "mentions", "name", "obj", "rank")

    def __init__(self, obj: object, name: str, rank: Rank, *, certain: bool = False) -> None:
        self.obj = obj
        self.name = name
        self.rank = rank
        self.certain = certain
        self.edges = 0
        self.mentions = 0
        self.children: list[int] = []

    @property
    def tensor(self) -> torch.Tensor:
        """The object, which must be a tensor."""
        assert is_tensor(self.obj)
        return self.obj


class Walk:
    """Follows references from roots, in order of rank; expands each node once.

    ``kv_of`` returns the decoder layer (1 .. N) and the name of an object that is KV, or None for any other object.
    ``adopted`` are ids of objects that are the session's own. So are the tensors directly in them, which are met there,
    but not among the children: who holds such an object, or leads to it, does not hold its tensors.
    """

    def __init__(
        self,
        *,
        kv_of: Callable[[object], tuple[int, str] | None],
        breakpoint: int,
        adopted: Container[int] = frozenset(),
    ) -> None:
        self.nodes: dict[int, Node] = {}
        self._adopted = adopted
        self._kv_of = kv_of
        self._breakpoint = breakpoint
        self._finds_kv = True
        self._waiting: dict[Rank, list[Node]] = {}
        self._entered: dict[int, tuple[bool, type]] = {}  # by id of each type, which is kept alive

    def meet(self, obj: object, name: str, rank: Rank, *, counted: bool = True) -> Node | None:
        """Record a reference to ``obj``; ``counted`` says whether the reference count shows it."""
        if not gc.is_tracked(obj) or not self._is_entered(type(obj)):
            return None
        node = self.nodes.get(id(obj))
        if node is None:
            kv = self._kv_of(obj) if self._finds_kv else None
            if kv is not None:
                layer, name = kv
                rank = kv_rank(layer, self._breakpoint)
            node = self._add(Node(obj, name, rank, certain=id(obj) in self._adopted))
        if counted:
            node.edges += 1
        else:
            node.mentions += 1
        return node

    def meet_own(self, holder: contextvars.Context | dict[str, object], name: str, rank: Rank) -> None:
        """Add a root that nobody but the session reaches: its thread's context, or its values of a module."""
        self._add(Node(holder, name, rank, certain=True))

    def _add(self, node: Node) -> Node:
        self.nodes[id(node.obj)] = node
        self._waiting.setdefault(node.rank, []).append(node)
        return node

    def _is_entered(self, cls: type) -> bool:
        if id(cls) not in self._entered:  # by id, for a metaclass may override the hash
            entered = not issubclass(cls, NEVER_ENTERED) and not is_ours(module_of(cls))
            self._entered[id(cls)] = entered, cls
        return self._entered[id(cls)][0]

    def run(self, *, finds_kv: bool = True) -> None:
        """Expand all waiting nodes, soonest need first; without ``finds_kv`` each keeps the rank of its root."""
        self._finds_kv = finds_kv
        while self._waiting:
            rank = min(self._waiting)
            waiting = self._waiting.pop(rank)
            while waiting:
                node = waiting.pop(0)
                # Children of a KV cache's layer have the rank of that layer; other children inherit the rank.
                for child, name in _references(node.obj, node.name):
                    met = self.meet(child, name, node.rank)
                    if met is not None and not (id(node.obj) in self._adopted and is_tensor(child)):
                        node.children.append(id(child))
                waiting += self._waiting.pop(rank, [])
        self._finds_kv = True

    def tensors(self) -> Iterator[Node]:
        """The nodes that are tensors."""
        return (node for node in self.nodes.values() if is_tensor(node.obj))

    def reachable_from(self, start: Iterable[int]) -> set[int]:
        """Return ids of the nodes that ``start`` leads to, itself included."""
        seen: set[int] = set()
        todo = [key for key in start if key in self.nodes]
        while todo:
            key = todo.pop()
            if key not in seen:
                seen.add(key)
                todo += self.nodes[key].children
        return seen


def _references(obj: object, name: str) -> list[tuple[object, str]]:
    """List the objects to which ``obj`` refers, each with a name."""
    if type(obj) is types.FunctionType:  # its globals belong to everybody
        return [(part, name) for part in (obj.__closure__, obj.__defaults__, obj.__kwdefaults__) if part is not None]
    referents = gc.get_referents(obj)
    if is_tensor(obj):
        children = [(child, name) for child in referents]
        base = base_of(obj)
        return children if base is None else [*children, (base, f"{name}.base")]
    labels = labels_in(obj)
    attributes = instance_dict(obj)
    if attributes is not None:
        labels.update(labels_in(attributes))
        referents = gc.get_referents(obj)  # reading the attributes may have made the dict
    if name_of(type(obj)).startswith("hamt"):  # a node of a context: variables behind their values
        for value, variable in itertools.pairwise(referents):
            if type(variable) is contextvars.ContextVar:
                labels[id(value)] = variable.name
    children = []
    for child in referents:
        label = "" if child is attributes else labels.get(id(child), "")
        children.append((child, f"{name}.{label}" if label else name))
    if issubclass(type(obj), (list, tuple)):
        children.reverse()  # sequences report their last element first
    return children
