"""From raw records to ``summary.csv`` and four tables beside it, in one folder, usually ``results``.

The summary has one row per run, workload, method, variant, layer and metric; the others see
:mod:`evaluation.analysis.outcomes`.

The samples of all rounds of a cell are pooled; ratios are taken from pairs and their interval is resampled
over rounds, as each is a process. A cell for which the device had no room keeps one row, ``ready_ms`` with n
= 0 and no numbers.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluation.analysis.outcomes import (
    Capability,
    Capacity,
    Crossing,
    PeerMetric,
    Resumes,
    capabilities,
    capacities,
    crossings,
    peer_metrics,
    resumes,
    write_outcomes,
)
from evaluation.analysis.statistics import Interval, median_interval, quantile, ratio_interval
from evaluation.analysis.summary import UNITS, Row, write_summary
from evaluation.records.runs import Json, Run, RunError, load_run

_OF_CELLS = ("frontier_bytes", "state_bytes")
# Metric of pairs: the clock, and the partners that it is compared with, the best that there is first.
PAIRED = {
    "paired_ratio": ("ready_ms", ("pinned_ordered", "pinned")),
    "paired_first_kernel_ratio": ("first_kernel_ms", ("pinned_ordered", "pinned")),
    "paired_resident_ratio": ("resident_ms", ("pinned_identical",)),
}
_RATES = {"bfloat16": "matrix_tflops_bf16", "float16": "matrix_tflops_fp16", "float32": "matrix_tflops_fp32"}

# Cells of one workload, method, variant and layer, one per round.
Rounds = Sequence[Json]


def summarise(runs: Iterable[Run]) -> list[Row]:
    """All rows of ``runs``, in an order that depends on what they hold and not on how they are passed."""
    rows = []
    for run in sorted(runs, key=lambda run: run.name):
        for (method, layer), records in _by_method_and_layer(run).items():
            for rounds in _cells(records):
                rows += _cell_rows(run, method, layer, rounds)
    workloads = {(run.name, w["name"]): i for run in runs for i, w in enumerate(run.study["workloads"])}
    return sorted(rows, key=lambda row: (row.run, workloads.get((row.run, row.workload), len(workloads))))


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
    rows = {}
    for metric in UNITS:
        if metric not in PAIRED and (values := _values(measured, metric, run)):
            rows[metric] = _row(place, metric, values, median_interval(values))
    for metric, (clock, partners) in PAIRED.items():
        if pairs := pairs_of(measured, clock, partners):
            ratios = [own / partner for own, partner, _ in pairs]
            interval = ratio_interval([pair[:2] for pair in pairs], [pair[2] for pair in pairs])
            rows[metric] = _row(place, metric, ratios, interval)
    return [rows[metric] for metric in UNITS if metric in rows]


def _row(place: Json, metric: str, values: list[float], interval: Interval | None) -> Row:
    return Row(
        **place,
        metric=metric,
        median=interval.median if interval else None,
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        p05=quantile(values, 0.05) if values else None,
        p95=quantile(values, 0.95) if values else None,
        min=float(min(values)) if values else None,
        n=len(values),
        unit=UNITS[metric],
    )


def _values(measured: Rounds, metric: str, run: Run) -> list[float]:
    """What all rounds measured of ``metric``; empty where the method or the device has no such thing."""
    if metric in _OF_CELLS:
        return [cell[metric] for cell in measured]
    values = [sample[metric] for cell in measured for sample in cell["samples"] if sample[metric] is not None]
    if metric == "floor_ms" and not values:
        return _recompute_floor_ms(measured, run)
    return values


def _recompute_floor_ms(measured: Rounds, run: Run) -> list[float]:
    """Time that the repeated operations take at the matrix rate which the probe measured on this machine."""
    ceilings = run.machine.get("ceilings", {})
    rate = ceilings.get(_RATES.get(run.study["model"]["dtype"], ""), {}).get("median")
    flops = measured[0]["recompute_flops"]
    if rate is None or flops is None:
        return []
    return [flops / (rate * 1e12) * 1e3]


def pairs_of(measured: Rounds, clock: str, choice: Sequence[str]) -> list[tuple[float, float, int]]:
    """Djinn's ``clock`` and its partner's in ms, and the round (from 0); empty without a partner.

    The partner is the first of ``choice`` that was run.
    """
    ran = {variant for cell in measured for sample in cell["samples"] for variant in sample["paired"] or {}}
    best = next((variant for variant in choice if variant in ran), None)
    return [
        (sample[clock], sample["paired"][best][clock], number)
        for number, cell in enumerate(measured)
        for sample in cell["samples"]
        if sample["paired"] and best in sample["paired"]
    ]


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for a run that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.analysis.aggregate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="results/local or results/published/NAME")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the tables, usually results")
    arguments = parser.parse_args()
    try:
        runs = [load_run(directory) for directory in arguments.runs]
        names = [run.name for run in runs]
        if len(set(names)) != len(names):
            raise RunError(f"two runs of the same name: {', '.join(sorted(names))}")
        write_summary(arguments.out / "summary.csv", summarise(runs))
        write_outcomes(arguments.out / "capacity.csv", Capacity, capacities(runs))
        write_outcomes(arguments.out / "capabilities.csv", Capability, capabilities(runs))
        write_outcomes(arguments.out / "sweep.csv", Crossing, crossings(runs))
        write_outcomes(arguments.out / "load.csv", Resumes, resumes(runs))
        write_outcomes(arguments.out / "peers.csv", PeerMetric, peer_metrics(runs))
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
