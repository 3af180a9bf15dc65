"""Lanes: the queues of a device, as the runtime orders copies and computation on them.

On CUDA a lane is a stream, and a mark in it an event. On the CPU work has ended when its call returns, so there is
nothing to order. Each call does nothing where nothing is needed, and costs less than that of ``torch.cuda``.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from djinn.memory import captures, copying

Position = tuple[int, int, int]  # a stream, as torch identifies it: its id, device and kind of device


class Mark:
    """A point in a lane: the end of all work that was submitted before it. On the CPU that has ended."""

    @property
    def ended(self) -> bool:
        """Whether the lane has come to it."""
        return True

    def synchronize(self) -> None:
        """Block until the lane has come to it."""

    def synchronize_at_once(self, seconds: float) -> None:
        """Do so without letting go of the interpreter, which others lack meanwhile; behind so many ``seconds`` let go.

        Who lets go of it beside a thread that computes in Python gets it back after 5 ms.
        """
        until = time.perf_counter() + seconds
        while not self._ended_at_once:
            if time.perf_counter() >= until:
                self.synchronize()
                return

    @property
    def _ended_at_once(self) -> bool:
        return self.ended


class Lane:
    """A queue of work; this one of the CPU."""

    def here(self) -> AbstractContextManager[object]:
        """Make it the current thread's lane in a block: what is allocated in the block belongs to it."""
        return nullcontext()

    @property
    def busy(self) -> bool:
        """Whether submitted work has not ended."""
        return False

    def fill(self, storage: torch.UntypedStorage, source: int, *, at_once: bool = False) -> None:
        """Submit a copy into all of ``storage`` from address ``source`` in the host arena.

        ``at_once``: without letting go of the interpreter.
        """
        self.bring(storage.data_ptr(), source, storage.nbytes(), at_once=at_once)

    def empty(self, storage: torch.UntypedStorage, target: int) -> None:
        """Submit a copy of all of ``storage`` to address ``target`` in the host arena."""
        self.take(target, storage.data_ptr(), storage.nbytes())

    def bring(self, target: int, source: int, nbytes: int, *, at_once: bool = False) -> None:
        """Do so to address ``target`` on the device."""
        copying.within_host(target, source, nbytes, at_once=at_once)

    def take(self, target: int, source: int, nbytes: int) -> None:
        """Do so from address ``source`` on the device."""
        copying.within_host(target, source, nbytes)

    def launch(self, work: Callable[[int], object]) -> None:
        """Call ``work``, which submits to this lane by its handle on the device, with that as the current one."""
        work(0)

    def record(self, mark: Mark, *, at_once: bool = False) -> Mark:
        """Put ``mark`` behind what is submitted so far, and return it; ``at_once`` as in :meth:`fill`.

        The first time it is recorded it is made, which takes longer and lets go of the interpreter.
        """
        return mark

    def wait(self, mark: Mark, *, at_once: bool = False) -> None:
        """Order later work behind ``mark``; ``at_once`` as in :meth:`fill`."""

    def follow(self, leader: "Lane", *, at_once: bool = False) -> None:
        """Order later work behind all that is submitted to ``leader``; ``at_once`` as in :meth:`fill`."""

    def synchronize(self) -> None:
        """Block until all submitted work has ended."""


class Link:
    """Makes the lanes of one device; this one of the CPU."""

    def lane(self, *, urgent: bool = False) -> Lane:
        """Make a lane; kernels of an ``urgent`` one start before those of others that wait for a place too."""
        return Lane()

    def mark(self) -> Mark:
        """Make a mark; it is nowhere until a lane records it."""
        return Mark()

    def current(self) -> Lane:
        """Return the current thread's lane."""
        return Lane()

    def position(self) -> Sequence[Position]:
        """Return which lanes and which device are the current thread's, for :meth:`return_to`; none on the CPU."""
        return ()

    def return_to(self, positions: Sequence[Position]) -> None:
        """Return to them, from which an interrupt may have led away."""

    def has_room(self, nbytes: int) -> bool:
        """Whether the device surely has room for ``nbytes`` in several storages."""
        return True


class _CudaMark(Mark):
    def __init__(self) -> None:
        self.event = torch.cuda.Event()

    @property
    def ended(self) -> bool:
        return bool(self.event.query())

    def synchronize(self) -> None:
        self.event.synchronize()

    @property
    def _ended_at_once(self) -> bool:
        return copying.has_ended_at_once(self.event.cuda_event)


class _Here:
    """Makes a stream the current one in a block: cheaper than ``torch.cuda.stream``."""

    __slots__ = ("_before", "_position")

    def __init__(self, position: Position) -> None:
        self._position = position
        self._before: list[Position] = []

    def __enter__(self) -> None:
        device = torch._C._cuda_getDevice()
        before = torch._C._cuda_getCurrentStream(device)
        if before != self._position:
            self._before = [torch._C._cuda_getCurrentStream(self._position[1]), before]
            torch._C._cuda_setStream(*self._position)

    def __exit__(self, *exc_info: object) -> None:
        for stream in self._before:
            torch._C._cuda_setStream(*stream)


_CURRENT: AbstractContextManager[object] = nullcontext()  # where nothing has to be made current


class _CudaLane(Lane):
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream
        self._position = (stream.stream_id, stream.device_index, stream.device_type)
        self._handle = stream.cuda_stream
        self._end: _CudaMark | None = None  # for who follows at once

    def here(self) -> AbstractContextManager[object]:
        return _Here(self._position)

    def _there(self) -> AbstractContextManager[object]:
        """Make its device current in a block, in which its handle is used: that of a default stream names no device."""
        return _CURRENT if torch._C._cuda_getDevice() == self._position[1] else self.here()

    @property
    def busy(self) -> bool:
        return not self.stream.query()

    def bring(self, target: int, source: int, nbytes: int, *, at_once: bool = False) -> None:
        with self._there():
            copying.to_device(target, source, nbytes, self._handle, at_once=at_once)

    def take(self, target: int, source: int, nbytes: int) -> None:
        with self._there():
            copying.to_host(target, source, nbytes, self._handle)

    def launch(self, work: Callable[[int], object]) -> None:
        with self._there():
            work(self._handle)

    def record(self, mark: Mark, *, at_once: bool = False) -> Mark:
        assert isinstance(mark, _CudaMark)
        if at_once and (event := mark.event.cuda_event):
            with self._there():
                copying.record_at_once(event, self._handle)
        else:
            mark.event.record(self.stream)
        return mark

    def wait(self, mark: Mark, *, at_once: bool = False) -> None:
        assert isinstance(mark, _CudaMark)
        if torch.cuda.is_current_stream_capturing():  # a graph cannot wait for what is not in it
            with captures.allowed():
                mark.synchronize()
        elif at_once:
            with self._there():
                copying.wait_at_once(self._handle, mark.event.cuda_event)
        else:
            self.stream.wait_event(mark.event)

    def follow(self, leader: Lane, *, at_once: bool = False) -> None:
        assert isinstance(leader, _CudaLane)
        if leader.busy and at_once:
            leader._end = leader._end or _CudaMark()
            self.wait(leader.record(leader._end, at_once=True), at_once=True)
        elif leader.busy:
            self.stream.wait_stream(leader.stream)

    def synchronize(self) -> None:
        self.stream.synchronize()


class _CudaLink(Link):
    def __init__(self, device: torch.device) -> None:
        self._device = device
        copying.prepare()

    def lane(self, *, urgent: bool = False) -> Lane:
        return _CudaLane(torch.cuda.Stream(self._device, priority=-1 if urgent else 0))

    def mark(self) -> Mark:
        return _CudaMark()

    def current(self) -> Lane:
        return _CudaLane(torch.cuda.current_stream(self._device))

    def position(self) -> Sequence[Position]:
        devices = self._device.index, torch._C._cuda_getDevice()
        return [torch._C._cuda_getCurrentStream(device) for device in devices]

    def return_to(self, positions: Sequence[Position]) -> None:
        for position in positions:  # the last makes its device the current one, too
            torch._C._cuda_setStream(*position)

    def has_room(self, nbytes: int) -> bool:
        """Whether torch's cache has room, or the free memory twice over.

        After a swap-out the cache holds the very blocks. Then the driver, which answers slowly, is not asked.
        """
        held = torch._C._cuda_memoryStats(self._device.index)  # torch.cuda.memory_stats would sort and flatten it
        cached = held["reserved_bytes"]["all"]["current"] - held["allocated_bytes"]["all"]["current"]
        return bool(cached >= nbytes or cached + torch.cuda.mem_get_info(self._device)[0] >= 2 * nbytes)


def link_of(device: torch.device) -> Link:
    """Make the link of ``device``. Raises ``OSError`` if torch has loaded no CUDA runtime that it can use."""
    return _CudaLink(device) if device.type == "cuda" else Link()
