"""What a call is given and returns: described the same in every process, kept and given back with all aliases."""

import collections
from dataclasses import dataclass

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from djinn.program.values import described, give, keep, leaves_of


@dataclass
class Pair:
    one: object
    other: object


def test_leaves_are_in_one_order():
    """By name where there are names, so that the order in which a dictionary was filled is nothing."""
    assert leaves_of({"b": 1.5, "a": [2, 3]}) == leaves_of({"a": [2, 3], "b": 1.5}) == [2, 3, 1.5]
    assert leaves_of(list(range(12))) == list(range(12))
    assert leaves_of(Pair(one=(1, "x"), other=collections.deque([4]))) == [1, "x", 4]
    logits = torch.zeros(1)
    output = CausalLMOutputWithPast(logits=logits)
    assert leaves_of(output) == [logits]
    assert described((output,), {}).keys() == {"args.0", "args.0.logits"}
    output.temperature = 2.5
    assert leaves_of(output) == [logits, 2.5]


def test_contents_decide_about_a_description():
    tensor = torch.arange(6.0).reshape(2, 3)
    base = described((tensor, {"k": 1}), {"flag": True})
    assert described((tensor.clone().t().contiguous().t(), {"k": 1}), {"flag": True}) == base
    for other in (tensor + 1, tensor.double(), tensor.reshape(3, 2), tensor.t()):
        assert described((other, {"k": 1}), {"flag": True})["args.0"] != base["args.0"]
    assert base["args.1"] == "dict"
    assert base["args.1.k"] == "1"
    assert base["flag"] == "True"
    assert described((object(), torch.ones(2, device="meta")), {}) == {"args.0": "object", "args.1": "Tensor"}


@pytest.mark.parametrize("kind", [list, tuple, dict.fromkeys])
def test_much_plain_data_is_described_as_one(kind):
    """For names take time: processors of generation may hold whole vocabularies."""
    many, other = kind(range(2000)), kind([*range(1999), 3000])
    assert described((many,), {}).keys() == {"args.0"}
    assert described((many,), {}) == described((kind(range(2000)),), {}) != described((other,), {})
    assert len(described((kind([*range(1999), (1, 2)]),), {})) > 2000
    if type(many) is dict:
        assert described((dict.fromkeys(reversed(many)),), {}) == described((many,), {})


def test_a_described_tensor_can_still_leave():
    """Memory of which numpy has a view cannot be emptied: looking at it must not make one."""
    for tensor in (torch.arange(6), torch.arange(6, dtype=torch.bfloat16)):
        described((tensor,), {})
        assert tensor.untyped_storage().resizable()


def test_kinds_of_tensors_are_described():
    """Complex ones, conjugates, negatives, scalars, empty and strided ones, by their values."""
    base = torch.randn(4, 4, dtype=torch.complex64)
    kinds = [base, base.conj(), base.imag, base.conj().imag, torch.tensor(1.0), torch.empty(0), base[::2, 1:]]
    for tensor in kinds:
        assert described((tensor,), {}) == described((tensor.clone(),), {})
    assert len({described((tensor,), {})["args.0"] for tensor in kinds}) == len(kinds)


def test_a_cache_is_described_by_its_lengths():
    cache = DynamicCache()
    cache.update(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4), 0)
    assert described((), {"past": cache}) == {"past": "DynamicCache of [5] tokens"}


def test_what_was_kept_is_given_back_with_its_aliases():
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = [whole[1:], whole.t(), torch.ones(2, dtype=torch.int8)]
    kept = keep(tensors)
    assert [len(storage.views) for storage in kept] == [2, 1]
    fresh = torch.zeros(3, 4)
    others = [fresh[1:], fresh.t(), torch.zeros(2, dtype=torch.int8)]
    assert give(others, kept)
    assert all(torch.equal(one, other) for one, other in zip(tensors, others, strict=True))
    assert torch.equal(fresh, whole)


def test_nothing_is_given_to_tensors_that_lie_otherwise():
    kept = keep([torch.ones(3, 4)])
    for others in (
        [torch.zeros(4, 3)],
        [torch.zeros(4, 3).t()],
        [torch.zeros(3, 4, dtype=torch.float64)],
        [torch.zeros(6, 4)[::2]],
        [torch.zeros(3, 4), torch.zeros(1)],
        [],
    ):
        assert not give(others, kept)
        assert not any(tensor.any() for tensor in others)
