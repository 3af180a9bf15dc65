"""Resumes among paused sessions: from the samples of a run to its rows, and to what decides whether it is flat."""

import csv
import json

import numpy as np
import pytest

from evaluation.analysis.resumes import Resumes, by_paused, growth
from evaluation.analysis.table import TableError
from evaluation.text.numbers import numbers
from evaluation.text.numbers_of_use import Tables
from tests.evaluation.papers import Results
from tests.evaluation.side_cells import put_cells
from tests.evaluation.synthetic import Synthetic, write


def cell(sessions, ready, *, paused=None, outcome="ok", count=100, by_hand=None):
    """A cell of ``count`` resumes around ``ready`` ms, from 0.9 to 1.1 of it, in no order; resident 40 times that.

    Where ``by_hand`` is given, a resume by hand beside each takes that part of its time.
    """
    factors = np.random.default_rng(sessions).permutation(np.linspace(0.9, 1.1, count)).tolist()
    times = [{"ready_ms": ready * factor, "resident_ms": 40 * ready * factor} for factor in factors]
    samples = [{"session": 0, "bit_exact": True, **clocks} for clocks in times]
    if by_hand is not None:
        for number, (sample, clocks) in enumerate(zip(samples, times, strict=True)):
            theirs = {clock: value * by_hand for clock, value in clocks.items()}
            sample |= {"djinn_first": number % 2 == 0, "by_hand": theirs}
    return {
        "sessions": sessions,
        "paused": sessions if paused is None else paused,
        "outcome": outcome,
        "samples": samples,
    }


def add(results, cells):
    """Make ``cells`` the run's record of load, and the tables anew."""
    put_cells(results.folder, "load.json", cells)
    results.aggregate()


CELLS = [cell(1, 0.6), cell(64, 0.9, count=500), cell(8, 0.7), cell(128, 1.0, paused=40, outcome="host_full")]
RECIPE = Synthetic(layers=(1,), samples=2, beside={"load.json": CELLS})


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run with three numbers of sessions, and one for which the host had room for 40; no test changes it."""
    return Results.make(tmp_path_factory.mktemp("load"), RECIPE)


@pytest.fixture
def results(tmp_path):
    """The same, which a test may change."""
    return Results.make(tmp_path, RECIPE)


def rows_of(results):
    return results.material().rows("load", Resumes)


def test_rows_are_of_the_samples(shared):
    """Two clocks of each cell: median, its rank interval, and the percentiles of all resumes."""
    with shared.summary.with_name("load.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("run", "sessions", "paused", "outcome", "method", "variant", "metric"),
        *("median", "ci_low", "ci_high", "p95", "p95_low", "p95_high", "p99", "p99_low", "p99_high", "n", "unit"),
    ]
    keys = [(row["sessions"], row["paused"], row["outcome"], row["metric"], row["n"], row["unit"]) for row in rows]
    assert keys == [
        (sessions, paused, outcome, metric, n, "ms")
        for sessions, paused, outcome, n in (
            *(("1", "1", "ok", "100"), ("64", "64", "ok", "500"), ("8", "8", "ok", "100")),
            ("128", "40", "host_full", "100"),
        )
        for metric in ("ready_ms", "resident_ms")
    ]
    spread = np.sort(cell_values(shared, 0))
    ready = {name: float(rows[0][name]) for name in ("median", "ci_low", "ci_high", "p95", "p95_low", "p95_high")}
    assert ready == pytest.approx(
        {
            "median": 0.6,
            "ci_low": spread[39],  # of 100 values the 40th and the 61st
            "ci_high": spread[60],
            "p95": np.percentile(spread, 95),
            "p95_low": spread[90],
            "p95_high": spread[99],
        },
        rel=1e-5,
    )
    assert rows[0]["p99"] == rows[0]["p99_low"] == ""  # 100 resumes say nothing of it
    many = np.sort(cell_values(shared, 1))
    assert float(rows[2]["p99"]) == pytest.approx(np.percentile(many, 99), rel=1e-5)
    ends = [float(rows[2][name]) for name in ("p99_low", "p99_high")]
    assert ends == pytest.approx([many[490], many[499]], rel=1e-5)
    assert float(rows[1]["median"]) == pytest.approx(24.0)


def cell_values(results, index):
    record = json.loads((results.folder / "load.json").read_text())
    return [sample["ready_ms"] for sample in record["cells"][index]["samples"]]


def test_what_is_written_is_read(results):
    """Every row; a damaged one is refused by its line."""
    path = results.summary.with_name("load.csv")
    rows = rows_of(results)
    assert [(row.sessions, row.metric, row.n) for row in rows[:3]] == [
        (1, "ready_ms", 100),
        (1, "resident_ms", 100),
        (64, "ready_ms", 500),
    ]
    path.write_text(path.read_text().replace("local,8,8", "local,8,many"))
    with pytest.raises(TableError, match=r"load.csv: line 6 cannot be read: .*'many'"):
        rows_of(results)


def test_a_cell_in_which_nothing_could_be_paused_has_no_numbers(results):
    """Its rows are there, and are no point of a line."""
    add(results, [cell(1, 0.6), {**cell(64, 1.0), "paused": 0, "outcome": "host_full", "samples": []}])
    refused = rows_of(results)[2]
    assert (refused.paused, refused.outcome, refused.n, refused.median, refused.p99) == (0, "host_full", 0, None, None)
    assert [row.paused for row in by_paused(rows_of(results), "ready_ms")] == [1]


def test_points_are_of_what_was_paused(results):
    """Fewest first; where a full host stops two cells at the same number, the one with more resumes stands."""
    full = [
        cell(sessions, 1.0, paused=40, outcome="host_full", count=count) for sessions, count in ((64, 50), (96, 60))
    ]
    add(results, [cell(16, 0.7), *full, cell(1, 0.6)])
    found = by_paused(rows_of(results), "ready_ms")
    assert [(row.paused, row.sessions, row.n) for row in found] == [(1, 1, 100), (16, 16, 100), (40, 96, 60)]


def test_what_decides_whether_it_is_flat(shared):
    """The 95th percentile at 64 over the median at 1, whatever lies between; nothing to compare with one number."""
    rows = by_paused(rows_of(shared), "ready_ms")
    assert growth(rows, "p95") == pytest.approx(np.percentile(cell_values(shared, 1), 95) / 0.6, rel=1e-5)
    assert growth(rows, "median") == pytest.approx(1.5, rel=1e-5)
    assert growth(rows[:1], "p95") is None


def found(results):
    run = results.run()
    tables = Tables(load=rows_of(results))
    return {number.name: number for number in numbers(results.findings(), run.machine, run.study, tables)}


def test_numbers_follow_from_their_rows(shared):
    """Each names the table, the row and the column; ratios name both rows, above and below."""
    rows = {(row.sessions, row.metric): row for row in rows_of(shared)}
    mine = {name: number for name, number in found(shared).items() if name.startswith("DjinnLoad")}
    assert len(mine) == 2 * (4 * 6 + 3 + 2) + 4 + 2
    for name, number in mine.items():
        assert {source["file"] for source in number.source} == {"load.csv"}
        values = [getattr(rows[source["sessions"], source["metric"]], source["column"]) for source in number.source]
        expected = values[0] / values[1] if name.endswith("Ratio") else values[0]
        assert number.value == pytest.approx(expected, rel=1e-12), name
    assert mine["DjinnLoadReadyMsSessionsSixtyFour"].text == "0.900"
    assert mine["DjinnLoadReadyMsSessionsForty"].text == "1.00"  # so many were paused, whatever was asked for
    assert mine["DjinnLoadResumesSessionsSixtyFour"].text == "500"
    assert mine["DjinnLoadReadyMedianRatio"].text == "1.50"
    assert (mine["DjinnLoadFewestSessions"].value, mine["DjinnLoadMostSessions"].value) == (1, 64)


def test_copies_by_hand_have_rows_beside_djinn(results):
    """Their clocks, and Djinn's over theirs and less theirs, turn by turn, in the table and among the numbers."""
    add(results, [cell(1, 0.6, by_hand=0.8), cell(64, 0.9, by_hand=0.75)])
    rows = {(row.paused, row.method, row.variant, row.metric): row for row in rows_of(results)}
    assert {key[1:] for key in rows} == {
        *(("djinn", "default", metric) for metric in ("ready_ms", "resident_ms")),
        *(("manual_offload", "ordered", metric) for metric in ("ready_ms", "resident_ms")),
        *(
            ("djinn", "default", f"paired_{clock}_{unit}")
            for clock in ("ready", "resident")
            for unit in ("ms", "ratio")
        ),
    }
    mine = found(results)
    for paused, words, ready, part in ((1, "One", 0.6, 0.8), (64, "SixtyFour", 0.9, 0.75)):
        ratio = rows[paused, "djinn", "default", "paired_ready_ratio"]
        assert (ratio.median, ratio.n, ratio.unit) == (pytest.approx(1 / part, rel=1e-5), 100, "ratio")
        difference = rows[paused, "djinn", "default", "paired_ready_ms"]
        assert difference.median == pytest.approx(ready * (1 - part), rel=1e-5)
        assert mine[f"ManualOffloadLoadReadyMsSessions{words}"].value == pytest.approx(ready * part, rel=1e-5)
        tail = rows[paused, "manual_offload", "ordered", "ready_ms"].p95
        assert mine[f"ManualOffloadLoadReadyMsSessions{words}PNinetyFive"].value == tail
        assert mine[f"DjinnLoadPairedReadyRatioSessions{words}Low"].value == pytest.approx(1 / part, rel=1e-5)
        assert mine[f"DjinnLoadPairedReadyDifferenceMsSessions{words}"].value == difference.median
    assert len(by_paused(rows_of(results), "ready_ms")) == 2


def test_a_run_without_load_has_no_such_number(results):
    """So that prose about it does not compile."""
    add(results, [])
    assert not [name for name in found(results) if "Load" in name]
    write(results.folder / "load.json", {})
    (results.folder / "load.json").unlink()
    results.aggregate()
    assert rows_of(results) == []
