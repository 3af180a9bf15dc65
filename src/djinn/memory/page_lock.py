"""The page lock: registers parts of a map with CUDA, so that copies of them are asynchronous and fast.

While a part is registered, every other call of CUDA waits, on all threads. On an H200 that is 37 ms for a GiB of huge
pages that are in memory (110 beside copies), and 340 ms if they are not. So they are touched first, which disturbs
nobody. One byte of each page is enough, for the system clears the rest. Without huge pages all takes twice as long.
"""

import mmap
import resource
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import torch

from djinn.core import HostMemoryFull
from djinn.memory import captures

_TOUCHING = 4  # threads: 0.09 s a GiB on an H200's host, where one takes 0.32 s and eight disturb others
_CHUNK = 64 << 20  # bytes that a thread touches at a time; for more pages torch would start threads of its own


def memory_lock_limit() -> int | None:
    """The most bytes that this process may lock (``RLIMIT_MEMLOCK``), or None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


class PageLock:
    """Locks parts of ``memory`` until :meth:`unlock` frees them all. All offsets and sizes are bytes.

    ``warn`` is called as ``logging.warning`` is, when a part loses its lock.

    Uses the CUDA device that is current where it is made. On another thread another one may be current, and CUDA would
    take memory of it.
    """

    def __init__(self, memory: mmap.mmap, warn: Callable[..., None]) -> None:
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes: torch.Tensor | None = torch.frombuffer(memory, dtype=torch.uint8)
        self._warn = warn
        self._device = torch.cuda.current_device()
        self._locked: dict[int, int] = {}  # address of each part, by its offset

    def lock(self, offset: int, nbytes: int) -> None:
        """Touch and lock ``nbytes`` from ``offset``. Raises :class:`HostMemoryFull` if the system refuses."""
        _touch(self._everything[offset : offset + nbytes])
        self._register(offset, nbytes)

    def join(self, offset: int, nbytes: int) -> None:
        """Lock ``nbytes`` from ``offset`` as one part, which were locked as several; waits for running kernels.

        If the system refuses they stay unlocked: copies of them are slow and right.
        """
        for part in [part for part in self._locked if offset <= part < offset + nbytes]:
            self._unregister(self._locked.pop(part))
        try:
            self._register(offset, nbytes)
        except HostMemoryFull as error:
            self._warn("%d bytes of the host arena are no longer pinned: %s", nbytes, str(error))

    def unlock(self) -> None:
        """Unlock all parts and drop the map; can be called again, and on two threads."""
        with suppress(KeyError):
            while True:
                self._unregister(self._locked.popitem()[1])
        self._bytes = None

    @property
    def _everything(self) -> torch.Tensor:
        assert self._bytes is not None, "the map was dropped"
        return self._bytes

    def _register(self, offset: int, nbytes: int) -> None:
        address = self._everything.data_ptr() + offset
        with torch.cuda.device(self._device), captures.allowed():
            error = torch.cuda.cudart().cudaHostRegister(address, nbytes, 0)
        if int(error) != 0:
            raise HostMemoryFull(
                f"the system refused to pin {nbytes} bytes of host memory ({error}): lower host_memory_bytes, or raise "
                f"the memory-lock limit, which is {memory_lock_limit() or 'unlimited'} (bytes)"
            )
        self._locked[offset] = address

    def _unregister(self, address: int) -> None:
        with torch.cuda.device(self._device), captures.allowed():
            torch.cuda.cudart().cudaHostUnregister(address)


def _touch(part: torch.Tensor) -> None:
    """Bring the pages of ``part`` into memory, on several threads."""
    chunks = deque(part.split(_CHUNK))

    def touch() -> None:
        with suppress(IndexError):
            while True:
                chunks.popleft()[:: mmap.PAGESIZE].zero_()

    helpers = [threading.Thread(target=touch, name="djinn-touch") for _ in range(min(_TOUCHING, len(chunks)) - 1)]
    with suppress(RuntimeError):  # a thread that the system refuses leaves its share to this one
        for helper in helpers:
            helper.start()
    touch()
    for helper in helpers:
        if helper.ident is not None:
            helper.join()
