"""The summary holds what follows from the records, and the same bytes every time."""

import csv
import sys

import pytest

from evaluation.analysis.aggregate import main
from evaluation.analysis.summary import COLUMNS, UNITS, TableError, read_summary
from tests.evaluation.synthetic import FRONTIER_BYTES, HISTORY_BYTES_PER_LAYER, Synthetic, edit, record_path

SMALL = Synthetic(layers=(1, 10), samples=30)


@pytest.fixture
def aggregate(monkeypatch):
    """Run the command line on run folders; the summary becomes ``out``. Returns its exit status."""

    def run(out, *folders):
        tables = out.parent / f"tables_{out.stem}"
        monkeypatch.setattr(sys, "argv", ["aggregate", "--out", str(tables), *map(str, folders)])
        status = main()
        if status == 0:
            (tables / "summary.csv").replace(out)
        return status

    return run


@pytest.fixture
def folder(tmp_path):
    """A small valid GPU run."""
    return SMALL.write(tmp_path / "local")


def find(path, **key):
    """The one row of the table at ``path`` that fits ``key``."""
    rows = [row for row in read_summary(path) if all(getattr(row, k) == v for k, v in key.items())]
    assert len(rows) == 1, (key, rows)
    return rows[0]


def test_columns_metrics_and_units_are_the_published_ones(tmp_path, folder, aggregate):
    """The interface that the paper's tools and other people's read."""
    assert aggregate(tmp_path / "s.csv", folder) == 0
    with (tmp_path / "s.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    wanted = "run workload method variant layer metric headline median ci_low ci_high p05 p95 min n unit"
    assert tuple(wanted.split()) == COLUMNS == tuple(rows[0])
    assert {(row["metric"], row["unit"]) for row in rows} == set(UNITS.items())
    headlines = {(row["method"], row["variant"]) for row in rows if row["headline"] == "true"}
    assert headlines == {
        ("vanilla", "default"),
        ("recompute", "default"),
        ("manual_offload", "pinned"),
        ("djinn", "default"),
    }


def test_numbers_by_hand(tmp_path, folder, aggregate):
    """Samples of 0.63 ms spread evenly by 1 %: median, the 10th and 21st of 30, quantiles and minimum."""
    aggregate(tmp_path / "s.csv", folder)
    row = find(tmp_path / "s.csv", workload="session", method="djinn", layer=10, metric="ready_ms")
    step = 0.63 * 0.01 / 29
    assert row.median == pytest.approx(0.63, rel=1e-5)
    assert (row.ci_low, row.ci_high) == pytest.approx((0.63 - 5.5 * step, 0.63 + 5.5 * step), rel=1e-5)
    assert (row.p05, row.p95) == pytest.approx((0.63 * 0.9955, 0.63 * 1.0045), rel=1e-5)
    assert (row.min, row.n, row.unit) == (pytest.approx(0.63 * 0.995, rel=1e-5), 30, "ms")


def test_the_ratio_is_taken_to_the_best_hand_written_form(tmp_path, folder, aggregate):
    """To the bulk copy where there is no history, to the ordered one where there is: 0.63 / 0.64 in both,
    though the bulk copy of the session takes 8.24 ms.
    """
    aggregate(tmp_path / "s.csv", folder)
    for workload in ("activation", "session"):
        key = {"workload": workload, "method": "djinn", "layer": 10}
        assert find(tmp_path / "s.csv", **key, metric="paired_ratio").median == pytest.approx(0.63 / 0.64, rel=1e-5)
        first = find(tmp_path / "s.csv", **key, metric="paired_first_kernel_ratio").median
        assert first == pytest.approx(0.73 / 0.74, rel=1e-4)


def test_floors(tmp_path, folder, aggregate):
    """Offload: the raw copy timed beside it. Recompute: 10^13 operations at 500 TFLOPS are 20 ms. Vanilla: none."""
    aggregate(tmp_path / "s.csv", folder)
    floors = [row for row in read_summary(tmp_path / "s.csv") if row.metric == "floor_ms" and row.layer == 10]
    medians = {(row.method, row.variant): row.median for row in floors if row.workload == "activation"}
    assert medians == pytest.approx(
        {
            ("recompute", "default"): 20,
            ("manual_offload", "pinned"): 0.5,
            ("manual_offload", "pageable"): 0.5,
            ("djinn", "default"): 0.5,
        }
    )


def test_bytes_are_whole_and_exact(tmp_path, folder, aggregate):
    """No digit of a byte count is rounded away."""
    aggregate(tmp_path / "s.csv", folder)
    text = (tmp_path / "s.csv").read_text()
    state = FRONTIER_BYTES + 10 * HISTORY_BYTES_PER_LAYER
    assert f"session,djinn,default,10,state_bytes,true,{state},{state},{state}" in text
    assert f"session,djinn,default,10,frontier_bytes,true,{FRONTIER_BYTES}," in text


def test_rounds_are_pooled(tmp_path, aggregate):
    """Three rounds of 30 samples make n = 90, and the state was seen three times."""
    folder = Synthetic(layers=(1,), rounds=3).write(tmp_path / "local")
    edit(
        record_path(folder, "djinn", 1, 3),
        lambda record: [s.update(ready_ms=1.0) for s in record["cells"][0]["samples"]],
    )
    aggregate(tmp_path / "s.csv", folder)
    key = {"workload": "activation", "method": "djinn", "layer": 1}
    assert find(tmp_path / "s.csv", **key, metric="ready_ms").n == 90
    assert find(tmp_path / "s.csv", **key, metric="state_bytes").n == 3
    ratio = find(tmp_path / "s.csv", **key, metric="paired_ratio")
    assert ratio.ci_high > 1.5  # two of three drawn processes may be the slow one


def test_a_functional_run_has_no_device_bytes_and_no_recompute_floor(tmp_path, aggregate):
    """What a CPU cannot tell has no row, instead of a zero."""
    folder = Synthetic(functional=True, layers=(1,), samples=6).write(tmp_path / "local")
    aggregate(tmp_path / "s.csv", folder)
    rows = read_summary(tmp_path / "s.csv")
    assert not [row for row in rows if row.metric == "device_bytes_paused"]
    assert not [row for row in rows if row.metric == "floor_ms" and row.method == "recompute"]
    assert [row for row in rows if row.metric == "host_bytes_paused"]


def test_a_refused_cell_stays_visible(tmp_path, folder, aggregate):
    """Out of memory: one row, ready_ms, n = 0 and no numbers."""

    def refuse(record):
        record["cells"][1].update(outcome="out_of_memory", message="no room", samples=[], state_bytes=0)

    edit(record_path(folder, "djinn", 10), refuse)
    aggregate(tmp_path / "s.csv", folder)
    row = find(tmp_path / "s.csv", workload="session", method="djinn", layer=10)
    assert (row.metric, row.n) == ("ready_ms", 0)
    assert {row.median, row.ci_low, row.ci_high, row.p05, row.p95, row.min} == {None}


def test_the_same_records_give_the_same_bytes(tmp_path, folder, aggregate):
    """Twice in a row, and whatever the order in which two runs are named."""
    other = Synthetic(functional=True, layers=(1,), samples=6).write(tmp_path / "another")
    aggregate(tmp_path / "a.csv", folder, other)
    aggregate(tmp_path / "b.csv", other, folder)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_changed_record_changes_its_rows_and_no_others(tmp_path, folder, aggregate):
    """Doubling Djinn's ready at one cell shows in ready_ms and paired_ratio of that cell."""
    aggregate(tmp_path / "before.csv", folder)

    def double(record):
        for sample in record["cells"][0]["samples"]:
            sample["ready_ms"] *= 2

    edit(record_path(folder, "djinn", 10), double)
    aggregate(tmp_path / "after.csv", folder)
    before, after = read_summary(tmp_path / "before.csv"), read_summary(tmp_path / "after.csv")
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {(new.workload, new.method, new.layer, new.metric) for _, new in changed} == {
        ("activation", "djinn", 10, "ready_ms"),
        ("activation", "djinn", 10, "paired_ratio"),
    }
    assert all(new.median == pytest.approx(2 * old.median, rel=1e-5) for old, new in changed)


def test_a_run_that_cannot_be_used_leaves_the_old_table(tmp_path, folder, aggregate, capsys):
    """Exit status 2, one line that names the file, and the summary as it was."""
    aggregate(tmp_path / "s.csv", folder)
    before = (tmp_path / "s.csv").read_bytes()
    record_path(folder, "vanilla", 1).write_text("{")
    assert aggregate(tmp_path / "s.csv", folder) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "vanilla/layer_1/round_1.json" in message
    assert (tmp_path / "s.csv").read_bytes() == before


def test_two_runs_of_one_name_are_refused(tmp_path, folder, aggregate, capsys):
    """Their rows could not be told apart."""
    assert aggregate(tmp_path / "s.csv", folder, SMALL.write(tmp_path / "x" / "local")) == 2
    assert "two runs of the same name" in capsys.readouterr().err


def test_a_damaged_summary_is_refused(tmp_path, folder, aggregate):
    """Other columns, or a cell that is no number, raise with the line."""
    path = tmp_path / "s.csv"
    aggregate(path, folder)
    text = path.read_text()
    path.write_text(text.replace(",min,", ",minimum,", 1))
    with pytest.raises(TableError, match="columns"):
        read_summary(path)
    path.write_text(text.replace("ready_ms,true,", "ready_ms,true,x", 1))
    with pytest.raises(TableError, match="line 2 "):
        read_summary(path)
