"""The only file that knows ``nn.Module`` and Hugging Face: decoder layers, their hooks, KV caches.

Hooks stand on every decoder layer, on what lies beside the layers and on the model itself, once per runtime, and come
off when it closes. A thread that is no session passes through them untouched. Nothing here knows streams, phases or
host memory.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from djinn.core import DjinnError, LayersNotFound


class Passage(Protocol):
    """What a session does as its own thread goes through the model; layers count from 1."""

    def enter_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before decoder layer ``layer`` runs."""

    def leave_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """After it has returned."""

    def enter_part(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a module runs that neither is nor holds a decoder layer: embeddings, the final norm, the head."""

    def leave_part(self) -> None:
        """After it has returned."""

    def leave_model(self) -> None:
        """After the model's forward pass, also if it raised."""


def find_layers(model: nn.Module, layers: Sequence[nn.Module] | None = None) -> list[nn.Module]:
    """The model's decoder layers in order of execution, or ``layers`` if the caller names them.

    Source: the ``ModuleList`` as long as ``config.num_hidden_layers`` below ``get_decoder()``, outermost first. Raises
    :class:`LayersNotFound` if there is none or if ``layers`` are not parts of the model.
    """
    if layers is not None:
        parts = set(model.modules())
        if not layers or any(layer not in parts for layer in layers):
            raise LayersNotFound("layers= must name modules of the model that is given to the runtime")
        return list(layers)
    get_decoder = getattr(model, "get_decoder", None)
    decoder: nn.Module = get_decoder() if callable(get_decoder) else model
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    stacks = [part for part in decoder.modules() if isinstance(part, (nn.ModuleList, nn.Sequential)) and len(part)]
    for stack in stacks:
        if len(stack) == depth:
            return list(stack)
    if depth is None and stacks:
        return list(max(stacks, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters())))
    raise LayersNotFound(
        f"{type(model).__name__} has no list of {depth} decoder layers that could be found: name them by layers="
    )


def parts_beside(module: nn.Module, layers: Set[nn.Module]) -> Iterator[nn.Module]:
    """The outermost modules of ``module`` that neither are nor hold one of ``layers``."""
    for child in module.children():
        if child not in layers:
            if layers.isdisjoint(child.modules()):
                yield child
            else:
                yield from parts_beside(child, layers)


def storages_of_model(model: nn.Module) -> Iterator[torch.UntypedStorage]:
    """Storages of parameters, buffers and plain tensor attributes of every module: never session state."""
    for module in model.modules():
        held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        for tensor in held:
            if isinstance(tensor, torch.Tensor):
                yield tensor.untyped_storage()


class LayerHooks:
    """Calls the :class:`Passage` of the current thread, if it has one, around layers and parts and after the model.

    Raises :class:`DjinnError` for a model that another runtime has hooked, or that is compiled: a hook put on a
    compiled module is silently ignored, and the program would never stop.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        _refuse_compiled_and_hooked(model)
        self._process = os.getpid()
        self._passages: dict[int, Passage] = {}
        self._handles = [model.register_forward_hook(self._left_model, always_call=True)]
        for number, layer in enumerate(layers, start=1):
            self._handles.append(layer.register_forward_pre_hook(partial(self._entering, number), with_kwargs=True))
            self._handles.append(layer.register_forward_hook(partial(self._leaving, number), with_kwargs=True))
        for part in parts_beside(model, frozenset(layers)):
            self._handles.append(part.register_forward_pre_hook(self._entering_part, with_kwargs=True))
            self._handles.append(part.register_forward_hook(self._left_part))

    def _passage(self) -> Passage | None:
        # A process forked from a session's thread has that thread's identity, and nobody there to resume it.
        passage = self._passages.get(threading.get_ident())
        return passage if passage is not None and self._process == os.getpid() else None

    def attach(self, passage: Passage) -> None:
        """Route the current thread's passes through the model to ``passage``."""
        self._passages[threading.get_ident()] = passage

    def detach(self) -> None:
        """Undo :meth:`attach` for the current thread."""
        self._passages.pop(threading.get_ident(), None)

    def remove(self) -> None:
        """Take every hook off the model."""
        for handle in self._handles:
            handle.remove()

    def _entering(self, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        passage = self._passage()
        if passage is not None:
            passage.enter_layer(number, args, kwargs)

    def _leaving(
        self, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        passage = self._passage()
        if passage is not None:
            passage.leave_layer(number, args, kwargs, output)

    def _entering_part(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        passage = self._passage()
        if passage is not None:
            passage.enter_part(args, kwargs)

    def _left_part(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        passage = self._passage()
        if passage is not None:
            passage.leave_part()

    def _left_model(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        passage = self._passage()
        if passage is not None:
            passage.leave_model()


def _refuse_compiled_and_hooked(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name}".rstrip()
        if hasattr(module, "_torchdynamo_orig_callable") or module._compiled_call_impl is not None:
            raise DjinnError(f"{where} is compiled, and ignores hooks: give the runtime the model before torch.compile")
        for hook in module._forward_hooks.values():
            if isinstance(getattr(getattr(hook, "func", hook), "__self__", None), LayerHooks):
                raise DjinnError(f"{where} belongs to another runtime already: close that one first")


class KvLayers:
    """Tells of an object met by the walk whether it is the KV of a decoder layer, and of which (1 .. N).

    Source: a ``transformers`` cache keeps one object per layer in ``layers``, at the ``layer_idx`` that one submodule
    of the decoder layer carries; layers without one are taken in order. transformers itself is not imported.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._number_at: dict[int, int] = {}
        for number, layer in enumerate(layers, start=1):
            carried = {index for part in layer.modules() if isinstance(index := vars(part).get("layer_idx"), int)}
            self._number_at[carried.pop() if len(carried) == 1 else number - 1] = number

    def finder(self) -> Callable[[object], int | None]:
        """A function for one walk: it learns a cache's layers when the walk meets the cache."""
        number_of: dict[int, int] = {}

        def kv_layer_of(obj: object) -> int | None:
            if _is_cache(obj):
                for index, layer in enumerate(vars(obj).get("layers", ())):
                    if index in self._number_at:
                        number_of[id(layer)] = self._number_at[index]
            return number_of.get(id(obj))

        return kv_layer_of


def _is_cache(obj: object) -> bool:
    return any(base.__name__ == "Cache" and base.__module__ == "transformers.cache_utils" for base in type(obj).__mro__)
