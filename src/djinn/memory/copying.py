"""Copies bytes between addresses: one call of the CUDA runtime, or of the C library on the CPU.

``torch.Tensor.copy_`` does the same, but from a core that has slept it takes 45 us (H100), and this 20. RESUME begins
with such a call. The library is the one that torch has loaded, so both work in the same primary context. The caller
makes the device current: an allocation there has done so.
"""

import ctypes
import functools
from collections.abc import Callable

import torch

_TO_DEVICE, _TO_HOST = 1, 2  # of cudaMemcpyKind


class CudaRuntimeError(RuntimeError):
    """The CUDA runtime refused a copy."""


@functools.cache
def _runtime(loader: Callable[[str], ctypes.CDLL]) -> Callable[..., int]:
    """Return ``cudaMemcpyAsync``. Raises ``OSError`` if torch has no CUDA runtime of that name loaded."""
    version = torch.version.cuda or ""
    function = loader(f"libcudart.so.{version.partition('.')[0]}").cudaMemcpyAsync
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function


def prepare() -> None:
    """Find the CUDA runtime's function, so that the first copy does not have to."""
    _runtime(ctypes.CDLL)
    _runtime(ctypes.PyDLL)


def to_device(target: int, source: int, nbytes: int, stream: int, *, at_once: bool = False) -> None:
    """Submit a copy of ``nbytes`` from page-locked host memory; the addresses are of bytes, ``stream`` a handle.

    ``at_once`` keeps the interpreter lock: nobody comes between this call and the next statement.
    """
    _check(_runtime(ctypes.PyDLL if at_once else ctypes.CDLL)(target, source, nbytes, _TO_DEVICE, stream))


def to_host(target: int, source: int, nbytes: int, stream: int) -> None:
    """Submit a copy of ``nbytes`` to page-locked host memory."""
    _check(_runtime(ctypes.CDLL)(target, source, nbytes, _TO_HOST, stream))


def _check(code: int) -> None:
    if code:
        raise CudaRuntimeError(f"cudaMemcpyAsync failed: {torch.cuda.cudart().cudaGetErrorString(code)}")


def within_host(target: int, source: int, nbytes: int) -> None:
    """Copy ``nbytes`` from one address in host memory to another."""
    ctypes.memmove(target, source, nbytes)
