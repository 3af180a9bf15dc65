"""The power of pairs: the whole rule on simulated runs, by the interval that decides."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.analysis.power import median_ends, powers, simulated
from evaluation.analysis.statistics import process_median
from evaluation.records.runs import load_run
from tests.evaluation.claims.decided import GOOD, paired
from tests.evaluation.paired import pairs_path, without_room
from tests.evaluation.synthetic import edit


@pytest.mark.parametrize("processes", [6, 7, 8, 12])
def test_the_ends_are_those_of_the_interval_that_decides(processes):
    """Of processes in the order of their values it draws the same, and so has the same ends."""
    rows = np.random.default_rng(processes).normal(1, 0.02, size=(5, processes))
    lows, highs = median_ends(rows, np.random.default_rng(0))
    for row, low, high in zip(rows, lows, highs, strict=True):
        known = process_median([[[value] for value in sorted(row)]])
        assert (low, high) == pytest.approx((known.low, known.high), abs=1e-3)


def test_a_wider_spread_decides_less_and_more_processes_more():
    """Of 1 % both are always decided. Of 8 % hardly a run is, and of sixteen processes more are than of six."""
    logs = np.random.default_rng(1).normal(size=(8, 6))
    assert simulated(logs / 100, 8)[1:] == (1, 1)
    assert simulated(logs * 0.08, 8)[1] < 0.1
    assert simulated(logs * 0.03, 6)[1] < simulated(logs * 0.03, 16)[1]
    assert simulated(logs * 0.03, 8) == simulated(logs * 0.03, 8)
    with pytest.raises(ValueError, match="5 processes have no interval"):
        simulated(logs, 5)


def test_a_run_gives_its_own_spread(tmp_path):
    """Processes at 0.97 and 1.03: a standard deviation of 3.3 %. One whose pairs are too few, or old, gives nothing."""

    def ready(which):
        return (
            0.6 * (1.03 if which.round % 2 else 0.97) if which.method == "djinn" and which.keeps == "nothing" else None
        )

    run = load_run(paired(ready).write(tmp_path / "local"))
    (row,) = (one for one in powers(run, [8]) if (one.workload, one.clock) == ("session", "ready"))
    assert row.spread == pytest.approx(np.log([1.03, 0.97] * 3).std(ddof=1))
    for name, recipe in (
        ("five", replace(GOOD, pairs=replace(GOOD.pairs, rounds=5))),
        ("none", replace(GOOD, pairs=None)),
    ):
        assert powers(load_run(recipe.write(tmp_path / name / "local"))) == []


def test_a_layer_without_room_in_one_process_gives_no_row_of_its_workload(tmp_path):
    """Layers of unequal numbers of processes have no covariance; the other workloads have theirs."""
    recipe = replace(GOOD, pairs=replace(GOOD.pairs, rounds=8))
    folder = recipe.write(tmp_path / "local")
    edit(pairs_path(folder, 2), lambda record: without_room(record, "session", 39))
    run = load_run(folder)
    assert {one.workload for one in powers(run, [8])} == {one["name"] for one in run.study["workloads"]} - {"session"}
