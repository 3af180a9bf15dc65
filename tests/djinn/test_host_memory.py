"""The host arena."""

import random
from types import SimpleNamespace

import pytest
import torch

from djinn.core import HostMemoryFull
from djinn.host_memory import HostArena, available_bytes


def test_ranges_never_overlap_and_merge_when_free():
    """Random reservations and releases keep the arena tiled; when all is free it is one range again."""
    arena = HostArena(1 << 20, pinned=False)
    chance = random.Random(7)
    held = []
    for _ in range(2000):
        if held and chance.random() < 0.5:
            arena.release([held.pop(chance.randrange(len(held)))])
        else:
            try:
                held += arena.reserve([chance.randrange(1, 40_000) for _ in range(chance.randrange(1, 4))])
            except HostMemoryFull:
                arena.release([held.pop()])
        arena.check_integrity()
    arena.release(held)
    assert arena.reserve([1 << 20])[0].bytes.numel() == 1 << 20


def test_sizes_are_not_rounded_to_powers_of_two():
    """A reservation takes at most one alignment step more than was asked for."""
    arena = HostArena(64 << 20, pinned=False)
    arena.reserve([(20 << 20) + 1])
    assert arena.reserved_bytes == (20 << 20) + 512


def test_full_arena_says_so_and_stays_usable():
    """Asking for too much raises an error with the sizes and changes nothing."""
    arena = HostArena(4096, pinned=False)
    held = arena.reserve([2048])
    with pytest.raises(HostMemoryFull, match="of 4096 bytes has no room for 2560 bytes"):
        arena.reserve([2048, 1])
    assert arena.reserved_bytes == 2048
    arena.release(held)
    arena.reserve([4096])
    arena.check_integrity()


def test_releasing_twice_is_refused():
    """A range can be given back once."""
    arena = HostArena(4096, pinned=False)
    first, second = arena.reserve([1, 1])
    arena.release([first])
    with pytest.raises(ValueError, match="not reserved"):
        arena.release([second, first])
    assert arena.reserved_bytes == 512


def test_an_extent_is_a_storage_of_its_own():
    """It ends where its bytes end, and what is written through one view of it is read through another."""
    arena = HostArena(4096, pinned=False)
    (extent,) = arena.reserve([100])
    extent.bytes[:50].fill_(7)
    assert extent.bytes.sum().item() == 350
    assert extent.bytes.untyped_storage().nbytes() == 100


def test_available_memory_is_the_least_that_anybody_grants(tmp_path):
    """What the container's limit leaves counts if it is less than what the system has."""
    for name in ("proc", "sys/fs/cgroup"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    assert available_bytes(tmp_path) == 50 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("7\n")
    assert available_bytes(tmp_path) == 50 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("1007\n")
    assert available_bytes(tmp_path) == 1000


def test_a_refusal_of_the_system_is_one_clear_error(monkeypatch):
    """More than the system will map or pin is answered by the number of bytes that was asked for, and the limit."""
    with pytest.raises(HostMemoryFull, match=f"refused to map {1 << 62} bytes"):
        HostArena(1 << 62, pinned=False)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=lambda *arguments: 2))
    monkeypatch.setattr("djinn.host_memory.memory_lock_limit", lambda: 65536)
    with pytest.raises(HostMemoryFull, match=r"refused to pin 1048576 bytes .* memory-lock limit, which is 65536"):
        HostArena(1 << 20, pinned=True)
