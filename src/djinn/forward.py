"""Intercepts a model's ``forward`` calls.

An interceptor replaces ``forward`` of every decoder layer, of every module beside the layers, and of the model itself.
It is an attribute of the module. A runtime installs each once and removes it when it closes. Threads that run no
session pass through unchanged.

Forward hooks of torch would do the same. But torch calls a module with a hook on a slower path, which alone makes a
decode step 3 % longer. Nothing here knows streams, phases or host memory.
"""

import copy
import threading
import types
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, Protocol

import torch
from torch import nn

from djinn.core import DjinnError
from djinn.tensors import is_tensor, plain_torch, storage_of


class Passage(Protocol):
    """The callbacks of a session as its own thread runs the model; layers count from 1."""

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


def parts_beside(module: nn.Module, layers: Set[nn.Module]) -> Iterator[nn.Module]:
    """The outermost modules of ``module`` that neither are nor hold one of ``layers``."""
    for child in module.children():
        if child not in layers:
            if layers.isdisjoint(child.modules()):
                yield child
            else:
                yield from parts_beside(child, layers)


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


class _Interceptor:
    """Replaces ``forward`` of ``module`` until :meth:`remove`; the user's forward hooks run around it."""

    def __init__(self, module: nn.Module, passages: dict[int, Passage]) -> None:
        self._module = module
        self.passages = passages
        self._before = vars(module).get("forward")  # another library's replacement
        self._forward = module.forward
        self.__wrapped__ = module.forward  # callers read its signature, as `generate` does
        vars(module)["forward"] = self

    def remove(self) -> None:
        """Restore the module's own ``forward``, unless another replacement was installed since."""
        own = vars(self._module)
        if own.get("forward") is self:
            if self._before is not None:
                own["forward"] = self._before
            else:
                del own["forward"]

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        # A copy of the module is not intercepted.
        if self._before is not None:
            before: Callable[..., Any] = copy.deepcopy(self._before, memo)
            return before
        return types.MethodType(type(self._module).forward, memo[id(self._module)])


class _LayerInterceptor(_Interceptor):
    """Calls the passage before and after decoder layer ``number``."""

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


class _ModelInterceptor(_Interceptor):
    """Calls the passage after the model's forward pass, also if it raised."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self._forward(*args, **kwargs)
        try:
            return self._forward(*args, **kwargs)
        finally:
            passage.leave_model()


class _PartInterceptor(_Interceptor):
    """Calls the passage before and after a module beside the layers."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self._forward(*args, **kwargs)
        passage.enter_part(args, kwargs)
        output = self._forward(*args, **kwargs)
        passage.leave_part()
        return output


class Interceptors:
    """The interceptors of one model: they call the :class:`Passage` of the current thread, if it has one.

    Raises :class:`DjinnError` for a model that belongs to another runtime, or that is compiled. A compiled module
    silently ignores an interceptor, and the program would never stop.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        # By the system's thread id: after a fork it is another one, and nobody in the fork could resume the session.
        self._passages: dict[int, Passage] = {}
        self._model = model
        self._layers = layers
        self._parts = list(parts_beside(model, frozenset(layers)))

    def put_on(self) -> None:
        """Install the interceptors; after a failure :meth:`remove` takes off those that were installed."""
        _refuse_compiled_and_intercepted(self._model)
        for number, layer in enumerate(self._layers, start=1):
            _LayerInterceptor(layer, self._passages, number)
        for part in self._parts:
            _PartInterceptor(part, self._passages)
        _ModelInterceptor(self._model, self._passages)

    def attach(self, passage: Passage) -> None:
        """Register ``passage`` for the current thread's calls of the model."""
        self._passages[threading.get_native_id()] = passage

    def detach(self) -> None:
        """Undo :meth:`attach` for the current thread."""
        self._passages.pop(threading.get_native_id(), None)

    def remove(self) -> None:
        """Remove all interceptors from the model."""
        for module in (*self._layers, *self._parts, self._model):
            while (interceptor := vars(module).get("forward")) is not None and self._is_ours(interceptor):
                interceptor.remove()  # a module may have two

    def _is_ours(self, interceptor: object) -> bool:
        return isinstance(interceptor, _Interceptor) and interceptor.passages is self._passages


def _refuse_compiled_and_intercepted(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name}".rstrip()
        if hasattr(module, "_torchdynamo_orig_callable") or module._compiled_call_impl is not None:
            raise DjinnError(f"{where} is compiled and would not stop: give the runtime the model before torch.compile")
        if isinstance(vars(module).get("forward"), _Interceptor):
            raise DjinnError(f"{where} belongs to another runtime already: close that one first")
