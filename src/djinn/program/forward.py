"""Intercepts a model's ``forward`` calls.

An interceptor replaces ``forward`` of every decoder layer, of every module beside the layers, and of the model itself
and each module in it that holds layers. It is an attribute of the module. A runtime installs each once and removes it
when it closes. Threads that run no session pass through unchanged.

Forward hooks of torch would do the same. But torch calls a module with a hook on a slower path, which alone makes a
decode step 3 % longer. Nothing here knows streams, phases or host memory.
"""

import threading
from collections.abc import Iterator, Sequence, Set

import torch
from torch import nn

from djinn.core import DjinnError
from djinn.program.interceptor import (
    Interceptor,
    LayerInterceptor,
    ModelInterceptor,
    PartInterceptor,
    Passage,
    Passages,
    is_closed,
    take_off,
)
from djinn.state.compiled import check_not_compiled
from djinn.state.static import imported
from djinn.state.tensors import is_tensor, plain_torch, storage_of


def parts_beside(module: nn.Module, layers: Set[nn.Module]) -> Iterator[nn.Module]:
    """The outermost modules of ``module`` that neither are nor hold one of ``layers``."""
    for child in module.children():
        if child not in layers:
            if layers.isdisjoint(child.modules()):
                yield child
            else:
                yield from parts_beside(child, layers)


def models_in(module: nn.Module, layers: Set[nn.Module]) -> Iterator[nn.Module]:
    """``module``, and the modules in it that hold ``layers`` and can be called: a user may call any of them."""
    for part in module.modules():
        can_be_called = part is module or type(part).forward is not nn.Module.forward
        if can_be_called and part not in layers and not layers.isdisjoint(part.modules()):
            yield part


def device_of(model: nn.Module) -> torch.device:
    """The device of all parameters. Raises ``ValueError`` for several, for none, and for weights not in memory."""
    devices: dict[torch.device, str] = {}
    for name, parameter in model.named_parameters():
        devices.setdefault(parameter.device, name)
    named = ", ".join(f"{name} on {device}" for device, name in devices.items())
    if torch.device("meta") in devices:
        raise ValueError(
            f"the model's weights must be in memory, not offloaded or still to be loaded: {named}. Load all of it onto "
            'one device, by from_pretrained(..., device_map={"": 0}), or take off accelerate\'s offload hooks first'
        )
    if len(devices) != 1:
        raise ValueError(f"the model must lie on one device, see docs/limits.md: {named or 'it has no parameters'}")
    return next(iter(devices))


def storages_of_model(model: nn.Module) -> Iterator[torch.UntypedStorage]:
    """Storages of parameters, buffers and plain tensor attributes of every module: never session state."""
    with plain_torch():
        for module in model.modules():
            held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
            for tensor in held:
                storage = storage_of(tensor) if is_tensor(tensor) else None
                if storage is not None:
                    yield storage


class Interceptors:
    """The interceptors of one model: they call the :class:`Passage` of the current thread, if it has one.

    Raises :class:`DjinnError` for a model that belongs to another runtime, or that is compiled. A compiled module
    silently ignores an interceptor, and the program would never stop.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        # By the system's thread id: after a fork it is another one, and nobody in the fork could resume the session.
        self._passages = Passages()
        self._model = model
        self._layers = layers
        self._parts = list(parts_beside(model, frozenset(layers)))
        self._models = list(models_in(model, frozenset(layers)))
        self._installed: list[Interceptor] = []

    def put_on(self) -> None:
        """Install the interceptors; after a failure :meth:`take_off` takes those off that were installed."""
        check_not_compiled(self._model, self._layers)
        _refuse_intercepted(self._model)
        for module in self._modules():
            take_off(module, is_closed)
        for number, layer in enumerate(self._layers, start=1):
            self._installed.append(LayerInterceptor(layer, self._passages, number))
        for part in self._parts:
            self._installed.append(PartInterceptor(part, self._passages))
        for module in self._models:
            self._installed.append(ModelInterceptor(module, self._passages))

    def check(self) -> None:
        """Raise :class:`DjinnError` if an interceptor was lost, with hooks that were put on before it and taken off."""
        for number, interceptor in enumerate(self._installed[: len(self._layers)], start=1):
            if interceptor.bypassed():
                raise DjinnError(
                    f"layer {number} would not stop: somebody has put back its forward of before the runtime, as "
                    "accelerate does with its hooks. Close the runtime and make another one"
                )

    def layers_noticed_by(self) -> str:
        """What may notice that layers run, and not only see what the model returns; an empty string for nothing.

        These are hooks on or in the layers, and code that is not torch's or transformers': it may do anything.
        """
        if _global_hooks():
            return "a hook on all modules"
        for layer in self._layers:
            for module in layer.modules():
                held = vars(module)
                hooks = [*held["_forward_hooks"].values(), *held["_forward_pre_hooks"].values()]
                # transformers installs one on every layer for output_hidden_states: it passes on what it sees
                if any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks):
                    return f"a hook on {type(module).__name__}"
                forward = held.get("forward")
                if isinstance(forward, Interceptor):
                    forward = forward.before
                if not _is_known(type(module).forward if forward is None else forward):
                    return f"the forward of {type(module).__name__}, which is not that of transformers"
        return "" if _is_known(_attention_of(self._model)) else "an attention function that is not transformers' own"

    def attach(self, passage: Passage) -> None:
        """Register ``passage`` for the current thread's calls of the model."""
        self._passages[threading.get_native_id()] = passage

    def detach(self) -> None:
        """Undo :meth:`attach` for the current thread."""
        self._passages.pop(threading.get_native_id(), None)

    def take_off(self) -> None:
        """Take all interceptors off the model; those that others keep in their wrappers do nothing any more."""
        for module in self._modules():
            take_off(module, lambda one: one.passages is self._passages)
        self._passages.closed = True

    def _modules(self) -> Iterator[nn.Module]:
        yield from (*self._layers, *self._parts, *self._models)


def _global_hooks() -> bool:
    hooks = torch.nn.modules.module
    return bool(hooks._global_forward_hooks or hooks._global_forward_pre_hooks)


def _attention_of(model: nn.Module) -> object:
    """Return the function by which the layers attend, or one of torch's where it is a part of their own code."""
    functions = getattr(imported("transformers.modeling_utils"), "ALL_ATTENTION_FUNCTIONS", {})
    return functions.get(getattr(getattr(model, "config", None), "_attn_implementation", None), nn.Module.forward)


def _is_known(function: object) -> bool:
    """Whether ``function`` is of torch or transformers: it returns what it computes, and does nothing else."""
    module = (getattr(function, "__globals__", None) or {}).get("__name__", "")
    return str(module).partition(".")[0] in ("torch", "transformers")


def _refuse_intercepted(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if any(isinstance(value, Interceptor) and not is_closed(value) for value in vars(module).values()):
            where = f"{type(module).__name__} {name}".rstrip()
            raise DjinnError(
                f"{where} belongs to another runtime already: close that one first. If its name is lost, "
                "its sessions or IPython's Out still hold it"
            )
