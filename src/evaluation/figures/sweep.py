"""Where recompute and hand-written copies cross: resume latency against the size of the prompt, a panel for each depth.

The clock is ready; points are medians with 95 % intervals, of fewer than six samples without, over batch x tokens, both
axes logarithmic and the same in all panels. Recompute's point is that of its quickest variant at this size and layer.
Which is the quicker at each size is in :mod:`evaluation.text.numbers`. Drawn from ``sweep.csv`` alone. A functional
run's times mean nothing, and it has no such figure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from evaluation.analysis.crossings import Crossing, quickest
from evaluation.analysis.material import Material
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BY_KEY, PRIMARY
from evaluation.figures.style import FONT_PT, HEIGHT_IN, WIDTH_IN, rendered, spread

_LEFT, _RIGHT, _BOTTOM, _TOP = 0.135, 0.735, 0.185, 0.91  # of the figure; what is right of it is for labels
_BETWEEN = 0.03
_PAGEABLE = BY_KEY["manual_offload", "pageable"]
# By method and variant, or the quickest. Manual offload is drawn thinner than where Djinn must show through it.
_LINES: dict[tuple[str, str | None], tuple[str, Mapping[str, Any]]] = {
    ("recompute", None): (PRIMARY["recompute"].label, PRIMARY["recompute"].style),
    ("manual_offload", "pageable"): (_PAGEABLE.label, _PAGEABLE.style),
    ("manual_offload", "pinned"): (
        "Manual, pinned",
        {**PRIMARY["manual_offload"].style, "linewidth": 1.2, "markersize": 4.5},
    ),
}


def measured(material: Material) -> list[Crossing]:
    """The rows of ``sweep.csv`` that are drawn, all with numbers; raises :class:`TableError` if there are none."""
    run = material.name
    if material.functional:
        raise TableError(f"run {run} is functional: made without a GPU, its size sweep is not drawn")
    rows = quickest([row for row in material.rows("sweep", Crossing) if row.ready_ms is not None])
    if not any(_line(rows, key) for key in _LINES):
        raise TableError(f"sweep.csv: run {run!r} has no ready_ms of recompute or of a copy by hand")
    return rows


def draw(rows: Sequence[Crossing]) -> Figure:
    """The figure of the rows of one run, all of which have numbers."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    layers = sorted({row.layer for row in rows})
    width = (_RIGHT - _LEFT - _BETWEEN * (len(layers) - 1)) / len(layers)
    low, high = (end(_ends(rows)) for end in (min, max))
    for number, layer in enumerate(layers):
        axes = figure.add_axes((_LEFT + number * (width + _BETWEEN), _BOTTOM, width, _TOP - _BOTTOM))
        _panel(axes, [row for row in rows if row.layer == layer])
        _scale(axes, rows, (low / 1.5, high * 1.5))
        axes.set_title(f"Paused after layer {layer}", size=FONT_PT, pad=3)
        if number:
            axes.tick_params(labelleft=False)
    figure.axes[0].set_ylabel("Resume latency, ready (ms)", labelpad=2)
    figure.text(
        (_LEFT + _RIGHT) / 2,
        0.02,
        "Tokens in the prompt (batch \N{MULTIPLICATION SIGN} length)",
        ha="center",
        va="bottom",
    )
    _label(figure.axes[-1], [row for row in rows if row.layer == layers[-1]])
    return figure


def _ends(rows: Sequence[Crossing]) -> list[float]:
    return [value for row in rows for value in (row.ci_low, row.ready_ms, row.ci_high) if value is not None]


def _line(rows: Sequence[Crossing], key: tuple[str, str | None]) -> list[Crossing]:
    mine = [row for row in rows if row.method == key[0] and key[1] in (row.variant, None)]
    return sorted(mine, key=lambda row: (row.batch * row.tokens, row.batch))


def _panel(axes: Axes, rows: Sequence[Crossing]) -> None:
    for key, (_, style) in _LINES.items():
        if line := _line(rows, key):
            sizes = [row.batch * row.tokens for row in line]
            medians = [row.ready_ms or 0.0 for row in line]
            axes.plot(sizes, medians, clip_on=False, **{"linewidth": 1.0, **style})
            bars = [
                (size, median, median - row.ci_low, row.ci_high - median)
                for size, median, row in zip(sizes, medians, line, strict=True)
                if row.ci_low is not None and row.ci_high is not None
            ]
            if bars:
                at, middles, below, above = zip(*bars, strict=True)
                axes.errorbar(
                    at, middles, (below, above), fmt="none", ecolor=style["color"], elinewidth=0.8, zorder=1.5
                )


def _scale(axes: Axes, rows: Sequence[Crossing], limits: tuple[float, float]) -> None:
    """The same in all panels, with ticks at the sizes measured."""
    sizes = sorted({row.batch * row.tokens for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    axes.set_ylim(*limits)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label(axes: Axes, rows: Sequence[Crossing]) -> None:
    """Name each line at its right end; names of ends that are close move apart, tied by thin leaders."""
    lines = {label: (line[-1], style) for key, (label, style) in _LINES.items() if (line := _line(rows, key))}
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform((row.batch * row.tokens, row.ready_ms or 0)) for row, _ in lines.values()]
    heights = spread([float(y) for _, y in ends], 1.25 * FONT_PT / 72 / (HEIGHT_IN * (_TOP - _BOTTOM)))
    for (label, (_, style)), (x, y), height in zip(lines.items(), ends, heights, strict=True):
        place: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([x + 0.06, 1.03], [y, height], color="0.55", linewidth=0.4, zorder=1, **place)
        axes.text(1.06, height, label, va="center_baseline", size=FONT_PT - 0.5, color=style["color"], **place)


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    rows = measured(material)
    return rendered(lambda: draw(rows))
