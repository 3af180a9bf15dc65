"""Llama's decoder layers with their small operators fused by TorchInductor: recompute in its strongest form.

What lies before and behind the attention is compiled once and serves every layer; the attention itself, and the KV
cache between, are the model's own. The arithmetic is the model's in another order, so the bits are not: a program that
uses it is compared with its own uninterrupted run. On the CPU the same code is traced but not compiled, which would
take a C++ compiler and show nothing.

The parts are traced by ``make_fx`` and not by ``torch.compile``. What TorchDynamo has compiled in a process changes
Djinn beside it. From then on Djinn waits for all state before the first kernel, for no mode sees what compiled code
reads.
"""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch._inductor as inductor
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb, eager_attention_forward

from evaluation.measure.models import Subject

_COMPILERS = ("gcc", "clang", "cc")


def unsupported(device: torch.device) -> str:
    """Why layers cannot be compiled for ``device``; empty if they can."""
    if device.type != "cuda":
        return ""
    if not any(map(shutil.which, _COMPILERS)):
        return f"compiling needs a C compiler on the PATH: {', '.join(_COMPILERS)}"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return "" if headers.exists() else "compiling needs Python's headers: Python.h is missing"


def _before_attention(
    layer: LlamaDecoderLayer, hidden_states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    attention, normed = layer.self_attn, layer.input_layernorm(hidden_states)
    shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    queries, keys, values = (projection(normed).view(shape).transpose(1, 2) for projection in projections)
    queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
    return queries, keys, values


def _behind_attention(
    layer: LlamaDecoderLayer, hidden_states: torch.Tensor, attended: torch.Tensor
) -> tuple[torch.Tensor]:
    hidden_states = hidden_states + layer.self_attn.o_proj(attended)
    return (hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states)),)


_Tensors = tuple[torch.Tensor, ...]
_Function = Callable[..., _Tensors]


class _Part(nn.Module):
    """A function of a layer and of tensors as a module, so that other weights can be put in the layer's place."""

    def __init__(self, function: _Function, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self._function = function

    def forward(self, *tensors: torch.Tensor) -> _Tensors:
        return self._function(self.layer, *tensors)


class _Graphs:
    """The traced parts of one model's layers, each for a device and for the dtypes and shapes of its inputs.

    Weights are inputs too. So one graph serves all layers, which are alike but for them.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._names = [name for name, _ in layer.named_parameters()]
        self._of_layer = attrgetter(*self._names)
        self._made: dict[Any, Callable[..., Any]] = {}

    def weights(self, layer: nn.Module) -> _Tensors:
        """The weights of ``layer`` in the order in which the graphs take them."""
        found: _Tensors = self._of_layer(layer)
        return found

    def run(self, function: _Function, layer: nn.Module, weights: _Tensors, *tensors: torch.Tensor) -> _Tensors:
        """``function`` of ``layer``, which has ``weights``, and of ``tensors``."""
        key = (function, *((one.device, one.dtype, one.shape, one.stride()) for one in tensors))
        if key not in self._made:
            self._made[key] = self._make(_Part(function, layer), [*weights, *tensors])
        return tuple(self._made[key](*weights, *tensors))

    @torch.no_grad()
    def _make(self, part: _Part, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        names = [f"layer.{name}" for name in self._names]
        count = len(names)

        def pure(*flat: torch.Tensor) -> _Tensors:
            weights = dict(zip(names, flat[:count], strict=True))
            found: _Tensors = functional_call(part, weights, flat[count:])
            return found

        # Fake tensors refuse a real one that is no input: nothing of this layer can be frozen into the graph.
        graph = make_fx(pure, tracing_mode="fake")(*inputs)
        if inputs[-1].device.type != "cuda":
            return graph
        # Of the inputs the compiler gets the fakes alone, and so can keep no session's state.
        fakes = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        # In this process: a pool of compiling processes would still be at work while samples are timed.
        compiled: Callable[..., Any] = inductor.compile(graph, fakes, options={"compile_threads": 1})
        return compiled


_GRAPHS: WeakKeyDictionary[nn.Module, _Graphs] = WeakKeyDictionary()


def forget() -> None:
    """Drop what was compiled, so that code for past prompts takes no memory."""
    _GRAPHS.clear()


def _forward(
    graphs: _Graphs,
    layer: LlamaDecoderLayer,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **others: Any,
) -> torch.Tensor:
    """In place of the layer's own ``forward``, of the same shapes: [batch, tokens, hidden] to the same."""
    assert position_embeddings is not None
    attention, weights = layer.self_attn, graphs.weights(layer)
    queries, keys, values = graphs.run(_before_attention, layer, weights, hidden_states, *position_embeddings)
    if past_key_values is not None:
        keys, values = past_key_values.update(keys, values, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    others.pop("use_cache", None)
    attended, _ = attend(
        attention, queries, keys, values, attention_mask, dropout=0.0, scaling=attention.scaling, **others
    )
    flat = attended.reshape(*hidden_states.shape[:-1], -1)
    (behind,) = graphs.run(_behind_attention, layer, weights, hidden_states, flat)
    return behind


@contextmanager
def fused(subject: Subject) -> Iterator[None]:
    """Let the model's decoder layers compute so for the time being."""
    layers, graphs = subject.layers, _GRAPHS.get(subject.model)
    if graphs is None:
        graphs = _GRAPHS[subject.model] = _Graphs(layers[0])
    for layer in layers:
        layer.forward = partial(_forward, graphs, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
