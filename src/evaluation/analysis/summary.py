"""The tidy table between the records and the paper: ``results/summary.csv``.

Owns its columns, its metrics, the order of its rows and how its numbers are printed; the same rows always
give the same bytes. What the numbers are is decided by :mod:`evaluation.analysis.aggregate`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.command import Refusal
from evaluation.records.atomic import write_text

# Metric to unit, in the order of the rows of a cell.
UNITS = {
    "ready_ms": "ms",
    "first_kernel_ms": "ms",
    "resident_ms": "ms",
    "result_ms": "ms",
    "pause_ms": "ms",
    "floor_ms": "ms",
    "paired_ratio": "ratio",
    "paired_first_kernel_ratio": "ratio",
    "paired_resident_ratio": "ratio",
    "device_bytes_paused": "bytes",
    "host_bytes_paused": "bytes",
    "frontier_bytes": "bytes",
    "state_bytes": "bytes",
}
CLOCKS = ("ready_ms", "first_kernel_ms", "resident_ms", "result_ms")


class SummaryError(Refusal):
    """The table lacks or contradicts something; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one cell, over all its samples; numbers are in ``unit``, and None in a cell without a
    sample.

    The fields are the columns. ``headline`` marks the variant of a method that the paper leads with.
    """

    run: str
    workload: str
    method: str
    variant: str
    layer: int
    metric: str
    headline: bool
    median: float | None
    ci_low: float | None
    ci_high: float | None
    p05: float | None
    p95: float | None
    min: float | None
    n: int
    unit: str


COLUMNS = tuple(field.name for field in fields(Row))
_NUMBERS = ("median", "ci_low", "ci_high", "p05", "p95", "min")


def write_summary(path: str | Path, rows: Iterable[Row]) -> None:
    """Write ``rows``, in the order given: 6 significant digits, whole bytes exactly."""
    printed = [[_printed(getattr(row, column), row.unit) for column in COLUMNS] for row in rows]
    write_text(path, pd.DataFrame(printed, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))


def _printed(value: object, unit: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if unit == "bytes" and value.is_integer() else f"{value:.6g}"
    return str(value)


def read_summary(path: str | Path) -> list[Row]:
    """The rows of the table at ``path``; raises :class:`SummaryError` for one that cannot be read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise SummaryError(f"{path} cannot be read: {error}") from error
    if tuple(table.columns) != COLUMNS:
        raise SummaryError(f"{path}: the columns are not {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(table.to_dict("records"), start=2):
        try:
            rows.append(_parsed(line))
        except (ValueError, TypeError, KeyError) as error:
            raise SummaryError(f"{path}: line {number} cannot be read: {error}") from error
    return rows


def _parsed(line: dict[str, str]) -> Row:
    values: dict[str, Any] = dict(line)
    values.update({column: float(line[column]) if line[column] else None for column in _NUMBERS})
    values["headline"] = {"true": True, "false": False}[line["headline"]]
    values.update({column: int(line[column]) for column in ("layer", "n")})
    return Row(**values)
