"""Lines over depth against cases worked out by hand, and the coverage of their intervals by simulation."""

import numpy as np
import pytest

from evaluation.analysis.statistics import Estimate
from evaluation.analysis.trends import crossover, trend

LAYERS = (1, 10, 20, 30, 40)
LOG2 = np.log(2)  # the median of an exponential variable


def exactly(line):
    """Six equal values at each layer."""
    return {layer: [[line(layer)] * 6] for layer in LAYERS}


def noisy(generator, line, size=30, scale=1.0):
    """Skewed samples whose median is ``line``."""
    return {layer: [line(layer) + scale * (generator.exponential(size=size) - LOG2)] for layer in LAYERS}


def same(value):
    """An estimate without scatter."""
    return Estimate(value=pytest.approx(value), ends=pytest.approx((value, value)))


def share_inside(truth, intervals):
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


def test_a_line_without_scatter_is_found_exactly():
    """Slope, intercept, R2 and the rise over 39 layers of 2 + 3 L."""
    fit = trend(exactly(lambda layer: 2 + 3 * layer))
    assert (fit.slope, fit.intercept, fit.r2, fit.rise(39)) == (same(3), same(2), same(1), same(117))


def test_the_line_goes_through_medians():
    """(0, 1), (1, 3), (2, 4) by their medians: 7/6 + 3/2 x with R2 27/28, however far the outliers are."""
    fit = trend({0: [[1, 1, 900]], 1: [[3, 3], [3]], 2: [[4, -50, 4]]})
    assert (fit.slope.value, fit.intercept.value) == (pytest.approx(1.5), pytest.approx(7 / 6))
    assert fit.r2.value == pytest.approx(27 / 28)


def test_a_level_line_explains_nothing():
    """Equal medians have no variance, resampled or not."""
    fit = trend(exactly(lambda layer: 5))
    assert (fit.slope, fit.intercept, fit.r2) == (same(0), same(5), same(0))


def test_the_same_seed_gives_the_same_intervals():
    """And another seed others."""
    series = noisy(np.random.default_rng(0), lambda layer: layer)
    assert trend(series, seed=3) == trend(series, seed=3)
    assert trend(series, seed=3, resamples=200) != trend(series, seed=4, resamples=200)


def test_one_place_is_no_line():
    """It has every slope."""
    with pytest.raises(ValueError, match="two different x"):
        trend({1: [[1, 2, 3]]})


def test_slope_and_intercept_are_covered_as_often_as_they_say():
    """Over 300 skewed samples of 30 per layer the truth is inside in about 95 % of the cases; an interval of 80 %
    or of 99.9 % would miss the bounds.
    """
    generator = np.random.default_rng(5)
    fits = [trend(noisy(generator, lambda layer: 2 + 0.05 * layer), resamples=200) for _ in range(300)]
    for truth, intervals in ((0.05, [f.slope for f in fits]), (2, [f.intercept for f in fits])):
        assert 0.91 <= share_inside(truth, intervals) <= 0.99


def test_r2_is_covered_and_its_lower_end_is_safe():
    """Of medians that are no line the true R2 is inside as often as it should be; of a line it is never overstated."""
    generator = np.random.default_rng(6)
    xs, bent = np.array(LAYERS, dtype=float), lambda layer: layer**1.5
    truth = np.corrcoef(xs, bent(xs))[0, 1] ** 2
    fits = [trend(noisy(generator, bent, scale=5.0), resamples=200) for _ in range(200)]
    assert 0.90 <= share_inside(truth, [fit.r2 for fit in fits]) <= 0.99
    straight = [trend(noisy(generator, lambda layer: 3 * layer, scale=9.0), resamples=200) for _ in range(100)]
    assert max(fit.r2.low for fit in straight) < 1
    assert min(fit.r2.low for fit in straight) > 0.97


def test_processes_widen_the_interval_to_what_differs_between_them():
    """Eight processes per layer that differ by more than their samples. Drawn as a whole, the true slope 0 is inside
    about as often as it should be. As single samples it would be missed most of the time.
    """
    generator = np.random.default_rng(7)
    grouped, single = [], []
    for _ in range(150):
        series = {
            layer: [10 + shift + 0.1 * generator.normal(size=10) for shift in generator.normal(size=8)]
            for layer in LAYERS
        }
        grouped.append(trend(series, resamples=200).slope)
        pooled = {layer: [np.concatenate(groups)] for layer, groups in series.items()}
        single.append(trend(pooled, resamples=200).slope)
    assert 0.85 <= share_inside(0, grouped) <= 1
    assert share_inside(0, single) < share_inside(0, grouped) - 0.1


def test_processes_that_measure_all_layers_are_drawn_with_all_of_them():
    """Six processes apart by a millisecond, each level in itself: together no slope but 0 is drawn, apart many are."""
    series = {layer: [[float(number)] for number in range(6)] for layer in LAYERS}
    together, apart = trend(series, together=True).slope, trend(series).slope
    assert together.ends == pytest.approx((0, 0))
    assert apart.low < -0.01
    assert apart.high > 0.01


@pytest.mark.parametrize("groups", [[[1.0] * 5], [[1.0] * 30] * 2, [[1.0] * 30] * 5])
def test_too_few_samples_or_processes_make_no_interval(groups):
    """Five samples of one process, or up to five processes: the line is there, and no word of how sure it is."""
    series = {layer: [[layer * value for value in group] for group in groups] for layer in LAYERS}
    fit = trend(series)
    assert (fit.slope, fit.rise(39)) == (
        Estimate(value=pytest.approx(1), ends=None),
        Estimate(value=pytest.approx(39), ends=None),
    )
    found = crossover(("a", series), ("b", exactly(lambda layer: 20)))
    assert (found.depth, found.certain) == (Estimate(value=pytest.approx(20), ends=None), None)


def test_crossover_by_hand():
    """1 + 3 L meets 31 at layer 10; the order in which the two are named does not matter."""
    rising, level = exactly(lambda layer: 1 + 3 * layer), exactly(lambda layer: 31)
    for pair in ((("a", rising), ("b", level)), (("b", level), ("a", rising))):
        found = crossover(*pair)
        assert (found.depth, found.lower, found.certain) == (same(10), None, True)


@pytest.mark.parametrize(("height", "lower"), [(0.5, "level"), (500, "rising")])
def test_without_a_crossover_it_is_said_who_is_lower(height, lower):
    """Below the line from the first layer on, or above it to the last."""
    found = crossover(("rising", exactly(lambda layer: 1 + 3 * layer)), ("level", exactly(lambda layer: height)))
    assert (found.depth, found.lower, found.certain) == (None, lower, True)


def test_one_line_twice_has_neither():
    """Nobody is lower."""
    line = exactly(lambda layer: layer)
    assert (crossover(("a", line), ("b", line)).depth, crossover(("a", line), ("b", line)).lower) == (None, None)


def test_lines_are_compared_where_both_are():
    """Layers that only one of them has are part of its line, not of the comparison."""
    short = {layer: [[31.0]] for layer in (20, 30)}
    found = crossover(("rising", exactly(lambda layer: 1 + 3 * layer)), ("short", short))
    assert (found.depth, found.lower) == (None, "short")
    with pytest.raises(ValueError, match="two common places"):
        crossover(("rising", exactly(lambda layer: layer)), ("one", {20: [[31.0]], 50: [[31.0]]}))


def test_the_crossover_is_covered_as_often_as_it_says():
    """Over 200 samples the true depth, 10, is inside in about 95 % of the cases."""
    generator = np.random.default_rng(8)
    found = [
        crossover(
            ("a", noisy(generator, lambda layer: 1 + 3 * layer, scale=10.0)),
            ("b", noisy(generator, lambda layer: 31, scale=10.0)),
            resamples=200,
        ).depth
        for _ in range(200)
    ]
    assert 0.91 <= share_inside(10, found) <= 0.99


def test_a_crossover_at_the_edge_says_so():
    """Lines that meet near the first layer: the interval is clipped there, and it is not certain that they cross."""
    generator = np.random.default_rng(9)
    found = crossover(
        ("a", noisy(generator, lambda layer: 3 * layer, scale=10.0)),
        ("b", noisy(generator, lambda layer: 4.5, scale=10.0)),
    )
    assert not found.certain
    assert found.depth is None or found.depth.low == 1
