"""Resumes among paused sessions: Djinn's resume latency against their number, and copies by hand in the same turns.

Above the clock ready, below the clock resident, which is far larger and so has an axis of its own; both from zero.
Medians with 95 % intervals, and of Djinn the 95th and 99th percentile where there are enough resumes for one. Whether
it is flat the figure says as the 95th percentile at the most sessions over the median at the fewest, as
:mod:`evaluation.text.numbers` does. It also says what Djinn's are over those by hand at both, and either's 99th
percentile at the most. Drawn from ``load.csv`` alone. A functional run's times mean nothing, and it has no such figure.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from evaluation.analysis.material import Material
from evaluation.analysis.numerals import significant
from evaluation.analysis.resumes import BY_HAND, Resumes, by_paused, growth
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BY_KEY, PRIMARY
from evaluation.figures.style import FONT_PT, WIDTH_IN, rendered, spread

_HEIGHT_IN = 2.5
_LEFT, _WIDTH = 0.135, 0.655  # of the figure; what is right of it is for labels
_PANELS = {"ready_ms": (0.44, 0.54), "resident_ms": (0.145, 0.235)}  # bottom and height, of the figure
_NAMES = {"ready_ms": "Resume latency, ready (ms)", "resident_ms": "Resident (ms)"}
_LINE_OF_TEXT = 0.14  # of the axis, that a line of text takes
_DJINN = {"linewidth": 1.0, **PRIMARY["djinn"].style}
# Lighter than the median, and told apart by their dashes. Not every number of sessions has one: bars show which.
_BAR = {"marker": "_", "markersize": 6}
_TAILS: list[tuple[str, str, dict[str, Any]]] = [
    ("p99", "99th percentile", {"color": "0.50", "linestyle": (0, (1, 1.4)), "linewidth": 1.0, **_BAR}),
    ("p95", "95th percentile", {"color": "0.50", "linestyle": (0, (4, 1.5)), "linewidth": 0.9, **_BAR}),
]


def draw(rows: Sequence[Resumes]) -> Figure:
    """The figure of the rows of one run."""
    figure = Figure(figsize=(WIDTH_IN, _HEIGHT_IN))
    for clock, (bottom, height) in _PANELS.items():
        axes = figure.add_axes((_LEFT, bottom, _WIDTH, height))
        _panel(axes, rows, clock, height, _said(rows, clock) if clock == "ready_ms" else [])
        axes.set_ylabel(_NAMES[clock])
        axes.yaxis.set_label_coords(-0.145, 0.5)  # the same for both panels, however wide their numbers are
    above, below = figure.axes
    above.tick_params(labelbottom=False)
    below.set_xlabel("Paused sessions", labelpad=2)
    return figure


def _said(rows: Sequence[Resumes], clock: str) -> list[str]:
    """What decides, in lines; none with one number of sessions."""
    found = by_paused(rows, clock)
    fewest, most = found[0], found[-1]
    if (ratio := growth(found, "p95")) is None:
        return []
    lines = [
        f"95th percentile at {most.paused} = {significant(ratio)} \N{MULTIPLICATION SIGN} median at {fewest.paused}",
        f"{fewest.n} resumes at {fewest.paused}, {most.n} at {most.paused}",
    ]
    if paired := by_paused(rows, "paired_ready_ratio"):
        ends = [f"{significant(row.median or 0)} at {row.paused}" for row in (paired[0], paired[-1])]
        lines.append(f"Djinn over by hand, in pairs: {', '.join(ends)}")
    by_hand = by_paused(rows, clock, BY_HAND)
    if by_hand and most.p99 is not None and by_hand[-1].p99 is not None:
        tails = f"{significant(most.p99)} ms, by hand {significant(by_hand[-1].p99)} ms"
        lines.append(f"99th percentile at {most.paused}: {tails}")
    return lines


def _panel(axes: Axes, rows: Sequence[Resumes], clock: str, height: float, said: Sequence[str]) -> None:
    """``said``: lines of text, which find room below the lines of the panel, or else above."""
    mine, by_hand = by_paused(rows, clock), by_paused(rows, clock, BY_HAND)
    paused = [row.paused for row in mine]
    drawn: list[tuple[str, Sequence[Resumes], str, dict[str, Any]]] = [("Djinn, median", mine, "median", _DJINN)]
    if by_hand:
        style = BY_KEY.get((BY_HAND, by_hand[0].variant), PRIMARY[BY_HAND]).style
        drawn.insert(0, ("By hand", by_hand, "median", dict(style)))
    drawn += [(label, mine, column, style) for column, label, style in _TAILS]
    ends: dict[str, tuple[float, dict[str, Any]]] = {}
    highest, lowest = 0.0, float("inf")
    for label, found, column, style in drawn:
        points = [(row.paused, float(value)) for row in found if (value := getattr(row, column)) is not None]
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), clip_on=False, **style)
        if column == "median":
            _intervals(axes, found, style)
            lowest = min(lowest, *(row.ci_low or 0 for row in found))
        highest = max([highest, *(value for _, value in points), *(row.ci_high or 0 for row in found)])
        if points[-1][0] == paused[-1]:
            ends[label] = (points[-1][1], style)
    axes.set_xscale("log", base=2)
    axes.set_xlim(paused[0] / 1.25, paused[-1] * 1.25)
    axes.set_xticks(paused, [str(count) for count in paused])
    axes.xaxis.set_minor_locator(NullLocator())
    room = _LINE_OF_TEXT * len(said)
    below = lowest > room * highest
    top = (1.06 if below else 1 / (1 - room) + 0.02) * highest
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(4 if height > 0.3 else 2, steps=[1, 2, 2.5, 5, 10]))
    axes.text(
        0.04, 0.05 if below else 0.98, "\n".join(said), transform=axes.transAxes, va="bottom" if below else "top",
        size=FONT_PT - 0.5, color="0.25",
    )  # fmt: skip
    _label(axes, {name: (end / top, style) for name, (end, style) in ends.items()}, height)


def _intervals(axes: Axes, rows: Sequence[Resumes], style: dict[str, Any]) -> None:
    """Those of the medians."""
    medians = [row.median or 0 for row in rows]
    below = [median - (row.ci_low or 0) for median, row in zip(medians, rows, strict=True)]
    above = [(row.ci_high or 0) - median for median, row in zip(medians, rows, strict=True)]
    look: dict[str, Any] = {"ecolor": style["color"], "elinewidth": 0.8, "capsize": 1.5, "capthick": 0.8}
    axes.errorbar([row.paused for row in rows], medians, (below, above), fmt="none", **look)


def _label(axes: Axes, ends: dict[str, tuple[float, dict[str, Any]]], height: float) -> None:
    """Name each line at its right end; names of ends that coincide move apart, tied by thin leaders."""
    size = FONT_PT - 0.5
    gap = 1.2 * size / 72 / (_HEIGHT_IN * height)
    to_axes = axes.transData + axes.transAxes.inverted()
    right = to_axes.transform((axes.get_xticks()[-1], 0))[0]
    names = sorted(ends, key=lambda name: -ends[name][0])  # of ends that tie, the higher line is named above
    heights = spread([ends[name][0] for name in names], gap)
    for name, y in zip(names, heights, strict=True):
        end, style = ends[name]
        place: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([right + 0.025, 1.0], [end, y], color="0.55", linewidth=0.4, zorder=1, **place)
        axes.text(1.015, y, name, va="center_baseline", size=size, color=_darker(style), **place)


def _darker(style: dict[str, Any]) -> str:
    """The colour of a name: that of a light line would be hard to read."""
    colour = str(style["color"])
    return "0.35" if colour.startswith("0.") else colour


def measured(material: Material) -> list[Resumes]:
    """The rows of ``load.csv``; raises :class:`TableError` if they cannot be drawn."""
    run = material.name
    if material.functional:
        raise TableError(f"run {run} is functional: made without a GPU, its times among paused sessions are not drawn")
    rows = material.rows("load", Resumes)
    if missing := [clock for clock in _PANELS if not by_paused(rows, clock)]:
        raise TableError(f"load.csv: run {run!r} has no {missing[0]} of a resume among paused sessions")
    return rows


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    rows = measured(material)
    return rendered(lambda: draw(rows))
