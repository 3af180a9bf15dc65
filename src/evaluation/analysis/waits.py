"""The clocks over the wait between pause and resume: ``thinking.csv``, a row per form, wait and clock.

The floor of a wait is a row of the method ``floor``, with the clock ready.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.analysis.metrics import CLOCKS
from evaluation.analysis.statistics import ENOUGH, median_interval
from evaluation.records.runs import Json, Run

FLOOR = "floor"


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One clock of one form after waits of ``think_time_ms``, over ``n`` resumes of one process, in ms.

    The interval is that of the median at 95 %; of fewer than six resumes it is their range. ``keeps`` is what stays on
    the device, nothing or the frontier, and ``link`` its state while a session is paused, idle or attended.
    """

    run: str
    workload: str
    layer: int
    method: str
    variant: str
    keeps: str
    link: str
    think_time_ms: float
    metric: str
    median: float
    ci_low: float
    ci_high: float
    n: int
    unit: str

    @property
    def is_range(self) -> bool:
        """Whether the ends are those of a range, of too few resumes for an interval."""
        return self.n < ENOUGH

    @property
    def form(self) -> tuple[str, str]:
        """By which the lines of a figure are told apart."""
        return self.method, self.variant


def waits(run: Run) -> list[Wait]:
    """The rows of ``run``, by form and then from the shortest wait to the longest."""
    record = run.beside.get("thinking.json", {"cells": []})
    return [row for cell in record["cells"] for row in _of_cell(run.name, cell)]


def _of_cell(run: str, cell: Json) -> Iterable[Wait]:
    samples = [sample for block in cell["blocks"] for sample in block["samples"]]
    floors = [floor for block in cell["blocks"] for floor in block["floors"]]
    forms = [
        {**{name: form[name] for name in ("method", "variant", "keeps", "link")}, "number": number}
        for number, form in enumerate(cell["forms"])
    ]
    raw = {"method": FLOOR, "variant": "default", "keeps": "nothing", "link": "idle"}
    for form in [*forms, *([raw] if floors else [])]:
        number = form.pop("number", None)
        mine = [one for one in samples if one["form"] == number] if number is not None else floors
        clocks = [clock.metric for clock in CLOCKS] if number is not None else ["floor_ms"]
        for wait in sorted({one["think_time_ms"] for one in mine}):
            for clock in clocks:
                found = [one.get(clock) for one in mine if one["think_time_ms"] == wait]
                if not (values := [value for value in found if value is not None]):
                    continue
                interval = median_interval(values)
                yield Wait(
                    run=run,
                    workload=cell["workload"],
                    layer=cell["layer"],
                    **form,
                    think_time_ms=wait,
                    metric="ready_ms" if clock == "floor_ms" else clock,
                    median=interval.median,
                    ci_low=interval.low,
                    ci_high=interval.high,
                    n=len(values),
                    unit="ms",
                )
