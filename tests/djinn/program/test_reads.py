"""What a call may read: followed through whatever its arguments are, without running code of the program."""

import collections
import functools
import types

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from djinn.program.reads import tensors_read


def read(value, **kwargs):
    found = tensors_read(value, **kwargs)
    return None if found is None else sorted(id(tensor) for tensor in found)


class Slotted:
    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor


class Named(dict):
    """A dictionary with an attribute of its own."""


def named(tensor):
    found = Named()
    found.tensor = tensor
    return found


WAYS = {
    "itself": lambda tensor: tensor,
    "nested": lambda tensor: [{"a": (tensor,)}],
    "an object": lambda tensor: types.SimpleNamespace(tensor=tensor),
    "slots": Slotted,
    "a UserDict": lambda tensor: collections.UserDict(a=(tensor,)),
    "a deque": lambda tensor: collections.deque([tensor]),
    "a set": lambda tensor: {tensor},
    "a dict with attributes": named,
    "a closure": lambda tensor: lambda: tensor,
    "a default": lambda tensor: lambda one=tensor: one,
    "a partial": lambda tensor: functools.partial(torch.add, tensor),
    "a generator": lambda tensor: (one for one in [tensor]),
    "an attribute of a parameter": lambda tensor: setattr(one := nn.Parameter(torch.ones(1)), "own", tensor) or [one],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_tensor_is_found_by_every_way(way):
    """An argument leads to its tensors through containers, objects and functions, also in a circle."""
    tensor = torch.ones(1)
    circle = [WAYS[way](tensor)]
    circle.append(circle)
    assert id(tensor) in read(circle)


def test_modules_and_classes_are_not_followed():
    """They lead to the weights and to the whole process."""
    assert read([nn.Linear(2, 2), nn.Linear, torch]) == []


@pytest.mark.parametrize("value", [np.array([None]), object(), [[] for _ in range(2000)]])
def test_what_cannot_be_followed_may_lead_anywhere(value):
    """The garbage collector does not know it, or it is too much: nobody can tell."""
    assert read([value]) is None


@pytest.mark.parametrize("kind", ["one", "two"])
def test_a_layer_reads_its_own_entries_of_a_cache(kind):
    """Of both caches of an encoder-decoder too; and whatever else a cache keeps."""
    caches = [transformers.DynamicCache() for _ in range(2)]
    for cache in caches:
        for index in range(3):
            cache.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2), index)
        cache.own = torch.ones(1)
    cache = caches[0] if kind == "one" else transformers.EncoderDecoderCache(*caches)
    asked = caches[: 1 if kind == "one" else 2]
    entry = [part for one in asked for part in (one.layers[1].keys, one.layers[1].values, one.own)]
    assert read([cache], kv={1, 7}) == sorted(map(id, entry))
    assert len(read([cache])) == 7 * len(asked)


def test_no_code_of_the_program_runs():
    """An object may answer by code of its own; nobody asks it."""

    class Loud:
        def __getattribute__(self, name):
            raise AssertionError(name)

        def __iter__(self):
            raise AssertionError

    assert read([Loud()]) == []
