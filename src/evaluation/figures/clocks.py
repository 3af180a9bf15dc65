"""The session's figure: when its frontier, the first work, the logits and all of its state are there, by clock.

As Plot 1 (:mod:`evaluation.figures.crossover`), over the breakpoint's depth, but across both columns and with one axis
of latency, so that a line can be followed from clock to clock. The link's bound is what the clock waits for, the
frontier or all of the state as Djinn moves it, over the pinned host-to-device bandwidth that the probe measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from evaluation.analysis.findings import Findings
from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCKS
from evaluation.figures.crossover import RANGED, Curve, curves, label, note, plot, scale
from evaluation.figures.style import FONT_PT, rendered, side_by_side
from evaluation.records.runs import Json


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one clock shows."""

    title: str
    lines: Sequence[Curve]


def panels(findings: Findings, workload: str, machine: Json) -> list[Panel]:
    """One per clock that has a title and by which the run was measured; raises TableError if it lacks ``workload``."""
    taken = findings.clocks(workload) or CLOCKS
    shown = (clock for clock in taken if clock.title)
    return [Panel(title=clock.title, lines=curves(findings, workload, machine, clock.name)) for clock in shown]


def draw(shown: Sequence[Panel], *, functional: bool) -> Figure:
    """The figure of ``shown``, from left to right; a functional run is marked as such across each panel."""
    figure, places = side_by_side(
        len(shown), between=0.02, right=0.845, axis="Resume latency (ms)", functional=11 if functional else None
    )
    everything = [line for panel in shown for line in panel.lines]
    ranged = any(any(line.ranged) for line in everything)
    for axes, panel in zip(places, shown, strict=True):
        plot(axes, panel.lines)
        scale(axes, everything, room=3.2 if ranged else 1.6)
        axes.set_title(panel.title, size=FONT_PT, pad=3)
    label(figure.axes[-1], shown[-1].lines)
    note(places[0], [RANGED] if ranged else [])
    return figure


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    shown = panels(material.findings, workload, material.machine)
    return rendered(lambda: draw(shown, functional=material.functional))
