"""Architectures that the runtime was not told of: state is found, taken and brought back, bit for bit."""

import pytest
import torch
from tests.djinn.families import LAYERS, MODELS, built, tokens_and_mask
from tests.programs import spoil
from torch import nn

import djinn


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return built(request.param)


@pytest.fixture(scope="module")
def tokens():
    return tokens_and_mask()[0]


@pytest.fixture(scope="module")
def mask():
    return tokens_and_mask()[1]


def forward(model, tokens, mask):
    """Logits of one forward pass, without a cache."""
    inputs = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {"use_cache": False}
    return model(input_ids=tokens, attention_mask=mask, **inputs).logits


def sample(model, tokens, mask, **more):
    """Tokens and the scores of every step, sampled from a fixed seed."""
    torch.manual_seed(7)
    found = model.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=5,
        do_sample=True,
        return_dict_in_generate=True,
        output_scores=True,
        **more,
    )
    return [found.sequences, *found.scores]


def equal(left, right):
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def swapped_out(runtime, session):
    """The parked session at IO_WAIT; its memory is overwritten and somebody else uses the model meanwhile."""
    assert session.wait(60) is djinn.Phase.PAUSED
    assert sum(session.storage_sizes) > 0
    session.io_wait()
    spoil(session.storage_sizes)
    return session


@pytest.mark.parametrize("layer", [1, LAYERS // 2, LAYERS])
def test_forward_pass(model, tokens, mask, layer):
    """Paused after the first, a middle or the last layer, the logits are those of the plain call."""
    expected = forward(model, tokens, mask)
    with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
        session = swapped_out(runtime, runtime.open(breakpoint=layer).start(forward, model, tokens, mask))
        assert "hidden_states" in session.state
        assert torch.equal(forward(model, tokens, mask), expected)
        session.resume()
        assert torch.equal(session.result(60), expected)


# Who else holds what is asked in the tests before and behind this one, for every architecture.
# The prefill's first layer is where ``test_two_breakpoints_in_one_call`` pauses first.
@pytest.mark.usefixtures("without_climb")
@pytest.mark.parametrize(("layer", "visit"), [(LAYERS // 2, 1), (LAYERS, 1), (1, 3), (LAYERS // 2, 3), (LAYERS, 3)])
def test_sampling(model, tokens, mask, layer, visit):
    """``generate`` with sampling from a seed gives the same tokens and scores, whoever draws numbers meanwhile."""
    expected = sample(model, tokens, mask)
    with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
        session = runtime.open(breakpoint=layer, visit=visit).start(sample, model, tokens, mask)
        swapped_out(runtime, session)
        torch.rand(1000)
        session.resume()
        assert equal(session.result(60), expected)


def test_two_breakpoints_in_one_call(model, tokens, mask):
    """A call that is paused in the prefill and again in a decode step, at another layer, is bit-equal."""
    expected = sample(model, tokens, mask)
    with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
        session = swapped_out(runtime, runtime.open(breakpoint=1).start(sample, model, tokens, mask))
        torch.rand(1000)
        session.break_at(LAYERS - 1, visit=2)
        session.resume()
        swapped_out(runtime, session)
        assert session.layer == LAYERS - 1
        session.resume()
        assert equal(session.result(60), expected)


@pytest.mark.usefixtures("without_climb")
@pytest.mark.parametrize("model", ["llama", "qwen3", "gemma3", "gpt_neox"], indirect=True)
@pytest.mark.parametrize("visit", [1, 3])
def test_static_cache(model, tokens, mask, visit):
    """A cache of fixed size, allocated by ``generate``, is swapped like any other."""
    expected = sample(model, tokens, mask, cache_implementation="static")
    with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
        call = {"cache_implementation": "static"}
        session = runtime.open(breakpoint=2, visit=visit).start(sample, model, tokens, mask, **call)
        swapped_out(runtime, session)
        session.resume()
        assert equal(session.result(60), expected)


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_plain_stack_of_layers(layer):
    """A model that is no transformer, with residuals in local variables and a head beside its stack."""

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4)))
            self.head = nn.Linear(64, 8)

        def forward(self, x):
            first = x.sin()
            for block in self.blocks:
                x = x + block(torch.tanh(x)) * 0.5
            return self.head(x + first)

    torch.manual_seed(0)
    model, x = Stack(), torch.randn(256, 64)
    expected = model(x)
    with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
        assert runtime.depth == 4
        session = swapped_out(runtime, runtime.open(breakpoint=layer).start(model, x))
        session.resume()
        assert torch.equal(session.result(60), expected)
