"""Resume under load: Djinn's resume latency against the number of sessions that are paused meanwhile.

Above the clock ready, below the clock resident, which is far larger and so has an axis of its own; both from zero.
Medians with 95 % intervals, and the 95th and 99th percentile of all resumes. Whether it is flat the figure says as the
95th percentile at the most sessions over the median at the fewest, as :mod:`evaluation.text.numbers` does. Drawn from
``load.csv`` alone. A functional run's times mean nothing, and it has no such figure.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from evaluation.analysis.material import Material
from evaluation.analysis.numerals import significant
from evaluation.analysis.resumes import Resumes, by_paused, growth
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import PRIMARY
from evaluation.figures.style import FONT_PT, WIDTH_IN, rendered, spread

_HEIGHT_IN = 2.5
_LEFT, _WIDTH = 0.135, 0.655  # of the figure; what is right of it is for labels
_PANELS = {"ready_ms": (0.44, 0.54), "resident_ms": (0.145, 0.235)}  # bottom and height, of the figure
_NAMES = {"ready_ms": "Resume latency, ready (ms)", "resident_ms": "Resident (ms)"}
_ROOM_BELOW = 0.28  # of the axis, which the text takes
_DJINN = {"linewidth": 1.0, **PRIMARY["djinn"].style}
# Lighter than the median, and told apart by their dashes.
_TAILS: list[tuple[str, str, dict[str, Any]]] = [
    ("p99", "99th percentile", {"color": "0.50", "linestyle": (0, (1, 1.4)), "linewidth": 1.0}),
    ("p95", "95th percentile", {"color": "0.50", "linestyle": (0, (4, 1.5)), "linewidth": 0.9}),
]


def draw(rows: Sequence[Resumes]) -> Figure:
    """The figure of the rows of one run."""
    figure = Figure(figsize=(WIDTH_IN, _HEIGHT_IN))
    for clock, (bottom, height) in _PANELS.items():
        axes = figure.add_axes((_LEFT, bottom, _WIDTH, height))
        said = clock == "ready_ms" and growth(by_paused(rows, clock), "p95") is not None
        _panel(axes, by_paused(rows, clock), height, said=said)
        axes.set_ylabel(_NAMES[clock])
        axes.yaxis.set_label_coords(-0.145, 0.5)  # the same for both panels, however wide their numbers are
    above, below = figure.axes
    above.tick_params(labelbottom=False)
    below.set_xlabel("Paused sessions", labelpad=2)
    return figure


def _panel(axes: Axes, rows: Sequence[Resumes], height: float, *, said: bool) -> None:
    """``said``: two lines of text find room below the lines, or else above."""
    paused = [row.paused for row in rows]
    lines = {"median": ("Djinn, median", _DJINN), **{column: (label, style) for column, label, style in _TAILS}}
    values = {column: [float(getattr(row, column)) for row in rows] for column in (*lines, "ci_low", "ci_high")}
    for column, (_, style) in lines.items():
        # A single number of sessions has no line to show; its percentiles are drawn as bars.
        marker = {"marker": "_", "markersize": 6} if len(rows) == 1 and column != "median" else {}
        axes.plot(paused, values[column], clip_on=False, **{**style, **marker})
    axes.errorbar(
        paused,
        values["median"],
        (
            [median - low for median, low in zip(values["median"], values["ci_low"], strict=True)],
            [high - median for median, high in zip(values["median"], values["ci_high"], strict=True)],
        ),
        fmt="none",
        ecolor=_DJINN["color"],
        elinewidth=0.8,
        capsize=1.5,
        capthick=0.8,
    )
    axes.set_xscale("log", base=2)
    axes.set_xlim(paused[0] / 1.25, paused[-1] * 1.25)
    axes.set_xticks(paused, [str(count) for count in paused])
    axes.xaxis.set_minor_locator(NullLocator())
    highest = max([*values["p99"], *values["ci_high"]])
    below = min([*values["median"], *values["ci_low"]]) > _ROOM_BELOW * highest
    top = (1.35 if said and not below else 1.06) * highest
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(4 if height > 0.3 else 2, steps=[1, 2, 2.5, 5, 10]))
    if said:
        _say(axes, rows, below=below)
    _label(axes, {name: (values[column][-1] / top, style) for column, (name, style) in lines.items()}, height)


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


def _say(axes: Axes, rows: Sequence[Resumes], *, below: bool) -> None:
    ratio = significant(growth(rows, "p95") or 0)
    fewest, most = rows[0], rows[-1]
    text = (
        f"95th percentile at {most.paused} = {ratio} \N{MULTIPLICATION SIGN} median at {fewest.paused}\n"
        f"{fewest.n} resumes at {fewest.paused}, {most.n} at {most.paused}"
    )
    axes.text(
        0.04, 0.05 if below else 0.98, text, transform=axes.transAxes, va="bottom" if below else "top",
        size=FONT_PT - 0.5, color="0.25",
    )  # fmt: skip


def measured(material: Material) -> list[Resumes]:
    """The rows of ``load.csv``; raises :class:`TableError` if they cannot be drawn."""
    run = material.name
    if material.functional:
        raise TableError(f"run {run} is functional: made without a GPU, its times under load are not drawn")
    rows = material.rows("load", Resumes)
    if missing := [clock for clock in _PANELS if not by_paused(rows, clock)]:
        raise TableError(f"load.csv: run {run!r} has no {missing[0]} of a resume under load")
    return rows


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    rows = measured(material)
    return rendered(lambda: draw(rows))
