"""One arena of host memory that all paused sessions share; bytes only.

The arena is mapped and registered with CUDA rather than allocated through torch, which rounds every pinned allocation
up to a power of two. It is reserved once, before anything is timed: pinning costs 5 to 20 times what a copy does. Space
is handed out first fit; neighbours that become free are merged. It knows nothing of tensors' shapes or of sessions.
"""

import mmap
import threading
from bisect import insort
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from djinn.core import HostMemoryFull

_ALIGNMENT = 512  # bytes; what the copy engines like, and enough for every dtype


@dataclass(frozen=True, kw_only=True, order=True)
class Extent:
    """A reserved range of the arena: ``offset`` and ``nbytes``, both multiples of 512 bytes."""

    offset: int
    nbytes: int


def _round_up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


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
                f"the system refused to pin {self.nbytes} bytes of host memory ({error}): "
                "reserve less, or raise the memory-lock limit"
            )

    def reserve(self, nbytes: int) -> Extent:
        """Reserve at least ``nbytes`` > 0; raise :class:`HostMemoryFull` if no free range is as large."""
        wanted = _round_up(nbytes)
        with self._lock:
            for index, gap in enumerate(self._free):
                if gap.nbytes >= wanted:
                    rest = gap.nbytes - wanted
                    self._free[index : index + 1] = [Extent(offset=gap.offset + wanted, nbytes=rest)] if rest else []
                    extent = Extent(offset=gap.offset, nbytes=wanted)
                    self._reserved.add(extent)
                    return extent
            free = sum(gap.nbytes for gap in self._free)
        raise HostMemoryFull(
            f"the host arena of {self.nbytes} bytes has no free range of {wanted} bytes ({free} bytes free in all)"
        )

    def release(self, extent: Extent) -> None:
        """Give ``extent`` back. Raises ``ValueError`` if it is not reserved."""
        with self._lock:
            if extent not in self._reserved:
                raise ValueError(f"{extent} is not reserved")
            self._reserved.remove(extent)
            insort(self._free, extent)
            merged = [self._free[0]]
            for gap in self._free[1:]:
                last = merged[-1]
                if last.offset + last.nbytes == gap.offset:
                    merged[-1] = Extent(offset=last.offset, nbytes=last.nbytes + gap.nbytes)
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
