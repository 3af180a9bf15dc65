"""The figure of latency against memory shows each form where it belongs, and can be read."""

from dataclasses import replace

import pytest

from evaluation.analysis.leading import Leading
from evaluation.analysis.outcomes import PeerMetric
from evaluation.analysis.table import TableError
from evaluation.figures.held import Mark, draw, marks_of
from evaluation.figures.lines import HOLLOW
from evaluation.figures.style import FUNCTIONAL, private_style
from tests.evaluation.layout import flaws
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, edit, record_path


def ready(which):
    """By hand 30 ms at once and 0.8 in order, Djinn 0.7; what keeps the frontier 0.1."""
    if which.method == "recompute":
        return 100.0
    if which.variant.startswith("async"):
        return None
    return 0.1 if which.keeps == "frontier" else {"bulk": 30.0, "default": 0.7}.get(which.variant, 0.8)


@pytest.fixture(scope="module", params=[False, True], ids=["gpu", "functional"])
def results(request, tmp_path_factory):
    """A run of all methods, with pairs and a peer; vanilla holds its state."""
    peers = () if request.param else ("memory_saver",)
    samples = [{"ready_ms": 32.0 + i, "device_bytes_paused": 0} for i in range(4)]
    beside = {} if request.param else {"peers/memory_saver.json": [{"workload": "session", "samples": samples}]}
    pairs = SyntheticPairs(layers=(39, 40), ready=ready)
    recipe = Synthetic(functional=request.param, layers=(39,), samples=2, pairs=pairs, peers=peers, beside=beside)
    results = Results.make(tmp_path_factory.mktemp("held"), recipe)

    def hold(record):
        for cell in record["cells"]:
            for sample in cell["samples"]:
                sample["device_bytes_paused"] = cell["state_bytes"]

    if not request.param:
        edit(record_path(results.folder, "vanilla", 39, 1), hold)
        results.aggregate()
    return results


def marks(results):
    material = results.material()
    return marks_of(Leading(material.findings, material.run), material.rows("peers", PeerMetric), "session")


def test_each_form_has_its_mark(results):
    """Vanilla holds all state, the kept forms the frontier, all others nothing."""
    found = {mark.label: (mark.held_bytes, mark.median) for mark in marks(results)}
    functional = results.material().functional
    frontier = 22e6
    assert found == {
        "Vanilla": (frontier + 39 * 40e6, pytest.approx(0.05 if functional else 0.01)),
        "Recompute": (0, 100),
        "Manual offload": (0, 30),
        "Manual, ordered": (0, 0.8),
        "Manual, kept": (frontier, 0.1),
        "Djinn": (0, 0.7),
        "Djinn, kept": (frontier, 0.1),
        **({} if functional else {"Memory saver": (0, 33.5)}),
    }


def test_what_has_a_range_is_hollow(results):
    """Of two processes, of two samples and of four of a peer; an interval would fill it."""
    found = marks(results)
    assert all(mark.is_range for mark in found)
    with private_style():
        (axes,) = draw([*found[:-1], replace(found[-1], is_range=False)], functional=False).axes
    faces = {line.get_markerfacecolor() for line in axes.lines if line.get_transform() == axes.transData}
    assert faces == {HOLLOW, found[-1].style["color"]}


def test_marks_differ_without_colour(results):
    """By their shapes."""
    shapes = [mark.style["marker"] for mark in marks(results)]
    assert len(set(shapes)) == len(shapes)


def test_it_can_be_read(results):
    """No name leaves the page or touches another; nothing stands left of a break in the axis."""
    functional = results.material().functional
    with private_style():
        figure = draw(marks(results), functional=functional)
        assert flaws(figure, ignored=FUNCTIONAL) == []
        (axes,) = figure.axes
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10 MB", "100 MB", "1 GB"]
    assert ([text.get_text() for text in axes.texts].count(FUNCTIONAL) == 1) == functional


def mark(label, held, median):
    return Mark(
        label=label, style={"color": "black", "marker": "o"}, held_bytes=held, median=median, low=median, high=median
    )


@pytest.mark.parametrize(
    ("held", "ticks"),
    [
        ([0, 0, 0], ["0"]),
        ([0, 65536, 1.7e9], ["under 100 kB", "1 GB"]),
        ([0, 8192, 700_000], ["0", "1 kB", "10 kB", "100 kB"]),
        ([5e6, 5e6, 5e6], ["0", "1 MB"]),
    ],
)
def test_the_axis_follows_what_is_held(held, ticks):
    """A thousandth of the most is as good as nothing; the rest has its decades."""
    with private_style():
        shown = [mark(str(index), size, 10.0**index) for index, size in enumerate(held)]
        (axes,) = draw(shown, functional=False).axes
        assert [label.get_text() for label in axes.get_xticklabels()] == ticks


def test_a_workload_without_a_time_has_no_figure(results):
    """It says so."""
    leading = Leading(results.findings(), results.run())
    with pytest.raises(TableError, match="workload 'nobody'"):
        marks_of(leading, [], "nobody")
