"""Builds the model of a study on its device: the exact Llama-2 architecture with random weights, or a checkpoint."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.study.plan import Study, Workload

# Key of a checkpoint's config.json that says where its weights come from, in words for the records.
ORIGIN = "weights_origin"

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model under study and what a record says of it."""

    model: LlamaForCausalLM
    device: torch.device
    weights: str

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        return list(self.model.model.layers)

    def describe(self, study: Study) -> dict[str, object]:
        """The ``model`` entry of a record."""
        return {
            "name": study.model.name,
            "weights": self.weights,
            "dtype": study.model.dtype,
            "attention": study.model.attention,
            "layers": self.model.config.num_hidden_layers,
            "hidden_size": self.model.config.hidden_size,
            "parameter_bytes": sum(p.numel() * p.element_size() for p in self.model.parameters()),
        }


def twin(subject: Subject) -> Subject:
    """The same model in modules of its own: weights and buffers are shared, a hook on one is not on the other."""
    model = subject.model
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return replace(subject, model=copy.deepcopy(model, shared))


def input_tokens(subject: Subject, study: Study, workload: Workload, index: int = 0) -> torch.Tensor:
    """Prompt ``index`` of ``workload`` on the subject's device: random tokens, int64, shape [batch, tokens]."""
    generator = torch.Generator().manual_seed(study.model.seed + index)
    shape = (workload.batch, workload.tokens)
    return torch.randint(subject.model.config.vocab_size, shape, generator=generator).to(subject.device)


def build(study: Study) -> Subject:
    """The model of ``study`` on its device, in evaluation mode, without gradients.

    Random weights are drawn on the device from the study's seed, as transformers initialises a new model. Raises
    ``torch.OutOfMemoryError`` if the device is too small, ``OSError`` if the checkpoint cannot be read.
    """
    # cuDNN's attention for one query token is not reproducible: on an H100 two uninterrupted runs of the same decode
    # step differed in their last bits. With flash attention they agree, and bit-exactness can be asked of every
    # method.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if study.functional:
        torch.set_num_threads(1)  # the OpenMP teams of the harness's and the session's thread would spin for one core
    device = torch.device(study.device, 0) if study.device == "cuda" else torch.device(study.device)
    if study.model.path is not None:
        model = LlamaForCausalLM.from_pretrained(study.model.path, **_options(study)).to(device)
    else:
        torch.manual_seed(study.model.seed)
        with torch.device(device):
            model = LlamaForCausalLM._from_config(_random_config(study), **_options(study))
    return _subject(model, device, study)


def outline(study: Study) -> Subject:
    """The model of ``study`` without weights, on torch's ``meta`` device: enough to describe it, and takes no memory.

    Raises ``OSError`` if the checkpoint's configuration cannot be read.
    """
    path = study.model.path
    config = LlamaConfig.from_pretrained(path) if path is not None else _random_config(study)
    device = torch.device("meta")
    with device:
        model = LlamaForCausalLM._from_config(config, **_options(study))
    return _subject(model, device, study)


def _options(study: Study) -> dict[str, Any]:
    return {"dtype": DTYPES[study.model.dtype], "attn_implementation": study.model.attention}


def _random_config(study: Study) -> LlamaConfig:
    shape = study.architecture
    return LlamaConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=1e-5,
    )


def _subject(model: LlamaForCausalLM, device: torch.device, study: Study) -> Subject:
    weights = f"random, seed {study.model.seed}"
    if study.model.path is not None:
        origin = getattr(model.config, ORIGIN, None)
        weights = f"checkpoint {study.model.name}" + (f", {origin}" if origin else "")
    return Subject(model=model.eval().requires_grad_(False), device=device, weights=weights)
