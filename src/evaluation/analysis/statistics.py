"""The statistics of the study: medians with rank intervals, ratios with bootstrap intervals, straight lines.

Pure functions over numbers; knows nothing of records, methods or units. Nothing here assumes a normal distribution:
latencies have a hard floor and a long tail. What is fitted over depth, with intervals, is in
:mod:`evaluation.analysis.trends`.

Where values come from several processes they are passed in groups, one per process. Every bootstrap draws sittings
first, then processes of each, then values within each. So what was drawn once for a sitting or a process (clocks,
addresses) is resampled as a whole. An interval over processes needs six, and one of a single process six samples: see
:func:`enough`.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.analysis.resampling import (
    TAIL,
    Chosen,
    Groups,
    Sittings,
    Values,
    draw_processes,
    percentiles,
    places,
    row_medians,
    taken,
)

RESAMPLES = 10_000  # of every bootstrap whose numbers are published
CONFIDENCE = 0.95  # of every interval
ENOUGH = 6  # processes, or samples of the only one: of fewer not even the extremes hold the median in 95 % of the cases
TAIL_OF_PROCESSES = 0.01  # instead of 0.025: see process_median


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median and its confidence interval, in the unit of the values that it was made from.

    ``coverage`` is the probability with which such an interval holds the true median. It is below 95 % where the values
    are too few for it: then ``low`` and ``high`` are the mere extremes, a range and no interval.
    """

    median: float
    low: float
    high: float
    n: int
    coverage: float

    @property
    def is_range(self) -> bool:
        """Whether these are the extremes of too few values."""
        return self.coverage < CONFIDENCE

    @property
    def ends(self) -> tuple[float, float] | tuple[None, None]:
        """Those of the interval, for a table that leaves them empty where there is only a range."""
        return (None, None) if self.is_range else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was computed from all samples, and its bootstrap interval, in the same unit.

    ``ends`` is None where there are too few processes or samples for an interval.
    """

    value: float
    ends: tuple[float, float] | None

    @property
    def low(self) -> float:
        """The lower end; the caller knows that there is an interval."""
        assert self.ends is not None
        return self.ends[0]

    @property
    def high(self) -> float:
        """The upper end, likewise."""
        assert self.ends is not None
        return self.ends[1]

    @classmethod
    def of(cls, value: float, resampled: Values | None) -> "Estimate":
        """``value`` with the percentile interval of its bootstrap, or without one."""
        return cls(value=value, ends=None if resampled is None else percentiles(resampled))

    def times(self, factor: float) -> "Estimate":
        """This in another unit, or over another span; ``factor`` is at least 0."""
        ends = None if self.ends is None else (self.low * factor, self.high * factor)
        return Estimate(value=self.value * factor, ends=ends)


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """The line ``intercept + slope * x`` through ``n`` points; ``r2``: share of the variance explained."""

    slope: float
    intercept: float
    r2: float
    n: int


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q`` quantile by linear interpolation between order statistics (type 7 of Hyndman and Fan).

    Raises ValueError if there are no values, if one is not finite, or if ``q`` is outside 0 to 1.
    """
    return float(np.quantile(_checked(values), q, method="linear"))


def median_interval(values: Sequence[float] | Values, confidence: float = CONFIDENCE) -> Interval:
    """Median of ``values`` and its nonparametric interval between two order statistics.

    The interval is the narrowest pair x(k), x(n+1-k) whose exact binomial coverage is at least
    ``confidence``. Below 6 values no pair reaches 95 %: then the smallest and the largest value are returned,
    and ``coverage``, which is always the exact one, is below ``confidence``. One value is its own interval,
    of coverage 0.

    Raises ValueError if there are no values or if one is not finite.
    """
    ordered = np.sort(_checked(values))
    n = len(ordered)
    rank = 1
    while rank + 1 <= n - rank and _rank_coverage(n, rank + 1) >= confidence:
        rank += 1
    return Interval(
        median=float(np.median(ordered)),
        low=float(ordered[rank - 1]),
        high=float(ordered[n - rank]),
        n=n,
        coverage=_rank_coverage(n, rank),
    )


@functools.cache
def _rank_coverage(n: int, rank: int) -> float:
    """Probability that x(rank) .. x(n+1-rank) holds the median: 1 - 2 P(Binomial(n, 1/2) < rank)."""
    outside = sum(math.comb(n, k) for k in range(rank))
    return max(0.0, 1 - 2 * outside / (1 << n))


def enough(groups: Groups) -> bool:
    """Whether there is an interval: over six processes, or over six samples of the only one."""
    return len(groups) >= ENOUGH or (len(groups) == 1 and len(groups[0]) >= ENOUGH)


def process_median(
    strata: Sequence[Groups], sittings: Sittings = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Median of all values of ``strata``, each of which was measured in every process, and its interval, or range.

    Group i of each stratum, as a layer, is of process i, which ran in ``sittings[i]``. Sittings are drawn, then
    processes of each with all their strata, then values of each. The interval reaches from the 1st to the 99th
    percentile: between 2.5 and 97.5 % it held the true median in 93 % of simulated runs of eight processes. From 1 to
    99 % it held it in 94 to 96 % with six and eight processes, normal, skewed or with outliers, and in 96 to 97 % with
    12 and 16. Of eight processes in two sittings it held it in 98 % if sittings do not differ. If they differ half as
    much as processes it was 94 %, and 88 % if they differ as much. In three sittings it was 98, 97 and 95 %.

    One process alone has the rank interval of its values. Two to five, or fewer than six values of one, have a range.

    Raises ValueError if there are no values, if one is not finite, and for strata of different numbers of groups.
    """
    hashable = tuple(tuple(tuple(map(float, group)) for group in groups) for groups in strata)
    return _process_median(hashable, None if sittings is None else tuple(sittings), resamples, seed)


@functools.lru_cache(maxsize=4096)  # several tables have the same interval, of 10,000 resamples
def _process_median(
    strata: tuple[tuple[tuple[float, ...], ...], ...],
    sittings: tuple[str | None, ...] | None,
    resamples: int,
    seed: int,
) -> Interval:
    values = _checked(np.concatenate([np.asarray(group) for groups in strata for group in groups] or [np.empty(0)]))
    processes = len(strata[0])
    if any(len(groups) != processes for groups in strata):
        raise ValueError("the strata were not measured in the same processes")
    if processes == len(strata) == 1:
        return median_interval(values)
    low, high = float(values.min()), float(values.max())
    coverage = _rank_coverage(processes if processes > 1 else min(len(groups[0]) for groups in strata), 1)
    if all(enough(groups) for groups in strata):
        coverage = CONFIDENCE
        drawn_places = _places(tuple(tuple(map(len, groups)) for groups in strata), sittings, resamples, seed)
        drawn = np.concatenate(list(map(taken, strata, drawn_places)), axis=1)
        low, high = percentiles(row_medians(drawn), TAIL_OF_PROCESSES if processes > 1 else TAIL)
    return Interval(median=float(np.median(values)), low=low, high=high, n=len(values), coverage=coverage)


@functools.lru_cache(maxsize=8)  # most of a run's intervals are of values in equal numbers, and drawing takes longest
def _places(
    sizes: tuple[tuple[int, ...], ...], sittings: tuple[str | None, ...] | None, resamples: int, seed: int
) -> tuple[Chosen, ...]:
    """Which values of each stratum, whose groups have such ``sizes``, are in each resample."""
    generator = np.random.default_rng(seed)
    chosen = draw_processes(len(sizes[0]), sittings, resamples, generator)
    found = tuple(places(of_groups, chosen, generator) for of_groups in sizes)
    for one in found:
        one.setflags(write=False)  # it is kept
    return found


def linear_fit(x: Sequence[float], y: Sequence[float]) -> LinearFit:
    """Ordinary least squares of ``y`` on ``x``; the slope is in units of y per unit of x.

    ``r2`` is 0 where all ``y`` are equal: there is no variance to explain. Raises ValueError unless both have
    the same length, all values are finite and at least two ``x`` differ.
    """
    xs, ys = _checked(x), _checked(y)
    if len(xs) != len(ys):
        raise ValueError(f"{len(xs)} values of x for {len(ys)} of y")
    dx, dy = xs - xs.mean(), ys - ys.mean()
    if not np.any(dx):
        raise ValueError("a line needs two different x")
    slope = float(dx @ dy / (dx @ dx))
    residual = dy - slope * dx
    total = float(dy @ dy)
    return LinearFit(
        slope=slope,
        intercept=float(ys.mean() - slope * xs.mean()),
        r2=1 - float(residual @ residual) / total if total else 0.0,
        n=len(xs),
    )


def _checked(values: Sequence[float] | npt.NDArray[Any]) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values")
    if not np.all(np.isfinite(array)):
        raise ValueError("a value is not finite")
    return array
