"""What is overwritten while a session is paused: all that torch could serve it from again, and nothing else."""

import types

import pytest
import torch

from evaluation.measure import device_memory
from evaluation.measure.device_memory import overwrite_free_memory

MIB = 1 << 20
GPU = torch.device("cuda", 0)
STREAM = 7


def segment(*blocks, device=0, stream=STREAM, pool=(0, 0), kind="large"):
    """One as torch's snapshot has it, of blocks (bytes, whether in use)."""
    states = [{"size": size, "state": "active_allocated" if used else "inactive"} for size, used in blocks]
    return {"device": device, "stream": stream, "segment_pool_id": pool, "segment_type": kind, "blocks": states}


@pytest.fixture
def allocator(monkeypatch):
    """A GPU's allocator, by its snapshot: what is asked of it is served from its first free block of that size."""
    segments = []
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=STREAM))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7 * MIB)

    def empty(size, *, dtype, device):
        assert (dtype, device) == (torch.uint8, GPU)
        free = [block for one in segments for block in one["blocks"] if block["state"] == "inactive"]
        next(block for block in free if block["size"] >= size)["state"] = "active_allocated"
        return torch.zeros(size, dtype=dtype)

    stand_in = types.SimpleNamespace(empty=empty, uint8=torch.uint8, cuda=torch.cuda)
    monkeypatch.setattr(device_memory, "torch", stand_in)
    return segments


def test_all_that_is_free_is_overwritten(allocator):
    """And what is in use is not."""
    allocator += [segment((3 * MIB, False), (5 * MIB, True)), segment((2 * MIB, False)), segment((4 * MIB, True))]
    assert overwrite_free_memory(GPU, [3 * MIB, 2 * MIB]) == 5 * MIB
    assert not device_memory._free_blocks(GPU)


@pytest.mark.parametrize("other", [{"device": 1}, {"stream": 8}, {"pool": (0, 1)}, {"pool": (3, 0)}])
def test_what_no_request_is_served_from_is_left_alone(allocator, other):
    """Of another device, another stream, or a pool that a library or a graph has of its own."""
    allocator += [segment((3 * MIB, False)), segment((64 * MIB, False), **other)]
    assert overwrite_free_memory(GPU, []) == 3 * MIB
    with pytest.raises(RuntimeError, match=f"only 0 of {3 * MIB} freed bytes could be overwritten; {7 * MIB}"):
        overwrite_free_memory(GPU, [3 * MIB])


@pytest.mark.gpu
def test_a_pool_of_its_own_takes_no_further_memory():
    """What it holds free would otherwise be taken from the driver again at every sample, until none is left."""
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool, GPU):
        held = torch.empty(256 * MIB, dtype=torch.uint8, device=GPU)
    ordinary = torch.empty(64 * MIB, dtype=torch.uint8, device=GPU)
    del held, ordinary
    before = torch.cuda.memory_reserved(GPU)
    for _ in range(3):
        assert overwrite_free_memory(GPU, [64 * MIB]) >= 64 * MIB
    assert torch.cuda.memory_reserved(GPU) == before
