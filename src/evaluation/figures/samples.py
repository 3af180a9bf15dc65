"""Every raw sample of the clock ready, outliers too: the supplement's strip, a row per method, a column per workload.

Of each method the primary variant. At each layer the samples stand from left to right in the order in which they were
taken. One round, a process of its own, follows the other, even rounds on grey. The line is the median of all rounds.
Each panel has a scale of its own, so that scatter shows whatever the method takes. Cells that the device refused, and
those that a run still lacks, are named in their panel. Drawn from the records alone; computes nothing but the median.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from evaluation.analysis.material import Material
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import METHODS, PRIMARY, plain_name
from evaluation.figures.style import BOTH_COLUMNS_IN, FONT_PT, OTHERS, mark_functional, readable, rendered
from evaluation.records.runs import Run, latency_methods

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.64, 0.06, 0.24, 0.55  # inches beside the panels; below is a line of note
_ROW_IN, _ACROSS_IN, _DOWN_IN = 0.92, 0.36, 0.14  # height of a panel, and what is between two
_LINE_IN = 1.25 * FONT_PT / 72
_MARK = {"linestyle": "none", "markersize": 1.9, "markeredgewidth": 0.45}
_MARGIN = 0.1  # of a layer's place, free on either side: there the median shows, however dense the samples

Place = tuple[int, int]  # layer and round


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One method in one workload: times in ms in the order taken, and words for places that have none.

    Both by layer and round; ``layers`` and ``rounds`` are what the study asks for. ``style`` is for ``Axes.plot``.
    """

    workload: str
    label: str
    style: Mapping[str, Any]
    layers: Sequence[int]
    rounds: int
    samples: Mapping[Place, Sequence[float]]
    missing: Mapping[Place, str]


def panels(run: Run) -> list[Panel]:
    """What the strip shows of ``run``, by method and workload; raises :class:`TableError` if that is not one sample.

    Methods are in the order of the paper, any other after them; workloads in that of the records.
    """
    methods = sorted(latency_methods(run.study), key=[*METHODS, *latency_methods(run.study)].index)
    others = [method for method in methods if method not in METHODS]
    looks: dict[str, tuple[str, Mapping[str, Any]]] = {name: (one.label, one.style) for name, one in PRIMARY.items()}
    looks |= {method: (plain_name(method), style) for method, style in zip(others, cycle(OTHERS), strict=False)}
    workloads = dict.fromkeys(cell["workload"] for record in run.records for cell in record["cells"])
    found = [_panel(run, method, workload, *looks[method]) for method in methods for workload in workloads]
    if not any(panel.samples for panel in found):
        raise TableError(f"run {run.name}: no primary variant has a sample")
    return found


def _panel(run: Run, method: str, workload: str, label: str, style: Mapping[str, Any]) -> Panel:
    layers, rounds = sorted(set(run.study["layers"])), run.study["rounds"]
    samples: dict[Place, list[float]] = {}
    missing = {(layer, number): "not measured" for layer in layers for number in range(1, rounds + 1)}
    for record in run.records:
        cells = [cell for cell in record["cells"] if cell["workload"] == workload and cell["headline"]]
        if record["method"] != method or not cells:
            continue
        place = record["layer"], record["round"]
        if cells[0]["samples"]:
            samples[place] = [sample["ready_ms"] for sample in cells[0]["samples"]]
        if cells[0]["outcome"] == "ok":
            del missing[place]
        else:
            missing[place] = cells[0]["outcome"].replace("_", " ")
    return Panel(
        workload=workload, label=label, style=style, layers=layers, rounds=rounds, samples=samples, missing=missing
    )


def draw(strip: Sequence[Panel], *, functional: bool) -> Figure:
    """The figure of ``strip``; each panel of a functional run is marked as such."""
    columns = len(dict.fromkeys(panel.workload for panel in strip))
    rows = len(strip) // columns
    width_in = (BOTH_COLUMNS_IN - _LEFT - _RIGHT - _ACROSS_IN * (columns - 1)) / columns
    note = _note(strip)
    foot_in = _BOTTOM + note.count("\n") * _LINE_IN
    height_in = _TOP + rows * _ROW_IN + (rows - 1) * _DOWN_IN + foot_in
    figure = Figure(figsize=(BOTH_COLUMNS_IN, height_in))
    for number, panel in enumerate(strip):
        row, column = divmod(number, columns)
        left = _LEFT + column * (width_in + _ACROSS_IN)
        bottom = height_in - _TOP - _ROW_IN - row * (_ROW_IN + _DOWN_IN)
        place = (left / BOTH_COLUMNS_IN, bottom / height_in, width_in / BOTH_COLUMNS_IN, _ROW_IN / height_in)
        axes = figure.add_axes(place)
        _points(axes, panel)
        _axis_of_layers(axes, panel, width_in)
        _axis_of_times(axes, panel, _say_missing(axes, panel, width_in))
        axes.tick_params(labelbottom=row == rows - 1)
        if row == 0:
            axes.set_title(panel.workload.capitalize(), size=FONT_PT, pad=4)
        if column == 0:
            axes.set_ylabel(f"{panel.label}\nready (ms)", color=readable(panel.style["color"]), linespacing=1.15)
            axes.yaxis.set_label_coords(-0.36 / width_in, 0.5)
        if functional:
            mark_functional(axes, size=min(6 * width_in, 11))
    centre = (_LEFT + BOTH_COLUMNS_IN - _RIGHT) / 2 / BOTH_COLUMNS_IN
    figure.text(centre, (foot_in - 0.31) / height_in, "Breakpoint: paused after layer", ha="center")
    figure.text(_LEFT / BOTH_COLUMNS_IN, 0.06 / height_in, note, size=FONT_PT - 0.5, color="0.25", linespacing=1.1)
    return figure


def _points(axes: Axes, panel: Panel) -> None:
    most = max((len(times) for times in panel.samples.values()), default=1)
    width = (1 - 2 * _MARGIN) / panel.rounds
    for slot, layer in enumerate(panel.layers):
        pooled: list[float] = []
        for number in range(1, panel.rounds + 1):
            start = slot + _MARGIN + (number - 1) * width
            if number % 2 == 0:
                axes.axvspan(start, start + width, color="0.92", linewidth=0, zorder=-1)
            if times := panel.samples.get((layer, number)):
                places = [start + (index + 0.5) / most * width for index in range(len(times))]
                axes.plot(places, times, clip_on=False, **{**panel.style, **_MARK})
                pooled += times
        if pooled:
            axes.hlines(median(pooled), slot, slot + 1, color="0.35", linewidth=1.0, zorder=1.5)


def _axis_of_layers(axes: Axes, panel: Panel, width_in: float) -> None:
    """Every layer has a tick, and a name as far as there is room."""
    every = -(-len(panel.layers) // max(int(width_in / 0.2), 1))
    axes.set_xlim(0, len(panel.layers))
    names = [str(layer) if slot % every == 0 else "" for slot, layer in enumerate(panel.layers)]
    axes.set_xticks([slot + 0.5 for slot in range(len(names))], names)


def _axis_of_times(axes: Axes, panel: Panel, reserved: float) -> None:
    """From zero, or logarithmic where the times span more than a factor of 20; ``reserved`` of it stays free above."""
    times = [time for taken in panel.samples.values() for time in taken]
    if not times:
        axes.set_yticks([])
        return
    lowest, highest = min(times), max(times)
    if lowest > 0 and highest / lowest > 20:
        axes.set_yscale("log")
        decades = math.log10(highest / lowest * 1.5**2) / (1 - reserved)
        axes.set_ylim(lowest / 1.5, lowest / 1.5 * 10**decades)
        subs = (1, 2, 5) if decades < 2.2 else (1, 3) if decades < 4 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, (highest * 1.08 or 1) / (1 - reserved))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))


def _say_missing(axes: Axes, panel: Panel, width_in: float) -> float:
    """Name what has no samples in the panel's upper corner; returns which part of the panel that takes."""
    said = "; ".join(_words_of_missing(panel))
    if not said:
        return 0.0
    lines = textwrap.wrap(said, int(width_in / 0.047), max_lines=4, placeholder=" \N{HORIZONTAL ELLIPSIS}")
    axes.text(
        0.02, 0.99, "\n".join(lines), transform=axes.transAxes, ha="left", va="top", size=FONT_PT - 0.5, color="0.25",
        linespacing=1.1,
    )  # fmt: skip
    return (len(lines) + 0.5) * _LINE_IN / _ROW_IN


def _words_of_missing(panel: Panel) -> Iterator[str]:
    """As: out of memory, round 2: layers 10, 30-40. What neighbouring layers share is a range; no round: it is all."""
    whole = tuple(range(1, panel.rounds + 1))
    for outcome in sorted(set(panel.missing.values())):
        rounds_of = {
            layer: tuple(number for number in whole if panel.missing.get((layer, number)) == outcome)
            for layer in panel.layers
        }
        ranges: dict[tuple[int, ...], list[str]] = {}
        for rounds, group in groupby(panel.layers, key=lambda layer: rounds_of[layer]):
            first, *rest = group
            ranges.setdefault(rounds, []).append(f"{first}\N{EN DASH}{rest[-1]}" if rest else str(first))
        for rounds in sorted(ranges.keys() - {()}):
            within = "" if rounds == whole else f", {_plural('round', [str(number) for number in rounds])}"
            yield f"{outcome}{within}: {_plural('layer', ranges[rounds])}"


def _plural(noun: str, names: Sequence[str]) -> str:
    one = len(names) == 1 and names[0].isdecimal()
    return f"{noun}{'' if one else 's'} {', '.join(names)}"


def _note(strip: Sequence[Panel]) -> str:
    count = sum(len(times) for panel in strip for times in panel.samples.values())
    note = (
        f"All {count} samples of the clock ready in the primary variant of each method, none left out, in the order "
        "taken; lines are medians. Scales differ."
    )
    if strip[0].rounds > 1:
        note += f"\nWhite and grey by turns: the {strip[0].rounds} rounds of a layer, each a process of its own."
    return note


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    strip = panels(material.run)
    return rendered(lambda: draw(strip, functional=material.functional))
