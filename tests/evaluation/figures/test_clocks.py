"""The session's figure shows each clock at its measured value, on one axis, and can be read."""

import pytest

from evaluation.analysis.depth import Depth
from evaluation.analysis.metrics import CLOCKS as ALL
from evaluation.analysis.table import TableError
from evaluation.figures.clocks import draw, panels
from evaluation.figures.style import FUNCTIONAL, private_style
from tests.evaluation.layout import flaws
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, edit, record_path

CLOCKS = {clock.name: clock for clock in ALL if clock.title}
RECIPES = {"gpu": Synthetic(samples=6), "functional": Synthetic(functional=True, samples=6)}


@pytest.fixture(scope="module", params=RECIPES)
def results(request, tmp_path_factory):
    """Results of a run on a GPU and of a functional one."""
    return Results.make(tmp_path_factory.mktemp(request.param), RECIPES[request.param])


def shown(results):
    return panels(results.findings(), results.depth(), "session")


def test_each_panel_holds_the_medians_of_its_clock(results):
    """Of every method and variant that the summary has, and no clock's in place of another's."""
    findings = results.findings()
    taken = {}
    for clock, panel in zip(CLOCKS, shown(results), strict=True):
        lines = {line.label: list(line.medians) for line in panel.lines}
        for label, method, variant in (
            ("Djinn", "djinn", None),
            ("Djinn, kept", "djinn", "kept"),
            ("Manual, ordered", "manual_offload", "ordered"),
        ):
            rows = findings.series("session", method, f"{clock}_ms", variant)
            assert lines[label] == [row.median for row in rows]
        taken[clock] = lines["Djinn"]
    assert len({tuple(medians) for medians in taken.values()}) == len(CLOCKS) == 4


def test_the_raw_copy_is_of_what_the_clock_waits_for(results):
    """The frontier beside Djinn's samples, until resident all state beside those by hand; for the logits none."""
    beside = {"ready": "djinn", "first_kernel": "djinn", "resident": "manual_offload"}
    for clock, panel in zip(CLOCKS, shown(results), strict=True):
        copies = [list(line.medians) for line in panel.lines if line.label == "Raw copy"]
        rows = results.findings().series("session", beside[clock], "floor_ms") if clock in beside else []
        assert copies == ([[row.median for row in rows]] if rows else [])


def test_recompute_is_in_its_quickest_form(tmp_path):
    """One line of it, though two were measured."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    results.add_quicker_rerun(1, 40)
    (line,) = (line for line in shown(results)[0].lines if line.label == "Recompute")
    assert line.medians == pytest.approx([2, 60.5], rel=1e-4)


def test_the_panels_share_one_axis_and_can_be_read(results):
    """Nothing leaves the page or touches."""
    functional = results.material().functional
    with private_style():
        figure = draw(shown(results), functional=functional)
        assert flaws(figure, ignored=FUNCTIONAL) == []
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert [axes.get_title() for axes in figure.axes] == [clock.title for clock in CLOCKS.values()]
    marks = [text.get_text() for axes in figure.axes for text in axes.texts].count(FUNCTIONAL)
    assert marks == (4 if functional else 0)


def test_a_changed_time_moves_one_point_of_one_panel(tmp_path):
    """From record through summary to line."""
    results = Results.make(tmp_path, RECIPES["gpu"])

    def later(record):
        (cell,) = (cell for cell in record["cells"] if cell["workload"] == "session" and cell["headline"])
        for sample in cell["samples"]:
            sample["resident_ms"] = 99.0

    def points():
        return [
            (panel.title, line.label, layer, median)
            for panel in shown(results)
            for line in panel.lines
            for layer, median in zip(line.layers, line.medians, strict=True)
        ]

    before = points()
    edit(record_path(results.folder, "djinn", 20), later)
    results.aggregate()
    moved = [after for earlier, after in zip(before, points(), strict=True) if earlier != after]
    assert moved == [(CLOCKS["resident"].title, "Djinn", 20, 99.0)]


def test_what_has_no_jobs_of_its_own_is_of_the_pairs(tmp_path):
    """As where recompute's line alone was asked for; the raw copy is the one beside the pairs."""
    recipe = Synthetic(
        layers=(1, 40), samples=6, pairs=SyntheticPairs(rounds=6), asks={"latency_methods": ["recompute"]}
    )
    results = Results.make(tmp_path, recipe)
    for clock, panel in zip(CLOCKS, shown(results), strict=True):
        lines = {line.label: list(line.medians) for line in panel.lines}
        for label, method, variant in (
            ("Djinn", "djinn", "default"),
            ("Djinn, kept", "djinn", "kept"),
            ("Manual, ordered", "manual_offload", "ordered"),
        ):
            times = results.depth().of("session", method, variant, clock=CLOCKS[clock])
            assert lines[label] == [time.median for time in times] != []
        frontier = CLOCKS[clock].waits_for == "frontier_bytes"
        assert lines.get("Raw copy") == (
            [time.median for time in results.depth().floors("session")] if frontier else None
        )
        assert lines["Recompute"] == [
            row.median for row in results.findings().series("session", "recompute", f"{clock}_ms")
        ]

    with private_style():
        figure = draw(shown(results), functional=False)
        assert flaws(figure) == []
    names = [{text.get_text() for text in axes.texts} for axes in figure.axes]
    assert ["Raw copy" in one for one in names] == [True, False, False, False]


def test_what_is_not_there_is_refused(tmp_path):
    """A workload that the run lacks, with the names that there are."""
    material = Results.make(tmp_path, RECIPES["gpu"]).material()
    with pytest.raises(TableError, match="no workload 'chat', only: activation, session"):
        panels(material.findings, Depth(material.findings, material.run), "chat")
