"""Plot 1 shows what the records say, is readable, and is the same file every time."""

from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import pytest

from evaluation.analysis.table import TableError
from evaluation.analysis.variants import DRAWN, ONE_TOKEN
from evaluation.figures.crossover import draw, shown
from evaluation.figures.lines import FLOOR_NAME
from evaluation.figures.style import FUNCTIONAL, lightness, private_style, rendered
from tests.evaluation.layout import flaws
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, clocks, edit, record_path, refused

ALONE = Synthetic(samples=6)
CPU = Synthetic(functional=True, samples=6)


def in_pairs(which):
    """Djinn a little slower than by hand, and the kept forms apart, so that no two lines are one."""
    if which.method == "recompute":
        return 2.0 * which.layer + (which.variant == "compiled")
    if which.variant.startswith("async"):
        return None
    base = {"nothing": 0.6, "frontier": 0.03}[which.keeps]
    return 30.0 if which.variant == "bulk" else base * (1.1 if which.method == "djinn" else 1.0)


PAIRED = Synthetic(layers=(1, 20, 40), samples=6, pairs=SyntheticPairs(layers=(1, 20, 39, 40), ready=in_pairs))
RECIPES = {"alone": ALONE, "paired": PAIRED, "functional": CPU}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Results of each recipe."""
    return {name: Results.make(tmp_path_factory.mktemp(name), recipe) for name, recipe in RECIPES.items()}


def found_in(results, workload):
    return shown(results.findings(), results.depth(), workload)


def medians(lines):
    return {line.label: list(line.medians) for line in lines}


def test_the_lines_are_what_was_measured(runs):
    """On the left recompute and the floor; on the right no recompute, and beside each sample its raw copy."""
    found = found_in(runs["alone"], "activation")
    left, right = medians(found.left), medians(found.right)
    assert set(left) == {"Recompute", "Manual offload", "Djinn"}
    assert left["Recompute"] == pytest.approx([4, 31, 61, 91, 121], rel=1e-5)
    assert set(right) == {"Manual offload", "Djinn", "Djinn, kept", FLOOR_NAME}
    assert right["Djinn"] == left["Djinn"] == pytest.approx([0.63] * 5, rel=1e-5)
    floors = runs["alone"].findings().series("activation", "djinn", "floor_ms")
    assert right[FLOOR_NAME] == [row.median for row in floors]


def test_pairs_come_first_and_bring_what_is_kept(runs):
    """By both; recompute, which they have at the last layers only, is that of its jobs."""
    found = found_in(runs["paired"], "activation")
    right = medians(found.right)
    assert right["Djinn"] == pytest.approx([0.66] * 4)
    assert right["Manual offload"] == pytest.approx([0.6] * 4)
    assert right["Djinn, kept"] == pytest.approx([0.033] * 4)
    assert right["Manual, kept"] == pytest.approx([0.03] * 4)
    assert right[FLOOR_NAME] == pytest.approx([0.5] * 4)
    assert found.left[-1].layers[-1] == 40


def test_a_session_shows_both_hand_written_orders(runs):
    """All at once rises with depth beside recompute; in the order of need it lies on the floor, and on the right."""
    found = found_in(runs["alone"], "session")
    assert medians(found.left)["Manual offload"] == pytest.approx([1.4, 8.24, 15.84, 23.44, 31.04], rel=1e-5)
    assert medians(found.right)["Manual, ordered"] == pytest.approx([0.64] * 5, rel=1e-5)
    assert "Manual offload" not in medians(found.right)


@pytest.mark.parametrize(("name", "ratio"), [("alone", "192"), ("paired", "118")])
def test_the_arrow_says_how_many_times_as_long_recompute_takes_and_where(runs, name, ratio):
    """At layer 39 where it was measured, else at the deepest; from one of the two times to the other."""
    found = found_in(runs[name], "activation")
    with private_style():
        linear, _ = draw(found, functional=False).axes
    layer = {"alone": 40, "paired": 39}[name]
    said = [text.get_text() for text in linear.texts]
    assert f"{ratio}\N{MULTIPLICATION SIGN}\nat layer {layer}" in said
    (arrow,) = [text for text in linear.texts if hasattr(text, "arrow_patch")]
    assert arrow.xy == (layer, found.times.recompute_ms)
    assert arrow.xyann == (layer, found.times.djinn_ms)


def test_without_recompute_there_is_no_arrow(tmp_path):
    """And no name for it."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6, methods=("manual_offload", "djinn")))
    with private_style():
        linear, _ = draw(found_in(results, "activation"), functional=False).axes
    assert [text.get_text() for text in linear.texts] == ["Djinn 0.63, Manual offload 0.64 ms"]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("workload", ["activation", "session"])
def test_it_can_be_read(runs, name, workload):
    """No text leaves the page, touches another or lies on a line; the axes are linear and logarithmic."""
    functional = name == "functional"
    with private_style():
        figure = draw(found_in(runs[name], workload), functional=functional)
        assert flaws(figure, ignored=FUNCTIONAL) == []
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]
    assert figure.axes[0].get_ylim()[0] == 0
    marks = [text.get_text() for axes in figure.axes for text in axes.texts].count(FUNCTIONAL)
    assert marks == (2 if functional else 0)


@pytest.mark.parametrize("workload", ["activation", "session"])
def test_lines_side_by_side_differ_without_colour(runs, workload):
    """In lightness, and in marker or dashes."""
    found = found_in(runs["paired"], workload)
    for lines in (found.left, found.right):
        for index in range(len(found.left[-1].layers)):
            at = [line for line in lines if len(line.medians) > index]
            at.sort(key=lambda line, index=index: line.medians[index])
            for one, other in pairwise(at):
                assert abs(lightness(one.style["color"]) - lightness(other.style["color"])) >= 0.15
        looks = [(line.style["marker"], str(line.style["linestyle"])) for line in lines]
        assert len(set(looks)) == len(looks)


def test_few_processes_make_a_hollow_marker(runs, tmp_path):
    """Six samples of one process are enough, two rounds are not."""
    found = found_in(runs["alone"], "activation")
    assert not any(any(line.ranged) for line in [*found.left, *found.right])
    few = found_in(Results.make(tmp_path, replace(ALONE, rounds=2, layers=(1, 40))), "activation")
    assert all(all(line.ranged) for line in [*few.left, *few.right])


def test_recompute_is_in_its_quickest_form(tmp_path):
    """By its name, at the layer that leads."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    results.add_quicker_rerun(1, 40)
    found = found_in(results, "session")
    assert found.left[0].label == "Recompute:\nfused layers"
    assert found.left[0].medians == pytest.approx([2, 60.5], rel=1e-4)
    assert found.times.times == pytest.approx(60.5 / 0.63, rel=1e-3)


def test_one_token_rerun_shows_through_a_copy_that_takes_as_long():
    """It is drawn after manual offload, and its marker is smaller."""
    order = [variant.key for variant in DRAWN]
    styles = {variant.key: variant.style for variant in DRAWN}
    assert order.index(("recompute", ONE_TOKEN)) > order.index(("manual_offload", None))
    marks = [styles[key]["markersize"] for key in (("recompute", ONE_TOKEN), ("manual_offload", None))]
    assert marks[0] < marks[1]


def test_the_command_marks_a_functional_run_by_itself(tmp_path):
    """And writes the same bytes as before."""
    results = Results.make(tmp_path, replace(CPU, layers=(1, 40)))
    assert results.draw("crossover") == 0
    marked = [results.drawn("crossover.pdf"), results.drawn("crossover.png")]
    found = found_in(results, "activation")
    assert marked == rendered(lambda: draw(found, functional=True))


def test_the_settings_of_the_caller_are_as_before(runs):
    """Rendering leaves no trace in matplotlib's global settings."""
    with mpl.rc_context({"font.size": 19}):
        before = dict(mpl.rcParams)
        rendered(lambda: draw(found_in(runs["alone"], "activation"), functional=False))
        assert dict(mpl.rcParams) == before


def test_a_changed_record_moves_its_point_only_and_a_refused_cell_is_left_out(tmp_path):
    """From record through summary to line; out of memory at layer 40 ends the line before."""
    results = Results.make(tmp_path, replace(ALONE, layers=(1, 20, 40)))
    before = medians(found_in(results, "activation").left)

    def slower(record):
        for sample in record["cells"][0]["samples"]:
            sample.update(clocks(5.0))

    edit(record_path(results.folder, "djinn", 20), slower)
    edit(record_path(results.folder, "recompute", 40), lambda record: refused(record["cells"][0]))
    results.aggregate()
    found = found_in(results, "activation")
    after = medians(found.left)
    assert after.pop("Djinn") == [before["Djinn"][0], 5.0, before.pop("Djinn")[2]]
    assert after.pop("Recompute") == before.pop("Recompute")[:2]
    assert after == before
    assert found.times.layer == 20


def test_what_is_not_there_is_refused(runs):
    """An unknown workload, with the names that there are."""
    with pytest.raises(TableError, match="no workload 'chat', only: activation, session"):
        found_in(runs["alone"], "chat")
