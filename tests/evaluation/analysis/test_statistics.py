"""Statistics against cases worked out by hand, and the coverage of the intervals by simulation."""

import numpy as np
import pytest

from evaluation.analysis import statistics
from evaluation.analysis.resampling import draw_processes
from evaluation.analysis.statistics import (
    linear_fit,
    median_interval,
    process_median,
    quantile,
)


@pytest.mark.parametrize(
    ("n", "low_rank", "high_rank", "coverage"),
    [
        (6, 1, 6, 1 - 2 * 1 / 64),
        (10, 2, 9, 1 - 2 * 11 / 1024),
        (30, 10, 21, 1 - 2 * 22_964_087 / 2**30),  # 22964087 = sum of C(30, k) for k = 0 .. 9
    ],
)
def test_median_interval_is_the_published_pair_of_ranks(n, low_rank, high_rank, coverage):
    """At 95 % the ranks and their exact coverage are those of the binomial tables."""
    interval = median_interval([float(i) for i in range(n, 0, -1)])
    assert (interval.low, interval.high, interval.n) == (low_rank, high_rank, n)
    assert interval.median == (n + 1) / 2
    assert interval.coverage == pytest.approx(coverage, abs=1e-12)
    assert interval.coverage >= 0.95


def test_median_interval_of_too_few_values_is_their_range_and_says_so():
    """Five values give their extremes at a coverage of 15/16, below the 95 % asked for; one gives itself at 0."""
    five = median_interval([3, 1, 2, 5, 4])
    assert (five.low, five.median, five.high, five.coverage) == (1, 3, 5, 0.9375)
    one = median_interval([7])
    assert (one.low, one.median, one.high, one.coverage, one.n) == (7, 7, 7, 0, 1)


def test_median_interval_covers_as_often_as_it_says():
    """Over 2000 skewed samples of 30, the true median is inside in 95.7 % of the cases, within three sigma."""
    generator = np.random.default_rng(1)
    intervals = [median_interval(generator.exponential(size=30)) for _ in range(2000)]
    inside = np.mean([i.low <= np.log(2) <= i.high for i in intervals])
    sigma = (0.957 * 0.043 / 2000) ** 0.5
    assert abs(inside - intervals[0].coverage) < 3 * sigma


@pytest.mark.parametrize(("q", "expected"), [(0, 10), (0.05, 11.5), (0.5, 25), (0.95, 38.5), (1, 40)])
def test_quantile_is_linear_between_order_statistics(q, expected):
    """Type 7: position 1 + (n - 1) q among the sorted values."""
    assert quantile([40, 10, 30, 20], q) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[], [1, float("nan")], [float("inf")]])
def test_values_that_are_not_numbers_are_refused(values):
    """Nothing, NaN and infinity raise in every function."""
    for function in (median_interval, lambda v: quantile(v, 0.5), lambda v: linear_fit(v, v)):
        with pytest.raises(ValueError, match="value"):
            function(values)


@pytest.mark.parametrize("sizes", [(30,) * 6, (30, 30, 20, 30, 30, 25)])
def test_processes_are_resampled_as_a_whole(sizes):
    """Six processes that differ by more than their samples do. The interval reaches the outer ones only if
    the processes are drawn. Among 180 single values the median would stay near the middle ones.
    """
    groups = [[1 + group + 0.001 * i for i in range(size)] for group, size in enumerate(sizes)]
    by_process = process_median([groups])
    assert by_process.low < 2.1
    assert by_process.high > 4.9
    by_value = process_median([[[value for group in groups for value in group]]])
    assert by_value.low > 2.5
    assert by_value.high < 4.5


def test_an_interval_depends_on_the_seed_only():
    """The same seed gives the same interval, another seed another one; of a single process it needs no seed."""
    groups = [[(1 + i * i % 17) / (2 + i % 3) for i in range(30) if i % 10 == process] for process in range(10)]
    first = process_median([groups], seed=3)
    for kept in (statistics._process_median, statistics._places):
        kept.cache_clear()
    assert process_median([groups], seed=3) == first
    few = [process_median([groups], seed=seed, resamples=50) for seed in range(5)]
    assert len({(interval.low, interval.high) for interval in few}) > 1
    assert process_median([groups[:1]]) == median_interval(groups[0])


def test_linear_fit_by_hand():
    """Through (0, 1), (1, 3), (2, 4): slope 3/2, intercept 7/6, R2 = 1 - (1/6) / (14/3) = 27/28."""
    fit = linear_fit([0, 1, 2], [1, 3, 4])
    assert (fit.slope, fit.intercept, fit.n) == (pytest.approx(1.5), pytest.approx(7 / 6), 3)
    assert fit.r2 == pytest.approx(27 / 28)


def test_linear_fit_of_a_level_line_explains_nothing():
    """Equal y have no variance: slope 0 and R2 0."""
    fit = linear_fit([1, 2, 3], [5, 5, 5])
    assert (fit.slope, fit.intercept, fit.r2) == (0, 5, 0)


def test_linear_fit_needs_two_places():
    """One x, or lists of different lengths, raise."""
    with pytest.raises(ValueError, match="two different x"):
        linear_fit([2, 2], [1, 3])
    with pytest.raises(ValueError, match="2 values of x for 1"):
        linear_fit([1, 2], [1])


def test_a_process_is_drawn_with_all_its_strata():
    """Six processes at 1 to 6 in both of two layers: pooling them is no more certain than one layer alone."""
    processes = [[float(number)] for number in range(1, 7)]
    one, both = process_median([processes]), process_median([processes, processes])
    assert (one.low, one.median, one.high) == (both.low, both.median, both.high)
    assert (one.n, both.n, one.coverage) == (6, 12, 0.95)
    assert both.high - both.low > 3


def test_a_sitting_is_drawn_with_its_processes():
    """Eight processes in two sittings that differ: the interval reaches either. Of one sitting it would not."""
    generator = np.random.default_rng(11)
    processes = [[shift + 0.01 * generator.normal()] for shift in (1, 1, 1, 1, 1, 2, 2, 2)]
    apart = process_median([processes], ["a"] * 5 + ["b"] * 3)
    assert (apart.low, apart.high) == pytest.approx((1, 2), abs=0.05)
    mixed = [processes[at] for at in (0, 5, 1, 6, 2, 7, 3, 4)]
    assert process_median([mixed], ["a", "b", "a", "b", "a", "b", "a", "a"]) != process_median([mixed])
    assert process_median([mixed], ["one"] * 8) == process_median([mixed], [None] * 8) == process_median([mixed])


def test_sittings_of_other_sizes_keep_theirs():
    """Where the larger of two is drawn twice it gives all of its processes each time, the smaller only what it has."""
    drawn = draw_processes(5, ["a", "a", "a", "b", "b"], 200, np.random.default_rng(0))
    of_a = np.isin(drawn, (0, 1, 2)).sum(axis=1)
    of_b = np.isin(drawn, (3, 4)).sum(axis=1)
    assert {tuple(counts) for counts in zip(of_a.tolist(), of_b.tolist(), strict=True)} == {(6, 0), (3, 2), (0, 4)}


def test_a_process_median_covers_as_often_as_it_says():
    """Of eight processes with three values each, shifted as a whole, the true median is inside in about 95 %."""
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        processes = [generator.normal(generator.normal(1, 0.1), 0.02, size=3) for _ in range(8)]
        interval = process_median([processes], resamples=400)
        hits += interval.low <= 1 <= interval.high
    assert 0.88 <= hits / 400 <= 0.985


def test_below_six_processes_there_is_a_range():
    """With the exact coverage of the extremes of five; strata of other processes are a mistake of the caller."""
    five = process_median([[[1.0, 9.0], [2.0], [3.0], [4.0], [5.0]]])
    assert (five.low, five.median, five.high, five.coverage) == (1, 3.5, 9, 1 - 2 / 32)
    assert five.is_range
    assert five.ends == (None, None)
    with pytest.raises(ValueError, match="not measured in the same processes"):
        process_median([[[1.0]], [[1.0], [2.0]]])


def test_one_process_needs_six_samples():
    """Then it has their rank interval, and over several layers a resampled one; five samples have a range."""
    assert process_median([[[3, 1, 2, 5, 4, 6]]]) == median_interval([1, 2, 3, 4, 5, 6])
    assert not median_interval([1, 2, 3, 4, 5, 6]).is_range
    assert process_median([[[3, 1, 2, 5, 4]]]).is_range
    assert not process_median([[range(6)], [range(6)]]).is_range
    assert process_median([[range(6)], [range(5)]]).is_range
