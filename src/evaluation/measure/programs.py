"""What a session computes: the user's program, and the same stopped at a layer and started again by hand.

``generate_greedily`` is the program as a user writes it; the uninterrupted run and Djinn's sessions call it.
``stop_at_layer`` and ``start_at_layer`` are what one writes by hand to stop in the middle: vanilla, recompute and
manual offload use them. All three run the same layers of the same model, so their logits must agree in every bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

Logits = list[torch.Tensor]
Give = Callable[[torch.Tensor], None]  # is told the logits of each pass, [batch, tokens, vocabulary]


def _nobody(logits: torch.Tensor) -> None:
    """Who wants no logits before all are there."""


def generate_greedily(
    model: LlamaForCausalLM,
    input_ids: torch.Tensor,
    kv_cache: bool,
    decode_steps: int,
    *,
    whole_prefill: bool = True,
    give: Give = _nobody,
) -> Logits:
    """Logits of a prefill of ``input_ids`` ([batch, tokens]) and, with a KV cache, of some greedy decode steps.

    Shapes: [batch, tokens, vocabulary] first, or [batch, 1, vocabulary] unless ``whole_prefill``, then [batch, 1,
    vocabulary] for each step; each step reads the whole cache. ``give`` gets those of each pass when it has them.
    """
    output = model(input_ids, use_cache=kv_cache, logits_to_keep=0 if whole_prefill else 1)
    give(output.logits)
    if not kv_cache:
        return [output.logits]
    return [output.logits, *decode(model, output.logits, output.past_key_values, decode_steps, give)]


def decode(model: LlamaForCausalLM, logits: torch.Tensor, cache: Any, steps: int, give: Give = _nobody) -> Logits:
    """Logits of ``steps`` greedy steps after ``logits``, each of shape [batch, 1, vocabulary]."""
    found = []
    for _ in range(steps):
        logits = model(logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True).logits
        give(logits)
        found.append(logits)
    return found


def digest(logits: Logits) -> Logits:
    """What is kept of ``logits`` to compare by: sums of the bits at each position of the first, the others whole.

    Shapes: int64 [batch, tokens] first, then as given. One changed bit changes a sum.
    """
    first, *steps = logits
    bits = first.view({2: torch.int16, 4: torch.int32}[first.element_size()])
    return [bits.sum(-1, dtype=torch.int64), *steps]


def equal(found: Logits, expected: Logits) -> bool:
    """Whether both are the same in every bit."""
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class _Stop(Exception):
    """Leaves the model at the breakpoint. Private to :func:`stop_at_layer`."""


@dataclass(kw_only=True)
class Stopped:
    """A forward pass stopped after layer L: what the layer returned, and the arguments that every layer takes.

    ``others`` are tensors that nobody reads again, kept because another method keeps them too.
    """

    layer: int
    hidden_states: torch.Tensor
    arguments: dict[str, Any]
    others: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def cache(self) -> Any:
        """The KV cache object, or None."""
        return self.arguments.get("past_key_values")

    def frontier(self) -> dict[str, torch.Tensor]:
        """What layer L+1 needs, by name: in a decode step its own KV too."""
        arguments = argument_tensors(self.arguments)
        return {"hidden_states": self.hidden_states, **arguments, **kv_tensors(self.cache, self.layer + 1)}

    def history(self) -> dict[str, torch.Tensor]:
        """The KV of the other layers in the order of need, L+2 .. N before 1 .. L, and ``others``, by name."""
        depth = len(self.cache.layers) if self.cache is not None else 0
        kept: dict[str, torch.Tensor] = {}
        for number in [*range(self.layer + 2, depth + 1), *range(1, self.layer + 1)]:
            kept.update(kv_tensors(self.cache, number))
        return {**kept, **self.others}

    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        """Replace tensors by name, as :meth:`frontier` and :meth:`history` name them."""
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if head == "other":
                self.others[name] = tensor
            elif head == "hidden_states":
                self.hidden_states = tensor
            elif head == "kv":
                number, _, part = rest.partition(".")
                setattr(self.cache.layers[int(number) - 1], part, tensor)
            elif rest:
                values = list(self.arguments[head])
                values[int(rest)] = tensor
                self.arguments[head] = tuple(values)
            else:
                self.arguments[head] = tensor


def least_bytes(hidden_states: torch.Tensor, arguments: dict[str, Any]) -> int:
    """Bytes of the frontier and of the whole KV cache after a layer that was given ``arguments``.

    A pause that keeps the session's state, and keeps less than that, has left it on the device.
    """
    cache = arguments.get("past_key_values")
    kept = [hidden_states, *argument_tensors(arguments).values()]
    for number in range(1, len(cache.layers) + 1 if cache is not None else 1):
        kept += kv_tensors(cache, number).values()
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def least_bytes_of_prefill(model: LlamaForCausalLM, layer: nn.Module, input_ids: torch.Tensor, kv_cache: bool) -> int:
    """:func:`least_bytes` after ``layer`` of ``model`` in a prefill of ``input_ids``, which is run for that."""
    found: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        found.append(least_bytes(output, kwargs))

    handle = layer.register_forward_hook(note, with_kwargs=True)
    try:
        generate_greedily(model, input_ids, kv_cache, 0, whole_prefill=False)
    finally:
        handle.remove()
    return found[0]


def kv_tensors(cache: Any, number: int) -> dict[str, torch.Tensor]:
    """Keys and values of decoder layer ``number`` (1 .. N) by name; empty if ``cache`` holds none of it."""
    layers = cache.layers if cache is not None else []
    keys = getattr(layers[number - 1], "keys", None) if number <= len(layers) else None
    if keys is None or keys.numel() == 0:
        return {}
    return {f"kv.{number}.keys": keys, f"kv.{number}.values": layers[number - 1].values}


def argument_tensors(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors among a layer's keyword arguments, by name (``position_embeddings.0``), the KV cache aside."""

    def named() -> Iterator[tuple[str, Any]]:
        for name, value in arguments.items():
            if isinstance(value, (tuple, list)):
                yield from ((f"{name}.{index}", part) for index, part in enumerate(value))
            elif name != "past_key_values":
                yield name, value

    return {name: value for name, value in named() if isinstance(value, torch.Tensor)}


def stop_at_layer(
    model: LlamaForCausalLM, layer: int, input_ids: torch.Tensor, kv_cache: bool, cache: Any = None
) -> Stopped:
    """Run ``model`` on ``input_ids`` ([batch, tokens]) until decoder layer ``layer`` (1 .. N) has returned.

    ``cache`` holds the KV of the tokens before these.
    """
    found: list[Stopped] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        found.append(Stopped(layer=layer, hidden_states=output, arguments=dict(kwargs)))
        raise _Stop

    handle = model.model.layers[layer - 1].register_forward_hook(stop, with_kwargs=True)
    try:
        model(input_ids, past_key_values=cache, use_cache=kv_cache)
    except _Stop:
        pass
    finally:
        handle.remove()
    return found[0]


def start_at_layer(
    model: LlamaForCausalLM, stopped: Stopped, before_layer: Callable[[int], None] = lambda number: None
) -> torch.Tensor:
    """Run the layers after the breakpoint, the final norm and the head; logits of shape [batch, tokens, vocabulary].

    ``before_layer`` is called with the number of each layer (1 .. N) before it runs.
    """
    hidden_states = stopped.hidden_states
    for number, layer in enumerate(model.model.layers[stopped.layer :], start=stopped.layer + 1):
        before_layer(number)
        hidden_states = layer(hidden_states, **stopped.arguments)
    logits: torch.Tensor = model.lm_head(model.model.norm(hidden_states))
    return logits
