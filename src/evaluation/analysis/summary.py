"""The summary of a run: one row per workload, method, variant, layer and metric.

The samples of all rounds of a cell are pooled. Pairs give ratios and differences, of Djinn and the strongest form by
hand. Each round is a process: intervals are over six of them or more, or over six samples or more of the only one. Else
there is a range and no interval, and ``ci_low`` and ``ci_high`` are empty. A cell for which the device had no room
keeps one row, ``ready_ms`` with n = 0 and no numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from evaluation.analysis.metrics import UNITS
from evaluation.analysis.pairs import Compared, compared, difference_of, ratio_of
from evaluation.analysis.resampling import Groups
from evaluation.analysis.statistics import Interval, process_median, quantile
from evaluation.analysis.variants import PRIMARY
from evaluation.records.runs import Json, Run

_OF_CELLS = ("frontier_bytes", "state_bytes")
_RATES = {"bfloat16": "matrix_tflops_bf16", "float16": "matrix_tflops_fp16", "float32": "matrix_tflops_fp32"}

# Cells of one workload, method, variant and layer, one per round.
Rounds = Sequence[Json]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one cell, over all its samples; numbers are in ``unit``, and None in a cell without a sample.

    The fields are the columns. ``layer`` is None where all are pooled. ``headline`` marks the variant of a method that
    the paper leads with.
    """

    run: str
    workload: str
    method: str
    variant: str
    layer: int | None
    metric: str
    headline: bool
    median: float | None
    ci_low: float | None
    ci_high: float | None
    p05: float | None
    p95: float | None
    min: float | None
    n: int
    unit: str

    @property
    def breakpoint(self) -> int:
        """The layer of a row that is of one."""
        assert self.layer is not None
        return self.layer

    @property
    def is_range(self) -> bool:
        """Whether it has a median, but too few processes or samples for an interval."""
        return self.median is not None and self.ci_low is None

    @property
    def ends(self) -> tuple[float, float] | None:
        """Those of its interval, or of the range from the least to the 95th percentile; None without a sample."""
        low, high = (self.min, self.p95) if self.is_range else (self.ci_low, self.ci_high)
        return None if low is None or high is None else (low, high)


def summarise(run: Run) -> list[Row]:
    """All rows of ``run``: workload by workload in the order of the study, then as its records come, pairs last."""
    rows = [*sampled(run), *(row for one in compared(run) for row in _pair_rows(run, one))]
    workloads = [workload["name"] for workload in run.study["workloads"]]
    return sorted(rows, key=lambda row: workloads.index(row.workload))


def sampled(run: Run) -> list[Row]:
    """The rows of what was measured one method at a time."""
    return [
        row
        for (method, layer), records in _by_method_and_layer(run).items()
        for rounds in _cells(records)
        for row in _cell_rows(run, method, layer, rounds)
    ]


def _by_method_and_layer(run: Run) -> dict[tuple[str, int], list[Json]]:
    grouped: dict[tuple[str, int], list[Json]] = {}
    for record in run.records:
        grouped.setdefault((record["method"], record["layer"]), []).append(record)
    return grouped


def _cells(records: list[Json]) -> Iterable[Rounds]:
    """Cells of ``records``, the rounds of one job, grouped by workload and variant; headline first."""
    grouped: dict[tuple[str, str], list[Json]] = {}
    for record in records:
        for cell in record["cells"]:
            grouped.setdefault((cell["workload"], cell["variant"]), []).append(cell)
    return sorted(grouped.values(), key=lambda rounds: (not rounds[0]["headline"], rounds[0]["variant"]))


def _cell_rows(run: Run, method: str, layer: int, rounds: Rounds) -> list[Row]:
    cell = rounds[0]
    place = {
        "run": run.name,
        "workload": cell["workload"],
        "method": method,
        "variant": cell["variant"],
        "layer": layer,
        "headline": cell["headline"],
    }
    measured = [cell for cell in rounds if cell["samples"]]
    if not measured:
        return [_row(place, "ready_ms", [], None)]
    rows = []
    for metric in UNITS:
        if taken := [process for process in _values(measured, metric, run) if process]:  # all of one sitting
            rows.append(_row(place, metric, _all_of([taken]), process_median([taken])))
    return rows


def _pair_rows(run: Run, one: Compared) -> Iterator[Row]:
    """Ratio and difference of a form of Djinn at each layer, then of all layers together."""
    for pairings in [*([pairing] for pairing in one.strongest), one.pooled]:
        if not pairings:
            continue
        djinn = pairings[0].djinn
        place = {
            "run": run.name,
            "workload": one.workload,
            "method": djinn.method,
            "variant": djinn.variant,
            "layer": pairings[0].layer if len(pairings) == 1 else None,
            "headline": djinn.variant == PRIMARY[djinn.method].name,
        }
        if ratio := ratio_of(pairings):
            yield _row(place, one.clock.ratio, _all_of(pairing.ratios for pairing in pairings), ratio)
        differences = _all_of(pairing.differences for pairing in pairings)
        yield _row(place, one.clock.difference, differences, difference_of(pairings))


def _all_of(layers: Iterable[Groups]) -> list[float]:
    return [float(value) for groups in layers for group in groups for value in group]


def _row(place: Json, metric: str, values: list[float], interval: Interval | None) -> Row:
    return Row(
        **place,
        metric=metric,
        median=interval.median if interval else None,
        ci_low=interval.ends[0] if interval else None,
        ci_high=interval.ends[1] if interval else None,
        p05=quantile(values, 0.05) if values else None,
        p95=quantile(values, 0.95) if values else None,
        min=float(min(values)) if values else None,
        n=len(values),
        unit=UNITS[metric],
    )


def _values(measured: Rounds, metric: str, run: Run) -> list[list[float]]:
    """What each round measured of ``metric``; empty lists where the method or the device has no such thing."""
    if metric in _OF_CELLS:
        return [[cell[metric]] for cell in measured]
    values = [[one[metric] for one in cell["samples"] if one.get(metric) is not None] for cell in measured]
    if metric == "floor_ms" and not any(values):
        return [_recompute_floor_ms(measured, run)]
    return values


def _recompute_floor_ms(measured: Rounds, run: Run) -> list[float]:
    """Time that the repeated operations take at the matrix rate which the probe measured on this machine."""
    ceilings = run.machine.get("ceilings", {})
    rate = ceilings.get(_RATES.get(run.study["model"]["dtype"], ""), {}).get("median")
    flops = measured[0]["recompute_flops"]
    if rate is None or flops is None:
        return []
    return [flops / (rate * 1e12) * 1e3]
