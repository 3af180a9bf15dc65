"""Copies bytes between addresses, and orders copies: one call of the CUDA runtime, or of the C library on the CPU.

``torch.Tensor.copy_`` does the same, but from a core that has slept it takes 45 us (H100), and this 20. RESUME begins
with such a call. The library is the one that torch has loaded, so both work in the same primary context. The caller
makes the device current: an allocation there has done so.
"""

import ctypes
import functools
from collections.abc import Callable

import torch

_TO_DEVICE, _TO_HOST = 1, 2  # of cudaMemcpyKind

_MOVE_AT_ONCE = ctypes.PyDLL(None).memmove
_MOVE_AT_ONCE.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_MOVE_AT_ONCE.restype = None


class CudaRuntimeError(RuntimeError):
    """The CUDA runtime refused a copy."""


@functools.cache
def _runtime(loader: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    """Return the CUDA runtime. Raises ``OSError`` if torch has none of that name loaded."""
    version = torch.version.cuda or ""
    runtime = loader(f"libcudart.so.{version.partition('.')[0]}")
    copy, wait = runtime.cudaMemcpyAsync, runtime.cudaStreamWaitEvent
    copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    wait.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
    copy.restype = wait.restype = ctypes.c_int
    return runtime


def prepare() -> None:
    """Find the CUDA runtime's functions, so that the first copy does not have to."""
    _runtime(ctypes.CDLL)
    _runtime(ctypes.PyDLL)


def to_device(target: int, source: int, nbytes: int, stream: int, *, at_once: bool = False) -> None:
    """Submit a copy of ``nbytes`` from page-locked host memory; the addresses are of bytes, ``stream`` a handle.

    ``at_once`` keeps the interpreter lock: nobody comes between this call and the next statement.
    """
    runtime = _runtime(ctypes.PyDLL if at_once else ctypes.CDLL)
    _check(runtime.cudaMemcpyAsync(target, source, nbytes, _TO_DEVICE, stream), "cudaMemcpyAsync")


def to_host(target: int, source: int, nbytes: int, stream: int) -> None:
    """Submit a copy of ``nbytes`` to page-locked host memory."""
    _check(_runtime(ctypes.CDLL).cudaMemcpyAsync(target, source, nbytes, _TO_HOST, stream), "cudaMemcpyAsync")


def wait_at_once(stream: int, event: int) -> None:
    """Order later work of ``stream`` behind ``event``; torch does the same, but lets go of the interpreter lock."""
    _check(_runtime(ctypes.PyDLL).cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent")


def _check(code: int, function: str) -> None:
    if code:
        raise CudaRuntimeError(f"{function} failed: {torch.cuda.cudart().cudaGetErrorString(code)}")


def within_host(target: int, source: int, nbytes: int, *, at_once: bool = False) -> None:
    """Copy ``nbytes`` from one address in host memory to another."""
    (_MOVE_AT_ONCE if at_once else ctypes.memmove)(target, source, nbytes)
