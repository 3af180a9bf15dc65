"""What fits, what can be done, and what peers take: ``capacity.csv``, ``capabilities.csv`` and ``peers.csv``.

A method's primary variant comes first. A run that was measured before there were such records has no rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from evaluation.analysis.durability import Kill
from evaluation.analysis.metrics import UNITS
from evaluation.analysis.statistics import median_interval
from evaluation.records.runs import Json, Run


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many sessions of one variant stayed paused, and what stopped it: device_oom, host_full, arena or cap.

    ``device_bytes`` are in use on the whole device at that moment, weights included (None on a CPU); ``host_bytes``
    hold the sessions' state. ``arena_bytes`` of host memory were set aside for all of them, None where nothing was.
    """

    run: str
    method: str
    variant: str
    sessions: int
    stopped_by: str
    device_bytes: int | None
    host_bytes: int | None
    arena_bytes: int | None = None


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


def capacities(run: Run) -> list[Capacity]:
    """The rows of ``run``."""
    return [
        Capacity(
            run=run.name,
            method=method,
            variant=cell["variant"],
            sessions=cell["sessions"],
            stopped_by=cell["stopped_by"],
            device_bytes=cell["figures"][-1].get("device_bytes"),
            host_bytes=cell["figures"][-1].get("host_bytes"),
            arena_bytes=cell.get("arena_bytes"),
        )
        for method, cell in _cells(run, "capacity")
    ]


def device_bytes_each(run: Run, method: str) -> float | None:
    """What each further paused session of ``method`` took of the device in the memory wall, by the driver's count.

    That holds more than torch's: a thread's workspace. None where nobody counted.
    """
    cells = [cell for name, cell in _cells(run, "capacity") if name == method and cell["headline"]]
    used = [one.get("device_bytes") for cell in cells for one in cell["figures"][: cell["sessions"]]]
    return (used[-1] - used[0]) / (len(used) - 1) if len(used) > 1 and None not in used else None


def capabilities(run: Run) -> list[Capability]:
    """The rows of ``run``."""
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
        for method, cell in _cells(run, "capabilities")
    ]


def peer_metrics(run: Run) -> list[PeerMetric]:
    """The rows of ``run``, in the order of each study."""
    return [
        row
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
                ci_low=interval.ends[0],
                ci_high=interval.ends[1],
                n=len(values),
                unit=unit,
            )


OfMethod = TypeVar("OfMethod", Capacity, Capability, Kill)


def by_method(rows: Iterable[OfMethod]) -> dict[str, list[OfMethod]]:
    """``rows`` of each method, as they come."""
    grouped: dict[str, list[OfMethod]] = {}
    for row in rows:
        grouped.setdefault(row.method, []).append(row)
    return grouped


def _cells(run: Run, kind: str) -> Iterable[tuple[str, Json]]:
    for method in run.study["methods"]:
        record = run.beside.get(f"{kind}/{method}.json", {"cells": []})
        for cell in sorted(record["cells"], key=lambda cell: not cell["headline"]):
            yield method, cell
