"""A debugger's round trip, form beside form: ``editing.csv``, one row per form, site and time."""

from dataclasses import dataclass

from evaluation.analysis.statistics import median_interval
from evaluation.records.runs import Json, Run

FIRST, KNOWN = "first", "known"
PAUSE, TOTAL, LONGEST = "paused_ms", "total_ms", "longest_ms"

_MEASURED = ("stop_ms", "pause_ms", "edit_ms", "ready_ms", "usable_ms")


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """One time of ``n`` samples of a form, in ms, paused after ``layer``.

    ``site`` is first where no session was paused there before. ``paused_ms`` is stop and pause, ``total_ms`` they, edit
    and usable. ``longest_ms`` is the longest time in which another thread could not run, of pauses that were not timed.
    Below six samples the ends are the extremes, from six on an interval of 95 % over samples of one process.
    """

    run: str
    workload: str
    layer: int
    method: str
    variant: str
    keeps: str
    site: str
    metric: str
    median: float
    ci_low: float
    ci_high: float
    n: int


def round_trips(run: Run) -> list[RoundTrip]:
    """The rows of ``run``."""
    return [
        _row(run, cell, form, metric, values)
        for cell in run.beside.get("editing.json", {"cells": []})["cells"]
        for index, form in enumerate(cell["forms"])
        for metric, values in _values(cell, index).items()
    ]


def _values(cell: Json, form: int) -> dict[str, list[float]]:
    """What was measured of ``form``, by metric in the order of the rows."""
    samples = [_with_sums(one) for block in cell["blocks"] for one in block["samples"] if one["form"] == form]
    watched = [one[LONGEST] for block in cell["blocks"] for one in block["watched"] if one["form"] == form]
    return {metric: [one[metric] for one in samples] for metric in (*_MEASURED, PAUSE, TOTAL)} | {LONGEST: watched}


def _with_sums(sample: Json) -> Json:
    """With all that lies between the breakpoint and free memory, and with the round trip but for the time to think."""
    paused = sample["stop_ms"] + sample["pause_ms"]
    return {**sample, PAUSE: paused, TOTAL: paused + sample["edit_ms"] + sample["usable_ms"]}


def _row(run: Run, cell: Json, form: Json, metric: str, values: list[float]) -> RoundTrip:
    interval = median_interval(values)
    return RoundTrip(
        run=run.name,
        workload=cell["workload"],
        layer=cell["layer"],
        **form,
        metric=metric,
        median=interval.median,
        ci_low=interval.low,
        ci_high=interval.high,
        n=len(values),
    )
