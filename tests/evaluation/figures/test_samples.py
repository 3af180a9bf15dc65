"""The strip shows every sample that the records hold, where it belongs, and says what they lack."""

import random
import re
import shutil
from itertools import pairwise
from statistics import median

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from evaluation.analysis.variants import PRIMARY
from evaluation.command import Refusal
from evaluation.figures.crossover import Shown
from evaluation.figures.crossover import draw as draw_plot_1
from evaluation.figures.lines import Curve
from evaluation.figures.samples import draw, panels
from evaluation.figures.style import FUNCTIONAL, private_style, readable
from evaluation.records.runs import load_run
from tests.evaluation.layout import flaws
from tests.evaluation.synthetic import Synthetic, clocks, edit, record_path, refused, slowed

LABELS = {"vanilla": "Vanilla", "recompute": "Recompute", "manual_offload": "Manual offload", "djinn": "Djinn"}


class Workloads(Synthetic):
    """A recipe whose workloads are the first ``count`` of three."""

    count = 3

    def study(self):
        study = super().study()
        study["workloads"].append({**study["workloads"][1], "name": "decode", "decode_step": 1})
        return {**study, "workloads": study["workloads"][: self.count]}


class OneWorkload(Workloads):
    """Only the first."""

    count = 1


RECIPES = {
    "published": Synthetic(),
    "three workloads, two rounds": Workloads(rounds=2, samples=15),
    "one workload, one layer, one method": OneWorkload(layers=(40,), methods=("djinn",)),
    "functional": Workloads(functional=True, layers=(1, 2), rounds=2, samples=3),
    "every layer, three rounds": Workloads(layers=tuple(range(1, 41)), rounds=3, samples=2, methods=("djinn",)),
    "methods of others": Synthetic(methods=("my_method", "djinn", "recompute", "other"), samples=6),
}


def make(folder, recipe):
    """A run whose samples all differ, in an order that is not that of their size, a few far off."""
    recipe.write(folder)
    generator = random.Random(3)

    def scatter(record):
        for cell in record["cells"]:
            for sample in cell["samples"]:
                slowed(sample, generator.lognormvariate(0, 0.05) * (5 if generator.random() < 0.05 else 1))

    for path in sorted(folder.glob("raw/**/*.json")):
        edit(path, scatter)
    return folder


@pytest.fixture(params=RECIPES)
def anyone(request, tmp_path):
    """A run of every kind."""
    return make(tmp_path / "local", RECIPES[request.param])


@pytest.fixture
def folder(tmp_path):
    """Three workloads in two rounds on a GPU."""
    return make(tmp_path / "local", Workloads(layers=(1, 20, 40), rounds=2, samples=8))


def drawn(folder):
    """The figure of the run in ``folder``, and its panels by label and workload."""
    run = load_run(folder)
    strip = panels(run)
    with private_style():
        figure = draw(strip, functional=run.functional)
    return figure, {(one.label, one.workload): axes for one, axes in zip(strip, figure.axes, strict=True)}


def recorded(run, method, workload):
    """Times by layer and round, straight from the records."""
    return {
        (record["layer"], record["round"]): [sample["ready_ms"] for sample in cell["samples"]]
        for record in run.records
        if record["method"] == method
        for cell in record["cells"]
        if cell["headline"] and cell["workload"] == workload
    }


def points(axes):
    """Places and times of all points, in the order from left to right."""
    return sorted((x, y) for line in axes.lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


def texts(axes):
    return [text.get_text().replace("\n", " ") for text in axes.texts]


def note(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def marks_of(axes):
    return [text for text in axes.texts if text.get_text() == FUNCTIONAL]


def looks(axes):
    """What a functional run's marks look like, but for the size of their letters."""
    return [(mark.get_color(), mark.get_rotation(), mark.get_zorder()) for mark in marks_of(axes)]


def refuse(outcome, workload):
    """A change of a record: its headline cell of ``workload`` was refused."""

    def change(record):
        for cell in record["cells"]:
            if cell["headline"] and cell["workload"] == workload:
                refused(cell, outcome)

    return change


def test_every_sample_is_a_point_in_the_order_taken(anyone):
    """Of each panel: the records' times of the primary variant, layer by layer, round by round; and their number."""
    figure, found = drawn(anyone)
    run = load_run(anyone)
    total = 0
    for method in run.study["methods"]:
        label = LABELS.get(method, method.replace("_", " ").capitalize())
        for workload in dict.fromkeys(workload for _, workload in found):
            expected = recorded(run, method, workload)
            values = [time for place in sorted(expected) for time in expected[place]]
            assert [y for _, y in points(found[label, workload])] == values
            total += len(values)
    assert total > 0
    assert len(found) * len(run.study["layers"]) * run.study["rounds"] <= total
    assert f"All {total} samples" in note(figure)
    assert "none left out" in note(figure)


def test_nothing_overlaps_or_leaves_the_figure(anyone):
    """Names, ticks, titles and the note."""
    figure, _ = drawn(anyone)
    with private_style():
        assert not flaws(figure, ignored=FUNCTIONAL)


@pytest.mark.parametrize("outlier", [0.0, 0.0001, 30.0, 1000.0])
def test_an_outlier_is_inside_the_axes(folder, outlier):
    """Whether it makes the axis logarithmic or not; one of zero has no place on a logarithmic axis."""
    edit(record_path(folder, "djinn", 20, 2), lambda record: record["cells"][0]["samples"][4].update(clocks(outlier)))
    figure, found = drawn(folder)
    axes = found["Djinn", "activation"]
    assert outlier in [y for _, y in points(axes)]
    assert axes.get_yscale() == ("log" if outlier else "linear")
    for x, y in points(axes):
        assert axes.bbox.contains(*axes.transData.transform((x, y)))
        assert axes.get_ylim()[0] <= y < axes.get_ylim()[1]
    with private_style():
        assert not flaws(figure)


def test_the_axis_is_logarithmic_where_the_range_needs_it(folder):
    """Recompute grows with depth; Djinn does not, and its axis starts at zero."""
    _, found = drawn(folder)
    assert found["Recompute", "session"].get_yscale() == "log"
    assert found["Djinn", "session"].get_yscale() == "linear"
    assert found["Djinn", "session"].get_ylim()[0] == 0


def test_rounds_are_told_apart(folder):
    """Each has a place of its own at its layer; of two the second is on grey, and the note says so."""
    figure, found = drawn(folder)
    for axes in found.values():
        grey = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        lines = sorted(axes.lines, key=lambda line: line.get_xdata()[0])
        assert (len(grey), len(lines)) == (3, 6)
        assert all(max(one.get_xdata()) < min(other.get_xdata()) for one, other in pairwise(lines))
        for number, line in enumerate(lines):
            assert number // 2 < min(line.get_xdata()) < max(line.get_xdata()) < number // 2 + 1
            on_grey = [
                patch.get_x() < x < patch.get_x() + patch.get_width() for patch in grey for x in line.get_xdata()
            ]
            assert sum(on_grey) == (len(line.get_xdata()) if number % 2 else 0)
    assert "the 2 rounds of a layer, each a process of its own" in note(figure)


def test_one_round_needs_no_grey(tmp_path):
    """And no word about it."""
    figure, found = drawn(make(tmp_path / "local", Synthetic(samples=6)))
    assert not [patch for axes in found.values() for patch in axes.patches]
    assert "round" not in note(figure)


def test_the_median_of_a_layer_is_of_all_its_rounds(folder):
    """One line across the place of each layer, behind the points."""
    _, found = drawn(folder)
    times = recorded(load_run(folder), "manual_offload", "session")
    axes = found["Manual offload", "session"]
    segments = [path.tolist() for lines in axes.collections for path in lines.get_segments()]
    middle = [median(times[layer, 1] + times[layer, 2]) for layer in (1, 20, 40)]
    assert segments == [[[slot, at], [slot + 1, at]] for slot, at in enumerate(middle)]
    assert max(lines.get_zorder() for lines in axes.collections) < min(line.get_zorder() for line in axes.lines)


def test_colours_and_markers_are_those_of_the_other_figures(folder):
    """Of Plot 1; the name of the method has its colour too."""
    _, found = drawn(folder)
    for method, label in LABELS.items():
        name, style = PRIMARY[method].label, PRIMARY[method].style
        for workload in ("activation", "session", "decode"):
            lines = found[label, workload].lines
            assert {line.get_marker() for line in lines} == {style["marker"]}
            assert {to_hex(line.get_color()) for line in lines} == {style["color"].lower()}
        title = found[label, "activation"].yaxis.label
        assert title.get_text() == f"{name}\nready (ms)"
        assert title.get_color() == readable(style["color"])


def test_methods_of_others_come_last_and_look_different(tmp_path):
    """A row of their own each, after the paper's in the paper's order; of those only the study's."""
    _, found = drawn(make(tmp_path / "local", RECIPES["methods of others"]))
    rows = dict.fromkeys(label for label, _ in found)
    assert list(rows) == ["Recompute", "Djinn", "My method", "Other"]
    assert len({found[label, "session"].lines[0].get_marker() for label in rows}) == 4


def test_what_has_no_sample_is_said_in_its_panel(folder):
    """Which layers, which rounds and why; nothing is drawn there, and everything elsewhere is."""
    for number in (1, 2):
        edit(record_path(folder, "vanilla", 40, number), refuse("out_of_memory", "session"))
        for layer in (1, 20, 40):
            edit(record_path(folder, "recompute", layer, number), refuse("unsupported", "decode"))
    edit(record_path(folder, "vanilla", 20, 2), refuse("out_of_memory", "session"))
    record_path(folder, "djinn", 1, 2).unlink()
    record_path(folder, "djinn", 40, 2).unlink()
    figure, found = drawn(folder)
    said = {place: texts(axes) for place, axes in found.items() if texts(axes)}
    assert said == {
        ("Vanilla", "session"): ["out of memory: layer 40; out of memory, round 2: layer 20"],
        ("Recompute", "decode"): ["unsupported: layers 1\N{EN DASH}40"],
        **{("Djinn", one): ["not measured, round 2: layers 1, 40"] for one in ("activation", "session", "decode")},
    }
    assert {place: len(points(axes)) for place, axes in found.items() if len(points(axes)) != 6 * 8} == {
        ("Vanilla", "session"): 3 * 8,
        ("Recompute", "decode"): 0,
        **{("Djinn", one): 4 * 8 for one in ("activation", "session", "decode")},
    }
    assert f"All {sum(len(points(axes)) for axes in found.values())} samples" in note(figure)
    with private_style():
        assert not flaws(figure)


def test_a_functional_run_is_marked_in_each_panel_as_plot_1_is(tmp_path, folder):
    """The same words, colour, slope and place in the drawing order; a GPU's run has no mark."""
    _, marked = drawn(make(tmp_path / "cpu", RECIPES["functional"]))
    line = Curve(
        label="Djinn", style=PRIMARY["djinn"].style, layers=[1, 2], medians=[1.0, 2.0], lows=[1, 2], highs=[1, 2]
    )
    with private_style():
        plot_1 = draw_plot_1(Shown(left=[line], right=[], layer=2, times=None), functional=True).axes[0]
    assert len(marks_of(plot_1)) == 1
    for axes in marked.values():
        assert looks(axes) == looks(plot_1)
        (mark,) = marks_of(axes)
        assert axes.bbox.width >= mark.get_window_extent().width
        assert axes.bbox.height >= mark.get_window_extent().height
    _, plain = drawn(folder)
    assert not [mark for axes in plain.values() for mark in marks_of(axes)]


def nothing_of(folder):
    """Every cell of the run in ``folder`` was refused."""
    for path in folder.glob("raw/**/*.json"):
        for workload in ("activation", "session", "decode"):
            edit(path, refuse("out_of_memory", workload))


def two_headlines(folder):
    """Two variants of manual offload claim to be the one that the paper leads with."""
    edit(record_path(folder, "manual_offload", 20, 2), lambda record: record["cells"][1].update(headline=True))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (nothing_of, "run local: no primary variant has a sample"),
        (two_headlines, "layer_20/round_2.json: 2 headline cells of workload activation"),
        (lambda folder: (folder / "study.json").unlink(), "study.json: missing"),
        (lambda folder: record_path(folder, "djinn", 1).write_text("{"), "round_1.json: not readable as JSON"),
        (shutil.rmtree, "local: no such run"),
    ],
)
def test_what_cannot_be_drawn_is_refused(folder, damage, message):
    """By one error, whose message names it."""
    damage(folder)
    with pytest.raises(Refusal, match=re.escape(message)):
        panels(load_run(folder))
