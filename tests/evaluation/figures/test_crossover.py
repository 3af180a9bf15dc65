"""Plot 1 shows what the summary says, is readable, and is the same file every time."""

from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import pytest

from evaluation.analysis.table import TableError
from evaluation.analysis.variants import DRAWN, ONE_TOKEN
from evaluation.figures.clocks import Panel
from evaluation.figures.clocks import draw as narrow
from evaluation.figures.crossover import Curve, curves, draw
from evaluation.figures.style import FUNCTIONAL, private_style, rendered, spread
from tests.evaluation.layout import flaws
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import FRONTIER_BYTES, LINK_GBPS, Synthetic, clocks, edit, record_path, refused, write

GPU = Synthetic(samples=6)
CPU = Synthetic(functional=True, samples=6)
CLOSE = Synthetic(
    functional=True, samples=6, ready=lambda method, *rest: {"recompute": 9.0, "vanilla": 8.0}.get(method, 10.0)
)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    """Results with the magnitudes of an H100."""
    return Results.make(tmp_path_factory.mktemp("gpu"), GPU)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    """Results of a functional run."""
    return Results.make(tmp_path_factory.mktemp("cpu"), CPU)


def lines_of(results, workload):
    return curves(results.findings(), workload, results.material().machine)


def test_the_lines_are_the_medians_of_the_summary(gpu):
    """Each method's headline, at its measured value: vanilla at 0.01 ms and not at 0."""
    found = {line.label: list(line.medians) for line in lines_of(gpu, "activation")}
    bound = FRONTIER_BYTES / (LINK_GBPS * 1e9) * 1e3
    assert set(found) == {"Recompute", "Manual offload", "Djinn", "Vanilla", "Link bound"}
    assert found["Recompute"] == pytest.approx([4, 31, 61, 91, 121], rel=1e-5)
    assert found["Manual offload"] == pytest.approx([0.64] * 5, rel=1e-5)
    assert found["Djinn"] == pytest.approx([0.63] * 5, rel=1e-5)
    assert found["Vanilla"] == pytest.approx([0.01] * 5, rel=1e-5)
    assert found["Link bound"] == pytest.approx([bound] * 5, rel=1e-5)


def test_a_session_shows_both_hand_written_orders(gpu):
    """The bulk copy rises with depth, the ordered one is flat."""
    found = {line.label: list(line.medians) for line in lines_of(gpu, "session")}
    assert found["Manual offload"] == pytest.approx([1.4, 8.24, 15.84, 23.44, 31.04], rel=1e-5)
    assert found["Manual, ordered"] == pytest.approx([0.64] * 5, rel=1e-5)


def test_intervals_are_drawn(gpu):
    """Each method has a line and error bars whose ends are those of the summary."""
    with private_style():
        axes = draw(lines_of(gpu, "activation"), functional=False).axes[0]
    row = gpu.findings().at("activation", "djinn", "ready_ms", 40)
    ends = [tuple(path[:, 1]) for bars in axes.collections for path in bars.get_segments()]
    assert (pytest.approx(row.ci_low), pytest.approx(row.ci_high)) in ends
    assert len(ends) == 4 * 5


@pytest.mark.parametrize(("recipe", "scale"), [(GPU, "log"), (CPU, "log"), (CLOSE, "linear")])
def test_the_axis_is_logarithmic_where_the_range_needs_it(tmp_path, recipe, scale):
    """Times within a factor of 20 start at zero on a linear axis."""
    with private_style():
        axes = draw(lines_of(Results.make(tmp_path, recipe), "activation"), functional=False).axes[0]
    assert axes.get_yscale() == scale
    assert (axes.get_ylim()[0] == 0) == (scale == "linear")


@pytest.mark.parametrize("recipe", [GPU, CPU, CLOSE])
@pytest.mark.parametrize("workload", ["activation", "session"])
def test_labels_are_inside_the_figure_and_apart(tmp_path, recipe, workload):
    """Also where the lines of manual offload and Djinn coincide."""
    lines = lines_of(Results.make(tmp_path, recipe), workload)
    with private_style():
        figure = draw(lines, functional=recipe.functional)
        figure.draw_without_rendering()
        names = [text for text in figure.axes[0].texts if text.get_text() != FUNCTIONAL]
        boxes = sorted((text.get_window_extent() for text in names), key=lambda box: box.y0)
        page = figure.bbox
        ticks = [label.get_window_extent() for label in figure.axes[0].get_yticklabels() if label.get_text()]
        outside = [box for box in [*boxes, *ticks, figure.axes[0].yaxis.label.get_window_extent()] if box.x0 < 0]
    assert len(boxes) == len(lines)
    assert not outside
    assert all(box.x1 <= page.x1 and box.y0 >= 0 and box.y1 <= page.y1 for box in boxes)
    assert all(low.y1 <= high.y0 + 0.5 for low, high in pairwise(boxes))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ((1, 10, 20, 30, 39, 40), ["1", "10", "20", "30", "39, 40"]),
        ((1, 20, 40, 60, 79, 80), ["1", "20", "40", "60", "79, 80"]),
        ((1, 20, 39), ["1", "20", "39"]),
    ],
)
def test_the_last_two_layers_share_a_name_on_the_axis(layers, names):
    """Each has a tick, and their numbers do not lie on each other; also in a narrow panel."""
    line = Curve(label="Djinn", style={"color": "black"}, layers=layers, medians=layers, lows=layers, highs=layers)
    with private_style():
        (plot1,), panels = (
            draw([line], functional=False).axes,
            narrow([Panel(title="Ready", lines=[line])] * 4, functional=False),
        )
        for axes in (plot1, *panels.axes):
            assert not flaws(axes.figure)
            assert list(axes.get_xticks()) == list(layers)
            shown = [text for text in axes.get_xticklabels(which="both") if text.get_text()]
            assert [text.get_text() for text in sorted(shown, key=lambda text: text.get_position()[0])] == names
            assert len({round(text.get_window_extent().y1, 1) for text in shown}) == 1


def test_no_two_lines_are_told_apart_by_colour_alone(gpu):
    """Marker and dashes together are unique."""
    styles = [(line.style.get("marker"), str(line.style["linestyle"])) for line in lines_of(gpu, "session")]
    assert len(set(styles)) == len(styles) == 6


@pytest.mark.parametrize(("bound", "drawn"), [(0.0004, False), (0.1, True)])
def test_a_bound_far_below_all_that_was_measured_is_said_and_not_drawn(gpu, bound, drawn):
    """It would leave the measured lines half of the axis; nothing else is moved for it, and it is not lost."""
    lines = [line for line in lines_of(gpu, "session") if line.label != "Vanilla"]
    lines = [replace(line, medians=[bound] * 5) if line.label == "Link bound" else line for line in lines]
    with private_style():
        figure = draw(lines, functional=False)
        assert not flaws(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert ("Link bound" in texts) == drawn
    assert ("\N{DOWNWARDS ARROW} link bound: 0.0004 ms" in texts) == (not drawn)
    assert (figure.axes[0].get_ylim()[0] < bound) == drawn


def test_a_bound_that_falls_at_one_layer_is_drawn_at_the_others(gpu):
    """In a decode step the deepest layer waits for no KV: the line ends before it, and what it is there is said."""
    lines = [line for line in lines_of(gpu, "session") if line.label != "Vanilla"]
    falls = [0.4, 0.4, 0.4, 0.4, 0.0002]
    lines = [replace(line, medians=falls) if line.label == "Link bound" else line for line in lines]
    with private_style():
        figure = draw(lines, functional=False)
        assert not flaws(figure)
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert "Link bound" in texts
    assert "\N{DOWNWARDS ARROW} link bound, layer 40: 0.0002 ms" in texts
    dotted = [line for line in axes.lines if len(line.get_xdata()) == 4 and line.get_transform() == axes.transData]
    assert [list(line.get_ydata()) for line in dotted] == [[0.4] * 4]


def test_recompute_with_fused_layers_is_drawn_beside_it(tmp_path):
    """Where it was measured, as a line of its own that fits."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    for layer in (1, 40):
        edit(record_path(results.folder, "recompute", layer), lambda record: record["cells"].extend(
            {**cell, "variant": "compiled", "headline": False} for cell in list(record["cells"])))  # fmt: skip
    results.aggregate()
    lines = lines_of(results, "session")
    assert [line.label for line in lines[:2]] == ["Recompute", "Fused layers"]
    with private_style():
        assert not flaws(draw(lines, functional=False))


def test_one_token_rerun_shows_through_a_copy_that_takes_as_long():
    """It is drawn after manual offload, and its marker is smaller."""
    order = [variant.key for variant in DRAWN]
    styles = {variant.key: variant.style for variant in DRAWN}
    assert order.index(("recompute", ONE_TOKEN)) > order.index(("manual_offload", None))
    marks = [styles[key]["markersize"] for key in (("recompute", ONE_TOKEN), ("manual_offload", None))]
    assert marks[0] < marks[1]


def test_a_functional_run_is_marked_across_the_figure_and_has_no_bound(gpu, cpu):
    """The mark is there for the CPU and not for the GPU; without a link there is no bound."""
    for results, functional in ((gpu, False), (cpu, True)):
        lines = lines_of(results, "activation")
        with private_style():
            axes = draw(lines, functional=functional).axes[0]
        assert (FUNCTIONAL in [text.get_text() for text in axes.texts]) == functional
        assert ("Link bound" not in [line.label for line in lines]) == functional


def test_the_command_marks_a_functional_run_by_itself(tmp_path):
    """It is machine.json that decides: the same rows with a GPU's probe give another picture."""
    results = Results.make(tmp_path, CPU)
    assert results.draw("crossover") == 0
    marked = results.drawn("crossover.pdf"), results.drawn("crossover.png")
    lines = lines_of(results, "activation")
    assert marked == tuple(rendered(lambda: draw(lines, functional=True)))
    write(results.machine, GPU.machine())
    assert results.draw("crossover") == 0
    assert results.drawn("crossover.png") != marked[1]


def test_the_settings_of_the_caller_are_as_before(gpu):
    """Rendering leaves no trace in matplotlib's global settings."""
    with mpl.rc_context({"font.size": 19}):
        before = dict(mpl.rcParams)
        rendered(lambda: draw(lines_of(gpu, "activation"), functional=False))
        assert dict(mpl.rcParams) == before


def test_a_changed_record_moves_its_point_only(tmp_path):
    """From record through summary to line."""
    results = Results.make(tmp_path, GPU)
    before = {line.label: list(line.medians) for line in lines_of(results, "activation")}

    def slower(record):
        for sample in record["cells"][0]["samples"]:
            sample.update(clocks(5.0))

    edit(record_path(results.folder, "djinn", 20), slower)
    results.aggregate()
    after = {line.label: list(line.medians) for line in lines_of(results, "activation")}
    assert after.pop("Djinn") == [*before["Djinn"][:2], 5.0, *before.pop("Djinn")[3:]]
    assert after == before


def test_a_refused_cell_is_left_out(tmp_path):
    """Out of memory at layer 40: the line ends at layer 30."""
    results = Results.make(tmp_path, GPU)

    def refuse(record):
        refused(record["cells"][0])

    edit(record_path(results.folder, "vanilla", 40), refuse)
    results.aggregate()
    vanilla = next(line for line in lines_of(results, "activation") if line.label == "Vanilla")
    assert list(vanilla.layers) == [1, 10, 20, 30]


def test_what_is_not_there_is_refused(gpu):
    """An unknown workload, with the names that there are."""
    with pytest.raises(TableError, match="no workload 'chat', only: activation, session"):
        lines_of(gpu, "chat")


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
