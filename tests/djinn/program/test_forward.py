"""The watch on a model: what it changes on the modules, and that it leaves them as they were."""

import copy
import inspect

import pytest
import torch
from torch import nn

import djinn


class Block(nn.Module):
    """A layer with a signature that others may ask for."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, *, scale=2.0):
        return torch.tanh(self.linear(x)) * scale


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(8, 8))


def runtime_of(model):
    return djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)[:2])


def traces(model):
    """Whatever is not as the modules were made."""
    return [
        (name, what)
        for name, module in model.named_modules()
        for what in ("forward", "_forward_hooks", "_forward_pre_hooks")
        if vars(module).get(what)
    ]


def test_the_model_is_as_before(model):
    """Close takes everything off: no attribute, no hook."""
    with runtime_of(model):
        assert {name for name, _ in traces(model)} == {"", "0", "1", "2"}
    assert traces(model) == []


def test_forward_keeps_its_signature(model):
    """`generate` and others look at it."""
    expected = [inspect.signature(part.forward) for part in model]
    with runtime_of(model):
        assert [inspect.signature(part.forward) for part in model] == expected


def test_a_copy_is_not_watched(model):
    """A copy of the model made meanwhile computes with its own modules, and parks nobody."""
    x = torch.randn(2, 8)
    with runtime_of(model) as runtime:
        other = copy.deepcopy(model)
        assert all(part.forward.__self__ is part for part in other.modules())
        with torch.no_grad():
            other[0].linear.weight.zero_()
            expected = copy.deepcopy(other)(x)
        session = runtime.open(breakpoint=1).start(other, x)
        assert torch.equal(session.result(30), expected)


def test_a_stand_in_of_somebody_else_stays(model):
    """A ``forward`` that was replaced before is called through, and is there again after close."""
    inner, calls = model[0].forward, []

    def stand_in(x):
        calls.append(x)
        return inner(x)

    model[0].forward = stand_in
    with runtime_of(model) as runtime:
        session = runtime.open(breakpoint=1).start(model, torch.randn(2, 8))
        assert session.wait(30) is djinn.Phase.PAUSED
        assert len(calls) == 1
        session.resume()
        session.result(30)
    assert model[0].forward is stand_in


def test_a_later_stand_in_of_somebody_else_stays(model):
    """One that was put in place after the runtime was made is left there, and works."""
    x = torch.randn(2, 8)
    expected = model(x)
    runtime = runtime_of(model)
    watched = model[0].forward

    def later(x):
        return watched(x)

    model[0].forward = later
    runtime.close()
    assert model[0].forward is later
    assert torch.equal(model(x), expected)


def test_hooks_of_the_user_run_around_the_watch(model):
    """A hook on the layer at the breakpoint sees what the session was edited to be."""
    model[0].register_forward_hook(lambda module, args, output: output + 1)
    x = torch.randn(2, 8)
    expected = model[2](model[1](torch.zeros(2, 8) + 1))
    with runtime_of(model) as runtime:
        session = runtime.open(breakpoint=1).start(model, x)
        session.wait(30)
        session.io_wait()
        session.state["hidden_states"] = torch.zeros(2, 8)
        session.resume()
        assert torch.equal(session.result(30), expected)


def test_one_module_may_be_several_layers(model):
    """A layer that is run twice is watched under both numbers, and both come off."""
    shared = model[0]
    stack = nn.Sequential(shared, shared)
    with djinn.Runtime(stack, host_memory_bytes=1 << 20, layers=[shared, shared]) as runtime:
        session = runtime.open(breakpoint=2).start(stack, torch.randn(2, 8))
        assert session.wait(30) is djinn.Phase.PAUSED
    assert traces(stack) == []
