"""The clock ready over the depth of the breakpoint, of each form, and how many times as long recompute takes at depth.

A form's times come from the pairs, if these have it wherever its own jobs do; else from those jobs. So a line is of one
source. Recompute is in the pairs at the last layers only. There it is compared with Djinn block by block; without pairs
the medians of either's jobs are. It is recompute's quickest form that counts, and the last layer that has a next one,
or else the deepest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from evaluation.analysis.findings import Findings
from evaluation.analysis.leading import Leading
from evaluation.analysis.metrics import CLOCK, Clock
from evaluation.analysis.pairs import Cell, Policy, cells
from evaluation.analysis.resampling import Groups
from evaluation.analysis.statistics import process_median
from evaluation.analysis.summary import Row
from evaluation.analysis.variants import PRIMARY
from evaluation.records.runs import Run

_READY = CLOCK["ready"]
_FLOOR = "floor_ms"
_DJINN = PRIMARY["djinn"].name


@dataclass(frozen=True, kw_only=True)
class Time:
    """A median after ``layer`` in ms, with the ends of its interval, or of a range of too few processes or samples."""

    layer: int
    median: float
    low: float
    high: float
    is_range: bool


@dataclass(frozen=True, kw_only=True)
class Times:
    """How many ``times`` as long recompute's quickest ``variant`` takes as Djinn after ``layer``.

    ``low`` and ``high`` end an interval of 95 %; None without one. ``paired``: block by block, in the same processes.
    """

    layer: int
    variant: str
    recompute_ms: float
    djinn_ms: float
    times: float
    low: float | None
    high: float | None
    paired: bool


class Depth:
    """What a run says of the clock ready over its layers."""

    def __init__(self, findings: Findings, run: Run) -> None:
        self._findings = findings
        self._run = run

    @cached_property
    def _paired(self) -> Mapping[str, Mapping[int, Cell]]:
        found: dict[str, dict[int, Cell]] = {}
        for cell in cells(self._run):
            found.setdefault(cell.workload, {})[cell.layer] = cell
        return found

    @cached_property
    def layer(self) -> int:
        """The last that has a next one, where the run has it; else the deepest."""
        return Leading(self._findings, self._run).layer

    def of_jobs(self, workload: str, method: str, metric: str, variant: str | None = None) -> list[Time]:
        """``metric`` of the method's own jobs, of ``variant`` or else the primary one, by layer; empty: it has none."""
        return _of_rows(self._findings.series(workload, method, metric, variant))

    def of(self, workload: str, method: str, *variants: str, clock: Clock = _READY) -> list[Time]:
        """The first of ``variants`` that the run has, or without any the primary one, by layer; empty: it has none."""
        for variant in variants or (None,):
            alone = self.of_jobs(workload, method, clock.metric, variant)
            in_pairs = {
                layer: (form.times[clock.name], form.sittings)
                for layer, cell in self._paired.get(workload, {}).items()
                for form in cell.forms
                if (form.method, form.variant) == (method, variant) and form.values(clock)
            }
            if in_pairs and {time.layer for time in alone} <= in_pairs.keys():
                return [
                    _of_processes(layer, list(times.values()), [sittings[number] for number in times])
                    for layer, (times, sittings) in sorted(in_pairs.items())
                ]
            if alone:
                return alone
        return []

    def floors(self, workload: str) -> list[Time]:
        """A raw copy of the frontier beside Djinn's samples, from where these come."""
        alone = self.of_jobs(workload, "djinn", _FLOOR)
        in_pairs = {
            layer: {number: floors for number, floors in cell.floors.items() if floors}
            for layer, cell in sorted(self._paired.get(workload, {}).items())
        }
        timed = {layer: floors for layer, floors in in_pairs.items() if floors}
        if timed and {time.layer for time in alone} <= timed.keys():
            sittings = self._run.pair_sittings
            return [
                _of_processes(layer, list(floors.values()), [sittings[number] for number in floors])
                for layer, floors in timed.items()
            ]
        return alone

    def state_bytes(self, workload: str, layer: int) -> float | None:
        """What Djinn copies to the host at ``layer``, of its jobs or else of the pairs; None if the run has neither."""
        alone = self._findings.at(workload, "djinn", "state_bytes", layer, _DJINN)
        if alone is not None and alone.median is not None:
            return alone.median
        cell = self._paired.get(workload, {}).get(layer)
        plain = ("djinn", _DJINN, Policy())
        forms = [form for form in cell.forms if (form.method, form.variant, form.policy) == plain] if cell else []
        return forms[0].host_bytes if forms else None

    def times(self, workload: str) -> Times | None:
        """Recompute's quickest form over Djinn at depth; None if the run lacks either there, or Djinn took no time."""
        cell = self._paired.get(workload, {}).get(self.layer)
        pairings = cell.pairings(Policy(), _READY, method="recompute") if cell else []
        if pairings and pairings[0].ratios:
            inverse = [[1 / ratio for ratio in process] for process in pairings[0].ratios]
            ratio = process_median([inverse], pairings[0].sittings)
            recompute, djinn = (median(form.values(_READY)) for form in (pairings[0].by_hand, pairings[0].djinn))
            low, high = ratio.ends
            return Times(
                layer=self.layer,
                variant=pairings[0].by_hand.variant,
                recompute_ms=recompute,
                djinn_ms=djinn,
                times=ratio.median,
                low=low,
                high=high,
                paired=True,
            )
        return self._of_jobs(workload)

    def _of_jobs(self, workload: str) -> Times | None:
        """At the layer that leads, or else at the deepest that has both."""
        for layer in (self.layer, *sorted(self._findings.layers, reverse=True)):
            djinn = self._findings.at(workload, "djinn", _READY.metric, layer, _DJINN)
            best = self._findings.quickest(workload, "recompute", _READY.metric, layer)
            if djinn is not None and djinn.median and best is not None and best.median is not None:
                return Times(
                    layer=layer,
                    variant=best.variant,
                    recompute_ms=best.median,
                    djinn_ms=djinn.median,
                    times=best.median / djinn.median,
                    low=None,
                    high=None,
                    paired=False,
                )
        return None


def _of_rows(rows: Sequence[Row]) -> list[Time]:
    return [
        Time(layer=row.breakpoint, median=row.median, low=row.ends[0], high=row.ends[1], is_range=row.is_range)
        for row in rows
        if row.median is not None and row.ends
    ]


def _of_processes(layer: int, groups: Groups, sittings: Sequence[str | None]) -> Time:
    found = process_median([groups], sittings)
    return Time(layer=layer, median=found.median, low=found.low, high=found.high, is_range=found.is_range)
