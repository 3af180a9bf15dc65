"""The session's figure: when its frontier, the first work, the logits and all of its state are there, by clock.

Over the breakpoint's depth as Plot 1 (:mod:`evaluation.figures.crossover`), with one logarithmic axis of latency, so
that a line can be followed from clock to clock. Recompute is in the form that is the quickest at ready. The raw copy is
the one measured beside each sample of what the clock waits for: the frontier, or of the copies by hand all of the
state. Points are medians of the jobs of each method, or of the pairs where it has no jobs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.figure import Figure

from evaluation.analysis.depth import Depth
from evaluation.analysis.findings import Findings
from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCKS, Clock
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BULK, DRAWN, METHODS, PRIMARY, Variant, plain_name
from evaluation.figures.lines import FLOOR, FLOOR_NAME, Curve, curve, logarithmic, name_ends, name_layers, plot
from evaluation.figures.room import put
from evaluation.figures.style import FONT_PT, OTHERS, readable, rendered, side_by_side

_COPIED_BY = {"frontier_bytes": "djinn", "state_bytes": "manual_offload"}  # beside whose samples these bytes are copied
_PRIMARY_IN_PAIRS = {"djinn": (PRIMARY["djinn"].name,), "manual_offload": BULK}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one clock shows."""

    title: str
    lines: Sequence[Curve]


def panels(findings: Findings, depth: Depth, workload: str) -> list[Panel]:
    """One per clock that has a title and by which the run was measured; raises TableError if it lacks ``workload``."""
    if workload not in findings.workloads:
        raise TableError(f"run {findings.run} has no workload {workload!r}, only: {', '.join(findings.workloads)}")
    taken = findings.clocks(workload) or CLOCKS
    found = [Panel(title=one.title, lines=list(_lines(findings, depth, workload, one))) for one in taken if one.title]
    if not any(panel.lines for panel in found):
        raise TableError(f"run {findings.run} has no time in workload {workload!r}")
    return found


def _lines(findings: Findings, depth: Depth, workload: str, clock: Clock) -> Iterator[Curve]:
    others = [method for method in findings.methods if method not in METHODS]
    known = [(*one.key, _name(one), one.style) for one in _drawn(findings, workload)]
    more = [(method, None, plain_name(method), style) for method, style in zip(others, cycle(OTHERS), strict=False)]
    for method, variant, label, style in [*known, *more]:
        times = depth.of_jobs(workload, method, clock.metric, variant)
        in_pairs = (variant,) if variant else _PRIMARY_IN_PAIRS.get(method, ())
        yield from curve(
            label, {"linewidth": 1.0, **style}, times or depth.of(workload, method, *in_pairs, clock=clock)
        )
    if clock.waits_for:
        copies = depth.of_jobs(workload, _COPIED_BY[clock.waits_for], "floor_ms")
        of_frontier = clock.waits_for == "frontier_bytes"
        yield from curve(FLOOR_NAME, FLOOR, copies or (depth.floors(workload) if of_frontier else []))


def _drawn(findings: Findings, workload: str) -> list[Variant]:
    """In the order of drawing; of recompute's the one that is the quickest at the deepest layer."""
    deepest = {}
    for one in DRAWN:
        rows = [row for row in findings.series(workload, one.method, "ready_ms", one.key[1]) if row.median is not None]
        if one.method == "recompute" and rows:
            deepest[one.name] = rows[-1].median or 0
    quickest = min(deepest, key=deepest.__getitem__, default="")
    return [one for one in DRAWN if one.method != "recompute" or one.name == quickest]


def _name(one: Variant) -> str:
    return PRIMARY["recompute"].label if one.method == "recompute" else one.label


def draw(shown: Sequence[Panel], *, functional: bool) -> Figure:
    """The figure of ``shown``, from left to right; a functional run is marked as such across each panel."""
    figure, places = side_by_side(
        len(shown), between=0.02, right=0.845, axis="Resume latency (ms)", functional=11 if functional else None
    )
    everything = [line for panel in shown for line in panel.lines]
    for axes, panel in zip(places, shown, strict=True):
        plot(axes, panel.lines)
        name_layers(axes, everything)
        logarithmic(axes, everything)
        axes.set_title(panel.title, size=FONT_PT, pad=3)
    name_ends(figure.axes[-1], shown[-1].lines)
    named = {line.label for line in shown[-1].lines}
    for axes, panel in zip(figure.axes, shown, strict=True):  # what ends in no name there has one where it comes first
        for line in (one for one in panel.lines if one.label not in named):
            points = list(zip(line.layers, line.medians, strict=True))
            put(axes, line.label, points, color=readable(line.style["color"]))
            named.add(line.label)
    return figure


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    shown = panels(material.findings, Depth(material.findings, material.run), workload)
    return rendered(lambda: draw(shown, functional=material.functional))
