"""Resumes among paused sessions: ``load.csv``, rows of Djinn, of copies by hand, and of the one over the other.

What decides is Djinn over the resume by hand in the same turn, over the number of sessions: what the machine does
meanwhile falls on both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.analysis.statistics import median_interval
from evaluation.analysis.tails import tail
from evaluation.records.runs import Json, Run

CLOCKS = ("ready_ms", "resident_ms")
DJINN, BY_HAND = "djinn", "manual_offload"


@dataclass(frozen=True, kw_only=True)
class Resumes:
    """One metric over the ``n`` resumes of ``method`` while ``paused`` sessions of Djinn are paused.

    ``sessions`` were asked for; fewer are ``paused`` where ``outcome`` is host_full. A metric is a clock, ``ready_ms``
    or ``resident_ms``; or of Djinn's over those by hand, turn by turn, a ratio as ``paired_ready_ratio`` and a
    difference as ``paired_ready_ms``. The interval ``ci`` is that of the median at 95 %; percentiles have theirs. No
    numbers where nothing could be paused, and no percentile of fewer resumes than it needs.
    """

    run: str
    sessions: int
    paused: int
    outcome: str
    method: str
    variant: str
    metric: str
    median: float | None
    ci_low: float | None
    ci_high: float | None
    p95: float | None
    p95_low: float | None
    p95_high: float | None
    p99: float | None
    p99_low: float | None
    p99_high: float | None
    n: int
    unit: str


def resumes(run: Run) -> list[Resumes]:
    """The rows of ``run``, in the order in which they were measured; of the raw samples, whatever else a cell says."""
    record = run.beside.get("load.json", {"cells": []})
    control = record.get("by_hand")
    return [row for cell in record["cells"] for row in _of_cell(run, cell, control["variant"] if control else "")]


def _of_cell(run: Run, cell: Json, by_hand: str) -> Iterator[Resumes]:
    about = {"run": run.name, **{name: cell[name] for name in ("sessions", "paused", "outcome")}}
    mine = {clock: [sample[clock] for sample in cell["samples"]] for clock in CLOCKS}
    for clock, values in mine.items():
        yield _row({**about, "method": DJINN, "variant": "default", "metric": clock}, values, "ms")
    if not by_hand or not cell["samples"]:
        return
    for clock, values in mine.items():
        theirs = [sample["by_hand"][clock] for sample in cell["samples"]]
        yield _row({**about, "method": BY_HAND, "variant": by_hand, "metric": clock}, theirs, "ms")
        paired = {**about, "method": DJINN, "variant": "default"}
        pairs = list(zip(values, theirs, strict=True))
        ratios = {**paired, "metric": f"paired_{clock.removesuffix('_ms')}_ratio"}
        yield _row(ratios, [a / b for a, b in pairs], "ratio")
        yield _row({**paired, "metric": f"paired_{clock}"}, [a - b for a, b in pairs], "ms")


def _row(about: Json, values: Sequence[float], unit: str) -> Resumes:
    interval = median_interval(values) if values else None
    found: dict[str, Any] = {
        "median": interval and interval.median,
        "ci_low": interval and interval.low,
        "ci_high": interval and interval.high,
    }
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        far = tail(values, q)
        found |= {name: far and far.value, f"{name}_low": far and far.low, f"{name}_high": far and far.high}
    return Resumes(**about, **found, n=len(values), unit=unit)


def by_paused(rows: Iterable[Resumes], metric: str, method: str = DJINN) -> list[Resumes]:
    """Rows of ``metric`` that have numbers, one for each number of paused sessions, fewest first.

    Where the host was full at the same number twice, the one with more resumes stands.
    """
    best: dict[int, Resumes] = {}
    for row in rows:
        mine = (row.metric, row.method) == (metric, method)
        if mine and row.n and (row.paused not in best or best[row.paused].n < row.n):
            best[row.paused] = row
    return [best[paused] for paused in sorted(best)]


def growth(rows: Sequence[Resumes], column: str) -> float | None:
    """``column``, as p95, at the most paused sessions over the median at the fewest: whether their number costs time.

    ``rows`` are of :func:`by_paused`. None where there is only one number of sessions, or no such percentile.
    """
    first, last = rows[0], rows[-1]
    value: float | None = getattr(last, column)
    if first is last or not first.median or value is None:
        return None
    return value / first.median
