"""The host arena: one block of host memory that all paused sessions share.

The arena is mapped and registered with CUDA. torch's own allocator would round every pinned allocation up to a power
of two. It is mapped once, and pinned piece by piece in the background (``growth``, ``page_lock``), for pinning costs 5
to 20 times what a copy does. Allocation is first fit; free neighbours are merged (``extents``). The arena knows nothing
of tensors' shapes or of sessions.
"""

import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from djinn.arguments import check_timeout
from djinn.core import HostMemoryFull, NotYet
from djinn.memory.extents import Extent, Ranges, round_up
from djinn.memory.growth import Growth
from djinn.memory.page_lock import PageLock


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


class HostArena:
    """Allocates extents from ``nbytes`` of host memory, page-locked if ``pinned`` (which needs CUDA).

    Only the first piece of pinned memory is ready at once; the arena grows in the background. Raises
    :class:`HostMemoryFull` if the system refuses to map that much, or to pin the first piece. If it refuses a later
    one, the arena stays as large as it is by then; ``warn`` is told, which is called as ``logging.warning`` is.
    """

    def __init__(self, nbytes: int, *, pinned: bool, warn: Callable[..., None] = lambda *line: None) -> None:
        if nbytes <= 0:
            raise ValueError(f"a host arena needs a positive size, not {nbytes} bytes")
        wanted = round_up(nbytes)
        self._lock = threading.Lock()
        self._ranges = Ranges()
        try:
            self._map: mmap.mmap | None = mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise HostMemoryFull(
                f"the system refused to map {wanted} bytes of host memory ({error}): lower host_memory_bytes"
            ) from error
        self._pages = PageLock(self._map, warn) if pinned else None
        self._growth = Growth(wanted, self._pages.lock if self._pages is not None else None, warn)
        if self._pages is not None:  # for an arena that nobody closes
            weakref.finalize(self, _let_go, self._growth, self._pages, os.getpid()).atexit = False
        self._growth.start()

    @property
    def nbytes(self) -> int:
        """The size in bytes, when it has grown: as asked for, or what the system granted."""
        return self._growth.limit

    @property
    def ready_bytes(self) -> int:
        """Bytes that can be used by now, in all."""
        return self._growth.ready_bytes

    def wait_grown(self, timeout: float | None = None) -> bool:
        """Block until the arena grows no more; False after ``timeout`` seconds.

        Raises :class:`HostMemoryFull` if the system refused a part of it.
        """
        check_timeout(timeout)
        ended = self._growth.wait(timeout)
        if (refusal := self._growth.refusal) is not None:
            raise HostMemoryFull(str(refusal)) from refusal
        return ended

    def _change(self, changed: Callable[[Ranges], Ranges]) -> Ranges:
        """Replace the ranges by ``changed(ranges)``, and return these; retry if another thread was faster.

        Nothing is allocated under the lock, for a garbage collection may run a finaliser that closes a session.
        """
        while True:
            before = self._ranges
            after = changed(before)
            with self._lock:
                if self._ranges is before:
                    self._ranges = after
                    return after

    def reserve(self, sizes: Sequence[int]) -> list[Extent]:
        """Reserve a range of each of ``sizes`` (bytes, > 0): all of them, or none.

        For those that fit into no piece, pieces are joined, which takes 0.1 s a GiB. Raises :class:`HostMemoryFull` if
        they do not fit, and its subclass :class:`NotYet` if they will fit when the arena has grown.
        """
        extents: list[Extent] = []

        def reserved(ranges: Ranges) -> Ranges:
            ranges = self._grown(ranges.collected(), self.ready_bytes)
            placed = ranges.placed(sizes)
            if placed is None:
                extents.clear()
                return ranges
            offsets, rest = placed
            extents[:] = [self._extent(*one) for one in zip(offsets, sizes, strict=True)]
            return replace(rest, reserved=rest.reserved.union(extents))

        while True:
            growing = self._growth.growing  # first: if that is over, all there is will be looked at
            ranges = self._change(reserved)
            if len(extents) == len(sizes):
                return extents
            self._find_room(sizes, ranges, growing)

    def _extent(self, offset: int, nbytes: int) -> Extent:
        assert self._map is not None, "the arena is closed"
        return Extent(self._map, offset, nbytes)

    def _grown(self, ranges: Ranges, nbytes: int) -> Ranges:
        """Add the pieces up to ``nbytes`` to ``ranges``."""
        if nbytes == ranges.nbytes:
            return ranges
        return ranges.grown(piece for piece in self._growth.pieces if sum(piece) <= nbytes)

    def _find_room(self, sizes: Sequence[int], ranges: Ranges, growing: bool) -> None:
        """Join pieces for ``sizes``, which did not fit into ``ranges``; raise an error if they still would not."""
        later = self._grown(ranges, self.nbytes) if growing else ranges
        if later.placed(sizes) is None:
            if (gap := ranges.to_join(sizes)) is not None:
                return self._join(*gap)
            if later.to_join(sizes) is None:
                raise HostMemoryFull(self._no_room(sizes, ranges))
        raise NotYet(self._no_room(sizes, ranges), lambda timeout: self._growth.wait_for_more(ranges.nbytes, timeout))

    def has_room(self, sizes: Sequence[int]) -> bool:
        """Whether ``sizes`` (bytes) could be reserved now."""
        return self._grown(self._ranges.collected(), self.ready_bytes).hold(sizes)

    def could_hold(self, sizes: Sequence[int]) -> bool:
        """Whether ``sizes`` (bytes) could be reserved when it has grown and is empty."""
        return self._grown(self._ranges, self.nbytes).emptied().hold(sizes)

    def _join(self, offset: int, nbytes: int) -> None:
        """Make one piece of those in that range, unless another thread has taken some of it meanwhile."""
        assert self._pages is not None, "memory that is not pinned is one piece"
        claim = self._extent(offset, nbytes)
        ranges = self._change(lambda ranges: ranges.joined(claim) or ranges)
        if claim in ranges.reserved:
            try:
                self._pages.join(offset, nbytes)
            finally:
                self.release([claim])

    def _no_room(self, sizes: Sequence[int], ranges: Ranges) -> str:
        message = (
            f"the host arena of {self.nbytes} bytes has no room for {sum(map(round_up, sizes))} bytes in ranges of up "
            f"to {max(map(round_up, sizes))} bytes ({sum(room for _, room in ranges.free)} bytes are free, "
            f"{max((room for _, room in ranges.free), default=0)} of them in one piece"
        )
        if aside := sum(extent.nbytes for extent in ranges.aside):
            message += f"; {aside} more are free when the numpy arrays or tensors over them are gone"
        if (refusal := self._growth.refusal) is not None:
            message += f"; {refusal}"
        return message + "): close or resume other sessions, or make the runtime with more host_memory_bytes"

    def release(self, extents: Sequence[Extent]) -> None:
        """Release ``extents``. Raises ``ValueError``, and releases none, if one of them is not reserved."""

        def released(ranges: Ranges) -> Ranges:
            if strangers := [extent for extent in extents if extent not in ranges.reserved]:
                raise ValueError(f"the range of {strangers[0].nbytes} bytes at {strangers[0].offset} is not reserved")
            return replace(ranges, reserved=ranges.reserved.difference(extents), aside=ranges.aside.union(extents))

        self._change(released)
        for extent in extents:
            extent.drop()
        self._change(Ranges.collected)

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved now, rounding to 512 bytes included."""
        return sum(extent.nbytes for extent in self._ranges.reserved)

    @property
    def set_aside_bytes(self) -> int:
        """Bytes of released extents that are still referenced."""
        return sum(extent.nbytes for extent in self._ranges.aside if extent.held)

    def check_integrity(self) -> None:
        """Assert that the ranges tile what is ready, each within one piece."""
        self._ranges.check_integrity()
        assert self._ranges.nbytes <= self.ready_bytes

    def close(self) -> None:
        """Unpin the memory, after the piece under way. It is unmapped when the last tensor over it is gone."""
        self._growth.stop()
        self._map = None
        if self._pages is not None:
            self._growth.leave(then=self._pages.unlock)


def _let_go(growth: Growth, pages: PageLock, process: int) -> None:
    """Unpin the memory of an arena that is garbage; a fork has neither its thread nor the driver."""
    if process == os.getpid():
        growth.leave(then=pages.unlock)
