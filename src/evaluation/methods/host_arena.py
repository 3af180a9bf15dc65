"""Host memory of hand-written offloads: one mapping of just the bytes that are needed, page-locked for a GPU.

torch's own page-locked memory would be rounded up to a power of two for each tensor, which no careful script accepts.
Views of the mapping stand in for the tensors while their session is paused. Knows nothing of Djinn.
"""

import mmap
import weakref
from collections.abc import Iterable

import torch

from evaluation.measure.method import HostFull

Tensors = dict[str, torch.Tensor]
_ALIGNMENT = 64  # bytes: that of a cache line, and more than the size of any element


class HostArena:
    """Holds the tensors of one paused session at a time; grows to the largest that was asked for."""

    def __init__(self, device: torch.device, *, pinned: bool = True) -> None:
        self._pinned = pinned and device.type == "cuda"
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._unlock: weakref.finalize[[torch.Tensor], HostArena] | None = None

    def views(self, tensors: Tensors) -> Tensors:
        """Views for ``tensors``, by name, with their shapes and strides, one behind the other.

        Raises :class:`HostFull` if the system has no memory for them. What was held before is overwritten.
        """
        sizes = [nbytes(tensor) for tensor in tensors.values()]
        whole = sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)
        if whole > self._bytes.numel():
            self._replace(whole)
        views, start = {}, 0
        for (name, tensor), size in zip(tensors.items(), sizes, strict=True):
            strides = torch.empty_like(tensor, device="meta").stride()
            flat = self._bytes[start : start + size].view(tensor.dtype)
            views[name] = flat.as_strided(tensor.shape, strides)
            start += -(-size // _ALIGNMENT) * _ALIGNMENT
        return views

    def _replace(self, whole: int) -> None:
        self.close()
        try:
            memory = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise HostFull(f"no host memory for {whole} bytes: {error.strerror}") from error
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8).zero_()  # touched: it is there, and locks quickly
        if self._pinned:
            runtime = torch.cuda.cudart()
            if refused := int(runtime.cudaHostRegister(self._bytes.data_ptr(), whole, 0)):
                raise HostFull(f"no page-locked memory for {whole} bytes: CUDA error {refused}")
            self._unlock = weakref.finalize(self, _unregister, self._bytes)

    def close(self) -> None:
        """Unlock the memory; it goes back to the system with the last of its views."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None
        self._bytes = torch.empty(0, dtype=torch.uint8)


def _unregister(memory: torch.Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of the elements of ``tensor``."""
    return tensor.numel() * tensor.element_size()


def total(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the elements of all ``tensors``."""
    return sum(nbytes(tensor) for tensor in tensors)
