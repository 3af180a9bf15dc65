"""Where recompute and hand-written copies cross: resume latency against the size of the prompt, a panel for each depth.

The clock is ready; points are medians over batch x tokens, both axes logarithmic and the same in all panels.
Recompute's point is that of its quickest variant at this size and layer. The sweep does not measure Djinn. It has a
point where its own jobs ran a workload of that size, without a KV cache, after that layer. Which is the quicker at each
size is in :mod:`evaluation.text.numbers`. Drawn from ``sweep.csv`` and the summary. A functional run's times mean
nothing, and it has no such figure.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from evaluation.analysis.crossings import Crossing, quickest
from evaluation.analysis.material import Material
from evaluation.analysis.statistics import ENOUGH
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BY_KEY, PRIMARY
from evaluation.figures.lines import Curve, name_ends, plot
from evaluation.figures.style import FONT_PT, HEIGHT_IN, WIDTH_IN, rendered

_LEFT, _RIGHT, _BOTTOM, _TOP = 0.135, 0.66, 0.185, 0.91  # of the figure; what is right of it is for names
_BETWEEN = 0.03
# By method and variant, or the quickest; in the order of drawing.
_LINES: dict[tuple[str, str | None], tuple[str, dict[str, Any]]] = {
    ("recompute", None): ("Recompute", dict(PRIMARY["recompute"].style)),
    ("manual_offload", "pageable"): ("By hand, pageable", dict(BY_KEY["manual_offload", "pageable"].style)),
    ("manual_offload", "pinned"): ("By hand, pinned", {**PRIMARY["manual_offload"].style, "linewidth": 1.2}),
    ("djinn", "default"): ("Djinn", dict(PRIMARY["djinn"].style)),
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


def djinn_beside(material: Material, rows: Sequence[Crossing]) -> list[Crossing]:
    """What Djinn's own jobs measured at sizes and layers of ``rows``."""
    places = {(row.batch, row.tokens, row.layer) for row in rows}
    found: dict[tuple[int, int, int], Crossing] = {}
    for workload in material.study["workloads"]:
        if workload["kv_cache"] or workload["name"] not in material.findings.workloads:
            continue
        for row in material.findings.series(workload["name"], "djinn", "ready_ms"):
            place = workload["batch"], workload["tokens"], row.breakpoint
            if place in places and row.median is not None and row.ends:
                found[place] = Crossing(
                    run=row.run,
                    batch=place[0],
                    tokens=place[1],
                    method="djinn",
                    variant=row.variant,
                    layer=place[2],
                    ready_ms=row.median,
                    ci_low=row.ends[0],
                    ci_high=row.ends[1],
                    n=0 if row.is_range else row.n,  # of too few processes: as good as none, for an interval
                    crossover_layer=None,
                )
    return list(found.values())


def draw(rows: Sequence[Crossing]) -> Figure:
    """The figure of the rows of one run, all of which have numbers."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    layers = sorted({row.layer for row in rows})
    width = (_RIGHT - _LEFT - _BETWEEN * (len(layers) - 1)) / len(layers)
    panels = [list(_curves([row for row in rows if row.layer == layer])) for layer in layers]
    low = min(line.lowest for lines in panels for line in lines)
    high = max(line.highest for lines in panels for line in lines)
    for number, (layer, lines) in enumerate(zip(layers, panels, strict=True)):
        axes = figure.add_axes((_LEFT + number * (width + _BETWEEN), _BOTTOM, width, _TOP - _BOTTOM))
        plot(axes, lines)
        _scale(axes, rows, (low / 1.5, high * 1.5))
        axes.set_title(f"After layer {layer}", size=FONT_PT, pad=3)
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
    name_ends(figure.axes[-1], panels[-1])
    return figure


def _line(rows: Sequence[Crossing], key: tuple[str, str | None]) -> list[Crossing]:
    mine = [row for row in rows if row.method == key[0] and key[1] in (row.variant, None)]
    return sorted(mine, key=lambda row: (row.batch * row.tokens, row.batch))


def _curves(rows: Sequence[Crossing]) -> Sequence[Curve]:
    """Over sizes, which stand for layers."""
    found = []
    for key, (name, style) in _LINES.items():
        if line := _line(rows, key):
            medians = [row.ready_ms or 0.0 for row in line]
            found.append(
                Curve(
                    label=name,
                    style={"linewidth": 1.0, **style},
                    layers=[row.batch * row.tokens for row in line],
                    medians=medians,
                    lows=[row.ci_low or row.ready_ms or 0.0 for row in line],
                    highs=[row.ci_high or row.ready_ms or 0.0 for row in line],
                    ranged=[row.n < ENOUGH for row in line],
                )
            )
    return found


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


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    rows = measured(material)
    beside = djinn_beside(material, rows)
    return rendered(lambda: draw([*rows, *beside]))
