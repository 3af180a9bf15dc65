"""Launches a kernel that Triton has built by one call of the CUDA driver, which keeps the interpreter.

Triton's own launcher takes 40 us of Python from a core that has slept (H200), and lets go of the interpreter beside the
call. A RESUME launches a kernel for each coded storage, in the half millisecond in which the frontier is in flight. So
the parameters are packed here. The driver says how the kernel has laid them out, and what differs is refused.
"""

import ctypes
import functools
import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from djinn.memory.copying import CudaRuntimeError

_POINTER, _SIZE = 1, 2  # CU_LAUNCH_PARAM_BUFFER_POINTER and CU_LAUNCH_PARAM_BUFFER_SIZE
_WORD = ctypes.c_size_t
_ARGUMENTS = {
    "cuFuncGetParamInfo": [ctypes.c_void_p, _WORD, ctypes.POINTER(_WORD), ctypes.POINTER(_WORD)],
    "cuLaunchKernel": [ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3],
}


class _Extra(ctypes.Structure):
    """The parameters as one buffer, and its size: ``extra`` of ``cuLaunchKernel``, which an empty pointer ends."""

    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("packed", ctypes.c_char_p),
        ("size", ctypes.c_void_p),
        ("nbytes", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
    )


@functools.cache
def _driver() -> ctypes.PyDLL:
    """Return the CUDA driver, whose functions keep the interpreter. Raises what ctypes raises without it."""
    driver = ctypes.PyDLL("libcuda.so.1")
    for name, arguments in _ARGUMENTS.items():
        function = getattr(driver, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    return driver


class Launch:
    """Launches ``kernel``, as Triton returns it, with arguments such as ``args``, its constants not among them.

    Addresses have 64 bits, and what fits into 32 bits has those. Raises ``RuntimeError`` where the kernel's parameters
    are laid out in another way, or it needs more than a grid, threads and shared memory.
    """

    def __init__(self, kernel: Any, args: Sequence[int]) -> None:
        about = kernel.metadata
        self._kernel = kernel  # whoever forgets it may unload its code
        self._function = kernel.function
        self._threads, self._shared = 32 * about.num_warps, about.shared
        kinds = "".join("i" if -(1 << 31) <= value < 1 << 31 else "q" for value in args)
        layout = list(_layout_of(self._function))
        scratch = "P" * (len(layout) - len(args))  # pointers to memory that the kernel has no need of
        self._layout = struct.Struct(f"@{kinds}{scratch}")
        self._empty = (0,) * len(scratch)
        needs = about.global_scratch_size, about.profile_scratch_size, getattr(about, "num_ctas", 1) - 1
        if layout != list(_packed_as(kinds + scratch)) or any(needs):
            raise RuntimeError(f"{about.name} has parameters that are not known here: {layout}, {needs}")
        self._nbytes = _WORD(self._layout.size)

    def __call__(self, grid: tuple[int, int], stream: int, *args: int) -> None:
        """Submit it to ``stream``, a handle. Raises :class:`djinn.memory.copying.CudaRuntimeError`."""
        packed = self._layout.pack(*args, *self._empty)
        extra = _Extra(_POINTER, packed, _SIZE, ctypes.addressof(self._nbytes), None)
        place = (*grid, 1, self._threads, 1, 1, self._shared)
        code = _driver().cuLaunchKernel(self._function, *place, stream, None, ctypes.addressof(extra))
        if code:
            raise CudaRuntimeError(f"cuLaunchKernel failed: CUresult {code}")


def _layout_of(function: int) -> Iterator[tuple[int, int]]:
    """Yield offset and bytes of each parameter, as the driver says."""
    offset, nbytes = _WORD(), _WORD()
    for index in itertools.count():
        if _driver().cuFuncGetParamInfo(function, index, ctypes.byref(offset), ctypes.byref(nbytes)):
            return
        yield offset.value, nbytes.value


def _packed_as(kinds: str) -> Iterator[tuple[int, int]]:
    """Yield offset and bytes of each value, as ``struct`` packs ``kinds``."""
    for index, kind in enumerate(kinds):
        nbytes = struct.calcsize(kind)
        yield struct.calcsize(f"@{kinds[: index + 1]}") - nbytes, nbytes
