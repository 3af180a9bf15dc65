"""Lines of a figure: times or ratios over some place, with bars, and their names where they end.

A bar is an interval of 95 %. Where there are too few processes or samples for one, the marker is hollow and the bar is
the range. Names stand right of the axes, beside a piece of their line. Those whose ends coincide stand in one bracket
with one leader, so that no two leaders start at one point.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evaluation.analysis.depth import Time
from evaluation.analysis.variants import PALE
from evaluation.figures.style import FONT_PT, readable, spread

HOLLOW = "white"  # the face of a marker of too few samples
FLOOR = {"color": PALE, "marker": "d", "linestyle": (0, (1, 1)), "linewidth": 1.2, "markersize": 3.5}
FLOOR_NAME = "Raw copy"  # of the same bytes, measured beside each sample

_CROWDED = 0.1  # of the depth: layers that are closer, as the last two, share a name on the axis
_TOGETHER_PT = 4.0  # ends that are closer have one leader
_LEADER_PT, _KEY_PT, _NAME_PT = (4.0, 4.5), (6.5, 18.5), 22.0  # from an end, and right of the axes; start and end


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

    @property
    def lowest(self) -> float:
        """The least that is drawn of it."""
        return min([*self.medians, *self.lows])

    @property
    def highest(self) -> float:
        """The most."""
        return max([*self.medians, *self.highs])

    @property
    def key(self) -> dict[str, Any]:
        """Its look beside its name."""
        return {**self.style, "mfc": HOLLOW} if self.ranged and all(self.ranged) else dict(self.style)


def curve(label: str, style: dict[str, Any], times: Sequence[Time]) -> list[Curve]:
    """The line through ``times``; none if there are none."""
    if not times:
        return []
    layers, medians, lows, highs, ranged = zip(
        *((one.layer, one.median, one.low, one.high, one.is_range) for one in times), strict=True
    )
    return [Curve(label=label, style=style, layers=layers, medians=medians, lows=lows, highs=highs, ranged=ranged)]


def plot(axes: Axes, lines: Sequence[Curve]) -> None:
    """Draw ``lines`` with their bars, and with hollow markers over what has a range."""
    for line in lines:
        axes.plot(line.layers, line.medians, clip_on=False, **line.style)
        few = [index for index, ranged in enumerate(line.ranged) if ranged]
        if few and line.style.get("marker"):
            hollow: dict[str, Any] = {**line.style, "mfc": HOLLOW, "linestyle": "none", "clip_on": False}
            axes.plot([line.layers[one] for one in few], [line.medians[one] for one in few], **hollow)
        if line.lows:
            below = [median - low for median, low in zip(line.medians, line.lows, strict=True)]
            above = [high - median for median, high in zip(line.medians, line.highs, strict=True)]
            bars: dict[str, Any] = {"ecolor": line.style["color"], "elinewidth": 0.8, "zorder": 1.5}
            axes.errorbar(line.layers, line.medians, (below, above), fmt="none", **bars)


def name_layers(axes: Axes, lines: Sequence[Curve]) -> None:
    """A tick at each layer with its number; those that crowd have one name in the middle, as 39, 40."""
    layers = sorted({layer for line in lines for layer in line.layers})
    axes.set_xlim(-0.04 * layers[-1], 1.04 * layers[-1])
    if len(layers) > 8:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return
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


def from_zero(axes: Axes, lines: Sequence[Curve]) -> None:
    """A linear axis of latency."""
    axes.set_ylim(0, 1.08 * max(line.highest for line in lines) or 1)


def logarithmic(axes: Axes, lines: Sequence[Curve]) -> None:
    """A logarithmic axis of latency, with numbers at 2 and 5 where there are few decades; linear if a time is 0."""
    low, high = min(line.lowest for line in lines), max(line.highest for line in lines)
    if low <= 0:
        from_zero(axes, lines)
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.6, high * 1.6)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def name_ends(axes: Axes, lines: Sequence[Curve]) -> None:
    """Name each of ``lines`` right of ``axes``, as near to its end as there is room."""
    frame = axes.get_window_extent()
    assert axes.figure is not None
    width, height = (pixels / axes.figure.dpi * 72 for pixels in (frame.width, frame.height))  # in points
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [tuple(to_axes.transform((line.layers[-1], line.medians[-1]))) for line in lines]
    order = sorted(range(len(lines)), key=lambda index: -ends[index][1])
    groups = _together(order, [end[1] * height for end in ends])
    middles = [sum(ends[index][1] for index in group) / len(group) for group in groups for _ in group]
    heights = iter(spread(middles, 1.25 * FONT_PT / height))
    right: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    thin: dict[str, Any] = {"color": "0.55", "linewidth": 0.4, "zorder": 1, **right}
    begin, turn = _LEADER_PT[0] / width, 1 + _LEADER_PT[1] / width
    key = [1 + at / width for at in (_KEY_PT[0], sum(_KEY_PT) / 2, _KEY_PT[1])]
    for group in groups:
        found = [next(heights) for _ in group]
        start = max(ends[index][0] for index in group), sum(ends[index][1] for index in group) / len(group)
        axes.plot([start[0] + begin, turn], [start[1], (found[0] + found[-1]) / 2], **thin)
        if len(group) > 1:
            reach = 0.45 * FONT_PT / height
            axes.plot([turn, turn], [found[-1] - reach, found[0] + reach], **thin)
        for index, at in zip(group, found, strict=True):
            axes.plot(key, [at] * 3, markevery=[1], **lines[index].key, **right)
            name: dict[str, Any] = {"va": "center_baseline", "color": readable(lines[index].style["color"]), **right}
            axes.text(1 + _NAME_PT / width, at, lines[index].label, **name)


def _together(order: Sequence[int], heights_pt: Sequence[float]) -> list[list[int]]:
    """``order``, from the highest end to the lowest, in groups of those that coincide."""
    groups: list[list[int]] = []
    for index in order:
        if groups and heights_pt[groups[-1][-1]] - heights_pt[index] < _TOGETHER_PT:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
