"""The outside's values are recorded, changes are found, and a short question tells whether there may be any."""

import pytest
import torch
from tests.djinn.keeping import Registering, Replacing, Stack, Writing, stack
from torch import nn

from djinn.state.module_attributes import ModelAttributes


def looked(model):
    attributes = ModelAttributes(model, model.layers, torch.device("cpu"))
    attributes.look()
    return attributes


CHANGES = {
    "new tensor": lambda layer: setattr(layer, "last", torch.ones(1)),
    "new attribute": lambda layer: setattr(layer, "extra", torch.ones(1)),
    "deleted": lambda layer: delattr(layer, "last"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_once(name):
    """After a change the model is not quiet until it has been looked at again."""
    model = stack(Replacing)
    attributes = looked(model)
    assert attributes.is_quiet()
    CHANGES[name](model.layers[1])
    assert not attributes.is_quiet()
    assert [space.path for space, _ in attributes.look()] == ["layers.1"]
    assert attributes.is_quiet()
    assert attributes.look() == []


@pytest.mark.parametrize("kind", [Writing, Registering])
def test_a_buffer_that_is_written_or_replaced_is_seen(kind):
    """Both kinds of buffers are asked about, and what is written in place is learnt for the class."""
    model = stack(kind)
    attributes = looked(model)
    model.layers[0].last.add_(1)
    assert not attributes.is_quiet()
    attributes.look(learning=True)
    assert attributes.written == {(kind, "last")}


def test_parameters_modules_hooks_and_forward_are_never_looked_at():
    """Weights, submodules, hooks and a replaced ``forward`` are no changes."""
    model = stack(Replacing)
    attributes = looked(model)
    model.layers[0].linear.weight.add_(1)
    model.layers[0].linear.weight = nn.Parameter(torch.ones(8, 8))
    model.layers[1].register_forward_hook(lambda *args: None)
    model.layers[1].adapter = nn.Linear(8, 8)
    model.train()
    assert attributes.is_quiet()
    model.layers[2].forward = lambda x: x
    assert attributes.look() == []


def test_a_module_in_two_layers_belongs_to_none():
    """Its state is needed as soon as the first of them runs."""
    model = Stack(Replacing)
    model.layers[2].linear = model.layers[0].linear
    layers = {space.path: space.layer for space in looked(model).namespaces.values()}
    assert layers["layers.0.linear"] is None
    assert layers["layers.1.linear"] == 2
    assert layers["layers.2"] == 3
    assert layers[""] is None
