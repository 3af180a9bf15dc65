"""The figure of resumes among paused sessions shows what the table holds, however little, and is readable."""

import pytest

from evaluation.analysis.resumes import BY_HAND, DJINN, by_paused
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
    """Medians of both clocks, percentiles where there are enough resumes, ticks where it was measured; from zero."""
    results, medians = shape
    rows = measured_of(results)
    with private_style():
        panels = draw(rows).axes
    for axes, clock, factor in zip(panels, ("ready_ms", "resident_ms"), (1, 40), strict=True):
        mine = by_paused(rows, clock)
        by_hand = by_paused(rows, clock, BY_HAND)
        lines = [list(line.get_ydata()) for line in axes.lines if line.get_transform() == axes.transData]
        assert [factor * ready for ready in medians.values()] == pytest.approx([row.median for row in mine], rel=1e-5)
        given = [[value for row in mine if (value := getattr(row, column)) is not None] for column in ("p95", "p99")]
        drawn = [values for values in [*([row.median for row in found] for found in (by_hand, mine)), *given] if values]
        assert all(values in lines for values in drawn)
        assert len(lines) == len(drawn) + 2 * (1 + bool(by_hand))  # and the caps of the intervals
        ends = [tuple(path[:, 1]) for bars in axes.collections for path in bars.get_segments()]
        assert ends == [(pytest.approx(row.ci_low), pytest.approx(row.ci_high)) for row in (*by_hand, *mine)]
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > max(map(max, drawn))
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
        assert list(axes.get_xticks()) == list(medians)
        assert clock.removesuffix("_ms") in axes.get_ylabel().lower()


def test_nothing_overlaps_or_leaves_the_figure(shape):
    """Names, ticks, titles and the sentence; and the sentence is clear of the lines."""
    results, _ = shape
    with private_style():
        assert not flaws(draw(measured_of(results)))


def test_it_says_what_decides(results):
    """The ratio and the counts; with one number of sessions there is nothing to say."""
    with private_style():
        (said,) = [text.get_text() for text in draw(measured_of(results)).axes[0].texts if "=" in text.get_text()]
    p95 = measured_of(results)[2].p95
    assert f"95th percentile at 64 = {p95 / 0.7:.2f}" in said
    assert "100 resumes at 1, 100 at 64" in said
    assert "by hand" not in said
    add(results, [cell(1, 0.7, by_hand=0.5), cell(64, 0.8, by_hand=0.8)])
    with private_style():
        (said,) = [text.get_text() for text in draw(measured_of(results)).axes[0].texts if "=" in text.get_text()]
    assert "Djinn over by hand, in pairs: 2.00 at 1, 1.25 at 64" in said
    assert "99th" not in said
    add(results, [cell(1, 0.7, by_hand=0.5), cell(64, 0.8, count=500, by_hand=0.8)])
    ours, theirs = (by_paused(measured_of(results), "ready_ms", who)[-1].p99 for who in (DJINN, BY_HAND))
    with private_style():
        (said,) = [text.get_text() for text in draw(measured_of(results)).axes[0].texts if "=" in text.get_text()]
    assert f"99th percentile at 64: {ours:.3f} ms, by hand {theirs:.3f} ms" in said
    for without in ([cell(64, 0.8)], [cell(1, 0.8), cell(64, 0.8, count=12)]):
        add(results, without)
        with private_style():
            assert not [text for text in draw(measured_of(results)).axes[0].texts if "=" in text.get_text()]


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
