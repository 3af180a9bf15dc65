"""The table of round trips: which times of which form, their sums, and what an older run has of it."""

import pytest

from evaluation.analysis.round_trips import RoundTrip, round_trips
from tests.evaluation.papers import Results
from tests.evaluation.round_trips import FORMS, put_round_trips, times
from tests.evaluation.synthetic import Synthetic


@pytest.fixture
def results(tmp_path):
    """A run of every form."""
    return Results.make(tmp_path, Synthetic(layers=(1,), samples=1))


def test_the_table_holds_every_form_and_its_sums(results):
    """Pause is stop and pause, the total also edit and usable; a pause at a first site costs the search."""
    put_round_trips(results.folder)
    results.aggregate()
    rows = results.material().rows("editing", RoundTrip)
    metrics = ["stop_ms", "pause_ms", "edit_ms", "ready_ms", "usable_ms", "paused_ms", "total_ms", "longest_ms"]
    assert [row.metric for row in rows] == metrics * len(FORMS)
    found = {(row.method, row.variant, row.site, row.metric): (row.median, row.n) for row in rows}
    assert found["djinn", "default", "known", "paused_ms"] == (31, 6)
    assert found["djinn", "default", "first", "paused_ms"] == (86, 6)
    assert found["djinn", "default", "first", "total_ms"] == (86 + 0.5 + 60, 6)
    assert found["djinn", "kept", "first", "longest_ms"] == (55.5, 3)
    assert ("vanilla", "default", "first", "paused_ms") not in found
    assert {(row.run, row.workload, row.layer) for row in rows} == {("local", "session", 20)}


def test_an_older_run_has_an_empty_table(results):
    """Its study does not ask for round trips."""
    assert round_trips(results.run()) == []
    assert results.material().rows("editing", RoundTrip) == []


def test_the_sum_is_of_each_sample(results):
    """Not of medians: what one step gains another loses in the same round trip."""
    count = iter(range(1000))

    def uneven(form):
        shift = next(count) % 3
        return {**times(form), "edit_ms": 1.0 + shift, "usable_ms": 60.0 - shift}

    put_round_trips(results.folder, times=uneven)
    results.aggregate()
    rows = results.material().rows("editing", RoundTrip)
    totals = {row.median for row in rows if (row.method, row.metric, row.site) == ("djinn", "total_ms", "known")}
    assert totals == {31 + 61}
    assert all(row.ci_low == row.ci_high for row in rows if row.metric == "total_ms")
