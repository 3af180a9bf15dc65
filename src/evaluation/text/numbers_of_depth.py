"""The numbers that Plot 1 shows at the layer that leads, of each workload.

Part of :mod:`evaluation.text.numbers`, whose docstring tells the names. They come from
:mod:`evaluation.analysis.depth`, as the figure's lines do.
"""

from collections.abc import Iterator, Sequence

from evaluation.analysis.depth import Depth, Time
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.variants import BY_KEY, KEPT, ORDERED, PRIMARY
from evaluation.records.runs import Json
from evaluation.text.macro import Number, camel, measured, plain

_KEPT_BY_HAND = tuple(f"{name}_{KEPT}" for name in ("ordered", "pinned"))
_BEST_BY_HAND = (ORDERED, PRIMARY["manual_offload"].name)


def numbers_of_depth(depth: Depth, run: str, workloads: Sequence[str]) -> Iterator[Number]:
    """Of ``workloads`` of ``run`` that have recompute and Djinn at one layer."""
    for workload in workloads:
        times = depth.times(workload)
        if times is None:
            continue
        place = f"{camel(workload)}AtDepth"
        about = {"run": run, "workload": workload, "layer": times.layer, "from": "pairs" if times.paired else "jobs"}
        compared: Json = {**about, "methods": [f"recompute {times.variant}", "djinn"], "metric": "ready_ms"}
        form = BY_KEY.get(("recompute", times.variant), PRIMARY["recompute"])
        yield plain(f"{place}Layer", times.layer, compared)
        yield plain(f"{place}Recompute", "plain" if form.primary else form.label.lower(), compared)
        yield measured(f"{place}RecomputeReadyMs", times.recompute_ms, "ms", compared)
        yield measured(f"{place}ReadyRatio", times.times, "ratio", compared)
        if times.low is not None and times.high is not None:
            yield measured(f"{place}ReadyRatioLow", times.low, "ratio", compared)
            yield measured(f"{place}ReadyRatioHigh", times.high, "ratio", compared)
        if (state := depth.state_bytes(workload, times.layer)) is not None:
            held = {"run": run, "workload": workload, "layer": times.layer, "method": "djinn", "metric": "state_bytes"}
            yield measured(f"{place}StateMb", state / 1e6, "MB", held)
        lines = {
            "Djinn": depth.of(workload, "djinn", PRIMARY["djinn"].name),
            "DjinnKept": depth.of(workload, "djinn", KEPT),
            "ByHand": depth.of(workload, "manual_offload", *_BEST_BY_HAND),
            "ByHandKept": depth.of(workload, "manual_offload", *_KEPT_BY_HAND),
            "RawCopy": depth.floors(workload),
        }
        for name, line in lines.items():
            for time in _at(line, times.layer):
                yield measured(f"{place}{name}ReadyMs", time.median, "ms", {**about, "line": name})
        resident = depth.of(workload, "djinn", PRIMARY["djinn"].name, clock=CLOCK["resident"])
        for time in _at(resident, times.layer):
            yield measured(
                f"{place}DjinnResidentMs", time.median, "ms", {**about, "line": "Djinn", "clock": "resident"}
            )


def _at(line: Sequence[Time], layer: int) -> list[Time]:
    return [time for time in line if time.layer == layer]
