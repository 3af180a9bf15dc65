"""Host memory of hand-written offloads: just the bytes, views that do not overlap, and a refusal with its reason."""

import mmap

import pytest
import torch

from evaluation.measure.method import ArenaFull, HostFull
from evaluation.methods import host_arena
from evaluation.methods.host_arena import HostArena, SharedArena, total

CPU = torch.device("cpu")


def tensors():
    """Of several types and strides, one empty."""
    return {
        "ids": torch.arange(3),
        "hidden": torch.randn(2, 5, 7, dtype=torch.bfloat16),
        "keys": torch.randn(2, 4, 3, 5).transpose(1, 2),
        "empty": torch.empty(0),
        "mask": torch.tensor([True, False]),
    }


def test_views_have_shapes_and_strides_and_do_not_overlap():
    """Each holds what is copied into it, whatever is copied into the others."""
    found, views = tensors(), HostArena(CPU).views(tensors())
    for name, tensor in found.items():
        views[name].copy_(tensor)
    for name, tensor in found.items():
        assert (views[name].dtype, views[name].shape, views[name].stride()) == (
            tensor.dtype, tensor.shape, tensor.stride()
        )  # fmt: skip
        assert torch.equal(views[name], tensor)
    assert len({view.untyped_storage().data_ptr() for view in views.values()}) == 1


def test_it_takes_just_the_bytes():
    """But for less than 64 of each tensor; it grows when more is asked for, and serves less from what it has."""
    arena = HostArena(CPU)
    views = arena.views(tensors())
    whole = views["ids"].untyped_storage().nbytes()
    assert total(tensors().values()) <= whole < total(tensors().values()) + 64 * len(tensors())
    assert arena.views({"ids": torch.arange(3)})["ids"].untyped_storage().nbytes() == whole
    assert arena.views({"ids": torch.arange(1000)})["ids"].untyped_storage().nbytes() == 8000
    assert arena.views({}) == {}


def test_a_system_without_memory_is_a_full_host(monkeypatch):
    """It says how much was asked for."""

    def refuse(*args, **kwargs):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(HostFull, match="no host memory for 64 bytes: Cannot allocate memory"):
        HostArena(CPU).views({"one": torch.zeros(1)})


class Runtime:
    """In place of CUDA's, where there is none: counts what is locked."""

    def __init__(self, refusal=0):
        self.locked = {}
        self.refusal = refusal

    def cudaHostRegister(self, address, nbytes, flags):  # noqa: N802
        if not self.refusal:
            self.locked[address] = nbytes
        return self.refusal

    def cudaHostUnregister(self, address):  # noqa: N802
        del self.locked[address]


@pytest.fixture
def runtime(monkeypatch):
    def put(**about):
        found = Runtime(**about)
        monkeypatch.setattr(host_arena.torch.cuda, "cudart", lambda: found)
        return found

    return put


def test_for_a_gpu_it_is_locked_while_it_lives(runtime):
    """What it grows out of is unlocked, and all of it in the end, also if nobody closes it."""
    cuda = runtime()
    arena = HostArena(torch.device("cuda"))
    arena.views({"one": torch.zeros(1)})
    arena.views({"one": torch.zeros(100)})
    assert list(cuda.locked.values()) == [448]
    arena.close()
    assert not cuda.locked
    arena.views({"one": torch.zeros(1)})
    assert len(cuda.locked) == 1
    del arena
    assert not cuda.locked


def test_pageable_memory_is_not_locked(runtime):
    """That is what it is for."""
    cuda = runtime()
    HostArena(torch.device("cuda"), pinned=False).views({"one": torch.zeros(1)})
    assert not cuda.locked


def test_a_lock_that_is_refused_is_a_full_host(runtime):
    """With CUDA's number for it; nothing is unlocked that was not locked."""
    runtime(refusal=2)
    with pytest.raises(HostFull, match="no page-locked memory for 64 bytes: CUDA error 2"):
        HostArena(torch.device("cuda")).views({"one": torch.zeros(1)})


def test_parts_of_one_arena_do_not_overlap():
    """Each of just the bytes; what they hold stays when others are paused, and again and again."""
    arena = SharedArena(CPU, 3 * 64 * 100)
    parts = [arena.part() for _ in range(3)]
    for _ in range(2):
        held = [part.views({"one": torch.zeros(1600)}) for part in parts]
        for number, views in enumerate(held):
            views["one"].fill_(number)
        assert [views["one"].unique().tolist() for views in held] == [[0], [1], [2]]
    assert len({views["one"].untyped_storage().data_ptr() for views in held}) == 1


def test_a_full_arena_says_so():
    """How large it is, what was asked for and what is left; nothing is taken."""
    arena = SharedArena(CPU, 1000)
    arena.part().views({"one": torch.zeros(200)})
    with pytest.raises(ArenaFull, match=r"arena of 1000 bytes has no room for 256 bytes \(168 are free\)"):
        arena.part().views({"one": torch.zeros(50)})
    arena.part().views({"one": torch.zeros(25)})


def test_a_shared_arena_is_locked_as_a_whole(runtime):
    """At once and of just its bytes; a part that is closed leaves the others theirs."""
    cuda = runtime()
    arena = SharedArena(torch.device("cuda"), 1 << 16)
    assert list(cuda.locked.values()) == [1 << 16]
    arena.part().close()
    assert cuda.locked
    arena.close()
    assert not cuda.locked
