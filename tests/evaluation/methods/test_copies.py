"""Copies behind the computation: who reads a layer waits for it, and an error reaches those who wait."""

import threading
import types

import pytest
import torch

from evaluation.methods import copies as module
from evaluation.methods.copies import CopiesBehind, LinkBeat, by_layer, to_device

CPU = torch.device("cpu")


def test_names_are_grouped_by_layer():
    """In the order in which they come; what is no KV is under 0."""
    assert by_layer(["kv.3.keys", "hidden_states", "kv.3.values", "kv.1.keys"]) == {
        3: ["kv.3.keys", "kv.3.values"],
        0: ["hidden_states"],
        1: ["kv.1.keys"],
    }


def test_a_layer_waits_until_its_copies_are_submitted():
    """And no longer: another one may still be to come. What it gets lies in its place by then."""
    copies, found = CopiesBehind(CPU, None), {}
    copies.expect([1, 2])
    helper = threading.Timer(0.05, copies.bring, [{1: {"a": torch.ones(4)}}, found.update])
    helper.start()
    copies.wait(1)
    assert torch.equal(found["a"], torch.ones(4))
    helper.join()
    copies.wait(3)  # of which nothing is expected


def test_an_error_of_a_copy_reaches_every_waiter():
    """What was copied before it stands."""
    copies = CopiesBehind(CPU, None)
    copies.expect([1, 2, 3])

    def put(tensors):
        if "b" in tensors:
            raise RuntimeError("no room")

    copies.bring({1: {"a": torch.ones(4)}, 2: {"b": torch.ones(3)}, 3: {"c": torch.ones(3)}}, put)
    copies.wait(1)
    for number in (2, 3):
        with pytest.raises(RuntimeError, match="no room"):
            copies.wait(number)
    with pytest.raises(RuntimeError, match="no room"):
        copies.synchronize()


def test_on_a_gpu_the_current_stream_waits_for_the_event(monkeypatch):
    """The copies are on a stream of their own; without the event the layer would read too early."""
    waited = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(wait_event=waited.append))
    copies = CopiesBehind(CPU, None)
    copies.expect([1, 2])
    for number in (1, 2):
        copies._submitted[number].set_result(f"event {number}")
    copies.wait(1)
    assert waited == ["event 1"]
    layers = [torch.nn.Identity(), torch.nn.Identity()]
    with copies.wait_in(layers):
        layers[1](torch.ones(1))
        assert waited == ["event 1", "event 2"]
    layers[0](torch.ones(1))
    assert waited == ["event 1", "event 2"]


def test_the_link_is_attended_from_start_to_stop(monkeypatch):
    """By a thread that copies now and then, and is gone after the join; again in the next pause."""
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.001)
    beat, before = LinkBeat(CPU), set(threading.enumerate())
    for _ in range(2):
        copied = threading.Event()
        beat._target = types.SimpleNamespace(copy_=lambda source, non_blocking, seen=copied: seen.set())
        beat.start()
        assert copied.wait(5)
        beat.stop()
        beat.join()
        assert set(threading.enumerate()) <= before
    beat.join()  # of what does not run


def test_copies_to_the_device_are_of_their_own():
    """A change of the host's tensor does not reach them."""
    source = torch.ones(3)
    found = to_device({"a": source}, CPU)
    source.zero_()
    assert torch.equal(found["a"], torch.ones(3))
