"""The figure of the size sweep shows what the table holds, and the numbers say who wins at which size."""

from dataclasses import replace

import pytest

from evaluation.analysis.crossings import Crossing, orders
from evaluation.analysis.table import TableError
from evaluation.figures.style import private_style
from evaluation.figures.sweep import djinn_beside, draw, measured
from evaluation.text.numbers import numbers
from evaluation.text.numbers_of_use import Tables
from tests.evaluation.layout import flaws
from tests.evaluation.papers import Results
from tests.evaluation.side_cells import put_cells
from tests.evaluation.synthetic import Synthetic, edit, refused

# Magnitudes of an H100: ms by batch, tokens and layer, of recompute, the pageable and the pinned copy.
GPU = {
    (1, 128, 1): (1.2, 0.31, 0.24),
    (1, 128, 10): (5.1, 0.31, 0.24),
    (1, 512, 1): (1.7, 0.77, 0.32),
    (1, 512, 10): (8.9, 0.77, 0.32),
    (1, 2048, 1): (3.7, 2.6, 0.61),
    (1, 2048, 10): (29.2, 2.6, 0.61),
    (4, 2048, 1): (12.4, 10.1, 1.8),
    (4, 2048, 10): (121.8, 10.1, 1.8),
}
# Slow pageable memory: recompute to layer 1 is as quick as the copy at 512 tokens and quicker from there.
CROSSING = {key: (slow, 3.3 * copy, pinned) for key, (slow, copy, pinned) in GPU.items()}
CROSSING[1, 512, 1] = (1.7, 1.71, 0.32)
ONE_SIZE = {key: times for key, times in GPU.items() if key == (1, 2048, 10)}
SAME_PRODUCT = {**GPU, (1, 8192, 1): (12.0, 10.0, 1.8), (1, 8192, 10): (121.0, 10.0, 1.8)}
KEYS = (("recompute", "default"), ("manual_offload", "pageable"), ("manual_offload", "pinned"))


def add(results, times):
    """Make ``times`` the run's record of the sweep, with a scatter of 1 % from end to end, and the tables anew."""
    cells = [
        {
            **{"batch": batch, "tokens": tokens, "layer": layer, "method": method, "variant": variant},
            "samples": [{"ready_ms": ready * (1 + shift / 1000)} for shift in (-5, -3, -1, 1, 3, 5)],
        }
        for (batch, tokens, layer), values in times.items()
        for (method, variant), ready in zip(KEYS, values, strict=True)
    ]
    put_cells(results.folder, "sweep.json", cells)
    results.aggregate()


def rows_of(results):
    return measured(results.material())


@pytest.fixture
def results(tmp_path):
    """A run on a GPU with two layers and four sizes."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    add(results, GPU)
    return results


def test_lines_are_the_rows(results):
    """A panel for each layer; three lines over the products, with intervals; the axes of both are the same."""
    with private_style():
        panels = draw(rows_of(results)).axes
    for axes, layer in zip(panels, (1, 10), strict=True):
        lines = [line for line in axes.lines if line.get_transform() == axes.transData]
        assert [list(line.get_xdata()) for line in lines] == [[128, 512, 2048, 8192]] * 3
        expected = [values for (_, _, at), values in GPU.items() if at == layer]
        for number, line in enumerate(lines):
            assert list(line.get_ydata()) == pytest.approx([values[number] for values in expected], rel=1e-5)
        ends = [tuple(path[:, 1]) for bars in axes.collections for path in bars.get_segments()]
        assert len(ends) == 12
        assert ends[0] == pytest.approx((0.995 * expected[0][0], 1.005 * expected[0][0]))
        assert axes.get_title() == f"After layer {layer}"
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert [text.get_text() for text in panels[1].texts] == ["Recompute", "By hand, pageable", "By hand, pinned"]
    styles = {(line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(styles) == 3  # not told apart by colour alone


@pytest.mark.parametrize("times", [GPU, CROSSING, ONE_SIZE, SAME_PRODUCT])
def test_nothing_overlaps_or_leaves_the_figure(results, times):
    """Whether lines cross or not, with one panel and one point, and with two prompts of one product."""
    add(results, times)
    with private_style():
        assert not flaws(draw(rows_of(results)))


def test_djinn_has_a_point_where_its_own_jobs_ran_that_size(results):
    """After a layer of both, without a KV cache; and its name is there though it has no line."""
    rows = rows_of(results)
    (own,) = djinn_beside(results.material(), rows)
    row = results.findings().at("activation", "djinn", "ready_ms", 1)
    assert (own.batch, own.tokens, own.layer, own.ready_ms, own.n) == (1, 2048, 1, row.median, row.n)
    with private_style():
        figure = draw([*rows, *(replace(own, layer=layer) for layer in (1, 10))])
        assert not flaws(figure)
    assert [text.get_text() for text in figure.axes[1].texts][-1] == "Djinn"


def test_a_refused_cell_is_left_out(results):
    """Its line ends before."""
    edit(results.folder / "sweep.json", lambda record: refused(record["cells"][-3]))
    results.aggregate()
    with private_style():
        lines = [list(line.get_xdata()) for line in draw(rows_of(results)).axes[1].lines][:3]
    assert lines == [[128, 512, 2048], [128, 512, 2048, 8192], [128, 512, 2048, 8192]]


def test_what_cannot_be_drawn_is_refused(results, tmp_path):
    """A functional run, and one without a sweep."""
    functional = Results.make(tmp_path / "cpu", Synthetic(functional=True, layers=(1,), samples=2))
    add(functional, GPU)
    add(results, {})
    for subject, message in (
        (functional, "run local is functional: made without a GPU, its size sweep is not drawn"),
        (results, "run 'local' has no ready_ms of recompute or of a copy by hand"),
    ):
        with pytest.raises(TableError, match=message):
            rows_of(subject)


def test_who_wins_at_which_size(results):
    """By the medians, and as quick where their intervals overlap; sizes of the same order are named together."""
    by_layer = {layer: [row for row in rows_of(results) if row.layer == layer] for layer in (1, 10)}
    assert orders(by_layer[1]) == orders(by_layer[10]) == "pinned < pageable < recompute at every size"
    add(results, CROSSING)
    assert orders([row for row in rows_of(results) if row.layer == 1]) == (
        "pinned < pageable < recompute at 128 tokens; pinned < recompute ~ pageable at 512 tokens;"
        " pinned < recompute < pageable at 2048 and 4 x 2048 tokens"
    )
    wide = [replace(row, ci_high=100.0) for row in by_layer[1] if row.variant == "pinned"]
    assert (
        orders([*wide, *(row for row in by_layer[1] if row.variant == "pageable")]) == "pinned ~ pageable at every size"
    )


def test_numbers_follow_from_their_rows(results):
    """Each time and crossover with the row that it is read from, and the order in LaTeX."""
    add(results, CROSSING)
    run = results.run()
    table = results.material().rows("sweep", Crossing)
    rows = {(row.batch, row.tokens, row.variant, row.layer): row for row in table}
    found = {one.name: one for one in numbers(results.findings(), run.machine, run.study, Tables(sweep=table))}
    mine = {name: one for name, one in found.items() if "Sweep" in name}
    assert len(mine) == 4 * 2 * 3 + 4 * 2 + 2
    for name, one in mine.items():
        keys = [tuple(source[key] for key in ("batch", "tokens", "variant", "layer")) for source in one.source]
        if name.startswith("SweepOrder"):
            assert {key[3] for key in keys} == ({1} if name.endswith("One") else {10})
            assert len(keys) == 12
        else:
            assert one.value == getattr(rows[keys[0]], one.source[0]["column"])
    assert mine["RecomputeSweepReadyMsBatchFourTokensTwoThousandFortyEightLayerTen"].text == "122"
    assert mine["ManualOffloadPinnedSweepReadyMsBatchOneTokensFiveHundredTwelveLayerOne"].text == "0.320"
    # The line through 1.2 ms at layer 1 and 5.1 ms at 10 meets pageable memory's 1.023 ms before the first layer.
    crossover = mine["SweepPageableCrossoverLayerBatchOneTokensOneHundredTwentyEight"]
    assert crossover.value == pytest.approx(1 + (1.023 - 1.2) / ((5.1 - 1.2) / 9), rel=1e-4)
    assert mine["SweepOrderLayerOne"].text.startswith("pinned $<$ pageable $<$ recompute at 128 tokens; pinned $<$ re")
    assert r"recompute $\approx$ pageable" in mine["SweepOrderLayerOne"].text


def test_each_form_of_recompute_has_numbers_of_its_own(results):
    """Where several were measured: fused layers and a graph beside the model as it is."""
    run, table = results.run(), results.material().rows("sweep", Crossing)
    more = [replace(row, variant="graphed") for row in table if row.method == "recompute"]
    found = numbers(results.findings(), run.machine, run.study, Tables(sweep=[*table, *more]))
    names = [one.name for one in found if one.name.startswith("Recompute") and "Sweep" in one.name]
    assert len(names) == len(set(names)) == 2 * len(more)
    assert "RecomputeGraphedSweepReadyMsBatchOneTokensTwoThousandFortyEightLayerTen" in names
