"""Djinn over the strongest form by hand, from pairs: a panel for each clock, over the layers side by side.

Of the form of Djinn that swaps everything, as it is or with a codec. Points are medians of blocks, with intervals of
95 % over processes, or the range where there are fewer than six. A line for each workload; at 1 both are as quick.
Drawn from ``pairs.csv`` alone.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.analysis.comparisons import Comparison
from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCKS
from evaluation.analysis.pairs import IDLE, NOTHING, RAW
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BLACK, BLUE, PALE, RED
from evaluation.figures.lines import Curve, name_ends, plot
from evaluation.figures.style import FONT_PT, rendered, side_by_side

_ASIDE = 0.16  # of a layer's place, from one workload to the next, so that no interval hides another
_LOOKS: list[dict[str, Any]] = [
    {"color": BLACK, "marker": "o", "linestyle": "-", "linewidth": 0.9, "markersize": 3.5},
    {"color": BLUE, "marker": "s", "linestyle": "--", "linewidth": 0.9, "markersize": 3.5},
    {"color": RED, "marker": "^", "linestyle": "-.", "linewidth": 0.9, "markersize": 3.5},
    {"color": PALE, "marker": "P", "linestyle": ":", "linewidth": 0.9, "markersize": 3.5},
]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One clock and the ratios of each workload, which looks the same in every panel, with a codec or without.

    A line's ``layers`` are places: where its layer stands in ``layers``, from 0, and a little aside.
    """

    title: str
    layers: Sequence[int]
    lines: Sequence[Curve]


def panels(rows: Sequence[Comparison], codec: str = RAW) -> list[Panel]:
    """One per clock that has a ratio of state with this ``codec``; raises :class:`TableError` if there is none."""
    shown = [
        row
        for row in rows
        if row.strongest
        and row.layer is not None
        and (row.keeps, row.link, row.codec) == (NOTHING, IDLE, codec)
        and row.ratio
    ]
    if not shown:
        what = "" if codec == RAW else ", coded"
        raise TableError(f"pairs.csv: the run has no ratio of what swaps everything{what}")
    workloads = list(dict.fromkeys(row.workload for row in shown))
    looks = dict(zip(dict.fromkeys(row.workload for row in rows), itertools.cycle(_LOOKS)))  # whatever the codec
    layers = sorted({row.layer for row in shown if row.layer is not None})
    found = []
    for clock in CLOCKS:
        lines = []
        for index, workload in enumerate(workloads):
            own = [row for row in shown if (row.clock, row.workload) == (clock.name, workload)]
            aside = _ASIDE * (index - (len(workloads) - 1) / 2)
            if own:
                lines.append(_curve(workload.capitalize(), looks[workload], own, layers, aside))
        if lines:
            found.append(Panel(title=clock.words.capitalize(), layers=layers, lines=lines))
    return found


def _curve(
    name: str, style: dict[str, Any], rows: Sequence[Comparison], layers: Sequence[int | None], aside: float
) -> Curve:
    places = [layers.index(row.layer) + aside for row in rows]
    medians, lows, highs = ([getattr(row, column) for row in rows] for column in ("ratio", "ratio_low", "ratio_high"))
    ranged = [row.is_range for row in rows]
    return Curve(label=name, style=style, layers=places, medians=medians, lows=lows, highs=highs, ranged=ranged)


def draw(shown: Sequence[Panel], *, functional: bool, who: str = "Djinn") -> Figure:
    """The figure of ``shown``, from left to right; a functional run is marked as such across each panel."""
    figure, places = side_by_side(
        len(shown), between=0.012, right=0.875, axis=f"{who} / strongest by hand", functional=8 if functional else None
    )
    everything = [line for panel in shown for line in panel.lines]
    for axes, panel in zip(places, shown, strict=True):
        axes.axhline(1, color="0.6", linewidth=0.6, zorder=0)
        plot(axes, panel.lines)
        _scale(axes, everything, panel.layers)
        axes.set_title(panel.title, size=FONT_PT, pad=3)
    most = max(shown, key=lambda panel: len(panel.lines))
    name_ends(figure.axes[-1], shown[-1].lines if len(shown[-1].lines) == len(most.lines) else most.lines)
    return figure


def _scale(axes: Axes, lines: Sequence[Curve], layers: Sequence[int]) -> None:
    """The same in all panels, with 1 in sight."""
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    lowest = min(1.0, *(min(line.lows) for line in lines))
    highest = max(1.0, *(max(line.highs) for line in lines))
    room = 0.08 * (highest - lowest) or 0.05
    axes.set_ylim(lowest - room, highest + room)


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    shown = panels(material.rows("pairs", Comparison))
    return rendered(lambda: draw(shown, functional=material.functional))
