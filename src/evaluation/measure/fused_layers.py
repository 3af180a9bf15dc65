"""Llama's decoder layers with their small operators fused by torch.compile: recompute in its strongest form.

What lies before and behind the attention is compiled once and serves every layer; the attention itself, and the KV
cache between, are the model's own. The arithmetic is the model's in another order, so the bits are not: a program that
uses it is compared with its own uninterrupted run. On the CPU the same code is traced but not compiled, which would
take a C++ compiler and show nothing.
"""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb, eager_attention_forward

from evaluation.measure.models import Subject

_COMPILERS = ("gcc", "clang", "cc")


def unsupported(device: torch.device) -> str:
    """Why layers cannot be compiled for ``device``; empty if they can."""
    if device.type != "cuda":
        return ""
    if not any(map(shutil.which, _COMPILERS)):
        return f"torch.compile needs a C compiler on the PATH: {', '.join(_COMPILERS)}"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return "" if headers.exists() else "torch.compile needs Python's headers: Python.h is missing"


def _before_attention(
    layer: LlamaDecoderLayer, hidden_states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    attention, normed = layer.self_attn, layer.input_layernorm(hidden_states)
    shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    queries, keys, values = (projection(normed).view(shape).transpose(1, 2) for projection in projections)
    queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
    return queries, keys, values


def _behind_attention(layer: LlamaDecoderLayer, hidden_states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    hidden_states = hidden_states + layer.self_attn.o_proj(attended)
    result: torch.Tensor = hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))
    return result


@cache
def _compiled(part: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    if device_type != "cuda":
        return torch.compile(part, backend="eager", fullgraph=True)
    # In this process: a pool of compiling processes would still be at work while samples are timed.
    return torch.compile(part, fullgraph=True, options={"compile_threads": 1})


def forget() -> None:
    """Drop what was compiled: the next prompt's layers are compiled for its own size."""
    _compiled.cache_clear()
    torch._dynamo.reset()


def _forward(
    layer: LlamaDecoderLayer,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **others: Any,
) -> torch.Tensor:
    """In place of the layer's own ``forward``, of the same shapes: [batch, tokens, hidden] to the same."""
    assert position_embeddings is not None
    attention, device_type = layer.self_attn, hidden_states.device.type
    queries, keys, values = _compiled(_before_attention, device_type)(layer, hidden_states, *position_embeddings)
    if past_key_values is not None:
        keys, values = past_key_values.update(keys, values, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    others.pop("use_cache", None)
    attended, _ = attend(
        attention, queries, keys, values, attention_mask, dropout=0.0, scaling=attention.scaling, **others
    )
    flat = attended.reshape(*hidden_states.shape[:-1], -1)
    behind: torch.Tensor = _compiled(_behind_attention, device_type)(layer, hidden_states, flat)
    return behind


@contextmanager
def fused(subject: Subject) -> Iterator[None]:
    """Let the model's decoder layers compute so for the time being."""
    layers = subject.layers
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
