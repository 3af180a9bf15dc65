"""The clock that all times are read from."""

import time


def now_ms() -> float:
    """Milliseconds on a monotonic clock."""
    return time.perf_counter_ns() / 1e6
