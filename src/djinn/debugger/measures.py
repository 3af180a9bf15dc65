"""Measures a tensor of the state, piece by piece: its norm, and how its tokens spread.

- The *norm* is the square root of the sum of all squares, in float64.
- The *spread* is taken along the last dimension. Each vector there has a standard deviation, with the number of its
  elements as divisor, in float64. In ``hidden_states`` (batch, token, feature) that is one for each token, in a KV
  cache (batch, head, token, feature) one for each token and head. Shown are the smallest, the median and the largest.
  Of an even number the median is the lower of the middle two, as in ``torch.median``.

Tensors of whole numbers have neither. A tensor of one dimension, or whose vectors have one element, has no spread.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from djinn.debugger.values import Spread

_PIECE_ELEMENTS = 1 << 18  # some 0.2 ms on a core: as long may a RESUME wait

Read = Callable[[Callable[[], tuple[float, torch.Tensor]]], tuple[float, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The norm and the spread of a tensor; None where there is none."""

    norm: float | None
    spread: Spread | None


def measure(tensor: torch.Tensor, read: Read) -> Measured:
    """Measure ``tensor``; ``read(function)`` calls ``function()`` where its bytes may be read, a piece at a time."""
    if not tensor.is_floating_point():
        return Measured(norm=None, spread=None)
    squares, deviations = [], []
    for piece in pieces_of(tensor, _PIECE_ELEMENTS):
        total, spread = read(partial(_of_piece, piece))
        squares.append(total)
        deviations.append(spread.reshape(-1))
    return Measured(norm=math.sqrt(math.fsum(squares)), spread=_spread(torch.cat(deviations)))


def pieces_of(tensor: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """Yield views of ``tensor``, of at most ``most`` elements if its last dimension is no longer than that."""
    outer = tensor.shape[:-1] if tensor.dim() > 1 else tensor.shape
    if tensor.numel() <= most or max(outer) == 1:
        yield tensor
        return
    longest = max(range(len(outer)), key=outer.__getitem__)
    step = max(1, outer[longest] * most // tensor.numel())
    for start in range(0, outer[longest], step):
        part = tensor.narrow(longest, start, min(step, outer[longest] - start))
        yield from pieces_of(part, most)


def _of_piece(piece: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the sum of the squares, and the deviations of the vectors in host memory; none without a spread."""
    exact = piece.detach().clone().double()
    has_spread = exact.dim() > 1 and exact.shape[-1] > 1 and exact.numel() > 0
    deviations = exact.std(-1, correction=0) if has_spread else exact.new_empty(0)
    return float(exact.square().sum()), deviations.cpu()


def _spread(deviations: torch.Tensor) -> Spread | None:
    if deviations.numel() == 0:
        return None
    return Spread(least=float(deviations.min()), median=float(deviations.median()), most=float(deviations.max()))
