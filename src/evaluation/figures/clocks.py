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
from evaluation.figures.crossover import Curve, curves, label, plot, scale
from evaluation.figures.style import BOTH_COLUMNS_IN, FONT_PT, HEIGHT_IN, mark_functional, rendered
from evaluation.records.runs import Json

_LEFT, _RIGHT, _BOTTOM, _TOP = 0.065, 0.845, 0.165, 0.91  # of the figure; what is right of it is for labels
_BETWEEN = 0.02


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
    figure = Figure(figsize=(BOTH_COLUMNS_IN, HEIGHT_IN))
    width = (_RIGHT - _LEFT - _BETWEEN * (len(shown) - 1)) / len(shown)
    everything = [line for panel in shown for line in panel.lines]
    for number, panel in enumerate(shown):
        axes = figure.add_axes((_LEFT + number * (width + _BETWEEN), _BOTTOM, width, _TOP - _BOTTOM))
        plot(axes, panel.lines)
        scale(axes, everything, room=1.6)
        axes.set_title(panel.title, size=FONT_PT, pad=3)
        if number:
            axes.tick_params(labelleft=False)
        if functional:
            mark_functional(axes, size=11)
    figure.axes[0].set_ylabel("Resume latency (ms)", labelpad=2)
    figure.axes[len(shown) // 2].set_xlabel("Breakpoint: paused after layer", labelpad=2)
    label(figure.axes[-1], shown[-1].lines)
    return figure


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    shown = panels(material.findings, workload, material.machine)
    return rendered(lambda: draw(shown, functional=material.functional))
