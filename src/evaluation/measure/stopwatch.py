"""The clock that all times are read from, and what is kept from falling between two readings."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


def now_ms() -> float:
    """Milliseconds on a monotonic clock."""
    return time.perf_counter_ns() / 1e6


@contextmanager
def without_collections() -> Iterator[None]:
    """Keep Python's collector off meanwhile: a collection would fall on whoever is being timed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
