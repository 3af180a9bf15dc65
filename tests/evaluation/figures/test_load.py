"""The figure of resumes among paused sessions shows what the table holds, however little, and is readable."""

import pytest

from evaluation.analysis.resumes import BY_HAND, by_paused
from evaluation.analysis.table import TableError
from evaluation.figures.load import draw, measured
from evaluation.figures.style import private_style
from tests.evaluation.experiments.test_load import add, cell
from tests.evaluation.layout import flaws
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic


def measured_of(results):
    return measured(results.material())


SHAPES = {
    "one": {64: 0.8},
    "two": {1: 0.7, 64: 0.8},
    "flat": {1: 0.7, 8: 0.7, 16: 0.71, 32: 0.7, 64: 0.71},
    "rising": {1: 0.7, 8: 1.4, 16: 2.1, 32: 4.0, 64: 8.0},
    "falling": {1: 5.0, 8: 1.4, 64: 0.7},
}
# How many resumes there are at the most sessions and elsewhere; 12 have no percentile, 500 have the 99th.
COUNTS = {"one": (500, 12), "two": (100, 60), "flat": (500, 12), "rising": (500, 60), "falling": (12, 500)}


@pytest.fixture(params=[*((name, None) for name in SHAPES), ("flat", 0.95), ("rising", 0.9), ("two", 1.2)], ids=str)
def shape(request, tmp_path):
    """Results of each shape, with their medians of ready by paused sessions; some with copies by hand beside them."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    name, by_hand = request.param
    medians, (most, others) = SHAPES[name], COUNTS[name]
    counts = {sessions: most if sessions == 64 else others for sessions in medians}
    add(
        results, [cell(sessions, ready, count=counts[sessions], by_hand=by_hand) for sessions, ready in medians.items()]
    )
    return results, medians


@pytest.fixture
def results(tmp_path):
    """Results with two numbers of sessions."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    add(results, [cell(1, 0.7), cell(64, 0.8)])
    return results


def test_lines_are_the_rows(shape):
    """Medians of both, percentiles where there are enough resumes, ticks where it was measured; from zero."""
    results, medians = shape
    rows = measured_of(results)
    with private_style():
        panels = draw(rows).axes
    for axes, clock, factor in zip(panels, ("ready_ms", "resident_ms"), (1, 40), strict=True):
        mine, by_hand = by_paused(rows, clock), by_paused(rows, clock, BY_HAND)
        lines = [list(line.get_ydata()) for line in axes.lines if line.get_transform() == axes.transData]
        assert [factor * ready for ready in medians.values()] == pytest.approx([row.median for row in mine], rel=1e-5)
        columns = ("median", "p95", "p99") if clock == "ready_ms" else ("median", "p95")
        drawn = [
            values
            for found in (by_hand, mine)
            for column in columns
            if (values := [value for row in found if (value := getattr(row, column)) is not None])
        ]
        assert lines == drawn
        ends = [tuple(path[:, 1]) for bars in axes.collections for path in bars.get_segments()]
        assert ends == [(pytest.approx(row.ci_low), pytest.approx(row.ci_high)) for row in (*by_hand, *mine)]
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > max(map(max, drawn))
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
        assert list(axes.get_xticks()) == list(medians)
        assert clock.removesuffix("_ms") in axes.get_ylabel().lower()


def test_nothing_overlaps_or_leaves_the_figure(shape):
    """Names, ticks and titles."""
    results, _ = shape
    with private_style():
        assert not flaws(draw(measured_of(results)))


def test_what_cannot_be_drawn_is_refused(results, tmp_path):
    """A functional run, a run without load, and one in which nothing was paused."""
    functional = Results.make(tmp_path / "cpu", Synthetic(functional=True, layers=(1,), samples=2))
    add(functional, [cell(1, 0.4), cell(4, 0.4)])
    with pytest.raises(TableError, match="run local is functional: made without a GPU, its times among"):
        measured_of(functional)
    nothing = {**cell(4, 0.4), "paused": 0, "outcome": "host_full", "samples": []}
    for cells in ([], [nothing]):
        add(results, cells)
        with pytest.raises(TableError, match="run 'local' has no ready_ms of a resume among"):
            measured_of(results)
