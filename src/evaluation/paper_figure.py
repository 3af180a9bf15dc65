"""Plot 1: resume latency against the depth of the breakpoint, one line per method.

The clock is ready; points are medians with 95 % intervals. The link's bound is what layer L+1 needs from the
host (the row ``frontier_bytes`` of Djinn) over the pinned host-to-device bandwidth that the probe measured; a
run without a GPU has no link and so no bound. Drawn at the width of a USENIX column. The same rows give the
same bytes: nothing in the files depends on the time, the user's matplotlib settings or its version string.
"""

import argparse
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from evaluation.atomic import write_bytes
from evaluation.paper import (
    FUSED,
    METHODS,
    ONE_TOKEN,
    ORDERED,
    Findings,
    ceiling,
    parser,
    plain_name,
    read_machine,
    significant,
)
from evaluation.runs import Json, Run, RunError, load_run
from evaluation.summary import Row, SummaryError

WIDTH_IN = 3.335  # one column of the USENIX style
HEIGHT_IN = 2.15
FUNCTIONAL = "functional CPU run\nnot a performance result"
FONT_PT = 7.5
_AXES = (0.135, 0.165, 0.55, 0.805)  # left, bottom, width, height of the figure; the rest is for labels

_RC = {
    "font.family": "STIXGeneral",  # Times-like and shipped with matplotlib: the same glyphs on every machine
    "font.size": FONT_PT,
    "axes.labelsize": FONT_PT,
    "xtick.labelsize": FONT_PT - 0.5,
    "ytick.labelsize": FONT_PT - 0.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of the figure: times in ms over breakpoint layers. ``style`` is for ``Axes.plot``."""

    label: str
    style: dict[str, Any]
    layers: Sequence[int]
    medians: Sequence[float]
    lows: Sequence[float] = field(default_factory=list)
    highs: Sequence[float] = field(default_factory=list)


# In drawing order. Manual offload and Djinn coincide, or one token rerun, so the former is wide and open, the latter
# small and on top: each shows through the other. Markers and dashes differ, so that colour alone tells no line.
STYLES: dict[tuple[str, str | None], tuple[str, dict[str, Any]]] = {
    ("recompute", None): (
        "Recompute",
        {"color": "#C1440E", "marker": "^", "linestyle": "-", "markersize": 4},
    ),
    ("recompute", FUSED): (
        "Fused layers",
        {"color": "#C1440E", "marker": "<", "linestyle": (0, (5, 1.2)), "markersize": 3.5, "mfc": "white"},
    ),
    ("manual_offload", None): (
        "Manual offload",
        {
            "color": "#2A7AB5",
            "marker": "s",
            "linestyle": "-",
            "linewidth": 2.0,
            "markersize": 6,
            "mfc": "white",
        },
    ),
    ("manual_offload", ORDERED): (
        "Manual, ordered",
        {
            "color": "#2A7AB5",
            "marker": "D",
            "linestyle": "--",
            "linewidth": 2.0,
            "markersize": 5.5,
            "mfc": "white",
        },
    ),
    ("recompute", ONE_TOKEN): (
        "Rerun one token",
        {"color": "#C1440E", "marker": "v", "linestyle": "--", "markersize": 3.5, "mfc": "white"},
    ),
    ("djinn", None): (
        "Djinn",
        {"color": "#111111", "marker": "o", "linestyle": "-", "linewidth": 0.8, "markersize": 3},
    ),
    ("vanilla", None): (
        "Vanilla",
        {"color": "#6B6B6B", "marker": "x", "linestyle": (0, (4, 1.5, 1, 1.5)), "markersize": 4},
    ),
}
# Manual offload into pageable memory: of the size sweep, not of Plot 1, whose lines are those of STYLES.
PAGEABLE: tuple[str, dict[str, Any]] = (
    "Manual, pageable",
    {"color": "#2A7AB5", "marker": "+", "linestyle": (0, (3, 1.2)), "linewidth": 1.0, "markersize": 6},
)
# For methods that the paper does not know, in turn.
OTHERS: list[dict[str, Any]] = [
    {"color": "#3B7A3B", "marker": "P", "linestyle": "-.", "markersize": 4.5},
    {"color": "#7B4FA3", "marker": "X", "linestyle": ":", "markersize": 4.5},
]
_BOUND_STYLE = {"color": "#111111", "linestyle": (0, (1, 1.4)), "linewidth": 0.9}


def curves(findings: Findings, workload: str, machine: Json, clock: str = "ready") -> list[Curve]:
    """What the figure shows of ``workload`` by ``clock``; cells for which the device had no room are left out.

    Raises SummaryError if the run has no such workload or no time in it.
    """
    if workload not in findings.workloads:
        raise SummaryError(f"run {findings.run} has no workload {workload!r}, only: {', '.join(findings.workloads)}")
    drawn = []
    others = [method for method in findings.methods if method not in METHODS]
    more: dict[tuple[str, str | None], tuple[str, dict[str, Any]]] = {
        (method, None): (plain_name(method), style) for method, style in zip(others, cycle(OTHERS), strict=False)
    }
    for (method, variant), (label, style) in {**STYLES, **more}.items():
        rows = findings.series(workload, method, f"{clock}_ms", variant)
        if curve := _curve(label, {"linewidth": 1.0, **style}, rows):
            drawn.append(curve)
    if not drawn:
        raise SummaryError(f"run {findings.run} has no {clock}_ms in workload {workload!r}")
    waited_for = "state_bytes" if clock == "resident" else "frontier_bytes"
    return drawn + _link_bound(findings.series(workload, "djinn", waited_for), machine)


def _curve(label: str, style: dict[str, Any], rows: Sequence[Row]) -> Curve | None:
    points = [
        (row.layer, row.median, row.ci_low, row.ci_high)
        for row in rows
        if row.median is not None and row.ci_low is not None and row.ci_high is not None
    ]
    if not points:
        return None
    layers, medians, lows, highs = zip(*points, strict=True)
    return Curve(label=label, style=style, layers=layers, medians=medians, lows=lows, highs=highs)


def _link_bound(sizes: Sequence[Row], machine: Json) -> list[Curve]:
    gbps = ceiling(machine, "pinned_h2d_gbps")
    points = [(row.layer, row.median / (gbps * 1e9) * 1e3) for row in sizes if gbps and row.median]
    if machine["functional"] or not points:
        return []
    layers, times = zip(*points, strict=True)
    return [Curve(label="Link bound", style=dict(_BOUND_STYLE), layers=layers, medians=times)]


def draw(lines: Sequence[Curve], *, functional: bool) -> Figure:
    """The figure of ``lines``; a functional run is marked as such across it."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    axes = figure.add_axes(_AXES)
    lines, notes = _apart(lines)
    plot(axes, lines)
    axes.set_xlabel("Breakpoint: paused after layer", labelpad=2)
    axes.set_ylabel("Resume latency, ready (ms)", labelpad=2)
    scale(axes, lines, room=3.2 if notes else 1.6)
    label(axes, lines)
    for text in notes:
        axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", va="bottom", size=FONT_PT - 0.5)
    if functional:
        mark_functional(axes)
    return figure


def plot(axes: Axes, lines: Sequence[Curve]) -> None:
    """Draw ``lines`` with their intervals."""
    for line in lines:
        axes.plot(line.layers, line.medians, clip_on=False, **line.style)
        if line.lows:
            below = [median - low for median, low in zip(line.medians, line.lows, strict=True)]
            above = [high - median for median, high in zip(line.medians, line.highs, strict=True)]
            colour = line.style["color"]
            axes.errorbar(
                line.layers,
                line.medians,
                (below, above),
                fmt="none",
                ecolor=colour,
                elinewidth=0.8,
                zorder=1.5,
            )


def mark_functional(axes: Axes, size: float = 13) -> None:
    """Say across ``axes``, in ``size`` points, that its times are no performance results."""
    axes.text(
        0.5, 0.5, FUNCTIONAL, transform=axes.transAxes, ha="center", va="center", rotation=18, size=size,
        color="0.80", zorder=0, linespacing=1.4,
    )  # fmt: skip


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
        axes.set_xticks(layers)
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


def spread(positions: Sequence[float], gap: float, top: float = 1.0) -> list[float]:
    """``positions`` moved as little as possible (least squares) so that any two are ``gap`` apart, within 0
    to ``top``.

    The order is kept, and where there are ties the later one goes below. If they cannot all fit, ``top`` is
    exceeded.
    """
    order = sorted(range(len(positions)), key=lambda i: (positions[i], -i))
    # [sum, count] of neighbours that touch: the pool-adjacent-violators algorithm.
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        blocks.append([positions[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    bases = [total / count for total, count in blocks for _ in range(int(count))]
    limit = max(top - (len(positions) - 1) * gap, 0.0)
    moved = [0.0] * len(positions)
    for rank, index in enumerate(order):
        moved[index] = min(max(bases[rank], 0.0), limit) + rank * gap
    return moved


@contextmanager
def private_style() -> Iterator[None]:
    """The figure's settings over matplotlib's defaults; the user's own are back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def render(lines: Sequence[Curve], *, functional: bool) -> tuple[bytes, bytes]:
    """The figure as PDF and as PNG."""
    return printed(lambda: draw(lines, functional=functional))


def printed(drawn: Callable[[], Figure]) -> tuple[bytes, bytes]:
    """What ``drawn`` returns, in the private style, as PDF and as PNG, without dates and version strings."""
    pdf, png = io.BytesIO(), io.BytesIO()
    with private_style():
        figure = drawn()
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, format="png", metadata={"Software": None})
    return pdf.getvalue(), png.getvalue()


def draw_from_table(
    name: str,
    description: str | None,
    measured: Callable[..., Sequence[Any]],
    draw: Callable[[Any], Figure],
) -> int:
    """The command line of ``paper_<name>``, which draws a run's rows in ``<name>.csv``; returns the exit status.

    ``measured`` is given the table, the run and whether it is ``functional``, and raises :class:`SummaryError` for rows
    that cannot be drawn.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m evaluation.paper_{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        f"--{name}", type=Path, required=True, dest="table", help=f"{name}.csv, by evaluation.aggregate"
    )
    parser.add_argument("--run", required=True, help="name of the run in that table")
    parser.add_argument("--machine", type=Path, required=True, help="the machine.json of the run")
    parser.add_argument("--out-pdf", type=Path, required=True)
    parser.add_argument("--out-png", type=Path, required=True)
    given = parser.parse_args()
    try:
        rows = measured(given.table, given.run, functional=read_machine(given.machine)["functional"])
    except (SummaryError, RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _write(given, lambda: draw(rows))
    return 0


def draw_from_run(name: str, description: str | None, measured: Callable[[Run], Callable[[], Figure]]) -> int:
    """The command line of ``paper_<name>``, which draws the records of a run; returns the exit status.

    ``measured`` is given the run, raises :class:`SummaryError` if it cannot be drawn, and returns what draws it.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m evaluation.paper_{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="results/local or results/published/NAME")
    parser.add_argument("--out-pdf", type=Path, required=True)
    parser.add_argument("--out-png", type=Path, required=True)
    given = parser.parse_args()
    try:
        drawn = measured(load_run(given.run))
    except (SummaryError, RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _write(given, drawn)
    return 0


def _write(given: argparse.Namespace, drawn: Callable[[], Figure]) -> None:
    pdf, png = printed(drawn)
    write_bytes(given.out_pdf, pdf)
    write_bytes(given.out_png, png)


def draw_from_summary(
    name: str,
    description: str | None,
    measured: Callable[[Findings, str, Json], Sequence[Any]],
    draw: Callable[..., Figure],
) -> int:
    """The command line of ``paper_<name>``, which draws a workload's rows in the summary; returns the exit status.

    ``measured`` is given the run's rows, the workload and the machine, and raises :class:`SummaryError` for what cannot
    be drawn; ``draw`` takes what it returns, and whether the run is ``functional``.
    """
    arguments = parser(f"paper_{name}", description)
    arguments.add_argument("--workload", required=True, help="which workload of the run to draw, as activation")
    arguments.add_argument("--machine", type=Path, required=True, help="the machine.json of the run")
    arguments.add_argument("--out-pdf", type=Path, required=True)
    arguments.add_argument("--out-png", type=Path, required=True)
    given = arguments.parse_args()
    try:
        machine = read_machine(given.machine)
        shown = measured(Findings.read(given.summary, given.run), given.workload, machine)
    except (SummaryError, RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _write(given, lambda: draw(shown, functional=machine["functional"]))
    return 0


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for data that cannot be drawn."""
    return draw_from_summary("figure", __doc__, curves, draw)


if __name__ == "__main__":
    sys.exit(main())
