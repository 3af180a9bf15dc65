"""The figures of pairs show the ratio to the strongest form by hand, clock by clock, and can be read."""

import pytest

from evaluation.analysis.comparisons import Comparison
from evaluation.analysis.pairs import CODED
from evaluation.analysis.table import TableError
from evaluation.figures import coded
from evaluation.figures.ratios import draw, files, panels
from evaluation.figures.style import FUNCTIONAL, private_style, rendered
from tests.evaluation.layout import flaws
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic


def ready(which):
    """Djinn takes 0.63 ms, coded 0.48, and copies by hand 0.6, in bulk 0.5 at layer 40."""
    if which.codec == "auto":
        return 0.48
    if which.method == "djinn":
        return 0.63
    return 0.5 if (which.variant, which.layer) == ("bulk", 40) else 0.6


@pytest.fixture(scope="module", params=[False, True], ids=["gpu", "functional"])
def results(request, tmp_path_factory):
    """A run of two processes with pairs at four layers."""
    pairs = SyntheticPairs(layers=(1, 20, 39, 40), ready=ready)
    methods = ("manual_offload", "djinn")
    recipe = Synthetic(functional=request.param, layers=(1,), samples=1, methods=methods, pairs=pairs)
    return Results.make(tmp_path_factory.mktemp("ratios"), recipe)


def shown(results):
    return panels(results.material().rows("pairs", Comparison))


def test_each_panel_holds_the_ratios_of_its_clock(results):
    """To the strongest form at each layer, of what swaps everything with an idle link."""
    found = {panel.title: {line.label: line for line in panel.lines} for panel in shown(results)}
    assert list(found) == ["Ready", "First kernel", "Usable", "Next token", "Resident"]
    assert list(found["Next token"]) == ["Session"]
    line = found["Ready"]["Session"]
    assert line.medians == pytest.approx([1.05, 1.05, 1.05, 1.26])
    assert [round(place) for place in line.layers] == [0, 1, 2, 3]
    assert [panel.layers for panel in shown(results)] == [[1, 20, 39, 40]] * 5
    assert line.ranged == [True] * 4  # of two processes
    assert (line.lows, line.highs) == (pytest.approx(line.medians), pytest.approx(line.medians))


def test_coded_state_has_a_figure_of_its_own(results):
    """Of the workload with a KV cache alone; the other figure has none of it."""
    found = panels(results.material().rows("pairs", Comparison), CODED)
    assert [[line.label for line in panel.lines] for panel in found] == [["Session"]] * 5
    (plain,) = (line for line in shown(results)[0].lines if line.label == "Session")
    assert found[0].lines[0].style == plain.style
    assert found[0].lines[0].medians == pytest.approx([0.8, 0.8, 0.8, 0.96])
    with private_style():
        figure = draw(found, functional=results.material().functional, who="Coded")
        assert flaws(figure, ignored=FUNCTIONAL) == []
    functional = results.material().functional
    assert coded.files(results.material(), "") == rendered(lambda: draw(found, functional=functional, who="Coded"))


def test_the_panels_share_one_axis_and_can_be_read(results):
    """Nothing leaves the page or touches; at 1 is a line."""
    functional = results.material().functional
    with private_style():
        figure = draw(shown(results), functional=functional)
        assert flaws(figure, ignored=FUNCTIONAL) == []
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert all(axes.get_ylim()[0] < 1 < axes.get_ylim()[1] for axes in figure.axes)
    marks = [text.get_text() for axes in figure.axes for text in axes.texts].count(FUNCTIONAL)
    assert marks == (5 if functional else 0)


def test_the_output_is_drawn_from_the_table(results):
    """The same bytes again; without a ratio there is no figure."""
    assert files(results.material(), "") == files(results.material(), "")
    with pytest.raises(TableError, match="no ratio"):
        panels([])
