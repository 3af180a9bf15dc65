"""A text finds the nearest room that is free."""

import pytest
from matplotlib.figure import Figure

from evaluation.figures.room import put
from evaluation.figures.style import private_style
from tests.evaluation.layout import flaws


@pytest.mark.parametrize("marker", [None, "s"])
def test_it_stands_on_nothing(marker):
    """On no line, marker, bar or other text, and near to where it belongs."""
    with private_style():
        axes = Figure(figsize=(3, 2)).add_axes((0.1, 0.1, 0.85, 0.85))
        axes.plot([0, 10], [0, 10], marker=marker, markersize=12)
        axes.errorbar([5], [5], [2], fmt="none")
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 10)
        for name in ("one name", "another name"):
            put(axes, name, [(5, 5)])
        assert not flaws(axes.figure)
        spots = [text.get_position() for text in axes.texts]
    assert all(abs(x - 5) < 4 and abs(y - 5) < 4 for x, y in spots)


def test_free_room_is_taken_at_once():
    """The place that was asked for, to the step of the grid; of several the nearest."""
    axes = Figure(figsize=(3, 2)).add_axes((0.1, 0.1, 0.85, 0.85))
    axes.plot([0, 10], [0, 0])
    put(axes, "name", [(5, 0), (7, 0.02)])
    assert axes.texts[0].get_position() == pytest.approx((7, 0.02), abs=0.3)
