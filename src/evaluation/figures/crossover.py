"""Plot 1: resume latency against the depth of the breakpoint, one line per method.

The clock is ready; points are medians with 95 % intervals. Where there are too few processes or samples for one, a bar
with caps reaches from the least to the 95th percentile, and the figure says so. The link's bound is what layer L+1
needs from the host, the row ``frontier_bytes`` of Djinn, over the pinned host-to-device bandwidth that the probe
measured. A run without a GPU has no link, and so no bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from evaluation.analysis.findings import Findings, ceiling
from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.numerals import significant
from evaluation.analysis.summary import Row
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import DRAWN, METHODS, plain_name
from evaluation.figures.style import (
    FONT_PT,
    HEIGHT_IN,
    OTHERS,
    WIDTH_IN,
    mark_functional,
    rendered,
    spread,
)
from evaluation.records.runs import Json

_AXES = (0.135, 0.165, 0.55, 0.805)  # left, bottom, width, height of the figure; the rest is for labels


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a figure: times in ms over breakpoint layers, or ratios. ``style`` is for ``Axes.plot``.

    ``ranged``: whether the ends of a point are those of a range and not of an interval; empty: of no point.
    """

    label: str
    style: dict[str, Any]
    layers: Sequence[float]
    medians: Sequence[float]
    lows: Sequence[float] = field(default_factory=list)
    highs: Sequence[float] = field(default_factory=list)
    ranged: Sequence[bool] = field(default_factory=list)


RANGED = "with caps: least to 95th percentile"
_CROWDED = 0.1  # of the depth: layers that are closer, as the last two, share a name on the axis
_BOUND_STYLE = {"color": "#111111", "linestyle": (0, (1, 1.4)), "linewidth": 0.9}


def curves(findings: Findings, workload: str, machine: Json, clock: str = "ready") -> list[Curve]:
    """What the figure shows of ``workload`` by ``clock``; cells for which the device had no room are left out.

    Raises TableError if the run has no such workload or no time in it.
    """
    if workload not in findings.workloads:
        raise TableError(f"run {findings.run} has no workload {workload!r}, only: {', '.join(findings.workloads)}")
    drawn = []
    others = [method for method in findings.methods if method not in METHODS]
    known = [(*variant.key, variant.label, variant.style) for variant in DRAWN]
    more = [(method, None, plain_name(method), style) for method, style in zip(others, cycle(OTHERS), strict=False)]
    for method, variant, label, style in [*known, *more]:
        rows = findings.series(workload, method, f"{clock}_ms", variant)
        if curve := _curve(label, {"linewidth": 1.0, **style}, rows):
            drawn.append(curve)
    if not drawn:
        raise TableError(f"run {findings.run} has no {clock}_ms in workload {workload!r}")
    waited_for = CLOCK[clock].waits_for
    return drawn + (_link_bound(findings.series(workload, "djinn", waited_for), machine) if waited_for else [])


def _curve(label: str, style: dict[str, Any], rows: Sequence[Row]) -> Curve | None:
    points = [(row.breakpoint, row.median, *row.ends) for row in rows if row.median is not None and row.ends]
    if not points:
        return None
    layers, medians, lows, highs = zip(*points, strict=True)
    ranged = len(points) * [any(row.is_range for row in rows)]
    return Curve(label=label, style=style, layers=layers, medians=medians, lows=lows, highs=highs, ranged=ranged)


def _link_bound(sizes: Sequence[Row], machine: Json) -> list[Curve]:
    gbps = ceiling(machine, "pinned_h2d_gbps")
    points = [(row.breakpoint, row.median / (gbps * 1e9) * 1e3) for row in sizes if gbps and row.median]
    if machine["functional"] or not points:
        return []
    layers, times = zip(*points, strict=True)
    return [Curve(label="Link bound", style=dict(_BOUND_STYLE), layers=layers, medians=times)]


def draw(lines: Sequence[Curve], *, functional: bool) -> Figure:
    """The figure of ``lines``; a functional run is marked as such across it."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    axes = figure.add_axes(_AXES)
    lines, notes = _apart(lines)
    notes += [RANGED] if any(any(line.ranged) for line in lines) else []
    plot(axes, lines)
    axes.set_xlabel("Breakpoint: paused after layer", labelpad=2)
    axes.set_ylabel("Resume latency, ready (ms)", labelpad=2)
    scale(axes, lines, room=1.6 * 2.2 ** len(notes))
    label(axes, lines)
    note(axes, notes)
    if functional:
        mark_functional(axes)
    return figure


def plot(axes: Axes, lines: Sequence[Curve]) -> None:
    """Draw ``lines`` with their intervals, and with caps their ranges."""
    for line in lines:
        axes.plot(line.layers, line.medians, clip_on=False, **line.style)
        if line.lows:
            ranged = line.ranged or len(line.medians) * [False]
            points = list(zip(line.layers, line.medians, line.lows, line.highs, ranged, strict=True))
            for capped in sorted(set(ranged)):
                places, medians, lows, highs, _ = zip(*(point for point in points if point[-1] == capped), strict=True)
                below = [median - low for median, low in zip(medians, lows, strict=True)]
                above = [high - median for median, high in zip(medians, highs, strict=True)]
                axes.errorbar(
                    places,
                    medians,
                    (below, above),
                    fmt="none",
                    ecolor=line.style["color"],
                    elinewidth=0.5 if capped else 0.8,
                    capsize=1.5 if capped else 0,
                    capthick=0.5,
                    zorder=1.5,
                )


def note(axes: Axes, texts: Sequence[str]) -> None:
    """Say ``texts`` at the foot of ``axes``, a line each."""
    if texts:
        said = "\n".join(texts)
        axes.text(0.98, 0.02, said, transform=axes.transAxes, ha="right", va="bottom", size=FONT_PT - 0.5)


def _apart(lines: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """The lines to draw, and what is said of bounds too far below all that was measured to leave it any room.

    In a decode step the deepest layer's frontier is a few kilobytes, which the link takes in less than a microsecond.
    """
    lowest = min(min(line.medians) for line in lines if line.lows)
    drawn, notes = [], []
    for line in lines:
        points = list(zip(line.layers, line.medians, strict=True))
        far = [] if line.lows else [(layer, median) for layer, median in points if median * 10 < lowest]
        near = [point for point in points if point not in far]
        if far:
            where = f", layer {', '.join(str(layer) for layer, _ in far)}" if near else ""
            time = significant(max(median for _, median in far), 1)
            notes.append(f"\N{DOWNWARDS ARROW} {line.label.lower()}{where}: {time} ms")
        if near:
            layers, medians = zip(*near, strict=True)
            drawn.append(replace(line, layers=layers, medians=medians))
    return drawn, notes


def scale(axes: Axes, lines: Sequence[Curve], *, room: float) -> None:
    """Ticks at the layers measured; a log axis where the times span more than a factor of 20, ``room`` below them."""
    layers = sorted({layer for line in lines for layer in line.layers})
    axes.set_xlim(-0.04 * layers[-1], 1.04 * layers[-1])
    if len(layers) <= 8:
        _name_layers(axes, layers)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    lowest = min(min([*line.medians, *line.lows]) for line in lines)
    highest = max(max([*line.medians, *line.highs]) for line in lines)
    if lowest > 0 and highest / lowest > 20:
        axes.set_yscale("log")
        axes.set_ylim(lowest / room, highest * 1.6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, highest * 1.08 or 1)


def _name_layers(axes: Axes, layers: Sequence[float]) -> None:
    """A tick at each of ``layers`` with its number; those that crowd have one name in the middle, as 39, 40."""
    groups: list[list[float]] = []
    for layer in layers:
        if groups and layer - groups[-1][-1] < _CROWDED * layers[-1]:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    alone = [group[0] for group in groups if len(group) == 1]
    axes.set_xticks(layers, [str(layer) if layer in alone else "" for layer in layers])
    shared = [group for group in groups if len(group) > 1]
    names = [", ".join(map(str, group)) for group in shared]
    axes.set_xticks([sum(group[:: len(group) - 1]) / 2 for group in shared], names, minor=True)
    # The shared names have no tick of their own, and stand where those of a tick do.
    drop = mpl.rcParams["xtick.major.size"] + mpl.rcParams["xtick.major.pad"]
    axes.tick_params(axis="x", which="minor", length=0, pad=drop)


def label(axes: Axes, lines: Sequence[Curve]) -> None:
    """Name each of ``lines`` right of ``axes``, where it ends; names of ends that coincide move apart, with leaders."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [tuple(to_axes.transform((line.layers[-1], line.medians[-1]))) for line in lines]
    gap = 1.25 * FONT_PT / 72 / (HEIGHT_IN * axes.get_position().height)
    for line, end, height in zip(lines, ends, spread([end[1] for end in ends], gap), strict=True):
        right: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([end[0] + 0.03, 1.04], [end[1], height], color="0.55", linewidth=0.4, zorder=1, **right)
        axes.plot([1.05, 1.095, 1.14], [height] * 3, markevery=[1], **line.style, **right)
        axes.text(1.165, height, line.label, va="center_baseline", color=line.style["color"], **right)


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    lines = curves(material.findings, workload, material.machine)
    return rendered(lambda: draw(lines, functional=material.functional))
