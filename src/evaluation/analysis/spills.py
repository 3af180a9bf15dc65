"""Sessions beyond host memory: ``disk.csv``, with the time of each way between host memory and disk."""

from collections.abc import Iterator
from dataclasses import dataclass

from evaluation.analysis.statistics import median_interval
from evaluation.records.runs import Json, Run


@dataclass(frozen=True, kw_only=True)
class Spilling:
    """One metric of ``n`` swap-outs, resumes or plain transfers, among so many ``sessions`` of ``state_bytes`` each.

    ``swap_out_ms`` is an IO_WAIT that finds room, and ``spilling_ms`` one that first spills another session. Of
    ``ready_ms`` and ``ready_spilled_ms`` the latter is of a resume whose own state lay on the disk, and that spilled no
    other. ``write_ms`` and ``read_ms`` are plain transfers of as many bytes. Below six samples the ends are the
    extremes, from six on an interval of 95 % over samples of one process.
    """

    run: str
    sessions: int
    on_disk: int
    host_arena_bytes: int
    state_bytes: int
    metric: str
    median: float
    ci_low: float
    ci_high: float
    n: int


def spillings(run: Run) -> list[Spilling]:
    """The rows of ``run``; one without the record has none."""
    record = run.beside.get("disk.json")
    if record is None:
        return []
    (cell,) = record["cells"]
    return [_row(run, record, cell, metric, found) for metric, found in _values(cell) if found]


def _values(cell: Json) -> Iterator[tuple[str, list[float]]]:
    outs, backs, plain = cell["swap_outs"], cell["resumes"], cell["plain"]
    for name, spilling in (("swap_out_ms", False), ("spilling_ms", True)):
        yield name, [one["swap_out_ms"] for one in outs if bool(one["spilled_bytes"]) is spilling]
    unspilt = [one for one in backs if not one["spilled_bytes"]]
    for clock in ("ready", "resident"):
        for ending, on_disk in (("_ms", False), ("_spilled_ms", True)):
            yield f"{clock}{ending}", [one[f"{clock}_ms"] for one in unspilt if bool(one["on_disk_bytes"]) is on_disk]
    yield "write_ms", [one["write_ms"] for one in plain]
    yield "read_ms", [one["read_ms"] for one in plain]


def _row(run: Run, record: Json, cell: Json, metric: str, values: list[float]) -> Spilling:
    interval = median_interval(values)
    return Spilling(
        run=run.name,
        sessions=cell["sessions"],
        on_disk=sum(bool(one["spilled_bytes"]) for one in cell["swap_outs"]),
        host_arena_bytes=record["host_arena_bytes"],
        state_bytes=cell["state_bytes"],
        metric=metric,
        median=interval.median,
        ci_low=interval.low,
        ci_high=interval.high,
        n=len(values),
    )
