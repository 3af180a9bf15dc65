"""What the memo expected, beside what was measured, with a sentence on every value that differs.

The memo's values are the only numbers that are written here; it speaks of the clock ready, at layer 1 and at the last
one, of a prefill. A value is met within ``_ABOUT`` of it, 0 ms by what rounds to it. What explains a difference is said
from the run's own records: its floors, and what was in use when the device refused. A functional run is compared by its
edits only.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evaluation.analysis.findings import Findings
from evaluation.analysis.numerals import significant
from evaluation.analysis.summary import Row, sampled
from evaluation.analysis.variants import plain_name
from evaluation.claims.claim import Claim, Figure, printed
from evaluation.claims.measurements import Measurements
from evaluation.claims.of_use import cell_of, what_ended
from evaluation.records.runs import Json, Run

_ABOUT = 0.2
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class _Range:
    """What the memo says, and between which values it is met; ``point`` is the value if it names one."""

    text: str
    low: float
    high: float
    point: float | None = None

    @classmethod
    def about(cls, value: float, unit: str) -> "_Range":
        return cls(text=f"{value:g} {unit}", low=value * (1 - _ABOUT), high=value * (1 + _ABOUT), point=value)

    def factor(self, value: float) -> str:
        """How often ``value``, which is outside, holds what the memo says; empty where that is 0."""
        if self.point is not None:
            return f", {significant(value / self.point, 2)} times that" if self.point else ""
        return f", {significant(value / (self.low if value < self.low else self.high), 2)} times the nearer end of that"


_FIRST, _LAST = "first", "last"
_READY = [
    ("vanilla", _LAST, _Range(text="0 ms", low=0, high=0.5, point=0)),
    ("recompute", _FIRST, _Range.about(5, "ms")),
    ("recompute", _LAST, _Range.about(800, "ms")),
    ("manual_offload", _LAST, _Range(text="30 to 50 ms", low=30, high=50)),
    ("djinn", _LAST, _Range.about(40, "ms")),
]
_RATIO = _Range.about(20, "times")
_SESSIONS = [
    ("vanilla", "default", _Range(text="3", low=3, high=3, point=3)),
    ("vanilla", "own_process", _Range(text="3", low=3, high=3, point=3)),
    ("recompute", None, _Range(text="50+", low=50, high=math.inf, point=50)),
    ("manual_offload", None, _Range(text="50+", low=50, high=math.inf, point=50)),
    ("djinn", None, _Range(text="50+", low=50, high=math.inf, point=50)),
]
_EDITING = [("vanilla", "yes"), ("recompute", "no"), ("manual_offload", "yes"), ("djinn", "yes")]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """One value of the memo. ``measured`` and ``differs`` are None where there is nothing to compare.

    ``sentence`` says how a value differs, or why nothing was compared; it is empty where the memo is met.
    """

    quantity: str
    workload: str | None
    memo: str
    measured: Figure | None
    differs: bool | None
    sentence: str


def expectations(run: Run, claims: Iterable[Claim]) -> list[Expectation]:
    """Every value of the memo for ``run``; ``claims`` are those that were decided from it."""
    measured = Measurements(run=run)
    findings = Findings(run=run.name, rows=[] if run.functional else sampled(run))
    ratios = {c.workload: c.judgement.figures for c in claims if (c.id, c.clock) == ("C5", "ready")}
    found: list[Expectation] = []
    for workload in measured.workloads(prefill=True):
        for method, place, expected in _READY:
            layer = measured.layers[0 if place == _FIRST else -1]
            if place == _LAST or layer == 1:
                found.append(_latency(run, findings, workload, method, layer, expected))
        found.append(_ratio(run, workload, measured.layers[-1], ratios.get(workload, {})))
    for method, variant, expected in _SESSIONS:
        found += _sessions(run, method, variant, expected)
    return [*found, *(_editing(run, method, memo) for method, memo in _EDITING)]


def _compared(quantity: str, workload: str | None, expected: _Range, figure: Figure | None, reason: str) -> Expectation:
    """``figure`` beside what the memo expects; ``reason`` says why it may differ, or why there is none."""
    differs = None
    sentence = reason
    if figure is not None:
        value = float(figure.value)
        differs = not expected.low <= value <= expected.high
        sentence = ""
        if differs:
            found = f"measured: {printed(figure)}{expected.factor(value)}"
            sentence = f"The memo expects {expected.text}; {found}. {reason}".strip()
    return Expectation(
        quantity=quantity,
        workload=workload,
        memo=expected.text,
        measured=figure,
        differs=differs,
        sentence=sentence,
    )


def _gap(run: Run) -> str:
    return "Not compared: a functional run says nothing about speed." if run.functional else "Not measured."


def _latency(run: Run, findings: Findings, workload: str, method: str, layer: int, expected: _Range) -> Expectation:
    """The clock ready of one method at one layer, the primary variant's."""
    quantity = f"{plain_name(method)}, ready at layer {layer}"
    row = findings.at(workload, method, "ready_ms", layer)
    if row is None or row.median is None:
        gap = "The device had no room." if row is not None else _gap(run)
        return _compared(quantity, workload, expected, None, gap)
    figure = Figure(value=row.median, unit="ms", low=row.ci_low, high=row.ci_high)
    return _compared(quantity, workload, expected, figure, _floor(findings, row))


def _floor(findings: Findings, row: Row) -> str:
    """What bounds this latency from below, as the run measured it."""
    floor = findings.at(row.workload, row.method, "floor_ms", row.breakpoint)
    if floor is None or floor.median is None:
        return ""
    if row.method == "recompute":
        return f"Its operations take {significant(floor.median)} ms at the matrix rate that the probe measured."
    return f"A raw pinned copy of the bytes that it waits for took {significant(floor.median)} ms in the same process."


def _ratio(run: Run, workload: str, layer: int, figures: dict[str, Figure]) -> Expectation:
    """Recompute over Djinn, which the claim C5 found, at the layer that it names or else ``layer``."""
    layer = int(figures["layer"].value) if "layer" in figures else layer
    quantity = f"Recompute over Djinn, ready at layer {layer}"
    if "ratio" not in figures:
        return _compared(quantity, workload, _RATIO, None, _gap(run))
    times = {name: significant(float(figures[name].value)) for name in ("recompute", "djinn")}
    reason = f"Recompute took {times['recompute']} ms, Djinn {times['djinn']} ms."
    return _compared(quantity, workload, _RATIO, figures["ratio"], reason)


def _sessions(run: Run, method: str, variant: str | None, expected: _Range) -> Iterator[Expectation]:
    """Paused sessions of one variant; of one that is not the headline only if it was counted."""
    cell = cell_of(run, "capacity", method, variant)
    own = variant == "own_process"
    if own and cell is None:
        return
    name = f"{plain_name(method)}, weights of its own per session" if own else plain_name(method)
    quantity = f"{name}: paused sessions"
    if cell is None or run.functional:
        yield _compared(quantity, None, expected, None, _gap(run))
        return
    figure = Figure(value=cell["sessions"], unit="sessions", at_least=cell["stopped_by"] == "cap")
    yield _compared(quantity, None, expected, figure, _why_stopped(run, cell))


def _why_stopped(run: Run, cell: Json) -> str:
    used = cell["figures"][-1].get("device_bytes") if cell["figures"] else None
    if cell["stopped_by"] != "device_oom" or used is None:
        ended = what_ended(cell)
        return f"{ended[0].upper()}{ended[1:]}."
    weights = run.records[0]["model"]["parameter_bytes"]
    sizes = [significant(nbytes / _GIB) for nbytes in (used, weights)]
    return f"The device refused with {sizes[0]} GiB in use; the weights of the model are {sizes[1]} GiB."


def _editing(run: Run, method: str, memo: str) -> Expectation:
    """Whether an edit of the paused state survives in every bit, under the primary variant and by a replay."""
    cell, replay = (cell_of(run, "capabilities", method, variant) for variant in (None, "replay"))
    quantity = f"{plain_name(method)}: supports state editing"
    if cell is None:
        return Expectation(
            quantity=quantity, workload=None, memo=memo, measured=None, differs=None, sentence="Not measured."
        )
    found = "yes" if cell["edit_exact"] else "inexact" if cell["edit_survives"] else "no"
    sentence = "" if found == memo else f"The memo expects {memo}; the edit was found to be: {found}."
    if found == memo == "no" and replay is not None and replay["edit_exact"]:
        found += ", but yes by replay"
        sentence = (
            "The memo calls it impossible; the edit is lost without more, and survives in every bit if the program "
            "stores and replays it."
        )
    return Expectation(
        quantity=quantity,
        workload=None,
        memo=memo,
        measured=Figure(value=found, unit=""),
        differs=bool(sentence),
        sentence=sentence,
    )
