"""What a session computes: the user's program, and the same stopped at a layer and started again by hand.

``generate_greedily`` is the program as a user writes it; the uninterrupted run and Djinn's sessions call it.
``stop_at_layer`` and ``start_at_layer`` are what one writes by hand to stop in the middle: vanilla, recompute and
manual offload use them. All three run the same layers of the same model, so their logits must agree in every bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

Logits = list[torch.Tensor]


def generate_greedily(model: LlamaForCausalLM, input_ids: torch.Tensor, kv_cache: bool, decode_steps: int) -> Logits:
    """Logits of a prefill of ``input_ids`` ([batch, tokens]) and, with a KV cache, of some greedy decode steps.

    Shapes: [batch, tokens, vocabulary] first, then [batch, 1, vocabulary] for each step; each step reads the whole
    cache.
    """
    output = model(input_ids, use_cache=kv_cache)
    if not kv_cache:
        return [output.logits]
    return [output.logits, *decode(model, output.logits, output.past_key_values, decode_steps)]


def decode(model: LlamaForCausalLM, logits: torch.Tensor, cache: Any, steps: int) -> Logits:
    """Logits of ``steps`` greedy steps after ``logits``, each of shape [batch, 1, vocabulary]."""
    found = []
    for _ in range(steps):
        logits = model(logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True).logits
        found.append(logits)
    return found


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
        """What layer L+1 needs, by name."""
        return {"hidden_states": self.hidden_states, **argument_tensors(self.arguments)}

    def history(self) -> dict[str, torch.Tensor]:
        """The KV of layers 1 .. L, by name, and ``others``; empty without either."""
        kept = dict(self.others)
        if self.cache is not None:
            for number, layer in enumerate(self.cache.layers[: self.layer], start=1):
                kept.update({f"kv.{number}.keys": layer.keys, f"kv.{number}.values": layer.values})
        return kept

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


def argument_tensors(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors among a layer's keyword arguments, by name (``position_embeddings.0``), the KV cache aside."""

    def named() -> Iterator[tuple[str, Any]]:
        for name, value in arguments.items():
            if isinstance(value, (tuple, list)):
                yield from ((f"{name}.{index}", part) for index, part in enumerate(value))
            elif name != "past_key_values":
                yield name, value

    return {name: value for name, value in named() if isinstance(value, torch.Tensor)}


def stop_at_layer(model: LlamaForCausalLM, layer: int, input_ids: torch.Tensor, kv_cache: bool) -> Stopped:
    """Run ``model`` on ``input_ids`` ([batch, tokens]) until decoder layer ``layer`` (1 .. N) has returned."""
    found: list[Stopped] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        found.append(Stopped(layer=layer, hidden_states=output, arguments=dict(kwargs)))
        raise _Stop

    handle = model.model.layers[layer - 1].register_forward_hook(stop, with_kwargs=True)
    try:
        model(input_ids, use_cache=kv_cache)
    except _Stop:
        pass
    finally:
        handle.remove()
    return found[0]


def start_at_layer(model: LlamaForCausalLM, stopped: Stopped) -> torch.Tensor:
    """Run the layers after the breakpoint, the final norm and the head; logits of shape [batch, tokens, vocabulary]."""
    hidden_states = stopped.hidden_states
    for layer in model.model.layers[stopped.layer :]:
        hidden_states = layer(hidden_states, **stopped.arguments)
    logits: torch.Tensor = model.lm_head(model.model.norm(hidden_states))
    return logits
