"""What a disk gives to plain requests: large ones from several threads, past the page cache where that is allowed."""

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluation.measure.stopwatch import now_ms

_THREADS = 8
_REQUEST = 16 << 20  # bytes
_PAGE = 4096  # bytes; no block of a disk is larger


def plain_write_ms(file: Path, nbytes: int) -> float:
    """Milliseconds to write ``nbytes``, rounded up to whole pages, to the new ``file``, and to sync it."""
    handle = _opened(file, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        return _timed_ms(os.pwrite, handle, nbytes + -nbytes % _PAGE, then=lambda: os.fsync(handle))
    finally:
        os.close(handle)


def plain_read_ms(file: Path) -> float:
    """Milliseconds to read all of ``file``, but for what is no whole page; from the disk, see :func:`drop_pages`."""
    drop_pages(file)
    handle = _opened(file, os.O_RDONLY)
    try:
        nbytes = os.fstat(handle).st_size
        return _timed_ms(lambda handle, piece, at: os.preadv(handle, [piece], at), handle, nbytes - nbytes % _PAGE)
    finally:
        os.close(handle)


def drop_pages(file: Path) -> None:
    """Let the kernel drop what it keeps of ``file`` in memory; what lies in a file system of memory stays."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _opened(file: Path, flags: int) -> int:
    try:
        return os.open(file, flags | os.O_DIRECT, 0o600)
    except OSError:  # a file system of memory has no other way than the cache; it may have made the file
        return os.open(file, flags & ~os.O_EXCL, 0o600)


def _timed_ms(
    transfer: Callable[[int, memoryview, int], int],
    handle: int,
    nbytes: int,
    *,
    then: Callable[[], object] = lambda: None,
) -> float:
    """Let each thread take every so-manieth request, with a piece of memory of its own that was touched before."""
    pieces = [mmap.mmap(-1, max(min(_REQUEST, nbytes), _PAGE)) for _ in range(_THREADS)]
    for piece in pieces:
        piece[:] = os.urandom(_PAGE) * (len(piece) // _PAGE)

    def run(number: int) -> None:
        for start in range(number * _REQUEST, nbytes, _THREADS * _REQUEST):
            left, at = memoryview(pieces[number])[: min(_REQUEST, nbytes - start)], start
            while left:
                done = transfer(handle, left, at)
                left, at = left[done:], at + done

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(int, range(_THREADS)))  # all of them are there
        begun = now_ms()
        list(threads.map(run, range(_THREADS)))
        then()
        return now_ms() - begun
