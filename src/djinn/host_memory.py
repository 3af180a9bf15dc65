"""One arena of host memory that all paused sessions share; bytes only.

The arena is mapped and registered with CUDA rather than allocated through torch, which rounds every pinned allocation
up to a power of two. It is reserved once, before anything is timed: pinning costs 5 to 20 times what a copy does. Space
is handed out first fit; neighbours that become free are merged. It knows nothing of tensors' shapes or of sessions.
"""

import mmap
import resource
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from djinn.core import HostMemoryFull

_ALIGNMENT = 512  # bytes; what the copy engines like, and enough for every dtype


class Extent(NamedTuple):
    """A reserved range of the arena: ``offset`` and ``nbytes``, both multiples of 512 bytes."""

    offset: int
    nbytes: int


def _round_up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def available_bytes(root: Path = Path("/")) -> int:
    """Host memory that this process may still take, in bytes: the system's available memory, or less in a container.

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


class HostArena:
    """``nbytes`` of host memory, page-locked if ``pinned`` (which needs CUDA).

    Raises :class:`HostMemoryFull` if the system refuses to map or to pin that much.
    """

    def __init__(self, nbytes: int, *, pinned: bool) -> None:
        if nbytes <= 0:
            raise ValueError(f"a host arena needs a positive size, not {nbytes} bytes")
        self.nbytes = _round_up(nbytes)
        self._lock = threading.Lock()
        self._free = [Extent(offset=0, nbytes=self.nbytes)]
        self._reserved: set[Extent] = set()
        try:
            self._map = mmap.mmap(-1, self.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise HostMemoryFull(f"the system refused to map {self.nbytes} bytes of host memory: {error}") from error
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._pinned = pinned
        if pinned:
            self._pin()

    def _pin(self) -> None:
        # Registering faults pages in one by one; touching them from several threads first is several times faster.
        chunk = 64 << 20
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(lambda start: self._bytes[start : start + chunk].zero_(), range(0, self.nbytes, chunk)))
        error = torch.cuda.cudart().cudaHostRegister(self._bytes.data_ptr(), self.nbytes, 0)
        if int(error) != 0:
            self._pinned = False
            raise HostMemoryFull(
                f"the system refused to pin {self.nbytes} bytes of host memory ({error}): reserve less, or raise the "
                f"memory-lock limit, which is {memory_lock_limit() or 'unlimited'} (bytes)"
            )

    def reserve(self, sizes: Sequence[int]) -> list[Extent]:
        """Reserve a range of at least each of ``sizes`` (bytes, > 0): all of them, or none.

        Raises :class:`HostMemoryFull` if they do not fit.
        """
        wanted = [_round_up(nbytes) for nbytes in sizes]
        with self._lock:
            free = list(self._free)
            extents: list[Extent] = []
            for nbytes in wanted:
                index = next((index for index, gap in enumerate(free) if gap.nbytes >= nbytes), None)
                if index is None:
                    raise HostMemoryFull(
                        f"the host arena of {self.nbytes} bytes has no room for {sum(wanted)} bytes in ranges of up to "
                        f"{max(wanted)} bytes ({sum(gap.nbytes for gap in self._free)} bytes are free, "
                        f"{max((gap.nbytes for gap in self._free), default=0)} of them in one piece)"
                    )
                gap = free[index]
                extents.append(Extent(gap.offset, nbytes))
                rest = gap.nbytes - nbytes
                free[index : index + 1] = [Extent(gap.offset + nbytes, rest)] if rest else []
            self._free = free
            self._reserved.update(extents)
        return extents

    def release(self, extents: Sequence[Extent]) -> None:
        """Give ``extents`` back. Raises ``ValueError``, and releases none, if one of them is not reserved."""
        with self._lock:
            if strangers := [extent for extent in extents if extent not in self._reserved]:
                raise ValueError(f"{strangers[0]} is not reserved")
            self._reserved.difference_update(extents)
            merged: list[Extent] = []
            for gap in sorted([*self._free, *extents]):
                if merged and merged[-1].offset + merged[-1].nbytes == gap.offset:
                    merged[-1] = Extent(offset=merged[-1].offset, nbytes=merged[-1].nbytes + gap.nbytes)
                else:
                    merged.append(gap)
            self._free = merged

    def view(self, extent: Extent, nbytes: int) -> torch.Tensor:
        """The first ``nbytes`` of ``extent`` as a uint8 tensor of shape [nbytes] that aliases the arena."""
        return self._bytes[extent.offset : extent.offset + nbytes]

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved now, rounding to 512 bytes included."""
        with self._lock:
            return sum(extent.nbytes for extent in self._reserved)

    def check_integrity(self) -> None:
        """Assert that free and reserved ranges tile the arena and that no two free ranges touch."""
        with self._lock:
            ranges = sorted([*self._free, *self._reserved])
            position = 0
            for extent in ranges:
                assert extent.offset == position, f"hole or overlap at {position}: {extent}"
                position += extent.nbytes
            assert position == self.nbytes
            for left, right in zip(self._free, self._free[1:], strict=False):
                assert left.offset + left.nbytes < right.offset, f"{left} and {right} were not merged"

    def close(self) -> None:
        """Unpin the memory. The mapping goes when the last view of it goes."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._bytes.data_ptr())
            self._pinned = False
