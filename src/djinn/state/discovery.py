"""The state scanner: finds the state of a parked program from its stack, by ``walk`` and ``ownership``.

The session calls it at its breakpoint, on its own thread, while the program's frames stand still above it. Four kinds
of storage stay on the device:

- what the caller can reach;
- what the runtime was told to leave;
- what ``ownership`` finds to be externally referenced;
- what cannot be emptied through its storage.

A storage that stays costs bytes, never correctness. No error raised in here reaches the program.
"""

import contextvars
import sys
import types
from collections.abc import Container, Sequence
from typing import Any

import torch

from djinn.core import is_ours
from djinn.state.adopted import Adopted
from djinn.state.compiled import TracingGarbage
from djinn.state.cuda_graphs import GraphMemory
from djinn.state.layers import KvLayers
from djinn.state.ownership import Ownership
from djinn.state.referrers import local_variables
from djinn.state.static import elements_of, instance_dict, name_of
from djinn.state.storages import FRONTIER, REST, LeftBehind, NamedView, SessionState, StateStorage, kv_rank
from djinn.state.tensors import PlainTensor, device_of, is_tensor, nbytes_of, not_swappable, plain_torch, storage_of
from djinn.state.walk import Node, Walk

_HIDDEN_STATES = "hidden_states"


class StateScanner:
    """Finds the state of any session of one model on ``device``.

    ``model_storages`` are addresses of storages that are never session state.
    """

    def __init__(self, device: torch.device, kv_layers: KvLayers, model_storages: frozenset[int]) -> None:
        self._device = device
        self.kv_layers = kv_layers
        self._model_storages = model_storages
        self._ownership = Ownership()
        self._tracing_garbage = TracingGarbage()

    def state_at(
        self,
        layer: int,
        *,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: object,
        outermost: types.CodeType,
        caller: object,
        adopted: Adopted | None = None,
        context: contextvars.Context | None = None,
        modules: Sequence[tuple[str, int | None, dict[str, Any]]] = (),
    ) -> SessionState:
        """Find the state after decoder layer ``layer``, whose inputs were ``args`` and ``kwargs``.

        ``output`` is what the layer returned. ``outermost`` is the code below which the program's frames begin. What
        ``caller`` leads to belongs to the caller, and what is ``adopted`` to the session. ``context`` is that of the
        session's thread. ``modules`` is the session's module state: name, decoder layer and values of each module.
        Never raises an ``Exception``: after a failure nothing is taken, and ``left`` names the failure.
        """
        hidden_states = None
        try:
            self._tracing_garbage.collect()
            hidden_states = first_tensor(output)
            with plain_torch():
                roots: tuple[object, ...] = ()
                owners: set[int] = set()
                if adopted is not None:
                    adopted.find()
                    roots, owners = adopted.roots, adopted.owners
                walk = Walk(kv_of=self.kv_layers.finder(), breakpoint=layer, adopted=owners)
                walk.meet(hidden_states, _HIDDEN_STATES, FRONTIER, counted=False)
                walk.meet(output, "output", FRONTIER, counted=False)
                for name, value in kwargs.items():
                    walk.meet(value, name if type(name) is str else "kwargs", FRONTIER, counted=False)
                for index, value in enumerate(args[1:], start=1):
                    walk.meet(value, f"args.{index}", FRONTIER, counted=False)
                walk.run()  # before anything else is met: what leads to it here decides rank and name
                for name, number, values in modules:
                    walk.meet_own(values, name, FRONTIER if number is None else kv_rank(number, layer))
                walk.run(finds_kv=False)  # the layer that owns the module reads it, whatever is in it
                if context is not None:
                    walk.meet_own(context, "context", REST)
                for index, root in enumerate(roots):
                    walk.meet(root, f"adopt.{index}", REST, counted=False)
                site = _meet_frames(walk, outermost)
                walk.run()
                callers = _reached_from((caller, roots), owners)
                own = walk.reachable_from(id(values) for _, _, values in modules)
                state = self._state(walk, hidden_states, callers=callers, site=site, own=own)
                if adopted is not None:
                    adopted.note(walk.nodes)
                return state
        except Exception as error:  # noqa: BLE001 - whatever cannot be looked into, the program goes on
            reason = f"looking for the state failed ({name_of(type(error))}): nothing was taken"
            name = _HIDDEN_STATES if hidden_states is not None else "state"
            return SessionState(
                storages=(), left=(LeftBehind(name=name, nbytes=0, reason=reason),), hidden_states=hidden_states
            )

    def _state(
        self,
        walk: Walk,
        hidden_states: torch.Tensor | None,
        *,
        callers: frozenset[int],
        site: tuple[object, ...],
        own: set[int],
    ) -> SessionState:
        """Reduce the tensors of a finished ``walk`` to the session's own storages, and to what stays on the device."""
        by_storage, why = self._grouped(walk, own)
        leave = self._ownership.externally_referenced(walk, by_storage, callers=callers, site=site)
        why += [(by_storage.pop(address), reason) for address, reason in leave.items()]
        taken = [_state_storage(nodes) for nodes in by_storage.values()]
        why.sort(key=lambda entry: entry[0][0].rank)
        left = [
            LeftBehind(name=nodes[0].name, nbytes=nbytes_of(nodes[0].tensor), reason=reason) for nodes, reason in why
        ]
        if hidden_states is not None:
            storage = storage_of(hidden_states)
            if storage is not None and storage._cdata in by_storage:
                if not torch.is_grad_enabled():
                    hidden_states = None
            elif not any(entry.name == _HIDDEN_STATES for entry in left):
                left.insert(0, self._not_listed(hidden_states))
        return SessionState(
            storages=tuple(sorted(taken, key=lambda item: item.rank)), left=tuple(left), hidden_states=hidden_states
        )

    def _grouped(self, walk: Walk, own: set[int]) -> tuple[dict[int, list[Node]], list[tuple[list[Node], str]]]:
        """Group the tensors on the device by storage address; list those that cannot be swapped, with the reason.

        ``own`` are nodes of the session's module state, whose storages once may have been the model's. No handle of a
        storage outlives this call: it would count as an external reference.
        """
        by_storage: dict[int, list[Node]] = {}
        why: list[tuple[list[Node], str]] = []
        storages = (storage_of(walk.nodes[key].tensor) for key in own if is_tensor(walk.nodes[key].obj))
        models = self._model_storages.difference([storage._cdata for storage in storages if storage is not None])
        for node in walk.tensors():
            if device_of(node.tensor) not in (self._device, None):
                continue
            storage = storage_of(node.tensor)
            if storage is None:
                why.append(([node], not_swappable(node.tensor) or "it has no storage of its own"))
            elif storage.nbytes() and storage._cdata not in models:
                by_storage.setdefault(storage._cdata, []).append(node)
        graphs = GraphMemory(self._device, (node.obj for node in walk.nodes.values()))
        for address, nodes in list(by_storage.items()):
            nodes.sort(key=lambda node: node.rank)  # the name that is needed first in front
            reason = next(filter(None, (not_swappable(node.tensor) for node in nodes)), None)
            reason = reason or graphs.why_stays(storage_of(nodes[0].tensor))
            if reason is not None:
                why.append((by_storage.pop(address), reason))
        return by_storage, why

    def _not_listed(self, hidden_states: torch.Tensor) -> LeftBehind:
        """Make the entry for hidden states that are not among the session's bytes on the device."""
        storage = storage_of(hidden_states)
        if device_of(hidden_states) != self._device:
            reason = "it is on another device"
        elif storage is not None and storage._cdata in self._model_storages:
            reason = "the model holds it"
        else:
            reason = "it is empty"
        return LeftBehind(name=_HIDDEN_STATES, nbytes=nbytes_of(hidden_states), reason=reason)


def first_tensor(output: object) -> torch.Tensor | None:
    """Return the hidden states in a layer's ``output``: the first tensor, depth first, in containers and attributes."""
    seen: set[int] = set()
    todo = [output]
    while todo:
        value = todo.pop()
        if is_tensor(value):
            return value
        if id(value) not in seen:
            seen.add(id(value))
            todo += reversed(elements_of(value) or tuple((instance_dict(value) or {}).values()))
    return None


def _meet_frames(walk: Walk, outermost: types.CodeType) -> tuple[tuple[types.CodeType, int], ...]:
    """Meet the local variables of the program's frames below ``outermost``; return each frame's code and position."""
    stands_at = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not outermost:
        stands_at.append((frame.f_code, frame.f_lasti))
        package = dict.get(frame.f_globals, "__package__")
        if type(package) is not str or not is_ours(package):
            for name, value, counted in local_variables(frame):
                walk.meet(value, f"{frame.f_code.co_qualname}.{name}", REST, counted=counted)
        frame = frame.f_back
    return tuple(stands_at)


def _reached_from(caller: object, adopted: Container[int]) -> frozenset[int]:
    """Addresses of the storages that ``caller`` leads to past the places of ``adopted`` objects."""
    walk = Walk(kv_of=lambda obj: None, breakpoint=0, adopted=adopted)
    walk.meet(caller, "caller", FRONTIER)
    walk.run()
    reached = walk.reachable_from([id(caller)])
    storages = (storage_of(node.tensor) for node in walk.tensors() if id(node.obj) in reached)
    return frozenset(storage._cdata for storage in storages if storage is not None)


def _state_storage(nodes: list[Node]) -> StateStorage:
    """Describe the one storage under the tensors of ``nodes``."""
    tensors = [node.tensor for node in nodes]
    views = tuple(view_of(node.name, node.tensor) for node in nodes)
    storage = storage_of(tensors[0])
    assert storage is not None
    return StateStorage(storage=storage, nbytes=storage.nbytes(), rank=nodes[0].rank, views=views)


def view_of(name: str, tensor: torch.Tensor) -> NamedView:
    """Describe where ``tensor`` lies in its storage."""
    return NamedView(
        name=name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=PlainTensor.stride(tensor),
        offset=int(PlainTensor.storage_offset(tensor)),
        conj=PlainTensor.is_conj(tensor),
        neg=PlainTensor.is_neg(tensor),
    )
