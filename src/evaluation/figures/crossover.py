"""Plot 1: resume latency against the depth of the breakpoint, in two panels across both columns.

The clock is ready. On the left the axis is linear: recompute in its quickest form rises, and Djinn and copies by hand
lie on the floor. An arrow says how many times as long recompute takes, at the layer that leads. It reaches from one of
the two times to the other, which may be of other processes than recompute's line. On the right the axis is logarithmic.
Djinn stands beside the best copies by hand, both with all of the state swapped and with the frontier kept.
So does the raw copy that was measured beside each sample. Points, bars and the source of both: see
:mod:`evaluation.analysis.depth` and :mod:`evaluation.figures.lines`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.depth import Depth, Times
from evaluation.analysis.findings import Findings
from evaluation.analysis.material import Material
from evaluation.analysis.numerals import significant
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BLUE, BULK, BY_KEY, KEPT, METHODS, ORDERED, PRIMARY, plain_name
from evaluation.figures.lines import (
    FLOOR,
    FLOOR_NAME,
    Curve,
    curve,
    from_zero,
    logarithmic,
    name_ends,
    name_layers,
    plot,
)
from evaluation.figures.room import put
from evaluation.figures.style import BOTH_COLUMNS_IN, FONT_PT, OTHERS, mark_functional, readable, rendered

_HEIGHT_IN = 1.95
_PANELS = ((0.06, 0.365), (0.495, 0.345))  # left and width of the figure; right of the second is room for names
_BOTTOM, _HEIGHT = 0.18, 0.77
_TOUCH = 0.03  # of the axis: lines that are closer at depth lie on each other, and are named together
_KEPT_BY_HAND = tuple(f"{name}_{KEPT}" for name in ("ordered", "pinned"))
_KEPT_STYLE = {"color": BLUE, "marker": "p", "linestyle": (0, (3, 1.2)), "linewidth": 1.0, "markersize": 4.5}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the figure shows of a workload: the lines of both panels, and what the arrow says, if that was measured."""

    left: Sequence[Curve]
    right: Sequence[Curve]
    layer: int
    times: Times | None


def shown(findings: Findings, depth: Depth, workload: str) -> Shown:
    """Of ``workload``; cells for which the device had no room are left out.

    Raises TableError if the run has no such workload or no time in it.
    """
    if workload not in findings.workloads:
        raise TableError(f"run {findings.run} has no workload {workload!r}, only: {', '.join(findings.workloads)}")
    times = depth.times(workload)
    quickest = (times.variant,) if times else ()
    recompute = curve(recompute_name(times), _style("recompute", *quickest), depth.of(workload, "recompute", *quickest))
    bulk = _of(depth, workload, "manual_offload", BULK)
    by_hand = _of(depth, workload, "manual_offload", (ORDERED,)) or bulk
    djinn = _of(depth, workload, "djinn", (PRIMARY["djinn"].name,))
    others = [
        curve(plain_name(method), {"linewidth": 1.0, **style}, depth.of(workload, method))
        for method, style in zip((one for one in findings.methods if one not in METHODS), cycle(OTHERS), strict=False)
    ]
    left = [*recompute, *(bulk if bulk != by_hand else []), *by_hand, *djinn]
    right = [
        *by_hand,
        *curve("Manual, kept", _KEPT_STYLE, depth.of(workload, "manual_offload", *_KEPT_BY_HAND)),
        *curve(FLOOR_NAME, FLOOR, depth.floors(workload)),
        *djinn,
        *_of(depth, workload, "djinn", (KEPT,)),
        *(line for found in others for line in found),
    ]
    if not left and not right:
        raise TableError(f"run {findings.run} has no ready_ms in workload {workload!r}")
    return Shown(left=left, right=right, layer=times.layer if times else depth.layer, times=times)


def recompute_name(times: Times | None) -> str:
    """Of recompute in its quickest form."""
    variant = BY_KEY.get(("recompute", times.variant)) if times else None
    return f"Recompute:\n{variant.label.lower()}" if variant else PRIMARY["recompute"].label


def _style(method: str, variant: str = "") -> dict[str, Any]:
    return {"linewidth": 1.0, **BY_KEY.get((method, variant), PRIMARY[method]).style}


def _of(depth: Depth, workload: str, method: str, variants: Sequence[str]) -> list[Curve]:
    """The line of the first of ``variants`` that the run has, by its name in the paper."""
    named = BY_KEY.get((method, variants[0]), PRIMARY[method])
    return curve(named.label, {"linewidth": 1.0, **named.style}, depth.of(workload, method, *variants))


def draw(found: Shown, *, functional: bool) -> Figure:
    """The figure of ``found``; a functional run is marked as such across each panel."""
    figure = Figure(figsize=(BOTH_COLUMNS_IN, _HEIGHT_IN))
    for lines, (left, width) in zip((found.left, found.right), _PANELS, strict=True):
        axes = figure.add_axes((left, _BOTTOM, width, _HEIGHT))
        if lines:
            plot(axes, lines)
            name_layers(axes, lines)
        axes.set_xlabel("Breakpoint: paused after layer", labelpad=2)
    linear, log = figure.axes
    linear.set_ylabel("Resume latency, ready (ms)", labelpad=2)
    log.set_ylabel("Ready (ms), logarithmic axis", labelpad=2)
    if found.left:
        from_zero(linear, found.left)
        _compare(linear, found)
    if found.right:
        logarithmic(log, found.right)
        name_ends(log, found.right)
    if functional:
        for axes in figure.axes:
            mark_functional(axes, size=11)
    return figure


def _compare(axes: Axes, found: Shown) -> None:
    """The names of all lines beside them, and an arrow from Djinn to recompute with what is between."""
    at, top = found.layer, axes.get_ylim()[1]
    groups: list[list[Curve]] = []
    for line in sorted(found.left, key=lambda one: _after(one, at)):
        if groups and _after(line, at) - _after(groups[-1][-1], at) < _TOUCH * top:
            groups[-1].append(line)
        else:
            groups.append([line])
    if found.times is None:
        for group in groups:
            _name(axes, group, at)
        return
    ends = [found.times.djinn_ms, found.times.recompute_ms]
    look: dict[str, Any] = {"arrowstyle": "<->", "linewidth": 0.7, "shrinkA": 4, "shrinkB": 4, "color": "0.25"}
    axes.annotate("", (at, ends[1]), (at, ends[0]), arrowprops=look)
    (arrow,) = axes.plot([at, at], ends, linestyle="-")  # stands for it while room is sought
    _name(axes, groups[0], at)  # the floor has the least room
    said = f"{significant(found.times.times)}\N{MULTIPLICATION SIGN}\nat layer {at}"
    put(axes, said, [(0.9 * at, sum(ends) / 2)], size=FONT_PT + 1, linespacing=1.0)
    for group in groups[1:]:
        _name(axes, group, at)
    arrow.remove()


def _name(axes: Axes, group: Sequence[Curve], at: int) -> None:
    """Of lines that lie on each other the names stand together, with their times after layer ``at``."""
    said, color = group[0].label, readable(group[0].style["color"])
    if len(group) > 1:
        between = ", " if len(group) == 2 else ",\n"
        said, color = between.join(f"{one.label} {significant(_after(one, at), 2)}" for one in group) + " ms", "0.25"
    put(axes, said, _along(group[0]), color=color, linespacing=1.05)


def _along(line: Curve) -> list[tuple[float, float]]:
    """Points of ``line`` in the middle half of the depth, where its name may stand."""
    start, end = line.layers[0], line.layers[-1]
    places = [start + (end - start) * step / 20 for step in range(5, 16)]
    return list(zip(places, np.interp(places, line.layers, line.medians), strict=True))


def _after(line: Curve, layer: float) -> float:
    """Its time there, or else at its last layer."""
    return dict(zip(line.layers, line.medians, strict=True)).get(layer, line.medians[-1])


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    found = shown(material.findings, Depth(material.findings, material.run), workload)
    return rendered(lambda: draw(found, functional=material.functional))
