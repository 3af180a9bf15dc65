"""Percentiles: an interval that holds the true one as often as it says, and none where there are too few values."""

import numpy as np
import pytest

from evaluation.analysis.tails import tail


@pytest.mark.parametrize(("q", "least"), [(0.95, 59), (0.99, 299)])
def test_too_few_values_have_no_percentile(q, least):
    """The fewest of which the largest lies above it in 95 of 100 cases."""
    assert 1 - q**least >= 0.95 > 1 - q ** (least - 1)
    assert tail(range(least - 1), q) is None
    found = tail(range(least), q)
    assert found.low < found.value < found.high == least - 1
    assert tail([], q) is None


@pytest.mark.parametrize(("n", "q"), [(59, 0.95), (100, 0.95), (299, 0.99), (500, 0.99), (500, 0.95)])
def test_the_interval_holds_the_true_percentile(n, q):
    """In a simulation, in at least 95 of 100 cases, and not in nearly all."""
    draws = np.random.default_rng(5).random((2000, n))
    held = np.mean([found.low <= q <= found.high for found in (tail(values, q) for values in draws.tolist())])
    assert 0.94 < held < 0.99
