"""The summary holds what follows from the records of a run."""

import pytest

from evaluation.analysis.metrics import UNITS
from evaluation.analysis.summary import Row, summarise
from evaluation.analysis.table import columns
from evaluation.records.runs import load_run
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.synthetic import (
    FRONTIER_BYTES,
    HISTORY_BYTES_PER_LAYER,
    Synthetic,
    clocks,
    edit,
    record_path,
    refused,
)

PAIRS = SyntheticPairs(rounds=6, layers=(1, 10), ready=lambda which: 0.63 if which.method == "djinn" else 0.6)
SMALL = Synthetic(layers=(1, 10), samples=30, pairs=PAIRS)


def rows_of(folder):
    """The summary of the run in ``folder``."""
    return summarise(load_run(folder))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The summary of a small GPU run."""
    return rows_of(SMALL.write(tmp_path_factory.mktemp("small") / "local"))


def find(rows, **key):
    """The one row that fits ``key``."""
    found = [row for row in rows if all(getattr(row, k) == v for k, v in key.items())]
    assert len(found) == 1, (key, found)
    return found[0]


def test_columns_metrics_and_units_are_the_published_ones(rows):
    """The interface that the paper's tools and other people's read."""
    wanted = "run workload method variant layer metric headline median ci_low ci_high p05 p95 min n unit"
    assert columns(Row) == wanted.split()
    assert {(row.metric, row.unit) for row in rows} == set(UNITS.items())
    assert {(row.method, row.variant) for row in rows if row.headline} == {
        ("vanilla", "default"),
        ("recompute", "default"),
        ("manual_offload", "pinned"),
        ("djinn", "default"),
    }


def test_rows_are_in_the_order_of_the_study(rows):
    """Workloads, then methods, layers, the primary variant first, and metrics."""
    rows = [row for row in rows if not row.metric.startswith("paired")]
    places = [(row.workload, row.method, row.layer, row.variant) for row in rows]
    assert list(dict.fromkeys(places)) == [
        (workload, method, layer, variant)
        for workload, ordered in (("activation", []), ("session", ["ordered"]))
        for method in SMALL.methods
        for layer in SMALL.layers
        for variant in {"manual_offload": ["pinned", *ordered, "pageable"], "djinn": ["default", "kept"]}.get(
            method, ["default"]
        )
    ]
    metrics = list(UNITS)
    for place in dict.fromkeys(places):
        own = [row.metric for row, where in zip(rows, places, strict=True) if where == place]
        assert own == sorted(own, key=metrics.index)


def test_numbers_by_hand(rows):
    """Samples of 0.63 ms spread evenly by 1 %: median, the 10th and 21st of 30, quantiles and minimum."""
    row = find(rows, workload="session", method="djinn", variant="default", layer=10, metric="ready_ms")
    step = 0.63 * 0.01 / 29
    assert row.median == pytest.approx(0.63, rel=1e-5)
    assert (row.ci_low, row.ci_high) == pytest.approx((0.63 - 5.5 * step, 0.63 + 5.5 * step), rel=1e-5)
    assert (row.p05, row.p95) == pytest.approx((0.63 * 0.9955, 0.63 * 1.0045), rel=1e-5)
    assert (row.min, row.n, row.unit) == (pytest.approx(0.63 * 0.995, rel=1e-5), 30, "ms")


def test_pairs_give_ratios_and_differences_by_layer_and_pooled(rows):
    """0.63 ms over 0.6 and 0.03 ms apart in each form of Djinn; the frame of reference is named in pairs.csv."""
    for variant in ("default", "kept", "attended", "kept_attended"):
        for layer in (1, 10, None):
            key = {"workload": "session", "method": "djinn", "variant": variant, "layer": layer}
            ratio, apart = (find(rows, **key, metric=metric) for metric in ("paired_ready_ratio", "paired_ready_ms"))
            assert (ratio.median, ratio.ci_low, ratio.ci_high) == pytest.approx((1.05, 1.05, 1.05))
            assert (apart.median, apart.unit) == (pytest.approx(0.03), "ms")
            assert ratio.n == (12 if layer is None else 6)
            assert ratio.headline == (variant == "default")
    assert not any(row.metric == "paired_next_token_ms" and row.workload == "activation" for row in rows)


def test_floors(rows):
    """Offload: the raw copy timed beside it. Recompute: 10^13 operations at 500 TFLOPS are 20 ms. Vanilla: none."""
    floors = [row for row in rows if row.metric == "floor_ms" and row.layer == 10]
    medians = {(row.method, row.variant): row.median for row in floors if row.workload == "activation"}
    assert medians == pytest.approx(
        {
            ("recompute", "default"): 20,
            ("manual_offload", "pinned"): 0.5,
            ("manual_offload", "pageable"): 0.5,
            ("djinn", "default"): 0.5,
            ("djinn", "kept"): 0.5,
        }
    )


def test_bytes_are_those_of_the_cells(rows):
    """Each cell of each round once: one value, of which there is no interval."""
    for metric, nbytes in (
        ("state_bytes", FRONTIER_BYTES + 10 * HISTORY_BYTES_PER_LAYER),
        ("frontier_bytes", FRONTIER_BYTES),
    ):
        row = find(rows, workload="session", method="djinn", variant="default", layer=10, metric=metric)
        assert (row.median, row.ci_low, row.ci_high, row.ends, row.n) == (nbytes, None, None, (nbytes, nbytes), 1)


@pytest.mark.parametrize("rounds", [3, 6])
def test_rounds_are_processes(tmp_path, rounds):
    """All samples make n. Three have a range and no interval; an interval of six reaches the slow half of them."""
    folder = Synthetic(layers=(1,), rounds=rounds, samples=10).write(tmp_path / "local")
    for number in range(rounds // 2 + 1, rounds + 1):
        edit(
            record_path(folder, "djinn", 1, number),
            lambda record: [s.update(clocks(1.0)) for s in record["cells"][0]["samples"]],
        )
    place = ("activation", "djinn", "default")
    found = {row.metric: row for row in rows_of(folder) if (row.workload, row.method, row.variant) == place}
    assert (found["ready_ms"].n, found["state_bytes"].n) == (10 * rounds, rounds)
    row = found["ready_ms"]
    if rounds == 3:
        assert (row.is_range, row.ci_low, row.ci_high, row.ends) == (True, None, None, (row.min, row.p95))
    else:
        assert not row.is_range
        assert row.ci_low < 0.64
        assert row.ends[1] == row.ci_high > 0.99


def test_a_functional_run_has_no_device_bytes_and_no_recompute_floor(tmp_path):
    """What a CPU cannot tell has no row, instead of a zero."""
    rows = rows_of(Synthetic(functional=True, layers=(1,), samples=6).write(tmp_path / "local"))
    assert not [row for row in rows if row.metric == "device_bytes_paused"]
    assert not [row for row in rows if row.metric == "floor_ms" and row.method == "recompute"]
    assert [row for row in rows if row.metric == "host_bytes_paused"]


FEW = Synthetic(layers=(1, 10), samples=6)


def test_a_refused_cell_stays_visible(tmp_path):
    """Out of memory: one row, ready_ms, n = 0 and no numbers."""

    def refuse(record):
        refused(record["cells"][1])

    folder = FEW.write(tmp_path / "local")
    edit(record_path(folder, "djinn", 10), refuse)
    row = find(rows_of(folder), workload="activation", method="djinn", variant="kept", layer=10)
    assert (row.metric, row.n) == ("ready_ms", 0)
    assert {row.median, row.ci_low, row.ci_high, row.p05, row.p95, row.min} == {None}


def test_a_changed_record_changes_its_rows_and_no_others(tmp_path):
    """Halving Djinn's ready at one cell shows in ready_ms of that cell."""
    folder = FEW.write(tmp_path / "local")
    before = rows_of(folder)

    def halve(record):
        for sample in record["cells"][0]["samples"]:
            sample["ready_ms"] /= 2

    edit(record_path(folder, "djinn", 10), halve)
    changed = [(old, new) for old, new in zip(before, rows_of(folder), strict=True) if old != new]
    assert {(new.workload, new.method, new.layer, new.metric) for _, new in changed} == {
        ("activation", "djinn", 10, "ready_ms"),
    }
    assert all(new.median == pytest.approx(old.median / 2, rel=1e-5) for old, new in changed)
