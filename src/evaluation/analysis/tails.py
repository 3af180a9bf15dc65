"""Percentiles of raw values with intervals between order statistics, where there are enough values for one.

Of too few values the largest is what stands in a percentile's place, and it is not given: the 95th needs 59 values, the
99th needs 299. The intervals treat values as independent: where slow ones come in bursts, as slow resumes do, the true
ones are wider.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.analysis.statistics import CONFIDENCE, quantile


@dataclass(frozen=True, kw_only=True)
class Tail:
    """A percentile and its interval, in the unit of the values."""

    value: float
    low: float
    high: float


def tail(values: Sequence[float], q: float, confidence: float = CONFIDENCE) -> Tail | None:
    """The ``q`` quantile of ``values`` by linear interpolation, between two of them that hold the true one.

    The interval is x(j) .. x(k) with exact binomial coverage of at least ``confidence``, half of what is left above
    it, or less where no value is that large. None if no pair of values reaches that coverage.
    """
    ordered, n = sorted(values), len(values)
    below = np.cumsum([_probability(n, count, q) for count in range(n + 1)])  # that at most so many lie below it
    outside = 1 - confidence
    high = next((rank for rank in range(1, n + 1) if 1 - below[rank - 1] <= outside / 2), n)
    left = outside - (1 - below[high - 1]) if n else -1.0
    low = max((rank for rank in range(1, high) if below[rank - 1] <= left), default=0)
    return Tail(value=quantile(values, q), low=ordered[low - 1], high=ordered[high - 1]) if low else None


def _probability(n: int, count: int, q: float) -> float:
    """That ``count`` of ``n`` values lie below the true quantile."""
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(ways + count * math.log(q) + (n - count) * math.log1p(-q))
