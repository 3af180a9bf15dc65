"""Sessions that outlive their process: ``durable.csv``, and ``kills.csv`` with what a kill leaves of each variant."""

from dataclasses import dataclass

from evaluation.analysis.statistics import median_interval
from evaluation.records.runs import Json, Run

# What of an edited session goes on in another process: with its edit, without it, or nothing.
EDIT, SESSION, NOTHING = "edit", "session", "nothing"

_NONE: Json = {"cells": [], "kills": []}
_SIZES = ("file_bytes", "state_bytes", "recorded_bytes")
_OF_A_RESTORE = ("restore_ms", "ready_ms", "usable_ms", "rerun_ms", "rerun_usable_ms")


@dataclass(frozen=True, kw_only=True)
class Durability:
    """One metric of ``n`` saves or restores of a workload's session, parked after ``layer``, in ``unit``.

    ``write_ms`` and ``read_ms`` are the floors of ``save_ms`` and ``restore_ms``: plain requests. From
    either way to a parked session until its logits are usable it takes ``restored_ms`` and ``rerun_whole_ms``.
    ``first_start_ms`` and ``first_restore_ms`` are those of a process's first session, which pays for the digest of
    the weights. Below six samples the ends are the extremes, from six on an interval of 95 % over samples of one
    process.
    """

    run: str
    workload: str
    layer: int
    metric: str
    median: float
    ci_low: float
    ci_high: float
    n: int
    unit: str


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What ``survives`` of an edited session of a variant, of which ``saved_bytes`` were on disk.

    A peer stands there as a method is; it has no way to save, and nobody looked for a file.
    """

    run: str
    method: str
    variant: str
    saved_bytes: int | None
    survives: str


def durabilities(run: Run) -> list[Durability]:
    """The rows of ``run``; one without the record has none."""
    record = run.beside.get("durable.json", _NONE)
    rows = []
    for number, cell in enumerate(record["cells"]):
        values = _values(cell)
        if number == 0:
            values |= {name: [record[name]] for name in ("first_start_ms", "first_restore_ms")}
        rows += [_row(run, record, cell, metric, found) for metric, found in values.items()]
    return rows


def kills(run: Run) -> list[Kill]:
    """The rows of ``run``, primary variants first, then peers; one without the record has none.

    A peer that cannot run has no row.
    """
    columns = ("method", "variant", "saved_bytes", "survives")
    record = run.beside.get("durable.json", _NONE)
    rows = [
        Kill(run=run.name, **{name: kill[name] for name in columns})
        for kill in sorted(record["kills"], key=lambda kill: not kill["headline"])
    ]
    for one in record.get("peers") or ():
        if (survives := one["survives"]) is not None:
            about = {"method": one["peer"], "variant": "default"}
            rows.append(Kill(run=run.name, **about, saved_bytes=None, survives=survives))
    return rows


def _values(cell: Json) -> dict[str, list[float]]:
    saves, restores = cell["saves"], cell["restores"]
    return {
        **{name: [cell[name]] for name in (*_SIZES, "start_ms")},
        "save_ms": [one["save_ms"] for one in saves],
        "write_ms": [one["floor_ms"] for one in saves],
        "read_ms": [one["floor_ms"] for one in restores],
        **{name: [one[name] for one in restores] for name in _OF_A_RESTORE},
        "restored_ms": [one["restore_ms"] + one["usable_ms"] for one in restores],
        "rerun_whole_ms": [one["rerun_ms"] + one["rerun_usable_ms"] for one in restores],
    }


def _row(run: Run, record: Json, cell: Json, metric: str, values: list[float]) -> Durability:
    interval = median_interval(values)
    return Durability(
        run=run.name,
        workload=cell["workload"],
        layer=record["layer"],
        metric=metric,
        median=interval.median,
        ci_low=interval.low,
        ci_high=interval.high,
        n=len(values),
        unit="bytes" if metric in _SIZES else "ms",
    )
