"""Fused layers: a graph takes the weights as inputs, and TorchDynamo sees nothing of it."""

import gc

import pytest
import torch

from djinn.state.compiled import compiles
from evaluation.measure import fused_layers
from evaluation.measure.models import build
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import CONFIG, shallow

__all__ = ["shallow"]


@pytest.fixture
def subject():
    """A model of this test alone: nothing is traced for it yet, and dynamo has seen nothing."""
    torch._dynamo.reset()
    yield build(resolve(CONFIG))
    fused_layers.forget()


@pytest.fixture
def traces(monkeypatch):
    """The graphs that are traced, in order."""
    made = []

    def make_fx(*args, **options):
        trace = real(*args, **options)

        def traced(*inputs):
            made.append(trace(*inputs))
            return made[-1]

        return traced

    real = fused_layers.make_fx
    monkeypatch.setattr(fused_layers, "make_fx", make_fx)
    return made


def outputs(subject, layers, tokens=8):
    """What ``layers``, numbers from 0, make of the same hidden states."""
    config = subject.model.config
    hidden_states = torch.randn(2, tokens, config.hidden_size, generator=torch.Generator().manual_seed(1))
    hidden_states = hidden_states.to(subject.model.dtype)
    positions = subject.model.model.rotary_emb(hidden_states, torch.arange(tokens)[None])
    return [subject.layers[number](hidden_states, position_embeddings=positions) for number in layers]


def fused_outputs(subject, layers, tokens=8):
    with fused_layers.fused(subject), torch.no_grad():
        return outputs(subject, layers, tokens)


def test_djinn_beside_it_takes_no_code_for_compiled(subject):
    """Fused layers in a process do not make Djinn wait for all state, as code compiled by dynamo would."""
    fused_outputs(subject, [0, 1])
    assert not compiles()
    torch.compile(lambda one: one + 1, backend="eager")(torch.ones(1))
    assert compiles()
    torch._dynamo.reset()


def test_one_graph_serves_layers_of_other_weights(subject, traces):
    """Each layer's output is that of a trace of its own, bit for bit, and none of its data lies in a graph."""
    first, second = fused_outputs(subject, [0, 1])
    assert len(traces) == 2  # one before the attention, one behind it
    assert not torch.equal(first, second)
    fused_layers.forget()
    (own,) = fused_outputs(subject, [1])
    assert len(traces) == 4
    assert torch.equal(second, own)
    for graph in traces:
        assert not graph.state_dict()
        assert all(node.op in {"placeholder", "call_function", "output"} for node in graph.graph.nodes)


def test_weights_that_change_afterwards_are_read(subject):
    """The graph computes with those that the layer has now."""
    (before,) = fused_outputs(subject, [0])
    with torch.no_grad():
        for weight in subject.layers[0].parameters():
            weight.mul_(0.5)
    (after,) = fused_outputs(subject, [0])
    (expected,) = outputs(subject, [0])
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, expected.detach())


def test_each_size_and_each_model_has_graphs_of_its_own(subject, traces):
    """A prompt of another length is traced anew, and so is a model with other constants."""
    sizes = [8, 12, 8]
    assert [one.shape[1] for tokens in sizes for one in fused_outputs(subject, [0], tokens)] == sizes
    assert len(traces) == 4
    other = build(resolve(CONFIG))
    for layer in other.layers:
        layer.input_layernorm.variance_epsilon = 1.0
    (fused,), (expected,) = fused_outputs(other, [0]), outputs(other, [0])
    assert len(traces) == 6
    torch.testing.assert_close(fused, expected.detach())


def test_graphs_go_with_their_model(traces):
    """They keep no model alive."""
    fused_outputs(build(resolve(CONFIG)), [0])
    assert traces
    gc.collect()
    assert not fused_layers._GRAPHS
