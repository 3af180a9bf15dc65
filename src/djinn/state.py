"""Which tensors are the state of a parked session, and in which order the program will need them.

Walks from the layer's arguments and output, and from the locals of the parked frames, through every Python container to
the tensors, without knowing the model. Tensors are reduced to their untyped storages, each once; views and aliases are
kept as names. What the caller can reach, what the runtime was told to leave, and what ``ownership`` finds in somebody
else's hands is not taken: a storage left where it is costs bytes, never correctness.

Not read: the value stacks of running frames (Python does not show them) and anything held only by C++.
"""

import functools
import gc
import logging
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

# Entering these would leave the session: they lead to code, to the whole process, or to the weights.
_NEVER_ENTERED = (
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
)

Rank = tuple[int, int]
FRONTIER: Rank = (0, 0)
REST: Rank = (3, 0)


@dataclass(frozen=True, kw_only=True)
class NamedView:
    """One tensor of the state: its name and how it lies in its storage (``offset`` and ``stride`` in elements)."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def over(self, raw: torch.Tensor) -> torch.Tensor:
        """This tensor as a view of ``raw``, the bytes of its storage (uint8, shape [nbytes])."""
        usable = raw.numel() // self.dtype.itemsize * self.dtype.itemsize
        typed = raw[:usable].view(self.dtype)  # as_strided counts from the start of the storage, of which raw is a part
        return typed.as_strided(self.shape, self.stride, int(typed.storage_offset()) + self.offset)


@dataclass(frozen=True, kw_only=True)
class StateStorage:
    """A storage that the session owns, of ``nbytes``; a smaller ``rank`` is needed sooner."""

    storage: torch.UntypedStorage
    nbytes: int
    rank: Rank
    views: tuple[NamedView, ...]

    @property
    def in_frontier(self) -> bool:
        """Whether layer L+1 reads it."""
        return self.rank[0] == FRONTIER[0]


@dataclass(frozen=True, kw_only=True)
class SessionState:
    """The storages of one parked session in the order of need."""

    storages: tuple[StateStorage, ...]

    @property
    def frontier(self) -> tuple[StateStorage, ...]:
        """What layer L+1 reads: the hidden states, the layer's other arguments, its own past KV."""
        return tuple(item for item in self.storages if item.in_frontier)


def kv_rank(layer: int, breakpoint: int) -> Rank:
    """Rank of the KV of decoder layer ``layer`` (1 .. N) after breakpoint L: L+1 first, then up to N, then 1 .. L."""
    if layer == breakpoint + 1:
        return (0, 1)
    return (1, layer) if layer > breakpoint else (2, layer)


def layer_of(rank: Rank, breakpoint: int) -> int | None:
    """The decoder layer whose KV has ``rank`` after breakpoint L, or None for what is no KV."""
    if rank == (0, 1):
        return breakpoint + 1
    return rank[1] if rank[0] in (1, 2) else None


class Node:
    """An object met by a :class:`Walk`: where, how often, and what it refers to.

    ``edges`` are references that its reference count shows; ``mentions`` are met without knowing that.
    """

    __slots__ = ("children", "edges", "mentions", "name", "obj", "rank")

    def __init__(self, obj: object, name: str, rank: Rank) -> None:
        self.obj = obj
        self.name = name
        self.rank = rank
        self.edges = 0
        self.mentions = 0
        self.children: list[int] = []


class Walk:
    """Follows references from roots; nodes are found in order of their rank, each expanded once.

    ``kv_layer_of`` names the decoder layer (1 .. N) whose KV an object is, or None for any other object.
    """

    def __init__(self, *, kv_layer_of: Callable[[object], int | None], breakpoint: int) -> None:
        self.nodes: dict[int, Node] = {}
        self._kv_layer_of = kv_layer_of
        self._breakpoint = breakpoint
        self._waiting: dict[Rank, list[Node]] = {}

    def meet(self, obj: object, name: str, rank: Rank, *, counted: bool = True) -> Node | None:
        """Note a reference to ``obj``; ``counted`` says whether it is one that the reference count shows."""
        if not gc.is_tracked(obj) or isinstance(obj, _NEVER_ENTERED) or _is_ours(type(obj).__module__):
            return None
        node = self.nodes.get(id(obj))
        if node is None:
            layer = self._kv_layer_of(obj)
            if layer is not None:
                name, rank = f"kv.{layer}", kv_rank(layer, self._breakpoint)
            node = self.nodes[id(obj)] = Node(obj, name, rank)
            self._waiting.setdefault(rank, []).append(node)
        if counted:
            node.edges += 1
        else:
            node.mentions += 1
        return node

    def run(self) -> None:
        """Expand everything that waits, nearest need first."""
        while self._waiting:
            rank = min(self._waiting)
            waiting = self._waiting.pop(rank)
            while waiting:
                node = waiting.pop(0)
                # What a KV cache or one of its layers leads to is of that layer; other children inherit the rank.
                for child, name in _references(node.obj, node.name):
                    met = self.meet(child, name, node.rank)
                    if met is not None:
                        node.children.append(id(child))
                waiting += self._waiting.pop(rank, [])

    def tensors(self) -> Iterator[Node]:
        """The nodes that are tensors."""
        return (node for node in self.nodes.values() if isinstance(node.obj, torch.Tensor))

    def reachable_from(self, start: Iterable[int]) -> set[int]:
        """Ids of the nodes that ``start`` leads to, itself included."""
        seen: set[int] = set()
        todo = [key for key in start if key in self.nodes]
        while todo:
            key = todo.pop()
            if key not in seen:
                seen.add(key)
                todo += self.nodes[key].children
        return seen


def _is_ours(module: object) -> bool:
    """Whether a type defined in ``module`` is the runtime's: it is on the stack, and leads to every session."""
    return isinstance(module, str) and (module == __package__ or module.startswith(f"{__package__}."))


def _references(obj: object, name: str) -> list[tuple[object, str]]:
    """What ``obj`` refers to, each with a name. Runs no code of the user's: no attribute is asked for by name."""
    if isinstance(obj, types.FunctionType):  # its globals belong to everybody
        return [(part, name) for part in (obj.__closure__, obj.__defaults__, obj.__kwdefaults__) if part is not None]
    labels: dict[int, str] = {}
    if isinstance(obj, dict):
        labels = {id(value): str(key) for key, value in dict.items(obj)}
    elif isinstance(obj, (list, tuple)):
        labels = {id(value): str(index) for index, value in enumerate(obj)}
    children: list[tuple[object, str]] = []
    attributes = None
    if type(obj).__dictoffset__ and not isinstance(obj, torch.Tensor):
        attributes = object.__getattribute__(obj, "__dict__")
        labels.update((id(value), key) for key, value in attributes.items())
    for child in gc.get_referents(obj):
        label = "" if child is attributes else labels.get(id(child), "")
        children.append((child, f"{name}.{label}" if label else name))
    if isinstance(obj, (list, tuple)):
        children.reverse()  # sequences report their last element first
    if isinstance(obj, torch.Tensor) and obj._base is not None:
        children.append((obj._base, f"{name}.base"))  # C++ keeps it alive: no Python reference shows it
    return children


def local_variables(frame: types.FrameType) -> list[tuple[str, object, bool]]:
    """Name, value and whether the frame itself holds the reference (a cell holds a captured variable's).

    Up to Python 3.12 reading ``f_locals`` leaves a snapshot in the frame that keeps every local alive: it is emptied
    here unless the program itself holds it, from ``locals()``.
    """
    snapshot = frame.f_locals
    if snapshot is frame.f_globals:
        return []
    cells = {*frame.f_code.co_cellvars, *frame.f_code.co_freevars}
    found = [(name, value, name not in cells) for name, value in snapshot.items()]
    if isinstance(snapshot, dict) and sys.getrefcount(snapshot) <= 3:
        snapshot.clear()
    return found


def state_of(
    walk: Walk, *, device: torch.device, left: Callable[[Walk, Mapping[int, list[Node]]], set[int]]
) -> SessionState:
    """Reduce the tensors of a finished ``walk`` to the storages that the session owns on ``device``.

    ``left`` is given the tensors' nodes by storage address and returns the addresses to leave where they are.
    """
    by_storage: dict[int, list[Node]] = {}
    for node in walk.tensors():
        tensor = node.obj
        # Subclasses may keep their bytes elsewhere; plain tensors are what a model computes.
        if type(tensor) is torch.Tensor and tensor.layout is torch.strided and tensor.device == device:
            by_storage.setdefault(tensor.untyped_storage()._cdata, []).append(node)
    leave = left(walk, by_storage)
    taken = [_state_storage(nodes) for address, nodes in by_storage.items() if address not in leave]
    return SessionState(storages=tuple(sorted(taken, key=lambda item: item.rank)))


def _state_storage(nodes: list[Node]) -> StateStorage:
    """The one storage under the tensors of ``nodes``, the name that is needed first in front."""
    ordered = sorted(nodes, key=lambda node: node.rank)
    tensors = [node.obj for node in ordered if isinstance(node.obj, torch.Tensor)]
    views = tuple(
        NamedView(
            name=node.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            stride=tensor.stride(),
            offset=int(tensor.storage_offset()),
        )
        for node, tensor in zip(ordered, tensors, strict=True)
    )
    storage = tensors[0].untyped_storage()
    return StateStorage(storage=storage, nbytes=storage.nbytes(), rank=ordered[0].rank, views=views)
