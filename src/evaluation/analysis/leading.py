"""The workload and the layer that lead, and of each form there the clock ready and what it holds of the device.

The layer is the last that has a next one, N-1, where the run has it; else the deepest. Where the run has pairs their
times are taken. What is not in them, such as vanilla, comes from the jobs of its method. If these lack the layer, the
deepest is taken and says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from evaluation.analysis.findings import Findings
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.pairs import Form, cells
from evaluation.analysis.statistics import process_median
from evaluation.analysis.summary import Row
from evaluation.analysis.variants import KEPT
from evaluation.records.runs import Json, Run

_READY = CLOCK["ready"]


def leading_workload(study: Json) -> str:
    """The workload that a table of one workload is about: the first prefill with a KV cache, or else the first."""
    workloads = study["workloads"]
    prefills = (one for one in workloads if one["kv_cache"] and not one.get("decode_step"))
    return str(next(prefills, workloads[0])["name"])


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Ready after ``layer`` in ms, of one ``variant`` of a method; no numbers: the device had no room.

    Of ``n`` samples, or of ``n`` blocks in so many ``processes``, if it is from pairs. ``low`` and ``high`` are the
    ends of an interval of 95 %, or of a range where there are too few processes or samples for one.
    ``held_bytes`` are on the device for a paused session; where nothing counts them, those that are meant to stay.
    """

    variant: str
    layer: int
    median: float | None
    low: float | None
    high: float | None
    n: int
    processes: int | None
    is_range: bool
    held_bytes: float


class Leading:
    """What a run says of every form at the layer that leads, and after that only of what its jobs measured."""

    def __init__(self, findings: Findings, run: Run) -> None:
        self._findings = findings
        last_but_one = int(run.records[0]["model"]["layers"]) - 1
        paired = cells(run)
        at = {*findings.layers, *(cell.layer for cell in paired)}
        self.layer = last_but_one if last_but_one in at else findings.deepest
        self._cells = {cell.workload: cell for cell in paired if cell.layer == self.layer}

    def of(self, workload: str, method: str, *variants: str) -> Resume | None:
        """The first of ``variants`` that the pairs have, or else the jobs; None if neither.

        Without any it is the quickest in the pairs. Else it is the primary variant, of recompute its jobs' quickest.
        """
        form = self._in_pairs(workload, method, variants)
        if form is not None:
            return _of_pairs(self.layer, form)
        layers = dict.fromkeys((self.layer, self._findings.deepest))
        found = (
            self._findings.at(workload, method, _READY.metric, layer, variant)
            for layer in layers
            for variant in variants or (None,)
        )
        row = None
        if method == "recompute" and not variants:
            row = self._findings.quickest(workload, method, _READY.metric, self.layer)
        row = row or next(filter(None, found), None)
        return None if row is None else self._of_jobs(row)

    def _in_pairs(self, workload: str, method: str, variants: Sequence[str]) -> Form | None:
        cell = self._cells.get(workload)
        forms = [form for form in cell.forms if form.method == method and form.values(_READY)] if cell else []
        if not variants:
            return min(forms, key=lambda form: median(form.values(_READY)), default=None)
        by_name = {form.variant: form for form in forms}
        return next((by_name[name] for name in variants if name in by_name), None)

    def _of_jobs(self, row: Row) -> Resume:
        return Resume(
            variant=row.variant,
            layer=row.breakpoint,
            median=row.median,
            low=row.ends[0] if row.ends else None,
            high=row.ends[1] if row.ends else None,
            n=row.n,
            processes=None,
            is_range=row.is_range,
            held_bytes=self._held(row),
        )

    def _held(self, row: Row) -> float:
        """As the device counts, or where nothing counts by what the variant is meant to do."""

        def of(metric: str) -> float | None:
            found = self._findings.at(row.workload, row.method, metric, row.breakpoint, row.variant)
            return None if found is None else found.median

        counted = of("device_bytes_paused")
        if counted is not None:
            return counted
        meant = {"vanilla": "state_bytes"}.get(row.method) or {KEPT: "frontier_bytes"}.get(row.variant)
        return (of(meant) or 0) if meant else 0


def _of_pairs(layer: int, form: Form) -> Resume:
    of_processes = form.times[_READY.name]
    interval = process_median([list(of_processes.values())], [form.sittings[number] for number in of_processes])
    return Resume(
        variant=form.variant,
        layer=layer,
        median=interval.median,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        processes=len(of_processes),
        is_range=interval.is_range,
        held_bytes=form.kept_bytes if form.device_bytes is None else form.device_bytes,
    )
