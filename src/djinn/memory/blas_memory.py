"""Keeps cuBLAS from taking device memory for every thread that computes.

torch keeps a cuBLAS handle for each living thread. For each, cuBLAS takes a workspace of its own that torch never uses,
for it hands over another: 64 MiB on an H200, which nobody counts. So 64 parked sessions would hold 4 GiB. cuBLAS reads
``CUBLAS_WORKSPACE_CONFIG`` once, when the first handle of the process is made. So a first one is made here while that
says 16 KiB. torch reads the variable later, finds what was there before, and hands over what it always has. Bits and
speed of products are the same: measured on an H200 with torch 2.11, prefill and decode shapes of a 13B model.

Where the process has made a product before, it is too late, and all is as it was.
"""

import ctypes
import os
from contextlib import suppress

import torch

_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
_SMALL = ":16:8"  # 8 buffers of 16 KiB


def keep_small(device: torch.device) -> None:
    """Make the first cuBLAS handle of the process on ``device``, and give it back; does nothing if the user has chosen.

    Where there is no cuBLAS of torch's version, nothing is done.
    """
    if device.type != "cuda" or torch.version.cuda is None or _VARIABLE in os.environ:
        return
    with suppress(OSError), torch.cuda.device(device):
        library = ctypes.CDLL(f"libcublas.so.{torch.version.cuda.partition('.')[0]}")
        handle = ctypes.c_void_p()
        os.environ[_VARIABLE] = _SMALL
        try:
            made = library.cublasCreate_v2(ctypes.byref(handle)) == 0
        finally:
            del os.environ[_VARIABLE]
        if made:
            library.cublasDestroy_v2(handle)
