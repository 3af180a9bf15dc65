"""One interceptor: it replaces ``forward`` of a module, and calls the session of the thread that runs the module.

It is an attribute of the module. Copies and files of the module are without it. Another library may wrap it, and keep
the wrapper for longer than the runtime lives. :func:`take_off` finds it among the module's attributes, where hooks of
accelerate keep it. Elsewhere it stays, and passes all calls through. Which modules get one is decided in ``forward``.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol, SupportsIndex

from torch import nn

from djinn.state.compiled import ends_a_graph

Forward = Callable[..., Any]


class Passage(Protocol):
    """The callbacks of a session as its own thread runs the model; layers count from 1.

    Of a durable session ``run_layer`` and ``run_model`` run the modules; ``is_durable`` says whether it is one.
    """

    is_durable: bool

    def run_layer(self, layer: int, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the forward pass of decoder layer ``layer``, or answer for it."""

    def run_model(self, module: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a forward pass of the model, or of a module that holds its layers, or answer for it."""

    def enter_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before decoder layer ``layer`` runs."""

    def leave_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """After it has returned."""

    def enter_part(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a module runs that neither is nor holds a decoder layer: embeddings, the final norm, the head."""

    def leave_part(self) -> None:
        """After it has returned."""

    def leave_model(self) -> None:
        """After a forward pass of the model, or of a module that holds its layers; also if it raised."""


class Passages(dict[int, Passage]):
    """The passages of the threads that run sessions, by the system's thread id, until the runtime has closed."""

    closed = False


class Interceptor:
    """Replaces ``forward`` of ``module`` until it is taken off; the user's forward hooks run around it.

    Another library may keep it in a wrapper of its own for longer. It then passes all calls through.
    """

    def __init__(self, module: nn.Module, passages: Passages) -> None:
        self._module = module
        self.passages = passages
        self.before = vars(module).get("forward")  # another library's replacement
        self.forward = module.forward
        self.__wrapped__ = module.forward  # callers read its signature, as `generate` does
        vars(module).setdefault("__reduce_ex__", _PlainReduction(module, passages))
        vars(module)["forward"] = self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # What a copy has in its place, where the module packs its attributes itself, and in wrappers.
        own = (type(self._module).forward, self._module)
        return functools.partial, own if self.before is None else (self.before,)

    def bypassed(self) -> bool:
        """Whether ``module`` has got back the ``forward`` that was there before, while this one was in place."""
        forward = vars(self._module).get("forward")
        plain = getattr(forward, "__func__", None) is type(self._module).forward
        return forward is None or forward is self.before or plain


class _PlainReduction:
    """Replaces ``__reduce_ex__`` of ``module``: what pickle, ``torch.save`` and ``deepcopy`` take is not intercepted.

    They ask the object itself for that method, and not its class.
    """

    def __init__(self, module: nn.Module, passages: Passages) -> None:
        self._module = module
        self.passages = passages

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # In the copy of a module that packs its attributes itself.
        return functools.partial, (type(self._module).__reduce_ex__, self._module)

    def __call__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        reduced = type(self._module).__reduce_ex__(self._module, protocol)
        if isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], dict):
            return (*reduced[:2], _without(reduced[2], lambda one: True), *reduced[3:])
        return reduced


def _without(attributes: dict[str, Any], chosen: Callable[[Interceptor | _PlainReduction], bool]) -> dict[str, Any]:
    """Return ``attributes`` of a module as they were before the ``chosen`` interceptors, wherever they are by now."""
    plain = dict(attributes)
    for name, value in attributes.items():
        if isinstance(value, _PlainReduction) and chosen(value):
            del plain[name]
        elif isinstance(value, Interceptor) and chosen(value):
            first = value
            while isinstance(first.before, Interceptor) and chosen(first.before):
                first = first.before  # a module may have two
            if name == "forward" and first.before is None:
                del plain[name]
            else:
                plain[name] = first.forward
    return plain


def take_off(module: nn.Module, chosen: Callable[[Interceptor | _PlainReduction], bool]) -> None:
    """Make the attributes of ``module`` what they were before the ``chosen`` interceptors."""
    own = vars(module)
    plain = _without(own, chosen)
    for name in [name for name, value in own.items() if plain.get(name) is not value]:
        if name in plain:
            own[name] = plain[name]
        else:
            del own[name]


class LayerInterceptor(Interceptor):
    """Calls the passage before and after decoder layer ``number``."""

    def __init__(self, module: nn.Module, passages: Passages, number: int) -> None:
        super().__init__(module, passages)
        self._number = number

    @ends_a_graph
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self.forward(*args, **kwargs)
        passage.enter_layer(self._number, args, kwargs)
        if passage.is_durable:
            output = passage.run_layer(self._number, self.forward, args, kwargs)
        else:
            output = self.forward(*args, **kwargs)
        passage.leave_layer(self._number, args, kwargs, output)
        return output


class ModelInterceptor(Interceptor):
    """Calls the passage after the module's forward pass, also if it raised."""

    @ends_a_graph
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self.forward(*args, **kwargs)
        try:
            if passage.is_durable:
                return passage.run_model(type(self._module).__name__, self.forward, args, kwargs)
            return self.forward(*args, **kwargs)
        finally:
            passage.leave_model()


class PartInterceptor(Interceptor):
    """Calls the passage before and after a module beside the layers."""

    @ends_a_graph
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        passage = self.passages.get(threading.get_native_id())
        if passage is None:
            return self.forward(*args, **kwargs)
        passage.enter_part(args, kwargs)
        output = self.forward(*args, **kwargs)
        passage.leave_part()
        return output


def is_closed(one: Interceptor | _PlainReduction) -> bool:
    """Whether the runtime of ``one`` has closed."""
    return one.passages.closed
