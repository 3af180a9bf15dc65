"""The Llama-2 architectures of the study, and how much memory they take. Imports no torch: used while planning."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from evaluation.study.message import reason

_Size = Annotated[int, Field(ge=1, le=10**7)]  # of a matrix or a list; a larger one is a slip of the pen

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a Llama model, as its ``config.json`` names them."""

    name: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    tied_embeddings: bool = False  # the head is the embedding

    @property
    def parameters(self) -> int:
        """Number of parameters, embedding and head included."""
        kv_size = self.hidden_size // self.heads * self.kv_heads
        attention = 2 * self.hidden_size * self.hidden_size + 2 * self.hidden_size * kv_size
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size
        embeddings = (1 if self.tied_embeddings else 2) * self.vocab_size * self.hidden_size
        return self.layers * (attention + mlp + norms) + embeddings + self.hidden_size

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the weights in ``dtype``."""
        return self.parameters * DTYPE_BYTES[dtype]

    def kv_bytes(self, tokens: int, dtype: str) -> int:
        """Bytes of the KV cache of ``tokens`` tokens over all layers."""
        kv_size = self.hidden_size // self.heads * self.kv_heads
        return 2 * self.layers * kv_size * tokens * DTYPE_BYTES[dtype]


LLAMA_2 = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="llama-2-70b",
            hidden_size=8192,
            layers=80,
            heads=64,
            kv_heads=8,
            intermediate_size=28672,
            vocab_size=32000,
            max_positions=4096,
        ),
        Architecture(
            name="llama-2-13b",
            hidden_size=5120,
            layers=40,
            heads=40,
            kv_heads=40,
            intermediate_size=13824,
            vocab_size=32000,
            max_positions=4096,
        ),
        Architecture(
            name="llama-2-7b",
            hidden_size=4096,
            layers=32,
            heads=32,
            kv_heads=32,
            intermediate_size=11008,
            vocab_size=32000,
            max_positions=4096,
        ),
        Architecture(  # for machines without a GPU: as deep as 13B, grouped-query attention as in 70B
            name="llama-2-tiny",
            hidden_size=64,
            layers=40,
            heads=4,
            kv_heads=2,
            intermediate_size=172,
            vocab_size=512,
            max_positions=4096,
        ),
    )
}


class _Checkpoint(BaseModel):
    """What the study needs of a checkpoint's ``config.json``."""

    model_config = ConfigDict(strict=True, frozen=True)

    hidden_size: _Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=10_000)]
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    intermediate_size: _Size
    vocab_size: _Size
    max_position_embeddings: _Size = 4096
    tie_word_embeddings: bool = False


def from_checkpoint(path: Path) -> Architecture:
    """The architecture that ``config.json`` in the checkpoint folder ``path`` describes.

    Raises ``ValueError`` if the file cannot be read, is not a Llama's or has sizes that cannot be.
    """
    try:
        config = from_json((path / "config.json").read_bytes(), allow_inf_nan=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint folder with a readable config.json: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: config.json is not a JSON object")
    if config.get("model_type") != "llama":
        raise ValueError(f"{path} holds a {config.get('model_type')!r} model; the study's baselines know llama")
    try:
        found = _Checkpoint.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        said = "is missing" if first["type"] == "missing" else reason(first)
        raise ValueError(f"{path}: config.json: {first['loc'][0]}: {said}") from error
    heads, kv_heads = found.num_attention_heads, found.num_key_value_heads or found.num_attention_heads
    if found.hidden_size % heads or heads % kv_heads:
        sizes = f"hidden_size {found.hidden_size}, num_attention_heads {heads}, num_key_value_heads {kv_heads}"
        raise ValueError(f"{path}: config.json: {sizes}: each must be a multiple of the next")
    return Architecture(
        name=Path(os.path.abspath(path)).name,
        hidden_size=found.hidden_size,
        layers=found.num_hidden_layers,
        heads=heads,
        kv_heads=kv_heads,
        intermediate_size=found.intermediate_size,
        vocab_size=found.vocab_size,
        max_positions=found.max_position_embeddings,
        tied_embeddings=found.tie_word_embeddings,
    )
