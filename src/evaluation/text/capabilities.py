"""Plot 2: the capabilities table, as LaTeX that needs booktabs. With three workloads it fits one column.

Resume latency is the clock ready at the deepest breakpoint, for the primary variant of each method, one
column per workload. Concurrent sessions are those that stayed paused until something refused; state editing is what
the probe found. Every number comes from the summary and the two tables beside it; what was not measured prints ``--``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.analysis.findings import Findings
from evaluation.analysis.material import Material
from evaluation.analysis.numerals import decimals, significant
from evaluation.analysis.outcomes import Capability, Capacity, by_method
from evaluation.analysis.summary import Row
from evaluation.analysis.variants import KEPT, ORDERED, PRIMARY, plain_name
from evaluation.text.latex import Latex, environment, latex

UNMEASURED = Latex("--")
REFUSED = Latex("OOM")
_MOST_DECIMALS = 4  # more would make an interval too wide for a column: a tenth of a microsecond
_IN_A_COLUMN = 3  # workloads; more take the width of the page


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A latency as the table prints it."""

    workload: str
    median: str
    interval: str

    @classmethod
    def of(cls, workload: str, row: Row | None) -> "Cell":
        """The cell of ``row``: ``--`` if there is none, OOM if the device had no room."""
        if row is None:
            return cls(workload=workload, median=UNMEASURED, interval="")
        if row.median is None or row.ends is None:
            return cls(workload=workload, median=REFUSED, interval="")
        shown = min(decimals(row.median), _MOST_DECIMALS)
        places = max(shown, 1)  # the ends as fine as the median, and never 118--118
        low, high = row.ends
        interval = Latex(f"{low:.{places}f}--{high:.{places}f}")
        return cls(workload=workload, median=f"{row.median:.{shown}f}", interval=interval)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method of the table; ``below`` is the rest of its name, ``stopped_by`` and ``lines`` what stands under sessions
    and editing.
    """

    label: Latex
    below: Latex
    cells: list[Cell]
    sessions: Latex
    stopped_by: str
    editing: Latex
    lines: str


_STOPS = {"cap": "", "device_oom": "OOM", "host_full": "host", "arena": "arena"}


def label(method: str) -> tuple[Latex, Latex]:
    """The name of a method in the two rows that it has, so that it takes the width of one word."""
    if method in PRIMARY and (heading := PRIMARY[method].heading) is not None:
        return Latex(heading[0]), Latex(heading[1])
    first, _, rest = plain_name(method).partition(" ")
    return latex(first), latex(rest)


def _sessions(row: Capacity | None) -> Latex:
    """How many stayed paused; more might have where only the cap ended it."""
    if row is None:
        return UNMEASURED
    return Latex(rf"$\geq$\,{row.sessions}" if row.stopped_by == "cap" else str(row.sessions))


def _editing(row: Capability | None) -> Latex:
    """Whether the edit survives."""
    if row is None:
        return UNMEASURED
    return Latex("Yes" if row.edit_exact else "Inexact" if row.edit_survives else "No")


def _lines(row: Capability | None) -> str:
    """What the edit takes in the user's program."""
    return "" if row is None or row.state_lines is None else f"+{row.state_lines}"


def table(
    findings: Findings,
    capacity: Mapping[str, Sequence[Capacity]],
    capability: Mapping[str, Sequence[Capability]],
    *,
    functional: bool,
) -> str:
    """The table of ``findings`` as LaTeX source; the other two by method, primary variant first."""
    workloads, layer = findings.workloads, findings.deepest

    def cells(method: str, variant: str | None = None) -> list[Cell]:
        return [Cell.of(name, findings.at(name, method, "ready_ms", layer, variant)) for name in workloads]

    def of(rows: Mapping[str, Sequence[Any]], method: str, variant: str | None = None) -> Any:
        return next((row for row in rows.get(method, ()) if variant in (None, row.variant)), None)

    lines = [
        Line(
            label=label(method)[0],
            below=label(method)[1],
            cells=cells(method),
            sessions=_sessions(row := of(capacity, method)),
            stopped_by=_STOPS[row.stopped_by] if row else "",
            editing=_editing(probed := of(capability, method)),
            lines=_lines(probed),
        )
        for method in findings.methods
    ]
    own_process = of(capacity, "vanilla", "own_process")
    replay, plain = of(capability, "recompute", "replay"), of(capability, "recompute")
    measured = [
        row
        for name in workloads
        for method in findings.methods
        if (row := findings.at(name, method, "ready_ms", layer)) and row.n
    ]
    counts, ranges = {row.n for row in measured}, any(row.is_range for row in measured)
    return (
        environment()
        .get_template("capabilities.tex.j2")
        .render(
            run=findings.run,
            functional=functional,
            float="table" if len(workloads) <= _IN_A_COLUMN else "table*",
            workloads=workloads,
            layer=layer,
            lines=lines,
            own_process=own_process and {"sessions": _sessions(own_process), "by": _STOPS[own_process.stopped_by]},
            replay=replay and {"editing": _editing(replay), "lines": _lines(replay)},
            replay_ms=[significant(replay.resume_ms), significant(plain.resume_ms)] if replay and plain else None,
            edited=any(line.editing != UNMEASURED for line in lines),
            counted=any(line.sessions != UNMEASURED for line in lines),
            gaps=any(UNMEASURED in (line.sessions, line.editing, *(c.median for c in line.cells)) for line in lines),
            ordered=[cell for name in ORDERED for cell in cells("manual_offload", name) if cell.interval],
            kept=[(cell, _kept_mb(findings, cell.workload, layer)) for cell in cells("djinn", KEPT) if cell.interval],
            spread=Latex("range (least to 95th percentile)" if ranges else r"95\,\% interval"),
            samples=" to ".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else "",
            out_of_memory=any(cell.median == REFUSED for line in lines for cell in line.cells),
            unmeasured=UNMEASURED,
            refused=REFUSED,
        )
    )


def _kept_mb(findings: Findings, workload: str, layer: int) -> Latex:
    """What stays on the device while Djinn keeps the frontier there, in 10^6 bytes."""
    row = findings.at(workload, "djinn", "device_bytes_paused", layer, KEPT)
    return UNMEASURED if row is None or row.median is None else Latex(f"{significant(row.median / 1e6)}~MB")


def files(material: Material, workload: str) -> list[str]:
    """``capabilities.tex``."""
    capacity = by_method(material.rows("capacity", Capacity))
    capability = by_method(material.rows("capabilities", Capability))
    return [table(material.findings, capacity, capability, functional=material.functional)]
