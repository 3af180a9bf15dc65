"""The host arena."""

import random

import pytest

from djinn.core import HostMemoryFull
from djinn.host_memory import HostArena


def test_ranges_never_overlap_and_merge_when_free():
    """Random reservations and releases keep the arena tiled; when all is free it is one range again."""
    arena = HostArena(1 << 20, pinned=False)
    chance = random.Random(7)
    held = []
    for _ in range(2000):
        if held and chance.random() < 0.5:
            arena.release(held.pop(chance.randrange(len(held))))
        else:
            try:
                held.append(arena.reserve(chance.randrange(1, 40_000)))
            except HostMemoryFull:
                arena.release(held.pop())
        arena.check_integrity()
    for extent in held:
        arena.release(extent)
    assert arena.reserve(1 << 20).nbytes == 1 << 20


def test_sizes_are_not_rounded_to_powers_of_two():
    """A reservation takes at most one alignment step more than was asked for."""
    arena = HostArena(64 << 20, pinned=False)
    arena.reserve((20 << 20) + 1)
    assert arena.reserved_bytes == (20 << 20) + 512


def test_full_arena_says_so_and_stays_usable():
    """Asking for too much raises an error with the sizes and changes nothing."""
    arena = HostArena(4096, pinned=False)
    extent = arena.reserve(4096)
    with pytest.raises(HostMemoryFull, match="4096 bytes has no free range of 512 bytes"):
        arena.reserve(1)
    arena.release(extent)
    arena.reserve(4096)
    arena.check_integrity()


def test_releasing_twice_is_refused():
    """A range can be given back once."""
    arena = HostArena(4096, pinned=False)
    extent = arena.reserve(1)
    arena.release(extent)
    with pytest.raises(ValueError, match="not reserved"):
        arena.release(extent)


def test_views_alias_the_arena():
    """What is written through one view of a range is read through another."""
    arena = HostArena(4096, pinned=False)
    extent = arena.reserve(100)
    arena.view(extent, 100).fill_(7)
    assert arena.view(extent, 100).sum().item() == 700
