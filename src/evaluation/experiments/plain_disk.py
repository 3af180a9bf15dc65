"""What a disk gives to plain requests: large ones from several threads, past the page cache where that is allowed."""

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluation.measure.cell import Record
from evaluation.measure.stopwatch import now_ms

_THREADS = 8
_REQUEST = 16 << 20  # bytes
_PAGE = 4096  # bytes; no block of a disk is larger


def plain_transfers(folder: Path, nbytes: int) -> Record:
    """Write ``nbytes``, rounded up to whole pages, to a file in ``folder``, and read them again; times in ms.

    ``past_cache`` tells whether the file system took requests past the page cache. If not, the kernel is told to drop
    the file from it before the read. The file is removed. Raises ``OSError`` if the system refuses.
    """
    file = folder / "plain"
    nbytes += -nbytes % _PAGE
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        handle, past_cache = os.open(file, flags | os.O_DIRECT, 0o600), True
    except OSError:  # a file system of memory has no other way than the cache
        file.unlink(missing_ok=True)
        handle, past_cache = os.open(file, flags, 0o600), False
    try:
        written_ms = _timed_ms(os.pwrite, handle, nbytes)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        read_ms = _timed_ms(lambda handle, piece, at: os.preadv(handle, [piece], at), handle, nbytes)
    finally:
        os.close(handle)
        file.unlink()
    return {"nbytes": nbytes, "past_cache": past_cache, "write_ms": written_ms, "read_ms": read_ms}


def _timed_ms(transfer: Callable[[int, memoryview, int], int], handle: int, nbytes: int) -> float:
    """Let each thread take every so-manieth request, with a piece of memory of its own that was touched before."""
    pieces = [mmap.mmap(-1, min(_REQUEST, nbytes)) for _ in range(_THREADS)]
    for piece in pieces:
        piece[:] = os.urandom(_PAGE) * (len(piece) // _PAGE)

    def run(number: int) -> None:
        for start in range(number * _REQUEST, nbytes, _THREADS * _REQUEST):
            left = memoryview(pieces[number])[: min(_REQUEST, nbytes - start)]
            at = start
            while left:
                done = transfer(handle, left, at)
                left, at = left[done:], at + done

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(int, range(_THREADS)))  # all of them are there
        begun = now_ms()
        list(threads.map(run, range(_THREADS)))
        return now_ms() - begun
