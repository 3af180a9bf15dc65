"""Copies that arrive when they are waited for, and not before: every read that nobody has ordered is seen."""

import ctypes
import io
import pickle

import numpy as np
import pytest
import torch
from tests.djinn.late_link import LateLink
from tests.djinn.test_models import LAYERS, MODELS, equal, forward, mask, model, sample, tokens  # noqa: F401 - fixtures
from tests.programs import parked
from torch.overrides import BaseTorchFunctionMode

import djinn

pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.fixture
def link(monkeypatch):
    link = LateLink()
    monkeypatch.setattr("djinn.runtime.link_of", lambda device: link)
    yield link
    link.arrive()


@pytest.fixture
def runtime_of_llama(llama, link):
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime
        link.arrive()


@pytest.mark.parametrize(("layer", "visit"), [(1, 1), (LAYERS, 1), (LAYERS // 2, 2)])
@pytest.mark.parametrize("keep", ["nothing", "frontier"])
def test_sampling(model, tokens, mask, link, layer, visit, keep):  # noqa: F811
    """Tokens and scores of ``generate`` are those of a plain call, though nothing arrives before it waits for it."""
    expected = sample(model, tokens, mask)
    with djinn.Runtime(model, host_memory_bytes=8 << 20, keep=keep) as runtime:
        session = runtime.open(breakpoint=layer, visit=visit).start(sample, model, tokens, mask)
        assert session.wait(60) is djinn.Phase.PAUSED
        session.io_wait()
        session.resume()
        assert equal(session.result(60), expected)
        link.arrive()


def resumed(runtime, llama, program, *args, layer=3, keep="nothing", visit=1):
    """A session of ``program`` that was swapped out, and goes on."""
    session = parked(runtime, layer, program, llama, *args, visit=visit)
    session.io_wait(keep=keep)
    session.resume()
    return session


def with_cache(llama, input_ids):
    """What a forward pass returns, its cache included."""
    return llama(input_ids, use_cache=True)


def the_cache_of(output):
    return [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]


def raising(llama, input_ids):
    output = llama(input_ids, use_cache=True)
    raise ValueError(len(output.past_key_values.layers))


HELD = []


def holding(llama, input_ids):
    """Leaves the cache where the caller finds it, and returns something else."""
    HELD[:] = the_cache_of(llama(input_ids, use_cache=True))
    return len(HELD)


@pytest.mark.parametrize("how", ["returned", "raised", "held"])
def test_what_a_program_leads_to_is_whole(runtime_of_llama, llama, input_ids, link, how):
    """Its value, the frames of its error, and what it left elsewhere: all is there when it has ended."""
    with torch.no_grad():
        expected = the_cache_of(with_cache(llama, input_ids))
        program = {"returned": with_cache, "raised": raising, "held": holding}[how]
        session = resumed(runtime_of_llama, llama, program, input_ids)
        if how == "returned":
            found = the_cache_of(session.result(30))
        elif how == "held":
            assert session.wait(30) is djinn.Phase.FINISHED
            found = list(HELD)
            HELD.clear()
        else:
            with pytest.raises(ValueError, match="6") as caught:
                session.result(30)
            trace = caught.value.__traceback__
            while trace.tb_next is not None:
                trace = trace.tb_next
            found = the_cache_of(trace.tb_frame.f_locals["output"])
        assert equal(found, expected)
        link.arrive()


def last_logits(llama, input_ids):
    return llama(input_ids, use_cache=True).logits[:, -1:]


@pytest.mark.parametrize("keep", ["nothing", "frontier"])
def test_an_answer_waits_for_nothing_else(runtime_of_llama, llama, input_ids, link, keep):
    """Behind the last layer the answer is there though no KV has arrived; what nobody can read any more never does."""
    with torch.no_grad():
        expected = last_logits(llama, input_ids)
        session = resumed(
            runtime_of_llama, llama, last_logits, input_ids, layer=llama.config.num_hidden_layers, keep=keep
        )
        assert torch.equal(session.result(30), expected)
    behind = link.lanes["behind"]
    assert not session.wait_resident(0)
    session._engine.drain(0.1)
    assert behind.done == 0
    link.arrive()


def saved(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    return torch.load(io.BytesIO(file.getvalue()))


def in_inference_mode(tensor):
    with torch.inference_mode():
        return tensor * 2


def compiled(tensor):
    return torch.compile(lambda one: one * 2, backend="eager")(tensor)


def under_a_mode(tensor):
    with BaseTorchFunctionMode():
        return tensor.tolist()


def with_gradients(tensor):
    with torch.enable_grad():
        weight = torch.ones_like(tensor, requires_grad=True)
        (weight * tensor).sum().backward()
    return weight.grad


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    return bool(np.array_equal(left, right))


READS = {
    "numpy": lambda tensor: tensor.numpy().copy(),
    "tolist": lambda tensor: tensor.tolist(),
    "asarray": lambda tensor: np.asarray(tensor).copy(),
    "dlpack": lambda tensor: np.from_dlpack(tensor).copy(),
    "data_ptr": lambda tensor: ctypes.string_at(tensor.data_ptr(), tensor.nbytes),
    "storage": lambda tensor: tensor.untyped_storage()[:64].tolist(),
    "item": lambda tensor: tensor[-1, -1, -1, -1].item(),
    "pickle": lambda tensor: pickle.loads(pickle.dumps(tensor)),
    "save": saved,
    "inference mode": in_inference_mode,
    "compiled": compiled,
    "another mode": under_a_mode,
    "autograd": with_gradients,
}


@pytest.mark.parametrize("how", READS)
def test_a_read_behind_the_model(runtime_of_llama, llama, input_ids, link, how):
    """The user's own code may read state in any way that torch offers; it finds what a plain call finds."""

    def program(llama, input_ids):
        output = llama(input_ids, use_cache=True)
        return [READS[how](tensor) for tensor in the_cache_of(output)]

    with torch.no_grad():
        expected = program(llama, input_ids)
        found = resumed(runtime_of_llama, llama, program, input_ids).result(30)
    assert all(map(same, found, expected))
    link.arrive()
