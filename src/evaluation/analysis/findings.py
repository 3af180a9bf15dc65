"""The rows of a run, by workload, method, layer and metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.analysis.metrics import CLOCKS, Clock
from evaluation.analysis.summary import Row
from evaluation.analysis.table import TableError, read_table
from evaluation.analysis.variants import METHODS
from evaluation.records.runs import Json


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The rows of one run in the summary."""

    run: str
    rows: Sequence[Row]

    @classmethod
    def read(cls, summary: Path, run: str) -> "Findings":
        """The rows of ``run``. Raises TableError if the table at ``summary`` has none."""
        rows = read_table(summary, Row)
        mine = [row for row in rows if row.run == run]
        if not mine:
            known = ", ".join(sorted({row.run for row in rows})) or "none"
            raise TableError(f"{summary}: no rows of run {run!r}; it has: {known}")
        return cls(run=run, rows=mine)

    @property
    def workloads(self) -> list[str]:
        """Names of the workloads, in the order of the table."""
        return list(dict.fromkeys(row.workload for row in self.rows))

    @property
    def methods(self) -> list[str]:
        """Names of the methods: the paper's first, also those that the run lacks, then any other."""
        return list(dict.fromkeys([*METHODS, *sorted({row.method for row in self.rows})]))

    @property
    def layers(self) -> list[int]:
        """The breakpoints at which every method was measured; pairs may have more of their own."""
        return sorted({row.layer for row in self.rows if row.metric == "ready_ms" and row.layer is not None})

    @property
    def deepest(self) -> int:
        """The deepest of them."""
        return self.layers[-1]

    def clocks(self, workload: str) -> list[Clock]:
        """Those by which ``workload`` was measured: some only a KV cache has."""
        found = {row.metric for row in self.rows if row.workload == workload}
        return [clock for clock in CLOCKS if clock.metric in found]

    def series(self, workload: str, method: str, metric: str, variant: str | None = None) -> list[Row]:
        """Rows of ``metric`` by layer, of ``variant`` or else the primary variant; also where n = 0."""
        rows = {row.layer: row for row in self._rows(workload, method, metric, variant) if row.layer is not None}
        return [rows[layer] for layer in sorted(rows)]

    def pooled(self, workload: str, method: str, metric: str, variant: str | None = None) -> Row | None:
        """The row of ``metric`` over all layers, or None if there is none."""
        rows = self._rows(workload, method, metric, variant)
        return next((row for row in rows if row.layer is None), None)

    def _rows(self, workload: str, method: str, metric: str, variant: str | None) -> list[Row]:
        rows = [
            row
            for row in self.rows
            if (row.workload, row.method, row.metric) == (workload, method, metric)
            and (row.headline if variant is None else row.variant == variant)
        ]
        layers = [row.layer for row in rows]
        if len(set(layers)) != len(layers):
            raise TableError(f"run {self.run}: more than one {metric} of {method} in workload {workload} at a layer")
        return rows

    def at(self, workload: str, method: str, metric: str, layer: int, variant: str | None = None) -> Row | None:
        """The row of ``layer`` in :meth:`series`, or None if there is none."""
        return next((row for row in self.series(workload, method, metric, variant) if row.layer == layer), None)

    def quickest(self, workload: str, method: str, metric: str, layer: int) -> Row | None:
        """The row of the variant with the smallest median at ``layer``; None if none was timed there."""
        wanted = (workload, method, metric, layer)
        of_layer = (row for row in self.rows if (row.workload, row.method, row.metric, row.layer) == wanted)
        timed = [(row.median, row) for row in of_layer if row.median is not None]
        return min(timed, key=lambda one: one[0])[1] if timed else None


def ceiling(machine: Json, name: str) -> float | None:
    """Median of a ceiling that the probe measured, in the unit of its name; None where it could not."""
    value: Any = machine.get("ceilings", {}).get(name, {})
    median = value.get("median") if isinstance(value, dict) else None
    return None if median is None else float(median)
