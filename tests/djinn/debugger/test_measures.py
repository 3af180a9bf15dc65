"""Norm and spread are what plain torch computes on the same tensor."""

import pytest
import torch

from djinn.debugger import measures
from djinn.debugger.measures import measure, pieces_of


def plainly(tensor):
    """Norm, and least, median and largest deviation of its vectors, by torch on the whole tensor."""
    exact = tensor.double()
    deviations = exact.std(-1, correction=0).reshape(-1)
    return [float(exact.norm()), float(deviations.min()), float(deviations.median()), float(deviations.max())]


def numbers(measured):
    return [measured.norm, measured.spread.least, measured.spread.median, measured.spread.most]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 5, 7), (3, 4, 6, 8), (9, 2)])
def test_numbers_are_those_of_plain_torch(monkeypatch, dtype, shape):
    """In one piece and in many, also of a tensor whose vectors do not lie together."""
    torch.manual_seed(0)
    tensor = torch.randn(shape).to(dtype)
    turned = tensor.transpose(0, -1)
    for one in (tensor, turned):
        whole = measure(one, lambda function: function())
        monkeypatch.setattr(measures, "_PIECE_ELEMENTS", 5)
        assert numbers(whole) == pytest.approx(plainly(one), rel=1e-12)
        assert numbers(measure(one, lambda function: function())) == pytest.approx(plainly(one), rel=1e-12)
        monkeypatch.undo()


def test_pieces_are_small_and_make_the_whole():
    """None is larger than asked for; each element is in one of them; a vector is never cut."""
    tensor = torch.arange(4 * 6 * 5).reshape(4, 6, 5)
    pieces = list(pieces_of(tensor, 12))
    assert all(piece.numel() <= 12 and piece.shape[-1] == 5 for piece in pieces)
    assert sorted(int(one) for piece in pieces for one in piece.reshape(-1)) == list(range(120))
    assert [piece.numel() for piece in pieces_of(torch.zeros(10), 4)] == [4, 4, 2]
    assert [piece.shape for piece in pieces_of(torch.zeros(2, 50), 4)] == [(1, 50), (1, 50)]


def test_what_has_no_number_says_none():
    """Whole numbers have neither norm nor spread, one dimension and vectors of one element no spread."""
    assert measure(torch.arange(4), lambda function: function()).norm is None
    for tensor in (torch.tensor([3.0, 4.0]), torch.tensor([[3.0], [4.0]]), torch.tensor(5.0)):
        found = measure(tensor, lambda function: function())
        assert (found.norm, found.spread) == (5.0, None)
    empty = measure(torch.empty(0, 4), lambda function: function())
    assert (empty.norm, empty.spread) == (0.0, None)
