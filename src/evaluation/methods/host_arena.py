"""Host memory of hand-written offloads: mappings of just the bytes that are needed, page-locked for a GPU.

torch's own page-locked memory would be rounded up to a power of two for each tensor, which no careful script accepts.
Views of a mapping stand in for the tensors while their session is paused. A :class:`HostArena` serves sessions that are
never paused at once, a :class:`SharedArena` many that are. Knows nothing of Djinn.
"""

import mmap
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

import torch

from evaluation.measure.method import ArenaFull, HostFull

Tensors = dict[str, torch.Tensor]
_ALIGNMENT = 64  # bytes: that of a cache line, and more than the size of any element


class Room(Protocol):
    """Where the tensors of one paused session at a time find room."""

    def views(self, tensors: Tensors) -> Tensors:
        """Views for ``tensors``, by name, with their shapes and strides, one behind the other.

        Raises :class:`HostFull` if there is no room for them. What was held before is overwritten.
        """

    def close(self) -> None:
        """Give the memory back, if nobody else has a share in it."""


class _Mapping:
    """``nbytes`` of host memory that no other process has, page-locked if ``pinned``; raises :class:`HostFull`."""

    def __init__(self, nbytes: int, *, pinned: bool) -> None:
        try:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise HostFull(f"no host memory for {nbytes} bytes: {error.strerror}") from error
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)  # fewer pages to lock; a kernel may have none
        self.bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self._unlock: weakref.finalize[[torch.Tensor], _Mapping] | None = None
        if pinned:
            self.bytes.zero_()  # touched: it is there, and locks quickly
            if refused := int(torch.cuda.cudart().cudaHostRegister(self.bytes.data_ptr(), nbytes, 0)):
                raise HostFull(f"no page-locked memory for {nbytes} bytes: CUDA error {refused}")
            self._unlock = weakref.finalize(self, _unregister, self.bytes)

    def close(self) -> None:
        """Unlock the memory; it goes back to the system with the last of its views."""
        if self._unlock is not None:
            self._unlock()


class HostArena:
    """Holds the tensors of one paused session at a time; grows to the largest that was asked for."""

    def __init__(self, device: torch.device, *, pinned: bool = True) -> None:
        self._pinned = pinned and device.type == "cuda"
        self._mapping: _Mapping | None = None
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def views(self, tensors: Tensors) -> Tensors:
        """As :class:`Room` says; raises :class:`HostFull` if the system has no memory for them."""
        whole = _whole(tensors)
        if whole > self._bytes.numel():
            self.close()
            self._mapping = _Mapping(whole, pinned=self._pinned)
            self._bytes = self._mapping.bytes
        return _laid_out(self._bytes, tensors)

    def close(self) -> None:
        """Unlock the memory; it goes back to the system with the last of its views."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        self._bytes = torch.empty(0, dtype=torch.uint8)


class SharedArena:
    """Holds the tensors of sessions that are paused at once, each in a part of one mapping of ``nbytes``.

    A part is of just the bytes that its session first asks for, and is its for good.
    """

    def __init__(self, device: torch.device, nbytes: int) -> None:
        self._mapping = _Mapping(nbytes, pinned=device.type == "cuda")
        self._taken = 0

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self._mapping.bytes.numel()

    def part(self) -> Room:
        """Room for one more session; it takes no bytes before the session asks for them."""
        return _Part(self)

    def take(self, nbytes: int) -> torch.Tensor:
        """The next ``nbytes``, as uint8; raises :class:`ArenaFull` if so many are not left."""
        left = self.nbytes - self._taken
        if nbytes > left:
            raise ArenaFull(f"the host arena of {self.nbytes} bytes has no room for {nbytes} bytes ({left} are free)")
        self._taken += nbytes
        return self._mapping.bytes[self._taken - nbytes : self._taken]

    def close(self) -> None:
        """Unlock the memory; it goes back to the system with the last of its views."""
        self._mapping.close()


class _Part:
    """The room of one session in ``arena``."""

    def __init__(self, arena: SharedArena) -> None:
        self._arena = arena
        self._bytes: torch.Tensor | None = None

    def views(self, tensors: Tensors) -> Tensors:
        """As :class:`Room` says; raises :class:`ArenaFull` if the arena has no room for them."""
        whole = _whole(tensors)
        if self._bytes is None or whole > self._bytes.numel():
            self._bytes = self._arena.take(whole)
        return _laid_out(self._bytes, tensors)

    def close(self) -> None:
        """Nothing: the arena is whole until it is closed."""


def _whole(tensors: Tensors) -> int:
    """Bytes that ``tensors`` take, each aligned."""
    return sum(_aligned(nbytes(tensor)) for tensor in tensors.values())


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _laid_out(memory: torch.Tensor, tensors: Tensors) -> Tensors:
    """Views of ``memory`` for ``tensors``, one behind the other."""
    views, start = {}, 0
    for name, tensor in tensors.items():
        size = nbytes(tensor)
        strides = torch.empty_like(tensor, device="meta").stride()
        flat = memory[start : start + size].view(tensor.dtype)
        views[name] = flat.as_strided(tensor.shape, strides)
        start += _aligned(size)
    return views


def _unregister(memory: torch.Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of the elements of ``tensor``."""
    return tensor.numel() * tensor.element_size()


def total(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the elements of all ``tensors``."""
    return sum(nbytes(tensor) for tensor in tensors)
