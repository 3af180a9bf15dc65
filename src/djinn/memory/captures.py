"""Calls of CUDA beside a thread that captures a graph.

CUDA takes some calls of any thread as an error of a capture that is going on, unless the calling thread says that it
knows. Without that a registration of memory, or a question whether a copy has ended, breaks the user's capture.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


def allow_on_this_thread() -> None:
    """Allow such calls on this thread from now on; does nothing without CUDA."""
    _exchange(ctypes.c_int(_RELAXED))


@contextmanager
def allowed() -> Iterator[None]:
    """Allow such calls on this thread until the block ends."""
    mode = ctypes.c_int(_RELAXED)
    _exchange(mode)
    try:
        yield
    finally:
        _exchange(mode)


def _exchange(mode: ctypes.c_int) -> None:
    """Set the mode of this thread, and leave the earlier one in ``mode``."""
    if torch.version.cuda is not None and torch.cuda.is_initialized():
        ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
