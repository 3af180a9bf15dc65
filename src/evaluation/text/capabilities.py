"""Plot 2: the capabilities table, as LaTeX that needs booktabs. With three workloads it fits one column.

Resume latency is the clock ready at the layer that leads, one column per workload, from
:mod:`evaluation.analysis.leading`. Hand-written copies have two rows: all of the state at once, and in the order of
need. So has Djinn: all swapped, and with the frontier kept on the device. Concurrent sessions are those that stayed
paused until something refused; state editing is what the probe found. What was not measured prints ``--``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evaluation.analysis.leading import Leading, Resume
from evaluation.analysis.material import Material
from evaluation.analysis.numerals import decimals, significant
from evaluation.analysis.outcomes import Capability, Capacity, by_method
from evaluation.analysis.variants import BULK, BY_KEY, KEPT, ORDERED, PRIMARY, plain_name
from evaluation.text.latex import Latex, environment, latex

UNMEASURED = Latex("--")
REFUSED = Latex("OOM")
_SAME = Latex(r"\emph{same}")  # as the row above: there is nothing to order
_MOST_DECIMALS = 4  # more would make an interval too wide for a column: a tenth of a microsecond
_IN_A_COLUMN = 3  # workloads; more take the width of the page


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A latency as the table prints it."""

    median: str
    interval: str = ""

    @classmethod
    def of(cls, resume: Resume | None) -> "Cell":
        """The cell of ``resume``: ``--`` if there is none, OOM if the device had no room."""
        if resume is None:
            return cls(median=UNMEASURED)
        if resume.median is None or resume.low is None or resume.high is None:
            return cls(median=REFUSED)
        shown = min(decimals(resume.median), _MOST_DECIMALS)
        places = max(shown, 1)  # the ends as fine as the median, and never 118--118
        interval = Latex(f"{resume.low:.{places}f}--{resume.high:.{places}f}")
        return cls(median=f"{resume.median:.{shown}f}", interval=interval)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table; ``below`` is the rest of its name, ``stopped_by`` and ``lines`` what stands under sessions
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
_LED_BY = {"manual_offload": BULK, "djinn": (PRIMARY["djinn"].name,)}  # the first that a run has
_BESIDE = {
    "manual_offload": (ORDERED, (Latex("Manual,"), Latex("ordered"))),
    "djinn": ((KEPT,), (Latex(r"\sys{},"), Latex("kept"))),
}


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


OfVariant = TypeVar("OfVariant", Capacity, Capability)


def _first(rows: Mapping[str, Sequence[OfVariant]], method: str, variants: Sequence[str] = ()) -> OfVariant | None:
    """The row of the first of ``variants`` that there is; without any, the primary variant's."""
    of_method = rows.get(method, ())
    return next((row for row in of_method if not variants or row.variant in variants), None)


def table(
    leading: Leading,
    methods: Sequence[str],
    workloads: Mapping[str, bool],
    capacity: Mapping[str, Sequence[Capacity]],
    capability: Mapping[str, Sequence[Capability]],
    *,
    run: str,
    functional: bool,
) -> str:
    """The table as LaTeX source: ``methods`` down, ``workloads`` across, each with whether it has a KV cache.

    The last two are by method, primary variant first.
    """
    found: list[Resume] = []

    def line(name: tuple[Latex, Latex], method: str, variants: Sequence[str], beside: Sequence[str] = ()) -> Line:
        resumes = {workload: leading.of(workload, method, *variants) for workload in workloads}
        found.extend(filter(None, resumes.values()))
        kept, edited = _first(capacity, method, beside), _first(capability, method, beside)
        ordered = variants == ORDERED
        return Line(
            label=name[0],
            below=name[1],
            cells=[
                Cell(median=_SAME) if ordered and not workloads[workload] and one is None else Cell.of(one)
                for workload, one in resumes.items()
            ],
            sessions=_sessions(kept),
            stopped_by=_STOPS[kept.stopped_by] if kept else "",
            editing=_editing(edited),
            lines=_lines(edited),
        )

    lines = []
    for method in methods:
        lines.append(line(label(method), method, _LED_BY.get(method, ())))
        if method in _BESIDE:
            variants, name = _BESIDE[method]
            second = line(name, method, variants, variants)
            lines += [second] if any(cell.interval for cell in second.cells) else []
    own_process = _first(capacity, "vanilla", ("own_process",))
    replay, plain = _first(capability, "recompute", ("replay",)), _first(capability, "recompute")
    cells = [cell for one in lines for cell in one.cells]
    return (
        environment()
        .get_template("capabilities.tex.j2")
        .render(
            run=run,
            functional=functional,
            float="table" if len(workloads) <= _IN_A_COLUMN else "table*",
            workloads=list(workloads),
            layer=leading.layer,
            lines=lines,
            own_process=own_process and {"sessions": _sessions(own_process), "by": _STOPS[own_process.stopped_by]},
            replay=replay and {"editing": _editing(replay), "lines": _lines(replay)},
            replay_ms=[significant(replay.resume_ms), significant(plain.resume_ms)] if replay and plain else None,
            edited=any(one.editing != UNMEASURED for one in lines),
            counted=any(one.sessions != UNMEASURED for one in lines),
            gaps=any(UNMEASURED in (one.sessions, one.editing, *(c.median for c in one.cells)) for one in lines),
            ordered=any(one.label == _BESIDE["manual_offload"][1][0] for one in lines),
            same=any(cell.median == _SAME for cell in cells),
            kept=[
                (workload, Latex(f"{significant(one.held_bytes / 1e6)}~MB"))
                for workload in workloads
                if (one := leading.of(workload, "djinn", KEPT)) and one.median is not None
            ],
            quickest=_quickest({name: leading.of(name, "recompute") for name in workloads if "recompute" in methods}),
            arena=any(one.stopped_by == _STOPS["arena"] for one in lines),
            counts=_counts(found),
            elsewhere=sorted({one.layer for one in found} - {leading.layer}),
            out_of_memory=any(cell.median == REFUSED for cell in cells),
            unmeasured=UNMEASURED,
            refused=REFUSED,
        )
    )


def _quickest(resumes: Mapping[str, Resume | None]) -> list[dict[str, Any]]:
    """Of recompute what is not its plain form: name, workloads, and what it keeps of the device in MB, if anything."""
    forms: dict[str, list[tuple[str, float]]] = {}
    for workload, one in resumes.items():
        if one is not None and one.variant != PRIMARY["recompute"].name:
            forms.setdefault(one.variant, []).append((workload, one.held_bytes))
    return [
        {
            "name": latex(known.label.lower() if (known := BY_KEY.get(("recompute", variant))) else variant),
            "workloads": latex(", ".join(workload for workload, _ in of)),
            "keeps": Latex(f"{significant(most / 1e6)}~MB") if (most := max(held for _, held in of)) else "",
        }
        for variant, of in forms.items()
    ]


def _counts(resumes: Sequence[Resume]) -> Latex:
    """How many times stand behind a median, and what the row below it is: intervals, or else a range."""
    paired = [one for one in resumes if one.processes is not None]
    alone = [one for one in resumes if one.processes is None and one.n]
    parts = []
    if paired:
        fewest = min(one.processes or 0 for one in paired)
        parts.append(f"{_spread(paired, 'range')} over {fewest} processes that run the forms side by side")
    if alone:
        counts = [one.n for one in alone]
        samples = " to ".join(map(str, sorted({min(counts), max(counts)})))
        parts.append(f"{_spread(alone, 'range (least to 95th percentile)')} of {samples} samples")
    return Latex("; where these lack a form, ".join(parts))


def _spread(resumes: Sequence[Resume], otherwise: str) -> str:
    return otherwise if any(one.is_range for one in resumes) else r"95\,\% interval"


def files(material: Material, workload: str) -> list[str]:
    """``capabilities.tex``."""
    leading = Leading(material.findings, material.run)
    kv_cache = {one["name"]: bool(one["kv_cache"]) for one in material.study["workloads"]}
    workloads = {name: kv_cache[name] for name in material.findings.workloads}
    capacity = by_method(material.rows("capacity", Capacity))
    capability = by_method(material.rows("capabilities", Capability))
    return [
        table(
            leading,
            material.findings.methods,
            workloads,
            capacity,
            capability,
            run=material.name,
            functional=material.functional,
        )
    ]
