"""Numbers are printed to their significant digits."""

import pytest

from evaluation.analysis.numerals import significant


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0081234, "0.00812"), (0.63, "0.630"), (9.996, "10.0"), (117.6, "118"), (1234.4, "1234"), (0, "0.00")],
)
def test_significant_digits(value, text):
    """Three digits, no exponent, and no digit before the point dropped."""
    assert significant(value) == text
