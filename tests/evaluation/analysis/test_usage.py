"""The tables of waits and of neighbours hold what the raw samples say."""

import pytest

from evaluation.analysis.neighbours import disturbances
from evaluation.analysis.waits import FLOOR, waits
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic
from tests.evaluation.usage_cells import USAGE, ready_after

METHODS = ("manual_offload", "djinn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with both records."""
    recipe = Synthetic(layers=(20,), samples=2, methods=METHODS, beside=USAGE)
    return Results.make(tmp_path_factory.mktemp("usage"), recipe).run()


def test_each_form_has_its_clocks_after_each_wait(run):
    """Medians and the range of what was sampled; a clock that nobody took has no row."""
    rows = {(row.workload, row.form, row.think_time_ms, row.metric): row for row in waits(run)}
    assert len(rows) == len(waits(run)) == 2 * (3 * 2 * 4 + 2) + 3 * 2
    for number, form in enumerate((("djinn", "default"), ("djinn", "kept"), ("manual_offload", "pinned"))):
        ready = rows["activation", form, 0, "ready_ms"]
        assert ready.n == 4
        assert ready.median == pytest.approx(ready_after(number, 0, 1) + 0.01)
        assert (ready.ci_low, ready.ci_high) == (ready_after(number, 0, 0), ready_after(number, 0, 3))
        late = rows["session", form, 200, "ready_ms"]
        assert (late.n, late.median) == (2, pytest.approx(ready_after(number, 200, 0) + 0.01))
    assert rows["activation", ("djinn", "kept"), 0, "ready_ms"].keeps == "frontier"


def test_the_floor_of_a_wait_is_the_raw_copy_after_it(run):
    """Not that after another."""
    floors = [(row.think_time_ms, row.median, row.n) for row in waits(run) if row.method == FLOOR]
    assert floors == 2 * [(0, 0.9, 4), (200, pytest.approx(1.1), 2)]


def test_what_a_neighbour_loses_is_told_by_the_half_s_undisturbed_window(run):
    """Rates, shares of them, and milliseconds for each step; the times of swaps by who computes.

    A step or a swap that ended after the neighbour's last token does not count.
    """
    rows = {(row.method, row.window, row.metric): row for row in disturbances(run)}
    djinn = {key[1:]: row.median for key, row in rows.items() if key[0] == "djinn"}
    assert djinn == pytest.approx(
        {
            ("undisturbed", "tokens_per_s"): 100,
            ("steps", "tokens_per_s"): 50,
            ("steps", "relative_rate"): 0.5,
            ("steps", "cost_ms"): 8 * 10 / 4,
            ("swaps", "tokens_per_s"): 100 / 3,
            ("swaps", "relative_rate"): 1 / 3,
            ("swaps", "cost_ms"): 8 * 20 / 2,
            ("swaps", "pause_ms"): 5,
            ("swaps", "ready_ms"): 2,
            ("alone", "pause_ms"): 5,
            ("alone", "ready_ms"): 1,
        }
    )
    assert rows["manual_offload", "steps", "cost_ms"].median == pytest.approx(2 * 20)
    assert rows["djinn", "swaps", "ready_ms"].n == 4
    assert rows["djinn", "swaps", "cost_ms"].n == 2


def test_an_older_run_has_no_rows(tmp_path):
    """It is readable all the same."""
    old = Results.make(tmp_path, Synthetic(layers=(20,), samples=2, methods=METHODS)).run()
    assert waits(old) == disturbances(old) == []
