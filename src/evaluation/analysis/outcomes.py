"""What fits, what can be done, where methods cross, load, and what a user would pick instead: tables.

``capacity.csv``, ``capabilities.csv``, ``sweep.csv``, ``load.csv`` and ``peers.csv``.
Owns their columns and how they are written and read; the same runs always give the same bytes. A method's headline
variant comes first. Runs that were measured before there were such records have no rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

import pandas as pd

from evaluation.analysis.statistics import linear_fit, median_interval, quantile
from evaluation.analysis.summary import UNITS, SummaryError
from evaluation.records.atomic import write_text
from evaluation.records.runs import Json, Run


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many sessions of one variant stayed paused, and what stopped it: device_oom, host_full or cap.

    ``device_bytes`` are in use on the whole device at that moment, weights included (None on a CPU); ``host_bytes``
    hold the sessions' state.
    """

    run: str
    method: str
    variant: str
    sessions: int
    stopped_by: str
    device_bytes: int | None
    host_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Capability:
    """Whether an edit of the paused state survives, in every bit; lines of the example program beyond vanilla's.

    ``resume_ms`` is the median of the probe's ``n`` resumes.
    """

    run: str
    method: str
    variant: str
    edit_survives: bool
    edit_exact: bool
    state_lines: int | None
    resume_ms: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The clock ready of one variant at one size and layer, in ms; no numbers where the device had no room.

    ``crossover_layer`` is the depth from which recompute takes longer than this variant does on average: where the line
    through recompute's medians meets it. It may lie before layer 1. None for recompute itself.
    """

    run: str
    batch: int
    tokens: int
    method: str
    variant: str
    layer: int
    ready_ms: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    crossover_layer: float | None


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


@dataclass(frozen=True, kw_only=True)
class PeerMetric:
    """One metric of a peer at the deepest layer of one workload, in ``unit``.

    Where ``outcome`` is not "ok" there is one row of the clock ready, without numbers, and ``message`` is the reason.
    """

    run: str
    peer: str
    workload: str
    metric: str
    median: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    unit: str
    outcome: str
    message: str


Outcome = TypeVar("Outcome", Capacity, Capability, Crossing, Resumes, PeerMetric)
OfMethod = TypeVar("OfMethod", Capacity, Capability, Crossing)


def capacities(runs: Iterable[Run]) -> list[Capacity]:
    """The rows of ``runs``."""
    return [
        Capacity(
            run=run.name,
            method=method,
            variant=cell["variant"],
            sessions=cell["sessions"],
            stopped_by=cell["stopped_by"],
            device_bytes=cell["figures"][-1].get("device_bytes"),
            host_bytes=cell["figures"][-1].get("host_bytes"),
        )
        for run, method, cell in _cells(runs, "capacity")
    ]


def capabilities(runs: Iterable[Run]) -> list[Capability]:
    """The rows of ``runs``."""
    return [
        Capability(
            run=run.name,
            method=method,
            variant=cell["variant"],
            edit_survives=cell["edit_survives"],
            edit_exact=cell["edit_exact"],
            state_lines=cell["state_lines"],
            resume_ms=median(cell["resume_ms"]),
            n=len(cell["resume_ms"]),
        )
        for run, method, cell in _cells(runs, "capabilities")
    ]


def crossings(runs: Iterable[Run]) -> list[Crossing]:
    """The rows of ``runs``, in the order in which they were measured."""
    rows = []
    for run in sorted(runs, key=lambda run: run.name):
        cells = run.beside.get("sweep.json", {"cells": []})["cells"]
        sizes = {(cell["batch"], cell["tokens"]): None for cell in cells}
        for batch, tokens in sizes:
            rows += _of_size(run, [cell for cell in cells if (cell["batch"], cell["tokens"]) == (batch, tokens)])
    return rows


def resumes(runs: Iterable[Run]) -> list[Resumes]:
    """The rows of ``runs``, in the order in which they were measured; of the raw samples, whatever else a cell says."""
    return [
        _of_clock(run, cell, clock)
        for run in sorted(runs, key=lambda run: run.name)
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


def _of_size(run: Run, cells: Sequence[Json]) -> list[Crossing]:
    ready = [
        median_interval([sample["ready_ms"] for sample in cell["samples"]]) if cell["samples"] else None
        for cell in cells
    ]
    points: dict[str, list[tuple[int, float]]] = {}
    for cell, interval in zip(cells, ready, strict=True):
        if interval is not None:
            points.setdefault(cell["variant"], []).append((cell["layer"], interval.median))
    (line,) = {cell["variant"] for cell in cells if cell["method"] == "recompute"}
    return [
        Crossing(
            run=run.name,
            **{name: cell[name] for name in ("batch", "tokens", "method", "variant", "layer")},
            ready_ms=interval.median if interval else None,
            ci_low=interval.low if interval else None,
            ci_high=interval.high if interval else None,
            n=len(cell["samples"]),
            crossover_layer=None
            if cell["variant"] == line
            else _meeting(points.get(line, []), points.get(cell["variant"], [])),
        )
        for cell, interval in zip(cells, ready, strict=True)
    ]


def _meeting(line: Sequence[tuple[int, float]], level: Sequence[tuple[int, float]]) -> float | None:
    """Where the line through the points (layer, ms) of ``line`` reaches the mean ms of ``level``."""
    if len({layer for layer, _ in line}) < 2 or not level:
        return None
    fit = linear_fit([layer for layer, _ in line], [ms for _, ms in line])
    return (mean(ms for _, ms in level) - fit.intercept) / fit.slope if fit.slope else None


def orders(rows: Sequence[Crossing]) -> str:
    """Who wins at which size, in words: rows of one layer, all with numbers, as ``pinned < recompute at 128 tokens``.

    ``<`` is quicker, ``~`` as quick: the intervals of the two medians overlap. Sizes of the same order come together.
    """
    sizes: dict[str, list[str]] = {}
    for batch, tokens in sorted({(row.batch, row.tokens) for row in rows}, key=lambda size: (size[0] * size[1], size)):
        mine = [row for row in rows if (row.batch, row.tokens) == (batch, tokens)]
        mine.sort(key=lambda row: row.ready_ms or 0)
        names = [row.method if row.method == "recompute" else row.variant for row in mine]
        order = names[0]
        for before, row, name in zip(mine, mine[1:], names[1:], strict=False):
            order += f" {'<' if (before.ci_high or 0) < (row.ci_low or 0) else '~'} {name}"
        sizes.setdefault(order, []).append(str(tokens) if batch == 1 else f"{batch} x {tokens}")
    if len(sizes) == 1:
        return f"{next(iter(sizes))} at every size"
    return "; ".join(f"{order} at {' and '.join(which)} tokens" for order, which in sizes.items())


def peer_metrics(runs: Iterable[Run]) -> list[PeerMetric]:
    """The rows of ``runs``, in the order of each study."""
    return [
        row
        for run in sorted(runs, key=lambda run: run.name)
        for peer in run.study.get("peers", {}).get("run", ())
        for cell in run.beside.get(f"peers/{peer}.json", {"cells": []})["cells"]
        for row in _of_peer(run.name, peer, cell)
    ]


def _of_peer(run: str, peer: str, cell: Json) -> Iterable[PeerMetric]:
    about: dict[str, Any] = {"run": run, "peer": peer, "workload": cell["workload"]}
    about |= {"outcome": cell["outcome"], "message": cell["message"]}
    if not cell["samples"]:
        none: dict[str, Any] = {"median": None, "ci_low": None, "ci_high": None, "n": 0}
        yield PeerMetric(**about, **none, metric="ready_ms", unit=UNITS["ready_ms"])
        return
    for metric, unit in UNITS.items():
        found = [cell[metric]] if metric in cell else [sample.get(metric) for sample in cell["samples"]]
        if values := [value for value in found if value is not None]:
            interval = median_interval(values)
            yield PeerMetric(
                **about,
                metric=metric,
                median=interval.median,
                ci_low=interval.low,
                ci_high=interval.high,
                n=len(values),
                unit=unit,
            )


def _cells(runs: Iterable[Run], kind: str) -> Iterable[tuple[Run, str, Json]]:
    for run in sorted(runs, key=lambda run: run.name):
        for method in run.study["methods"]:
            record = run.beside.get(f"{kind}/{method}.json", {"cells": []})
            for cell in sorted(record["cells"], key=lambda cell: not cell["headline"]):
                yield run, method, cell


def write_outcomes(path: Path, kind: type[Outcome], rows: Sequence[Outcome]) -> None:
    """Write ``rows`` of one kind, in the order given."""
    columns = [field.name for field in fields(kind)]
    printed = [[_printed(value) for value in astuple(row)] for row in rows]
    write_text(path, pd.DataFrame(printed, columns=columns).to_csv(index=False, lineterminator="\n"))


def _printed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.6g}"  # whole bytes exactly
    return "" if value is None else str(value)


def read_outcomes(path: Path, kind: type[OfMethod], run: str) -> dict[str, list[OfMethod]]:
    """The rows of ``run`` by method; raises :class:`SummaryError` for a table that cannot be read."""
    rows: dict[str, list[OfMethod]] = {}
    for row in read_rows(path, kind, run):
        rows.setdefault(row.method, []).append(row)
    return rows


def read_rows(path: Path, kind: type[Outcome], run: str) -> list[Outcome]:
    """The rows of ``run`` as they stand; raises :class:`SummaryError` for a table that cannot be read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise SummaryError(f"{path} cannot be read: {error}") from error
    if tuple(table.columns) != tuple(field.name for field in fields(kind)):
        raise SummaryError(f"{path}: the columns are not {', '.join(field.name for field in fields(kind))}")
    rows = []
    for number, line in enumerate(table.to_dict("records"), start=2):
        if line["run"] == run:
            try:
                rows.append(kind(**{name: _PARSERS.get(name, str)(text) for name, text in line.items()}))
            except (ValueError, KeyError) as error:
                raise SummaryError(f"{path}: line {number} cannot be read: {error}") from error
    return rows


def _count(text: str) -> int | None:
    return int(text) if text else None


def _number(text: str) -> float | None:
    return float(text) if text else None


_PARSERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("sessions", "paused", "batch", "tokens", "layer", "n"), int),
    **dict.fromkeys(("ready_ms", "median", "ci_low", "ci_high", "p95", "p99", "crossover_layer"), _number),
    "device_bytes": _count,
    "host_bytes": _count,
    "edit_survives": {"true": True, "false": False}.__getitem__,
    "edit_exact": {"true": True, "false": False}.__getitem__,
    "state_lines": _count,
    "resume_ms": float,
}
