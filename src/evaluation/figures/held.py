"""Resume latency against the device memory that a paused session holds: one mark per method and variant.

The clock ready at the layer that leads, from :mod:`evaluation.analysis.leading`, with intervals; hollow, with the
range, where there are too few processes or samples. Peers at the deepest layer. Both axes are logarithmic. What holds
less than a thousandth of the most stands apart, left of a break in the axis. The best place is the lower left corner. A
mark is named beside it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from evaluation.analysis.leading import Leading
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.outcomes import PeerMetric
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BULK, KEPT, NAVY, ORDERED, PRIMARY, plain_name
from evaluation.figures.lines import HOLLOW
from evaluation.figures.room import put
from evaluation.figures.style import FONT_PT, HEIGHT_IN, OTHERS, WIDTH_IN, mark_functional, readable, spread

_AXES = (0.165, 0.185, 0.815, 0.785)  # left, bottom, width, height of the figure
_APART = 1000  # times less than the most that is held: as good as nothing
_BESIDE = 0.035  # of the width of the axes, from a mark to its name
_NAME = 0.27  # of it, what a name takes: marks that are closer share a column of names
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


VANILLA, DJINN, KEPT_DJINN = "Vanilla", "Djinn", "Djinn, kept"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One form: bytes on the device per paused session, and ready in ms, with the ends of its interval or range."""

    label: str
    style: dict[str, Any]
    held_bytes: float
    median: float
    low: float
    high: float
    is_range: bool = False
    peer: bool = False


_KEPT_BY_HAND = tuple(f"{name}_{KEPT}" for name in ("ordered", "pinned"))

# Method, variants of which the first that a run has is shown (the quickest where none is named), name and look. Where
# marks coincide the wide ones lie under the small ones.
_SHOWN: tuple[tuple[str, tuple[str, ...], str, dict[str, Any]], ...] = (
    ("vanilla", (), VANILLA, {"marker": "X", "markersize": 5}),
    ("recompute", (), "Recompute", {"marker": "^", "markersize": 5}),
    ("manual_offload", BULK, "Manual offload", {"marker": "s", "markersize": 7}),
    ("manual_offload", (ORDERED,), "Manual, ordered", {"marker": "D", "markersize": 6}),
    ("manual_offload", _KEPT_BY_HAND, "Manual, kept", {"marker": "p", "markersize": 7.5}),
    ("manual_offload", ("offloaded_cache",), "Offloaded cache", {"marker": "v", "markersize": 5}),
    ("djinn", (PRIMARY["djinn"].name,), DJINN, {"marker": "o", "markersize": 4}),
    ("djinn", (KEPT,), KEPT_DJINN, {"marker": "h", "markersize": 4}),
)


def marks_of(leading: Leading, peers: Sequence[PeerMetric], workload: str) -> list[Mark]:
    """Every form and peer of which the run has a time in ``workload``; raises :class:`TableError` if there is none."""
    found = []
    for method, variants, name, look in _SHOWN:
        one = leading.of(workload, method, *variants)
        if one is not None and one.median and one.low is not None and one.high is not None:
            style = {"color": NAVY if variants == (ORDERED,) else PRIMARY[method].style["color"], **look}
            found.append(
                Mark(
                    label=name,
                    style=style,
                    held_bytes=one.held_bytes,
                    median=one.median,
                    low=one.low,
                    high=one.high,
                    is_range=one.is_range,
                )
            )
    found += _of_peers(peers, workload)
    if not found:
        raise TableError(f"the run has no time of the clock ready in workload {workload!r}")
    return found


def _of_peers(peers: Sequence[PeerMetric], workload: str) -> Iterator[Mark]:
    own = {(row.peer, row.metric): row for row in peers if row.workload == workload}
    names = dict.fromkeys(row.peer for row in peers)
    for peer, style in zip(names, cycle(OTHERS), strict=False):
        ready, held = own.get((peer, CLOCK["ready"].metric)), own.get((peer, "device_bytes_paused"))
        if ready and held and held.median is not None and ready.median:
            yield Mark(
                label=_PEERS.get(peer, plain_name(peer)),
                style={name: style[name] for name in ("color", "marker", "markersize")},
                held_bytes=held.median,
                median=ready.median,
                low=ready.ci_low or ready.median,  # of too few samples there is no interval
                high=ready.ci_high or ready.median,
                is_range=ready.ci_low is None,
                peer=True,
            )


_PEERS = {"memory_saver": "Memory saver", "process_checkpoint": "Process checkpoint"}


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Places on the horizontal axis: 0 for as good as nothing, from 1 on a decade each, of bytes from ``least`` on.

    ``nothing`` is the most of what is as good as nothing.
    """

    least: float
    most: float
    nothing: float

    @classmethod
    def of(cls, shown: Sequence[Mark]) -> "_Scale":
        sizes = [mark.held_bytes for mark in shown]
        held = [size for size in sizes if size * _APART > max(sizes)]
        least = 10 ** math.floor(math.log10(min(held))) if held else math.inf
        return cls(least=least, most=max(sizes), nothing=max((size for size in sizes if size < least), default=0))

    def place(self, nbytes: float) -> float:
        return 1 + math.log10(nbytes / self.least) if nbytes >= self.least else 0.0

    def ticks(self) -> dict[float, str]:
        """Places and their names."""
        nothing = f"under {_size(10 ** math.ceil(math.log10(self.nothing)))}" if self.nothing else "0"
        decades = range(int(self.place(self.most)))
        return {0.0: nothing, **{1.0 + decade: _size(self.least * 10**decade) for decade in decades}}


def in_unit(nbytes: float) -> tuple[float, str]:
    """``nbytes`` in the unit that fits, and its name."""
    unit, name = next((one for one in _UNITS if nbytes >= one[0]), _UNITS[-1])
    return nbytes / unit, name


def _size(nbytes: float) -> str:
    value, name = in_unit(nbytes)
    return f"{value:g} {name}"


def draw(shown: Sequence[Mark], *, functional: bool) -> Figure:
    """The figure of ``shown``; a functional run is marked as such across it."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    axes = figure.add_axes(_AXES)
    scale = _Scale.of(shown)
    places = [scale.place(mark.held_bytes) for mark in shown]
    for mark, place in zip(shown, places, strict=True):
        ends = ([mark.median - mark.low], [mark.high - mark.median])
        axes.errorbar([place], [mark.median], ends, fmt="none", ecolor=mark.style["color"], elinewidth=0.8, zorder=1.5)
        look = {**mark.style, **({"mfc": HOLLOW} if mark.is_range else {})}
        axes.plot([place], [mark.median], linestyle="none", **look)
    axes.set_xlim(-0.35, scale.place(scale.most) + 0.35)
    axes.set_xticks(list(scale.ticks()), list(scale.ticks().values()))
    axes.set_yscale("log")
    axes.set_ylim(min(mark.low or mark.median for mark in shown) / 2, max(mark.high for mark in shown) * 2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Device memory held per paused session", labelpad=2)
    axes.set_ylabel("Resume latency, ready (ms)", labelpad=2)
    if scale.place(scale.most):
        _break(axes)
    _name(axes, shown, places)
    put(axes, "\N{SOUTH WEST ARROW} better", [(scale.place(scale.most) * 0.55, _middle(axes))], color="0.4")
    if functional:
        mark_functional(axes)
    return figure


def _middle(axes: Axes) -> float:
    """Of the logarithmic axis of latency."""
    low, high = axes.get_ylim()
    return math.sqrt(low * high)


def _break(axes: Axes) -> None:
    """Two strokes through the axis, between nothing and the first decade."""
    for place in (0.47, 0.53):
        axes.plot(
            [place - 0.04, place + 0.04], [-0.025, 0.025], transform=axes.get_xaxis_transform(), color="black",
            linewidth=0.6, clip_on=False,
        )  # fmt: skip


def _name(axes: Axes, shown: Sequence[Mark], places: Sequence[float]) -> None:
    """Name the marks, those that stand close together in one column right of them, or above where there is no room."""
    to_axes = axes.transData + axes.transAxes.inverted()
    spots, tops = (
        [tuple(to_axes.transform((x, value))) for value, x in zip(values, places, strict=True)]
        for values in ([mark.median for mark in shown], [mark.high for mark in shown])
    )
    gap = 1.2 * FONT_PT / 72 / (HEIGHT_IN * _AXES[3])
    for group in _columns([spot[0] for spot in spots]):
        right = max(spots[index][0] for index in group)
        above = right + _BESIDE + _NAME > 1
        heights = spread([tops[index][1] + 0.9 * gap if above else spots[index][1] for index in group], gap)
        for index, height in zip(group, heights, strict=True):
            name: dict[str, Any] = {"color": readable(shown[index].style["color"]), "size": FONT_PT - 0.5}
            name |= {"transform": axes.transAxes, "va": "center_baseline"}
            if above:
                axes.text(min(right + _BESIDE, 1), height, shown[index].label, ha="right", **name)
                continue
            ends = [spots[index][0], right + _BESIDE - 0.008], [spots[index][1], height]
            axes.plot(*ends, transform=axes.transAxes, color="0.55", linewidth=0.4, zorder=1, clip_on=False)
            axes.text(right + _BESIDE, height, shown[index].label, ha="left", **name)


def _columns(places: Sequence[float]) -> list[list[int]]:
    """The marks, by index, in groups of which none is closer to another group than a name is wide."""
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=places.__getitem__):
        if groups and places[index] - places[groups[-1][-1]] < _NAME / 2:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
