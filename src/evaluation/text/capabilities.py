"""Plot 2: the capabilities table, as LaTeX that needs booktabs and fits a column, and as Markdown.

The memo's columns. Resume latency is the clock ready of one workload, a session, at the layer that leads: see
:mod:`evaluation.analysis.leading`. Below a method stand its other forms: recompute's quickest, copies by hand in the
order of need, Djinn with the frontier kept on the device. Concurrent sessions are those that stayed paused until
something refused; state editing is what the probe found. Where a process with paused sessions was killed, a further
column says what of an edited one survives. What was not measured prints ``--``. Latency in other
workloads is in the figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evaluation.analysis.durability import EDIT, NOTHING, SESSION, Kill
from evaluation.analysis.leading import Leading, Resume, leading_workload
from evaluation.analysis.material import Material
from evaluation.analysis.numerals import decimals
from evaluation.analysis.outcomes import Capability, Capacity, by_method
from evaluation.analysis.variants import BULK, BY_KEY, KEPT, ORDERED, PRIMARY, plain_name
from evaluation.text.latex import Latex, environment, in_markdown, latex, markdown, markdown_table

UNMEASURED = Latex("--")
REFUSED = Latex("OOM")
_MOST_DECIMALS = 4  # more would make an interval too wide for a column: a tenth of a microsecond
_REFUSER = {"cap": "", "device_oom": "device", "host_full": "host", "arena": "arena"}
_SURVIVES = {EDIT: Latex("Yes"), SESSION: Latex("Part"), NOTHING: Latex("No")}
BY_FILE = Latex(r"$^\dagger$")
_SAVED = "saved"  # by hand: a form that writes its copies to a file
_REPLAY = "replay"  # of recompute: the program stores its edit and makes it again


@dataclass(frozen=True, kw_only=True)
class Form:
    """A row that is asked for: the first of ``variants`` that the run has, without any the quickest or the primary.

    ``name`` is its label; without one the first row of a method has the method's, and any other that of what is found.
    """

    method: str
    variants: tuple[str, ...]
    name: Latex | None = None


_LEAD = {
    "recompute": Form(method="recompute", variants=(PRIMARY["recompute"].name,)),
    "manual_offload": Form(method="manual_offload", variants=BULK, name=Latex("Manual, bulk")),
    "djinn": Form(method="djinn", variants=(PRIMARY["djinn"].name,)),
}
_BELOW = {
    "recompute": Form(method="recompute", variants=()),
    "manual_offload": Form(method="manual_offload", variants=(ORDERED,), name=Latex("ordered")),
    "djinn": Form(method="djinn", variants=(KEPT,), name=Latex("frontier kept")),
}


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
        ends = f"{resume.low:.{places}f}--{resume.high:.{places}f}"
        return cls(
            median=f"{resume.median:.{shown}f}", interval=Latex(rf"\emph{{{ends}}}" if resume.is_range else ends)
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table; ``below``: it is a form of the method above it. ``layer`` is that of the latency, if there is
    one; ``stopped_by`` refused the next session.
    """

    label: Latex
    below: bool
    cell: Cell
    layer: int
    sessions: Latex
    stopped_by: str
    editing: Latex
    survives: Latex


def label(method: str) -> Latex:
    """The name of a method in a table."""
    if method in PRIMARY and (heading := PRIMARY[method].heading) is not None:
        return Latex(" ".join(filter(None, heading)))
    return latex(plain_name(method))


def _sessions(row: Capacity | None) -> Latex:
    """How many stayed paused; more might have where only the cap ended it."""
    if row is None:
        return UNMEASURED
    return Latex(rf"$\geq$\,{row.sessions}" if row.stopped_by == "cap" else str(row.sessions))


def _editing(row: Capability | None, replay: Capability | None) -> Latex:
    """Whether an edit survives, and in how many lines; where it is lost, whether ``replay`` brings it back."""
    if row is None:
        return UNMEASURED
    if not row.edit_survives:
        return Latex("No; replay" if replay is not None and replay.edit_exact else "No")
    lines = "" if row.state_lines is None else f", {row.state_lines} line{'' if row.state_lines == 1 else 's'}"
    return Latex(("Yes" if row.edit_exact else "Inexact") + lines)


def _survives(row: Kill | None, saved: Kill | None) -> Latex:
    """What goes on in another process, when that of the paused and edited session was killed.

    Where nothing does, a mark tells of a form that ``saved`` its copies itself.
    """
    if row is None:
        return UNMEASURED
    mark = BY_FILE if row.survives == NOTHING and saved is not None and saved.survives == EDIT else ""
    return Latex(_SURVIVES[row.survives] + mark)


OfVariant = TypeVar("OfVariant", Capacity, Capability, Kill)


def _first(rows: Mapping[str, Sequence[OfVariant]], method: str, variants: Sequence[str] = ()) -> OfVariant | None:
    """The row of the first of ``variants`` that there is; without any, the primary variant's."""
    of_method = rows.get(method, ())
    return next((row for row in of_method if not variants or row.variant in variants), None)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the rows of the table are made of; the last three are by method, primary variant first."""

    leading: Leading
    workload: str
    capacity: Mapping[str, Sequence[Capacity]]
    capability: Mapping[str, Sequence[Capability]]
    kills: Mapping[str, Sequence[Kill]]

    @property
    def killed_in(self) -> str:
        """The run in which a process with paused sessions was killed; "" if there is none."""
        return next((row.run for rows in self.kills.values() for row in rows), "")

    def resume(self, form: Form) -> Resume | None:
        """Its clock ready."""
        return self.leading.of(self.workload, form.method, *form.variants)

    def replay(self, method: str) -> Capability | None:
        """What a program finds that stores its edit and makes it again."""
        return _first(self.capability, method, (_REPLAY,))

    def lines(self, method: str) -> Iterator[tuple[Line, Resume | None]]:
        """The rows of ``method``; a second form has one if it was measured and is another than the first."""
        lead = _LEAD.get(method, Form(method=method, variants=()))
        first = self.resume(lead)
        yield self._line(lead, first, lead.name or label(method)), first
        if (below := _BELOW.get(method)) is None or (second := self.resume(below)) is None or second.median is None:
            return
        if first is None or second.variant != first.variant:
            yield self._line(below, second, below.name or _named(second), second.variant), second

    def _line(self, form: Form, resume: Resume | None, name: Latex, variant: str = "") -> Line:
        """The row of ``form``; below the first one sessions and edits are those of its ``variant``."""
        wanted = (variant,) if variant else ()
        kept, edited = _first(self.capacity, form.method, wanted), _first(self.capability, form.method, wanted)
        return Line(
            label=name,
            below=bool(variant),
            cell=Cell.of(resume),
            layer=self.leading.layer if resume is None else resume.layer,
            sessions=_sessions(kept),
            stopped_by=_REFUSER[kept.stopped_by] if kept else "",
            editing=_editing(edited, None if variant else self.replay(form.method)),
            survives=_survives(_first(self.kills, form.method, wanted), _first(self.kills, form.method, (_SAVED,))),
        )


def _named(resume: Resume) -> Latex:
    """A form of recompute, by its label in figures."""
    known = BY_KEY.get(("recompute", resume.variant))
    return latex(known.label.lower() if known is not None else resume.variant)


def table(sources: Sources, methods: Sequence[str], *, run: str, functional: bool) -> str:
    """The table as LaTeX source, ``methods`` down."""
    found = [pair for method in methods for pair in sources.lines(method)]
    lines, resumes = [line for line, _ in found], [one for _, one in found if one is not None and one.n]
    return (
        environment()
        .get_template("capabilities.tex.j2")
        .render(
            run=run,
            functional=functional,
            workload=sources.workload,
            layer=sources.leading.layer,
            lines=lines,
            spread=_spread(resumes),
            elsewhere=sorted({line.layer for line in lines} - {sources.leading.layer}),
            counted=any(line.sessions != UNMEASURED for line in lines),
            replay=replay.state_lines if (replay := sources.replay("recompute")) and replay.edit_exact else None,
            capped=any(line.sessions.startswith("$") for line in lines),
            edited=any(line.editing != UNMEASURED for line in lines),
            killed=sources.killed_in,
            by_file=any(line.survives.endswith(BY_FILE) for line in lines),
            gaps=any(
                UNMEASURED in (one.sessions, one.editing, one.cell.median)
                or (sources.killed_in and one.survives == UNMEASURED)
                for one in lines
            ),
            unmeasured=UNMEASURED,
        )
    )


def as_markdown(sources: Sources, methods: Sequence[str], *, run: str, functional: bool) -> str:
    """The same rows as a page, whose caption says less."""
    lines = [line for method in methods for line, _ in sources.lines(method)]
    head: tuple[str, ...] = (
        "",
        f"ready after layer {sources.leading.layer} (ms)",
        "paused sessions",
        "state can be edited",
    )
    head += ("survives a kill of its process",) if sources.killed_in else ()
    rows = [
        (
            ("&emsp;" if line.below else "") + in_markdown(line.label),
            f"{in_markdown(line.cell.median)}{_in_brackets(line.cell.interval)}",
            f"{in_markdown(line.sessions)}{_in_brackets(line.stopped_by)}",
            in_markdown(line.editing),
            *((in_markdown(line.survives),) if sources.killed_in else ()),
        )
        for line in lines
    ]
    page = [
        f"# Capabilities of each method, run {markdown(run)}",
        "",
        *(["**Functional CPU run: not a performance result.**", ""] if functional else []),
        *markdown_table(head, rows),
        "",
        f"Workload {markdown(sources.workload)}. "
        "In brackets: an interval of 95 %, in italics a range from the least to the 95th percentile, of pairs to the "
        "most; what refused the next session.",
        *(_of_kills(sources.killed_in, lines) if sources.killed_in else ()),
    ]
    return "\n".join(page) + "\n"


def _of_kills(run: str, lines: Sequence[Line]) -> Iterator[str]:
    yield ""
    yield (
        f"In the run {markdown(run)} a process was killed in which sessions were paused and edited. Part: the "
        "session goes on in another process, without its edit."
    )
    if any(line.survives.endswith(BY_FILE) for line in lines):
        yield "†: a form that writes its copies to a file itself goes on, with its edit."


def _in_brackets(text: str) -> str:
    return f" ({in_markdown(text)})" if text else ""


def _spread(resumes: Sequence[Resume]) -> Latex:
    """What stands beside the medians."""
    kinds = {(one.is_range, one.is_range and one.processes is None) for one in resumes}
    words = {
        (False, False): r"95\,\% interval",
        (True, False): r"\emph{range}",
        (True, True): r"\emph{range to the 95th percentile}",
    }
    return Latex(" or ".join(words[kind] for kind in sorted(kinds)))


def files(material: Material, workload: str) -> list[str]:
    """``capabilities.tex`` and ``.md``."""
    sources = Sources(
        leading=Leading(material.findings, material.run),
        workload=leading_workload(material.study),
        capacity=by_method(material.rows("capacity", Capacity)),
        capability=by_method(material.rows("capabilities", Capability)),
        kills=by_method(material.rows("kills", Kill)),
    )
    return [
        write(sources, material.findings.methods, run=material.name, functional=material.functional)
        for write in (table, as_markdown)
    ]
