"""The logit lens: what the hidden states of a layer would say next, by the model's own final norm and head.

Both are found by structure. The head is ``get_output_embeddings()``. The norm is the module beside the decoder layers
whose class is a norm over as many features as the head reads, behind them if there are several.

Norm and head are all that is applied. What a model does to its logits behind the head, such as a cap, is not; the
lens says so. Forward hooks on both do not run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from djinn.debugger.words import error_line

_PIECE_ELEMENTS = 1 << 23  # of the head's weight: some milliseconds on a core, some 10 us on an H100

# What models do to hidden states before the head, or to logits behind it, by its name in their configuration.
_BEYOND = ("final_logit_softcapping", "logit_scale", "logits_scaling", "scale_decoder_outputs")

Turn = Callable[[Callable[[], torch.Tensor]], torch.Tensor]


class NoLens(Exception):
    """The model's final norm or head cannot be told."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The final norm and the head of a model, and their paths in it; ``beyond`` names what else it does."""

    norm: nn.Module
    head: nn.Module
    norm_name: str
    head_name: str
    beyond: str


def find_tail(model: nn.Module, layers: tuple[str, ...]) -> Tail:
    """Find the tail of ``model``, whose decoder ``layers`` have these names. Raises :class:`NoLens`."""
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    weight = getattr(head, "weight", None)
    if not isinstance(head, nn.Module) or not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        raise NoLens(f"{type(model).__name__} has no head by get_output_embeddings(): no logit lens")
    stack = layers[0].rpartition(".")[0]
    parent, _, own = stack.rpartition(".")
    around = model.get_submodule(parent)
    names = list(around._modules)
    norms = [name for name in names if name != own and _is_norm(around._modules[name], weight.shape[1])]
    behind = [name for name in norms if own in names and names.index(name) > names.index(own)]
    found = behind if len(norms) > 1 else norms
    if len(found) != 1:
        raise NoLens(f"{type(model).__name__} has {len(found)} modules that may be its final norm: no logit lens")
    paths = {module: name for name, module in model.named_modules()}
    norm = around.get_submodule(found[0])
    return Tail(norm=norm, head=head, norm_name=paths[norm], head_name=paths.get(head, "head"), beyond=_beyond(model))


def _is_norm(module: nn.Module | None, features: int) -> bool:
    if module is None or "norm" not in type(module).__name__.lower():
        return False
    parameters = list(module.parameters())
    return all(parameter.shape == (features,) for parameter in parameters)


def _beyond(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    found = (
        (name, getattr(one, name, None)) for one in (config, getattr(config, "text_config", None)) for name in _BEYOND
    )
    return ", ".join(name for name, value in found if value is True or value not in (None, False, 1))


def logits(tail: Tail, row: torch.Tensor, device: torch.device, turn: Turn) -> torch.Tensor:
    """Return the logits that ``row`` (shape [1, features], in host memory) gives: float32, shape [words], likewise.

    ``turn(function)`` calls ``function()`` where the device may be used, a piece at a time. Raises :class:`NoLens` for
    whatever the norm or the head raises.
    """

    def run(function: Callable[[], torch.Tensor]) -> torch.Tensor:
        return turn(lambda: _of_the_model(function))

    normed = run(lambda: tail.norm.forward(row.to(device)).cpu())
    if type(tail.head) is not nn.Linear:
        return run(lambda: tail.head.forward(normed.to(device)).float().reshape(-1).cpu())
    weight, bias = tail.head.weight, tail.head.bias
    step = max(1, _PIECE_ELEMENTS // weight.shape[1])
    parts = []
    for start in range(0, weight.shape[0], step):
        words = slice(start, start + step)
        parts.append(run(partial(_part, normed, weight, bias, words, device)))
    return torch.cat(parts)


def _of_the_model(function: Callable[[], torch.Tensor]) -> torch.Tensor:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - of the model's own code
        raise NoLens(f"the final norm or the head raised {error_line(error)}") from None


def _part(
    normed: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, words: slice, device: torch.device
) -> torch.Tensor:
    own = None if bias is None else bias[words]
    return linear(normed.to(device), weight[words], own).float().reshape(-1).cpu()
