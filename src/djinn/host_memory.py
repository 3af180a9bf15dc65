"""The host arena: one block of host memory that all paused sessions share.

The arena is mapped and registered with CUDA. torch's own allocator would round every pinned allocation up to a power
of two. It is reserved once, before anything is timed, for pinning costs 5 to 20 times what a copy does. Allocation is
first fit; free neighbours are merged. The arena knows nothing of tensors' shapes or of sessions.

Each extent is a storage of its own, which ends where its bytes end. So no tensor over it reaches another extent. An
extent that is released while a numpy array or a capsule still refers to it is set aside. It is free when they are gone.
"""

import mmap
import resource
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from djinn.core import HostMemoryFull

_ALIGNMENT = 512  # bytes; good for the copy engines, and enough for every dtype


class Extent:
    """A reserved range of the arena, from ``offset``; ``bytes`` is a uint8 tensor of exactly the size asked for.

    ``nbytes`` is rounded up to 512. After the release ``bytes`` is gone.
    """

    __slots__ = ("_held", "_tensor", "nbytes", "offset")

    def __init__(self, memory: mmap.mmap, offset: int, wanted: int) -> None:
        part = memoryview(memory)[offset : offset + wanted]
        self.offset = offset
        self.nbytes = _round_up(wanted)
        # Only the storage keeps the memoryview, which therefore dies with the last tensor over these bytes.
        self._held = weakref.ref(part)
        self._tensor: torch.Tensor | None = torch.frombuffer(part, dtype=torch.uint8)

    @property
    def bytes(self) -> torch.Tensor:
        """The reserved bytes: uint8, shape [nbytes asked for]."""
        assert self._tensor is not None, "an extent that was given back was read"
        return self._tensor

    @property
    def held(self) -> bool:
        """Whether a tensor over these bytes exists anywhere."""
        return self._held() is not None

    def drop(self) -> None:
        """Drop the reference to the bytes."""
        self._tensor = None


Gap = tuple[int, int]  # a free range: offset and bytes


def _round_up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def available_bytes(root: Path = Path("/")) -> int:
    """Host memory that this process can still allocate, in bytes; a container may have less than the system.

    Source: ``/proc/meminfo`` and the memory controller of cgroup version 2 or 1, below ``root``.
    """
    meminfo = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            texts = [(root / "sys/fs/cgroup" / name).read_text().strip() for name in (limit, usage)]
        except OSError:
            continue
        if texts[0] != "max":
            available = min(available, int(texts[0]) - int(texts[1]))
    return max(available, 0)


def memory_lock_limit() -> int | None:
    """The most bytes that this process may lock (``RLIMIT_MEMLOCK``), or None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True, kw_only=True)
class _State:
    """The ranges of an arena: free, reserved, and ``aside``, which are released and still referenced."""

    free: tuple[Gap, ...]
    reserved: frozenset[Extent]
    aside: frozenset[Extent]

    def collected(self) -> "_State":
        """Move the extents of ``aside`` that are no longer referenced to the free ranges."""
        let_go = [extent for extent in self.aside if not extent.held]
        if not let_go:
            return self
        gaps = [(extent.offset, extent.nbytes) for extent in let_go]
        return replace(self, free=_merged([*self.free, *gaps]), aside=self.aside.difference(let_go))


class HostArena:
    """Allocates extents from ``nbytes`` of host memory, page-locked if ``pinned`` (which needs CUDA).

    Raises :class:`HostMemoryFull` if the system refuses to map or to pin that much.
    """

    def __init__(self, nbytes: int, *, pinned: bool) -> None:
        if nbytes <= 0:
            raise ValueError(f"a host arena needs a positive size, not {nbytes} bytes")
        self.nbytes = _round_up(nbytes)
        self._lock = threading.Lock()
        self._state = _State(free=((0, self.nbytes),), reserved=frozenset(), aside=frozenset())
        try:
            self._map = mmap.mmap(-1, self.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise HostMemoryFull(
                f"the system refused to map {self.nbytes} bytes of host memory ({error}): lower host_memory_bytes"
            ) from error
        self._address: int | None = self._pin() if pinned else None

    def _pin(self) -> int:
        everything = torch.frombuffer(self._map, dtype=torch.uint8)
        # Registering faults pages in one by one; touching them from several threads first is several times faster.
        chunk = 64 << 20
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(lambda start: everything[start : start + chunk].zero_(), range(0, self.nbytes, chunk)))
        error = torch.cuda.cudart().cudaHostRegister(everything.data_ptr(), self.nbytes, 0)
        if int(error) != 0:
            raise HostMemoryFull(
                f"the system refused to pin {self.nbytes} bytes of host memory ({error}): reserve less, or raise the "
                f"memory-lock limit, which is {memory_lock_limit() or 'unlimited'} (bytes)"
            )
        return everything.data_ptr()

    def _change(self, changed: Callable[["_State"], "_State"]) -> None:
        """Replace the state by ``changed(state)``; retry if another thread has changed it meanwhile.

        Nothing is allocated under the lock, for a garbage collection may run a finaliser that closes a session.
        """
        done = False
        while not done:
            before = self._state
            after = changed(before)
            with self._lock:
                if self._state is before:
                    self._state = after
                    done = True

    def reserve(self, sizes: Sequence[int]) -> list[Extent]:
        """Reserve a range of each of ``sizes`` (bytes, > 0): all of them, or none.

        Raises :class:`HostMemoryFull` if they do not fit.
        """
        extents: list[Extent] = []

        def reserved(state: _State) -> _State:
            state = state.collected()
            free = list(state.free)
            extents[:] = [Extent(self._map, self._take(free, nbytes, sizes, state), nbytes) for nbytes in sizes]
            return replace(state, free=tuple(free), reserved=state.reserved.union(extents))

        self._change(reserved)
        return extents

    def _take(self, free: list[Gap], nbytes: int, sizes: Sequence[int], state: "_State") -> int:
        """Take ``nbytes`` out of the first gap of ``free`` that is large enough; return the offset."""
        wanted = _round_up(nbytes)
        for index, (offset, room) in enumerate(free):
            if room >= wanted:
                free[index : index + 1] = [(offset + wanted, room - wanted)] if room > wanted else []
                return offset
        aside = sum(extent.nbytes for extent in state.aside)
        raise HostMemoryFull(
            f"the host arena of {self.nbytes} bytes has no room for {sum(map(_round_up, sizes))} bytes in ranges of up "
            f"to {max(map(_round_up, sizes))} bytes ({sum(room for _, room in state.free)} bytes are free, "
            f"{max((room for _, room in state.free), default=0)} of them in one piece"
            + (f"; {aside} more are free when the numpy arrays or tensors over them are gone)" if aside else ")")
            + ": close or resume other sessions, or make the runtime with more host_memory_bytes"
        )

    def release(self, extents: Sequence[Extent]) -> None:
        """Release ``extents``. Raises ``ValueError``, and releases none, if one of them is not reserved."""

        def released(state: _State) -> _State:
            if strangers := [extent for extent in extents if extent not in state.reserved]:
                raise ValueError(f"the range of {strangers[0].nbytes} bytes at {strangers[0].offset} is not reserved")
            return replace(state, reserved=state.reserved.difference(extents), aside=state.aside.union(extents))

        self._change(released)
        for extent in extents:
            extent.drop()
        self._change(_State.collected)

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved now, rounding to 512 bytes included."""
        return sum(extent.nbytes for extent in self._state.reserved)

    @property
    def set_aside_bytes(self) -> int:
        """Bytes of released extents that are still referenced."""
        return sum(extent.nbytes for extent in self._state.aside if extent.held)

    def check_integrity(self) -> None:
        """Assert that free, reserved and set-aside ranges tile the arena and that no two free ranges touch."""
        state = self._state
        used = ((extent.offset, extent.nbytes) for extent in (*state.reserved, *state.aside))
        position = 0
        for offset, nbytes in sorted([*state.free, *used]):
            assert offset == position, f"hole or overlap at {position}: {nbytes} bytes at {offset}"
            position += nbytes
        assert position == self.nbytes
        assert state.free == _merged(state.free), "free ranges that touch were not merged"

    def close(self) -> None:
        """Unpin the memory. It is unmapped when the last tensor over it is gone."""
        address, self._address = self._address, None
        if address is not None:
            torch.cuda.cudart().cudaHostUnregister(address)


def _merged(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """Sort ``gaps`` and merge those that touch."""
    merged: list[Gap] = []
    for offset, nbytes in sorted(gaps):
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + nbytes)
        else:
            merged.append((offset, nbytes))
    return tuple(merged)
