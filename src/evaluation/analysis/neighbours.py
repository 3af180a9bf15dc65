"""What a swap costs another session that computes: ``neighbour.csv``, a row per method, window and metric.

``tokens_per_s`` is the neighbour's rate in a window. ``relative_rate`` is over that of the undisturbed window of the
same half of a block. ``cost_ms`` is what the neighbour's tokens took longer than in that one, for each step of the
other session. ``pause_ms`` and ``ready_ms`` are the other session's swaps.

Where the neighbour decodes, a step or a swap counts if it ended no later than the neighbour's last token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

from evaluation.analysis.statistics import ENOUGH, median_interval
from evaluation.records.neighbour import WINDOWS
from evaluation.records.runs import Json, Run

UNITS = {"tokens_per_s": "tokens/s", "relative_rate": "ratio", "cost_ms": "ms", "pause_ms": "ms", "ready_ms": "ms"}


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """One metric of one kind of window: ``undisturbed``, beside ``steps`` or ``swaps``, or the other session ``alone``.

    Over ``n`` windows, or over ``n`` swaps of them all. The interval is that of the median at 95 %; of fewer than six
    values it is their range.
    """

    run: str
    method: str
    variant: str
    window: str
    metric: str
    median: float
    ci_low: float
    ci_high: float
    n: int
    unit: str

    @property
    def is_range(self) -> bool:
        """Whether the ends are those of a range, of too few values for an interval."""
        return self.n < ENOUGH


def disturbances(run: Run) -> list[Disturbance]:
    """The rows of ``run``."""
    record = run.beside.get("neighbour.json", {"cells": []})
    return [row for cell in record["cells"] for row in _of_cell(run.name, cell)]


def _of_cell(run: str, cell: Json) -> Iterable[Disturbance]:
    values: dict[tuple[str, str], list[float]] = {}
    for block in cell["blocks"]:
        middle = len(block) // 2
        for half in (block[:middle], block[middle:]):
            undisturbed = fsum(next(one for one in half if one["window"] == "undisturbed")["token_ms"])
            for one in half:
                for metric, found in _of_window(one, undisturbed).items():
                    values.setdefault((one["window"], metric), []).extend(found)
    for window in WINDOWS:
        for metric, unit in UNITS.items():
            if mine := values.get((window, metric)):
                interval = median_interval(mine)
                yield Disturbance(
                    run=run,
                    method=cell["method"],
                    variant=cell["variant"],
                    window=window,
                    metric=metric,
                    median=interval.median,
                    ci_low=interval.low,
                    ci_high=interval.high,
                    n=len(mine),
                    unit=unit,
                )


def _of_window(window: Json, undisturbed_ms: float) -> dict[str, list[float]]:
    """By metric; of a window in which the neighbour did not compute, the swaps alone."""
    took, alone = fsum(window["token_ms"]), not window["token_ms"]
    counted = [one for one in window["resumes"] if alone or one["ended_ms"] <= took]
    swaps = {metric: [one[metric] for one in counted] for metric in ("pause_ms", "ready_ms")}
    if alone:
        return swaps
    rates = {"tokens_per_s": [len(window["token_ms"]) * 1000 / took]}
    if window["steps"]:
        rates["relative_rate"] = [undisturbed_ms / took]
    if steps := sum(end <= took for end in window["step_ends_ms"]):
        rates["cost_ms"] = [(took - undisturbed_ms) / steps]
    return {**rates, **swaps}
