"""The figure of waits shows the clocks of each form after each wait beside the raw copy, and can be read."""

from dataclasses import replace

import pytest

from evaluation.analysis.table import TableError
from evaluation.analysis.waits import Wait
from evaluation.figures.style import FUNCTIONAL, private_style
from evaluation.figures.thinking import draw, files, panels
from tests.evaluation.layout import flaws
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic
from tests.evaluation.usage_cells import USAGE, WAITS


@pytest.fixture(scope="module", params=[False, True], ids=["gpu", "functional"])
def results(request, tmp_path_factory):
    """A run with the record."""
    methods = ("manual_offload", "djinn")
    recipe = Synthetic(functional=request.param, layers=(20,), samples=2, methods=methods, beside=USAGE)
    return Results.make(tmp_path_factory.mktemp("thinking"), recipe)


def rows(results):
    return results.material().rows("thinking", Wait)


def test_each_workload_has_a_panel_for_each_clock(results):
    """With the raw copy in each; no wait stands left of all others."""
    shown = panels(rows(results))
    assert [[panel.title for panel in group] for group in shown] == 2 * [["Ready", "First kernel"]]
    for panel in (panel for group in shown for panel in group):
        lines = {line.label: line for line in panel.lines}
        assert set(lines) == {"Raw copy", "Pinned", "Djinn", "Djinn, kept"}
        assert lines["Raw copy"].medians == pytest.approx([0.9, 1.1])
        assert lines["Djinn"].layers == sorted(lines["Djinn"].layers)
        assert lines["Djinn"].medians[0] == pytest.approx(1.03 + 0.1 * (panel.title != "Ready"))


def test_only_a_range_is_hollow(results):
    """Of two and four resumes; of six the ends are those of an interval, in the same line."""
    few = rows(results)
    assert all(line.ranged == [True, True] for group in panels(few) for panel in group for line in panel.lines)
    mixed = [replace(row, n=2 if row.think_time_ms else 6) for row in few]
    assert all(line.ranged == [False, True] for group in panels(mixed) for panel in group for line in panel.lines)


def test_it_can_be_read(results):
    """Nothing leaves the page or touches; a functional run says so in every panel."""
    functional = results.material().functional
    with private_style():
        figure = draw(panels(rows(results)), WAITS, functional=functional)
        assert flaws(figure, ignored=FUNCTIONAL) == []
    for axes in figure.axes:
        assert (FUNCTIONAL in [text.get_text() for text in axes.texts]) == functional


def test_the_same_rows_give_the_same_files(results):
    """And two of them."""
    pdf, png = files(results.material(), "")
    assert (pdf[:4], png[1:4]) == (b"%PDF", b"PNG")
    assert files(results.material(), "") == [pdf, png]


def test_without_a_resume_there_is_no_figure():
    """A message says so."""
    with pytest.raises(TableError, match=r"thinking\.csv: the run has no resume after any wait"):
        panels([])
