"""The runtime on a CUDA device: streams, events and pinned memory, which the CPU tests do not cover."""

import pytest
import torch
from tests.programs import greedy, prefill
from transformers import LlamaConfig, LlamaForCausalLM

import djinn

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model():
    """A Llama of 8 layers with 16 MiB of hidden states at [1, 2048] tokens: copies long enough to be overtaken."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # not reproducible for one query token
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=512,
        max_position_embeddings=4096,
    )
    with torch.device("cuda"):
        return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(512, (1, 2048), generator=torch.Generator().manual_seed(1)).cuda()


@pytest.fixture
def runtime(model):
    with djinn.Runtime(model, host_memory_bytes=2 << 30) as runtime:
        yield runtime


def swapped_out(runtime, layer, *call, visit=1):
    """A session at IO_WAIT, its freed memory overwritten."""
    session = runtime.open(breakpoint=layer, visit=visit).start(*call)
    assert session.wait(60) is djinn.Phase.PAUSED
    session.io_wait()
    blocks = [torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda") for size in session.storage_sizes]
    torch.cuda.synchronize()
    del blocks
    return session


@pytest.mark.parametrize("layer", [1, 4, 8])
@pytest.mark.parametrize("visit", [1, 2])
def test_resumed_run_is_bit_equal(runtime, model, tokens, layer, visit):
    """All logits equal the uninterrupted call's, in the prefill and in a decode step."""
    expected = greedy(model, tokens, 3)
    session = swapped_out(runtime, layer, greedy, model, tokens, 3, visit=visit)
    session.resume()
    found = session.result(60)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_device_memory_is_released(runtime, model, tokens):
    """A paused session holds at most 1 MiB of device memory."""
    prefill(model, tokens)
    before = torch.cuda.memory_allocated()
    session = swapped_out(runtime, 8, greedy, model, tokens, 1)
    assert torch.cuda.memory_allocated() - before <= 1 << 20
    session.resume()
    session.result(60)


def test_resume_beside_a_computing_session(runtime, model, tokens):
    """A session resumed while the compute stream is busy with another is bit-equal, and so is the other."""
    expected = greedy(model, tokens, 3)
    session = swapped_out(runtime, 4, greedy, model, tokens, 3)
    other = runtime.open(breakpoint=8, visit=99).start(greedy, model, tokens, 3)
    session.resume()
    for found in (session.result(60), other.result(60)):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_arena_is_pinned(runtime):
    """The host memory is page-locked, whatever torch thinks of who allocated it."""
    assert runtime.arena.reserve([4096])[0].bytes.is_pinned()
