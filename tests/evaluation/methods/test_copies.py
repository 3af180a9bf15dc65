"""Copies behind the computation: who reads a layer waits for it, and an error reaches those who wait."""

import threading
import types

import pytest
import torch

from evaluation.methods.copies import CopiesBehind, by_layer

CPU = torch.device("cpu")


def test_names_are_grouped_by_layer():
    """In the order in which they come; what is no KV is under 0."""
    assert by_layer(["kv.3.keys", "hidden_states", "kv.3.values", "kv.1.keys"]) == {
        3: ["kv.3.keys", "kv.3.values"],
        0: ["hidden_states"],
        1: ["kv.1.keys"],
    }


def test_a_layer_waits_until_its_copies_are_submitted():
    """And no longer: another one may still be to come."""
    copies, target = CopiesBehind(CPU), torch.zeros(4)
    copies.expect([1, 2])
    helper = threading.Timer(0.05, copies.submit, [{1: [(target, torch.ones(4))]}])
    helper.start()
    copies.wait(1)
    assert torch.equal(target, torch.ones(4))
    helper.join()
    copies.wait(3)  # of which nothing is expected


def test_an_error_of_a_copy_reaches_every_waiter():
    """What was copied before it stands."""
    copies = CopiesBehind(CPU)
    copies.expect([1, 2, 3])
    copies.submit({1: [(torch.zeros(4), torch.ones(4))], 2: [(torch.zeros(4), torch.ones(3))]})
    copies.wait(1)
    assert all(submitted.done() for submitted in copies._submitted.values())
    for number in (2, 3):
        with pytest.raises(RuntimeError, match="size of tensor"):
            copies.wait(number)
    with pytest.raises(RuntimeError, match="size of tensor"):
        copies.synchronize()


def test_on_a_gpu_the_current_stream_waits_for_the_event(monkeypatch):
    """The copies are on a stream of their own; without the event the layer would read too early."""
    waited = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(wait_event=waited.append))
    copies = CopiesBehind(CPU)
    copies.expect([1, 2])
    for number in (1, 2):
        copies._submitted[number].set_result(f"event {number}")
    copies.wait(1)
    assert waited == ["event 1"]
    copies.wait_all()
    assert waited == ["event 1", "event 1", "event 2"]
