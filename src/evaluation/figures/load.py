"""Resumes among paused sessions: Djinn's resume latency against their number, and copies by hand in the same turns.

Above the clock ready, below the clock resident, which is far larger and so has an axis of its own; both from zero.
Medians with 95 % intervals, and the 95th and 99th percentile of both methods where there are enough resumes for one.
What they come to at the most and the fewest sessions is in :mod:`evaluation.text.numbers`. Drawn from ``load.csv``
alone. A functional run's times mean nothing, and it has no such figure.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from evaluation.analysis.material import Material
from evaluation.analysis.resumes import BY_HAND, DJINN, Resumes, by_paused
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BY_KEY, PRIMARY
from evaluation.figures.lines import Curve, from_zero, name_ends, plot
from evaluation.figures.style import WIDTH_IN, rendered

_HEIGHT_IN = 2.5
_LEFT, _WIDTH = 0.135, 0.575  # of the figure; what is right of it is for names
_PANELS = {"ready_ms": (0.585, 0.39), "resident_ms": (0.145, 0.39)}  # bottom and height, of the figure
_NAMES = {"ready_ms": "Ready (ms)", "resident_ms": "Resident (ms)"}
# Not every number of sessions has a percentile: markers show which. Of resident the 95th alone, for all lie close.
_TAILS: dict[str, tuple[str, dict[str, Any]]] = {
    "p95": ("95th", {"linestyle": (0, (4, 1.5)), "linewidth": 0.8, "marker": "v", "markersize": 2.5}),
    "p99": ("99th", {"linestyle": (0, (1, 1.4)), "linewidth": 0.8, "marker": "^", "markersize": 2.5}),
}


def draw(rows: Sequence[Resumes]) -> Figure:
    """The figure of the rows of one run."""
    figure = Figure(figsize=(WIDTH_IN, _HEIGHT_IN))
    for clock, (bottom, height) in _PANELS.items():
        axes = figure.add_axes((_LEFT, bottom, _WIDTH, height))
        _panel(axes, rows, clock)
        axes.set_ylabel(_NAMES[clock])
        axes.yaxis.set_label_coords(-0.165, 0.5)  # the same for both panels, however wide their numbers are
    above, below = figure.axes
    above.tick_params(labelbottom=False)
    below.set_xlabel("Paused sessions", labelpad=2)
    return figure


def _panel(axes: Axes, rows: Sequence[Resumes], clock: str) -> None:
    lines = [line for method in (BY_HAND, DJINN) for line in _lines(by_paused(rows, clock, method))]
    plot(axes, lines)
    paused = [row.paused for row in by_paused(rows, clock)]
    axes.set_xscale("log", base=2)
    axes.set_xlim(paused[0] / 1.25, paused[-1] * 1.25)
    axes.set_xticks(paused, [str(count) for count in paused])
    axes.xaxis.set_minor_locator(NullLocator())
    from_zero(axes, lines)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    name_ends(axes, [line for line in lines if line.layers[-1] == paused[-1]])


def _lines(rows: Sequence[Resumes]) -> Iterator[Curve]:
    """The median of one method and its percentiles over the paused sessions, which stand for layers."""
    if not rows:
        return
    known = BY_KEY.get((rows[0].method, rows[0].variant), PRIMARY[rows[0].method])
    name, style = ("By hand" if rows[0].method == BY_HAND else known.label), {"linewidth": 1.0, **known.style}
    medians, lows, highs = ([getattr(row, column) or 0.0 for row in rows] for column in ("median", "ci_low", "ci_high"))
    yield Curve(label=name, style=style, layers=[row.paused for row in rows], medians=medians, lows=lows, highs=highs)
    tails = list(_TAILS.items())[: 1 if rows[0].metric == "resident_ms" else 2]
    for column, (ending, look) in tails:
        if found := [(row.paused, value) for row in rows if (value := getattr(row, column)) is not None]:
            places, values = zip(*found, strict=True)
            color = {"color": style["color"]}
            yield Curve(label=f"{name}, {ending}", style={**color, **look}, layers=places, medians=values)


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
