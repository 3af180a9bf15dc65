"""Statistics against cases worked out by hand, and the coverage of the intervals by simulation."""

import numpy as np
import pytest

from evaluation.analysis.statistics import (
    Estimate,
    linear_fit,
    median_interval,
    process_median,
    quantile,
    ratio_interval,
    ratio_of_medians,
    stratified_median,
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


def test_ratio_of_constant_pairs_is_exact():
    """Where every pair has the ratio 0.5, so have the median and both ends, whatever the pairs' magnitude."""
    interval = ratio_interval([(i, 2 * i) for i in range(1, 31)])
    assert (interval.low, interval.median, interval.high, interval.n) == (0.5, 0.5, 0.5, 30)


def test_ratios_are_paired():
    """The median is that of the ratios 1, 2, 3, not the ratio of the medians, 10 / 10."""
    assert ratio_interval([(1, 1), (20, 10), (10, 10 / 3)]).median == pytest.approx(2)


def test_ratio_interval_depends_on_the_seed_only():
    """The same seed gives the same interval, another seed another one."""
    pairs = [(float(1 + i * i % 17), 2.0 + i % 3) for i in range(30)]
    assert ratio_interval(pairs, seed=3) == ratio_interval(pairs, seed=3)
    few = [ratio_interval(pairs, seed=seed, resamples=50) for seed in range(5)]
    assert len({(interval.low, interval.high) for interval in few}) > 1


@pytest.mark.parametrize("sizes", [(30, 30, 30), (30, 30, 20)])
def test_processes_are_resampled_as_a_whole(sizes):
    """Three processes that differ by more than their samples do. The interval reaches the outer ones only if
    the processes are drawn. Among 90 single pairs the median would stay near the middle one.
    """
    pairs, groups = [], []
    for group, size in enumerate(sizes):
        pairs += [(1 + group + 0.001 * i, 1.0) for i in range(size)]
        groups += [group] * size
    by_process = ratio_interval(pairs, groups)
    assert by_process.low < 1.1
    assert by_process.high > 2.9
    by_pair = ratio_interval(pairs)
    assert by_pair.low > 1.5 or by_pair.high < 2.5


def test_ratio_interval_covers_as_often_as_it_says():
    """Over 300 samples of 30 pairs, the true median ratio 1 is inside in about 95 % of the cases."""
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        pairs = list(zip(generator.lognormal(size=30), generator.lognormal(size=30), strict=True))
        interval = ratio_interval(pairs, resamples=400)
        hits += interval.low <= 1 <= interval.high
    assert 0.91 <= hits / 300 <= 0.99


def test_a_ratio_to_zero_and_unequal_lengths_are_refused():
    """Both are mistakes of the caller."""
    with pytest.raises(ValueError, match="ratio to 0"):
        ratio_interval([(1, 0)])
    with pytest.raises(ValueError, match="1 groups for 2 pairs"):
        ratio_interval([(1, 1), (1, 1)], [0])


def test_ratio_of_medians_by_hand():
    """Medians 6 and 2, whatever the order of the values and how they are grouped; constants leave no interval."""
    assert ratio_of_medians([[9, 6], [3]], [[2, 2, 2]]).value == 3
    assert ratio_of_medians([[6] * 5], [[2] * 7, [2] * 4]) == Estimate(value=3, low=3, high=3)


def test_ratio_of_medians_covers_as_often_as_it_says():
    """Over 400 pairs of skewed samples, the true ratio 3 is inside in about 95 % of the cases."""
    generator = np.random.default_rng(4)
    hits = 0
    for _ in range(400):
        first, second = 3 * generator.lognormal(size=30), generator.lognormal(size=30)
        interval = ratio_of_medians([first], [second], resamples=400)
        hits += interval.low <= 3 <= interval.high
    assert 0.92 <= hits / 400 <= 0.985


def test_ratio_of_medians_draws_processes():
    """Three processes far apart on one side: the interval reaches the outer ones."""
    far = ratio_of_medians([[1.0] * 30, [2.0] * 30, [3.0] * 30], [[1.0] * 30])
    assert (far.low, far.value, far.high) == (1, 2, 3)
    with pytest.raises(ValueError, match="a ratio to 0 or less"):
        ratio_of_medians([[1]], [[1, 0]])


def test_strata_are_not_drawn():
    """Two layers at 1 and 3, 10 values of which each always gives: their common median stays between them, where
    groups that are drawn would reach either end.
    """
    low, high = [1.0] * 10, [3.0] * 10
    layers = stratified_median([[low], [high]])
    assert (layers.low, layers.median, layers.high, layers.n) == (2, 2, 2, 20)
    processes = stratified_median([[low, high]])
    assert (processes.low, processes.high) == (1, 3)
    with pytest.raises(ValueError, match="no values"):
        stratified_median([])


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
    apart = stratified_median([processes, processes])
    assert apart.high - apart.low < both.high - both.low


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
    with pytest.raises(ValueError, match="not measured in the same processes"):
        process_median([[[1.0]], [[1.0], [2.0]]])
