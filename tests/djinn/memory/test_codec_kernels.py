"""The kernels do what the reference does, in every bit; and sessions on a GPU come back coded."""

import copy

import pytest
import torch
from tests.programs import equal, greedy, parked

import djinn
from djinn.memory import codec
from djinn.memory.codec import Reference
from djinn.memory.coding import coding_of
from djinn.memory.lanes import link_of

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("without_climb")]
PATTERNS = torch.arange(65536, dtype=torch.int32).to(torch.int16)
KERNELS = ("_count_exponents", "_count_escapes", "_encode", "_decode")


def normal(count):
    return torch.randn(count, generator=torch.Generator().manual_seed(count)).to(torch.bfloat16).view(torch.int16)


@pytest.mark.parametrize(
    "numbers",
    [
        PATTERNS,
        PATTERNS[torch.randperm(65536, generator=torch.Generator().manual_seed(3))],
        torch.full((4096 + 16,), 0x3F80, dtype=torch.int16),
        normal(16),
        normal(3 * codec.BLOCK + 160),
        normal(5120 * 2049),
    ],
    ids=["all", "shuffled", "constant", "sixteen", "a short block", "a layer's keys"],
)
def test_the_kernels_are_the_reference(numbers):
    """Histograms, coded bytes and what comes back."""
    from djinn.memory.codec_kernels import Kernels

    device = torch.device("cuda", 0)
    kernels, reference = Kernels(device), Reference()
    there = numbers.to(device)
    ranges = codec.ranges_of(numbers.nbytes)
    counts = reference.histograms([(numbers.data_ptr() + 2 * first, count) for first, count in ranges])
    assert torch.equal(kernels.histograms([(there.data_ptr() + 2 * first, count) for first, count in ranges]), counts)
    lane = torch.cuda.current_stream().cuda_stream
    for chunk in codec.windows(ranges, counts):
        expected = torch.zeros(chunk.nbytes, dtype=torch.uint8)
        found, back = torch.zeros_like(expected, device=device), torch.zeros_like(there)
        reference.encode(numbers.data_ptr() + 2 * chunk.first, chunk, expected.data_ptr(), 0)
        scratch = torch.empty(chunk.blocks, dtype=torch.int32, device=device)
        for _ in range(2):  # built, and only launched
            found.zero_(), back.zero_()
            kernels.encode(there.data_ptr() + 2 * chunk.first, chunk, found.data_ptr(), scratch.data_ptr(), lane)
            assert torch.equal(found.cpu(), expected)
            kernels.decode(found.data_ptr(), chunk, back.data_ptr() + 2 * chunk.first, lane)
        part = slice(chunk.first, chunk.first + chunk.count)
        assert torch.equal(back.cpu()[part], numbers[part])


def test_kernels_can_be_had():
    """On a machine with Triton and a compiler; the buffer is counted."""
    device = torch.device("cuda", 0)
    made, said = coding_of(device, link_of(device))
    assert "is coded" in said
    assert made.device_bytes <= 64 << 20


def test_nothing_is_built_on_a_resume(llama, input_ids):
    """A session comes back in every bit, and by then Triton has built each kernel once, whatever the sizes are."""
    from djinn.memory import codec_kernels

    def built():
        return {name: _times_built(getattr(codec_kernels, name)) for name in KERNELS}

    model = copy.deepcopy(llama).to("cuda", torch.bfloat16)
    ids = input_ids.to("cuda")
    expected = greedy(model, ids, 3)
    with djinn.Runtime(model, host_memory_bytes=64 << 20, codec="auto") as runtime:
        before = built()
        assert set(before.values()) == {1}
        for visit in (1, 2, 3):
            session = parked(runtime, 3, greedy, model, ids, 3, visit=visit)
            session.io_wait()
            assert session._residency.restore.coded
            assert session.host_bytes < 0.95 * sum(session.storage_sizes)
            session.resume()
            assert equal(session.result(30), expected)
        assert built() == before


def _times_built(kernel):
    return sum(len(cache[0]) for cache in kernel.device_caches.values())
