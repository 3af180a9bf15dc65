"""Copies bytes between addresses: one call of the CUDA runtime, or of the C library on the CPU.

``torch.Tensor.copy_`` does the same, but from a core that has slept it takes 45 us (H100), and this 20. RESUME begins
with such a call. The library is the one that torch has loaded, so both work in the same primary context. The caller
makes the device current, for the handle of a default stream means the one of the current device.
"""

import ctypes
import functools
from collections.abc import Callable

import torch

_TO_DEVICE, _TO_HOST = 1, 2  # of cudaMemcpyKind
_NOT_READY = 600  # cudaErrorNotReady
_ARGUMENTS = {
    "cudaMemcpyAsync": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p],
    "cudaStreamWaitEvent": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint],
    "cudaEventRecord": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaEventQuery": [ctypes.c_void_p],
}

_BRIEF_BYTES = 1 << 20  # some 0.1 ms on a core: no longer is the interpreter kept by a copy within host memory
_MOVE_AT_ONCE = ctypes.PyDLL(None).memmove
_MOVE_AT_ONCE.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_MOVE_AT_ONCE.restype = None


class CudaRuntimeError(RuntimeError):
    """The CUDA runtime refused a copy, or the driver a kernel."""


@functools.cache
def _runtime(loader: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    """Return the CUDA runtime. Raises ``OSError`` if torch has none of that name loaded."""
    version = torch.version.cuda or ""
    runtime = loader(f"libcudart.so.{version.partition('.')[0]}")
    for name, arguments in _ARGUMENTS.items():
        function = getattr(runtime, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
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


# As torch's own methods of events and streams, but these let go of the interpreter lock, and the following keep it.


def record_at_once(event: int, stream: int) -> None:
    """Put ``event`` behind what is submitted to ``stream``; both are handles."""
    _check(_runtime(ctypes.PyDLL).cudaEventRecord(event, stream), "cudaEventRecord")


def wait_at_once(stream: int, event: int) -> None:
    """Order later work of ``stream`` behind ``event``."""
    _check(_runtime(ctypes.PyDLL).cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent")


def has_ended_at_once(event: int) -> bool:
    """Whether the device has come to ``event``."""
    code = _runtime(ctypes.PyDLL).cudaEventQuery(event)
    _check(code * (code != _NOT_READY), "cudaEventQuery")
    return bool(code == 0)


def _check(code: int, function: str) -> None:
    if code:
        cudart = torch.cuda.cudart()
        raise CudaRuntimeError(f"{function} failed: {cudart.cudaGetErrorString(cudart.cudaError(code))}")


def within_host(target: int, source: int, nbytes: int, *, at_once: bool = False) -> None:
    """Copy ``nbytes`` from one address in host memory to another; ``at_once`` is for what does not take long."""
    (_MOVE_AT_ONCE if at_once and nbytes <= _BRIEF_BYTES else ctypes.memmove)(target, source, nbytes)
