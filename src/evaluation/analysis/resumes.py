"""Resumes under load: ``load.csv``, one row per number of paused sessions and clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.analysis.statistics import median_interval, quantile
from evaluation.records.runs import Json, Run


@dataclass(frozen=True, kw_only=True)
class Resumes:
    """One clock, ``ready_ms`` or ``resident_ms``, over the ``n`` resumes of Djinn among ``paused`` paused sessions.

    ``sessions`` were asked for; fewer are ``paused`` where ``outcome`` is host_full. Times are in ms, the interval is
    that of the median at 95 %. No numbers where nothing could be paused.
    """

    run: str
    sessions: int
    paused: int
    outcome: str
    metric: str
    median: float | None
    ci_low: float | None
    ci_high: float | None
    p95: float | None
    p99: float | None
    n: int
    unit: str


def resumes(run: Run) -> list[Resumes]:
    """The rows of ``run``, in the order in which they were measured; of the raw samples, whatever else a cell says."""
    return [
        _of_clock(run, cell, clock)
        for cell in run.beside.get("load.json", {"cells": []})["cells"]
        for clock in ("ready_ms", "resident_ms")
    ]


def _of_clock(run: Run, cell: Json, clock: str) -> Resumes:
    values = [sample[clock] for sample in cell["samples"]]
    interval = median_interval(values) if values else None
    return Resumes(
        run=run.name,
        **{name: cell[name] for name in ("sessions", "paused", "outcome")},
        metric=clock,
        median=interval.median if interval else None,
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        p95=quantile(values, 0.95) if values else None,
        p99=quantile(values, 0.99) if values else None,
        n=len(values),
        unit="ms",
    )


def by_paused(rows: Iterable[Resumes], metric: str) -> list[Resumes]:
    """Rows of ``metric`` that have numbers, one for each number of paused sessions, fewest first.

    Where the host was full at the same number twice, the one with more resumes stands.
    """
    best: dict[int, Resumes] = {}
    for row in rows:
        if row.metric == metric and row.n and (row.paused not in best or best[row.paused].n < row.n):
            best[row.paused] = row
    return [best[paused] for paused in sorted(best)]


def growth(rows: Sequence[Resumes], column: str) -> float | None:
    """``column``, as p95, at the most paused sessions over the median at the fewest: whether load costs anything.

    ``rows`` are of :func:`by_paused`. None where there is only one number of sessions.
    """
    first, last = rows[0], rows[-1]
    if first is last or not first.median:
        return None
    return float(getattr(last, column)) / first.median
