"""The only file that knows ``nn.Module`` and Hugging Face: decoder layers, the watch on them, KV caches.

An interceptor (:class:`Watch`) stands in for ``forward`` of every decoder layer, of what lies beside the layers and of
the model itself. It is an attribute of the module, there is one per runtime, and it comes off when the runtime closes.
A thread that is no session passes through untouched. torch's forward hooks would do the same. But modules that have one
are called on a path that makes a decode step 3 % longer by itself. Nothing here knows streams, phases or host memory.
"""

import copy
import threading
import types
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, Protocol

import torch
from torch import nn

from djinn.core import DjinnError, LayersNotFound
from djinn.static import elements_of, instance_dict, is_named
from djinn.tensors import is_tensor, plain_torch, storage_of


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
    with plain_torch():
        for module in model.modules():
            held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
            for tensor in held:
                storage = storage_of(tensor) if is_tensor(tensor) else None
                if storage is not None:
                    yield storage


class _Watch:
    """Stands in for ``forward`` of ``module`` until :meth:`remove`; hooks of the user's run around it."""

    def __init__(self, module: nn.Module, passages: dict[int, Passage]) -> None:
        self._module = module
        self.passages = passages
        self._before = vars(module).get("forward")  # somebody else's stand-in
        self._forward = module.forward
        self.__wrapped__ = module.forward  # its signature is read, by `generate` for one
        vars(module)["forward"] = self

    def remove(self) -> None:
        """Give the module its own ``forward`` back, unless somebody else has put another in place since."""
        own = vars(self._module)
        if own.get("forward") is self:
            if self._before is not None:
                own["forward"] = self._before
            else:
                del own["forward"]

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        # A copy of the module is not watched.
        if self._before is not None:
            before: Callable[..., Any] = copy.deepcopy(self._before, memo)
            return before
        return types.MethodType(type(self._module).forward, memo[id(self._module)])


class _LayerWatch(_Watch):
    """Tells the passage of decoder layer ``number``."""

    def __init__(self, module: nn.Module, passages: dict[int, Passage], number: int) -> None:
        super().__init__(module, passages)
        self._number = number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self._forward(*args, **kwargs)
        passage.enter_layer(self._number, args, kwargs)
        output = self._forward(*args, **kwargs)
        passage.leave_layer(self._number, args, kwargs, output)
        return output


class _ModelWatch(_Watch):
    """Tells the passage of the model's end, also if it raised."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self._forward(*args, **kwargs)
        try:
            return self._forward(*args, **kwargs)
        finally:
            passage.leave_model()


class _PartWatch(_Watch):
    """Tells the passage of a part beside the layers."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self._forward(*args, **kwargs)
        passage.enter_part(args, kwargs)
        output = self._forward(*args, **kwargs)
        passage.leave_part()
        return output


class Watches:
    """Calls the :class:`Passage` of the current thread, if it has one, around layers and parts and after the model.

    Raises :class:`DjinnError` for a model that another runtime watches, or that is compiled: what is put on a compiled
    module is silently ignored, and the program would never stop.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        # By the system's number of a thread: a fork of a session's thread has another, and nobody there to resume it.
        self._passages: dict[int, Passage] = {}
        self._model = model
        self._layers = layers
        self._parts = list(parts_beside(model, frozenset(layers)))

    def put_on(self) -> None:
        """Watch the model; what is there already when this fails is taken off by :meth:`remove`."""
        _refuse_compiled_and_watched(self._model)
        for number, layer in enumerate(self._layers, start=1):
            _LayerWatch(layer, self._passages, number)
        for part in self._parts:
            _PartWatch(part, self._passages)
        _ModelWatch(self._model, self._passages)

    def attach(self, passage: Passage) -> None:
        """Route the current thread's passes through the model to ``passage``."""
        self._passages[threading.get_native_id()] = passage

    def detach(self) -> None:
        """Undo :meth:`attach` for the current thread."""
        self._passages.pop(threading.get_native_id(), None)

    def remove(self) -> None:
        """Take everything off the model."""
        for module in (*self._layers, *self._parts, self._model):
            while (watch := vars(module).get("forward")) is not None and self._is_ours(watch):
                watch.remove()  # a module may be watched twice

    def _is_ours(self, watch: object) -> bool:
        return isinstance(watch, _Watch) and watch.passages is self._passages


def _refuse_compiled_and_watched(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name}".rstrip()
        if hasattr(module, "_torchdynamo_orig_callable") or module._compiled_call_impl is not None:
            raise DjinnError(f"{where} is compiled and would not stop: give the runtime the model before torch.compile")
        if isinstance(vars(module).get("forward"), _Watch):
            raise DjinnError(f"{where} belongs to another runtime already: close that one first")


class KvLayers:
    """Tells of an object met by the walk whether it is the KV of a decoder layer, of which (1 .. N), and its name.

    Source: a ``transformers`` cache keeps one object per layer in ``layers``, at the ``layer_idx`` that one submodule
    of the decoder layer carries; layers without one are taken in order. An encoder-decoder cache has two such caches.
    transformers itself is not imported.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._number_at: dict[int, int] = {}
        for number, layer in enumerate(layers, start=1):
            carried = {index for part in layer.modules() if isinstance(index := vars(part).get("layer_idx"), int)}
            self._number_at[carried.pop() if len(carried) == 1 else number - 1] = number

    def finder(self) -> Callable[[object], tuple[int, str] | None]:
        """A function for one walk: it learns a cache's layers when the walk meets the cache.

        Only the first cache that the walk meets is the model's own KV, for it begins with what the layer was given.
        Another model's, as in assisted generation, is like any other object.
        """
        found: dict[int, tuple[int, str]] = {}

        def kv_of(obj: object) -> tuple[int, str] | None:
            if not found and is_named(type(obj), "Cache", "transformers.cache_utils"):
                for cache, part in _caches_in(obj):
                    for index, layer in enumerate(elements_of(_attributes(cache).get("layers"))):
                        if index in self._number_at:
                            number = self._number_at[index]
                            found[id(layer)] = number, f"kv.{number}{part}"
            return found.get(id(obj))

        return kv_of


def _caches_in(cache: object) -> list[tuple[object, str]]:
    """The caches in ``cache`` that keep layers, each with what its names end in."""
    attributes = _attributes(cache)
    if "self_attention_cache" in attributes:
        return [(attributes["self_attention_cache"], ""), (attributes.get("cross_attention_cache"), ".cross")]
    return [(cache, "")]


def _attributes(obj: object) -> dict[str, Any]:
    return instance_dict(obj) or {}
