"""The host arena."""

import gc
import os
import random
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from tests.djinn.driver import PIECE, FakeDriver

from djinn.core import HostMemoryFull, NotYet
from djinn.memory.host_memory import HostArena, available_bytes


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
    FakeDriver(monkeypatch, refuses=1)
    monkeypatch.setattr("djinn.memory.page_lock.memory_lock_limit", lambda: 65536)
    with pytest.raises(HostMemoryFull, match=r"refused to pin 65536 bytes .* memory-lock limit, which is 65536"):
        HostArena(1 << 20, pinned=True)


@pytest.fixture
def driver(monkeypatch):
    driver = FakeDriver(monkeypatch)
    yield driver
    driver.allow(1000)


def ready(arena, nbytes):
    """Whether ``arena`` comes to have just ``nbytes`` ready."""
    arena._growth._bell.wait(lambda: arena.ready_bytes >= nbytes, 10)
    return arena.ready_bytes == nbytes


def test_only_the_first_piece_is_ready_at_once(driver):
    """The rest is pinned meanwhile, piece by piece, and what is reserved lies in what is pinned."""
    arena = HostArena(4 * PIECE, pinned=True)
    assert (arena.nbytes, arena.ready_bytes) == (4 * PIECE, PIECE)
    assert not arena.wait_grown(0)
    arena.reserve([PIECE])
    driver.allow(1)
    assert ready(arena, 2 * PIECE)
    (extent,) = arena.reserve([PIECE])
    assert extent.bytes.data_ptr() == driver.pinned[1][0]
    driver.allow(2)
    assert arena.wait_grown(10)
    arena.reserve([2 * PIECE])
    arena.check_integrity()
    arena.close()
    assert driver.pinned == []


def test_pieces_are_joined_for_what_is_larger(driver):
    """CUDA refuses a copy that crosses from one pinned piece into the next: so those that are free are pinned anew."""
    arena = HostArena(6 * PIECE, pinned=True)
    driver.allow(5)
    arena.wait_grown(10)
    small = arena.reserve([PIECE, 512])
    arena.release(small[:1])
    large = arena.reserve([PIECE + 1, 2 * PIECE - 512])  # where the first three free ones are in a row
    arena.check_integrity()
    assert sorted(size for _, size in driver.pinned) == [PIECE, PIECE, PIECE, 3 * PIECE]
    for extent in (*small[1:], *large):
        start = extent.bytes.data_ptr()
        assert sum(at <= start and start + extent.nbytes <= at + size for at, size in driver.pinned) == 1
    with pytest.raises(HostMemoryFull):
        arena.reserve([PIECE + 1])
    arena.release([*small[1:], *large])
    driver.joins_fail = True
    arena.reserve([6 * PIECE])  # not pinned any more, and whole
    arena.check_integrity()
    assert driver.pinned == []
    arena.close()


def test_what_will_fit_is_told_from_what_never_will(driver):
    """One is to be tried again when there is more; the other fails at once, though the arena still grows."""
    arena = HostArena(3 * PIECE, pinned=True)
    held = arena.reserve([1000])
    with pytest.raises(NotYet) as early:
        arena.reserve([PIECE, PIECE])
    for sizes in ([4 * PIECE], [PIECE, PIECE, PIECE], [3 * PIECE]):
        with pytest.raises(HostMemoryFull) as full:
            arena.reserve(sizes)
        assert not isinstance(full.value, NotYet)
    driver.allow(1)
    early.value.wait(None)
    with pytest.raises(NotYet) as early:
        arena.reserve([PIECE, PIECE])
    driver.allow(1)
    early.value.wait(None)
    held += arena.reserve([PIECE, PIECE])
    arena.check_integrity()
    arena.release(held)
    arena.reserve([3 * PIECE])
    arena.close()


def test_a_piece_that_is_refused_is_where_the_arena_ends(monkeypatch):
    """One warning says so, the size is what there is, and whoever finds no room is told why."""
    driver = FakeDriver(monkeypatch, refuses=3)
    warnings = []
    arena = HostArena(5 * PIECE, pinned=True, warn=lambda text, *values: warnings.append(text % values))
    with pytest.raises(NotYet) as early:
        arena.reserve([4 * PIECE])
    driver.allow(1000)
    with pytest.raises(HostMemoryFull, match="refused to pin"):
        arena.wait_grown(10)
    early.value.wait(None)
    assert (arena.nbytes, arena.ready_bytes) == (2 * PIECE, 2 * PIECE)
    assert warnings == [f"the host arena stays at {2 * PIECE} of {5 * PIECE} bytes: {arena._growth.refusal}"]
    with pytest.raises(HostMemoryFull, match=rf"{2 * PIECE} bytes has no room .* refused to pin {PIECE} bytes"):
        arena.reserve([4 * PIECE])
    arena.reserve([2 * PIECE])
    arena.check_integrity()
    arena.close()
    assert driver.pinned == []


def test_ranges_tile_what_is_ready_at_every_moment(driver):
    """Random reservations and releases while the arena grows."""
    arena = HostArena(40 * PIECE, pinned=True)
    chance = random.Random(3)
    held, early = [], 0
    for _ in range(1000):
        if chance.random() < 0.05:
            driver.allow(1)
        try:
            most = chance.choice([PIECE // 2, 3 * PIECE])
            held += arena.reserve([chance.randrange(1, most) for _ in range(chance.randrange(1, 4))])
        except HostMemoryFull as full:
            early += isinstance(full, NotYet)
        if held and chance.random() < 0.5:
            arena.release([held.pop(chance.randrange(len(held))) for _ in range(min(2, len(held)))])
        arena.check_integrity()
    driver.allow(1000)
    arena.wait_grown(10)
    arena.release(held)
    assert early
    assert arena.reserve([40 * PIECE])
    arena.close()


@pytest.mark.parametrize("pieces", [1, 4])
def test_an_arena_that_is_garbage_is_unpinned(driver, pieces):
    """After the last piece, or after the one under way; who has an extent can still write to it."""
    arena = HostArena(pieces * PIECE, pinned=True)
    thread = arena._growth._thread
    if pieces == 1:
        thread.join(10)
    else:
        assert driver.begun.acquire(timeout=10)
    (extent,) = arena.reserve([100])
    del arena
    gc.collect()
    driver.allow(1)
    thread.join(10)
    assert not thread.is_alive()
    assert driver.pinned == []
    extent.bytes.fill_(7)


def test_a_fork_unpins_nothing(driver):
    """The child has neither the thread nor the driver."""
    arena = HostArena(PIECE, pinned=True)
    child = os.fork()
    if child == 0:
        del arena
        gc.collect()
        os._exit(len(driver.pinned))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    arena.close()


def test_memory_is_unlocked_by_the_device_that_locked_it(monkeypatch):
    """Also on a thread where another one is current: CUDA would take memory of that one."""
    current, told = [1], []

    @contextmanager
    def made_current(device):
        current.append(device)
        yield
        current.pop()

    cudart = SimpleNamespace(
        cudaHostRegister=lambda *args: told.append(("lock", current[-1])) or 0,
        cudaHostUnregister=lambda address: told.append(("unlock", current[-1])),
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch.cuda, "device", made_current)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    arena = HostArena(1 << 20, pinned=True)
    current[0] = 0
    assert arena.wait_grown(60)
    arena.close()
    assert told == [("lock", 1), ("unlock", 1)]
    assert current == [0]
