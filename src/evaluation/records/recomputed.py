"""Compares statistics that older records hold with the raw samples beside them.

New records hold samples alone. Whoever reads a record computes what it needs from these; here a stored number is
refused that does not follow from them. A stored bootstrap interval depends on a random generator: of it only the
bounds are checked.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Annotated

import numpy as np
from pydantic import Field

from evaluation.records.fields import Milliseconds, Positive, Strict

_ROUNDING = 1e-9


class Interval(Strict):
    """A median with its interval."""

    median: Milliseconds
    low: Milliseconds
    high: Milliseconds
    n: Positive
    coverage: Annotated[float, Field(ge=0, le=1)]


class Spread(Interval):
    """The same with two tails."""

    p95: Milliseconds
    p99: Milliseconds


def same(found: float, expected: float) -> bool:
    """Whether both are one number but for rounding."""
    return math.isclose(found, expected, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def check_median(stored: float, values: Sequence[float]) -> None:
    """Raise ValueError unless ``stored`` is the median of ``values``."""
    if not values or not same(stored, median(values)):
        raise ValueError(f"the median {stored:g} does not follow from the samples")


def check_spread(stored: Spread, values: Sequence[float]) -> None:
    """Raise ValueError unless ``stored`` is of ``values``: the median, its rank interval and the tails."""
    expected = _rank_interval(values)
    expected |= {f"p{tail}": float(np.quantile(values, tail / 100)) for tail in (95, 99)}
    _compare(stored, expected)


def check_bootstrap(stored: Interval, values: Sequence[float]) -> None:
    """Raise ValueError unless ``stored`` can be a bootstrap interval of the median of ``values``."""
    _compare(stored, {"median": median(values), "n": len(values)})
    if not min(values) <= stored.low <= stored.median <= stored.high <= max(values):
        raise ValueError("the interval is not around the median, or wider than the samples")


def _compare(stored: Interval, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        if not same(getattr(stored, name), value):
            raise ValueError(f"{name} is {getattr(stored, name):g}, and the samples give {value:g}")


def _rank_interval(values: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """The narrowest pair of order statistics, from both ends, that covers the median with ``confidence``."""
    ordered, n = sorted(values), len(values)

    def coverage(rank: int) -> float:
        return max(0.0, 1 - 2 * sum(math.comb(n, k) for k in range(rank)) / (1 << n))

    rank = 1
    while rank + 1 <= n - rank and coverage(rank + 1) >= confidence:
        rank += 1
    ends = {"low": ordered[rank - 1], "high": ordered[n - rank]}
    return {"median": median(values), **ends, "n": n, "coverage": coverage(rank)}
