"""The looks that all figures share can be told apart and read, in print without colour too."""

from itertools import combinations

import pytest

from evaluation.analysis.variants import BLACK, BLUE, GREY, NAVY, PALE, RED, SKY
from evaluation.figures.style import lightness, readable, spread

SIDE_BY_SIDE = [
    *combinations((BLACK, RED, BLUE, PALE), 2),
    *combinations((BLACK, NAVY, GREY, PALE), 2),
    *combinations((RED, BLUE, SKY), 2),
    (NAVY, BLUE),
]


@pytest.mark.parametrize("inks", SIDE_BY_SIDE)
def test_inks_of_lines_that_lie_side_by_side_differ_in_grey(inks):
    """By 0.15 of the way from black to white."""
    one, other = map(lightness, inks)
    assert abs(one - other) >= 0.15


@pytest.mark.parametrize("ink", [BLACK, BLUE, GREY, NAVY, PALE, RED, SKY, "0.9", "black"])
def test_letters_are_dark_enough(ink):
    """A light ink has a darker one for letters, any other is as it was."""
    assert lightness(readable(ink)) <= 0.43
    assert lightness(ink) > 0.42 or lightness(readable(ink)) == pytest.approx(lightness(ink), abs=0.01)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0.5, 0.5], [0.55, 0.45]),
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.3, 0.25, 0.9], [0.325, 0.225, 0.9]),
        ([1.0, 1.0], [1.0, 0.9]),
        ([0.0, -0.2], [0.1, 0.0]),
    ],
)
def test_spread_moves_as_little_as_needed(positions, expected):
    """At a gap of 0.1: ties part symmetrically, far ones stay, the ends of the axis hold."""
    assert spread(positions, 0.1) == pytest.approx(expected)
