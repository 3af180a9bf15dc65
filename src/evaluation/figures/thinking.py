"""Resume latency over the wait between pause and resume: a panel for each workload and clock, a line for each form.

The clocks are ready and first kernel. Points are medians with 95 % intervals over the resumes of one process; hollow,
with their range, where there are fewer than six. The wait is on a logarithmic axis, left of which stands no wait at
all. The floor is a raw copy of the frontier after the same wait, and stands in every panel: nothing can go on before.
Drawn from ``thinking.csv`` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BLUE, BY_KEY, KEPT, NAVY, PRIMARY, SKY
from evaluation.analysis.waits import FLOOR, Wait
from evaluation.figures.lines import FLOOR as FLOOR_LOOK
from evaluation.figures.lines import FLOOR_NAME, Curve, name_ends, plot
from evaluation.figures.style import BOTH_COLUMNS_IN, FONT_PT, HEIGHT_IN, mark_functional, rendered

_CLOCKS = ("ready", "first_kernel")
_NONE = 0.7  # decades left of the shortest wait: where no wait stands
_BOTTOM, _TOP = 0.165, 0.85
_LEFT, _WIDTH = 0.06, 0.155  # of a panel
_BETWEEN, _LABELS = 0.012, 0.155  # between panels of one workload, and right of each workload
_OURS = PRIMARY["djinn"].style
_THIN = {"linewidth": 1.0, "markersize": 4.5}
_KEPT_BY_HAND = {**_THIN, "color": SKY, "marker": "h", "linestyle": "--"}
# By method and variant, in the order of drawing. What waits until ready is navy, other copies by hand are blue.
_LOOKS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    (FLOOR, "default"): (FLOOR_NAME, dict(FLOOR_LOOK)),
    ("manual_offload", "pinned"): ("Pinned", {**_THIN, "color": NAVY, "marker": "s", "linestyle": "--"}),
    ("manual_offload", "ordered"): ("Ordered", {**_THIN, "color": NAVY, "marker": "D", "linestyle": "--"}),
    ("manual_offload", "async"): ("Async", {**_THIN, "color": BLUE, "marker": "^", "linestyle": "-."}),
    ("manual_offload", "pinned_attended"): (
        "Pinned, attended",
        {**_THIN, "color": BLUE, "marker": "s", "linestyle": (0, (1, 1.2))},
    ),
    ("manual_offload", "pinned_kept"): ("Pinned, kept", dict(_KEPT_BY_HAND)),
    ("manual_offload", "ordered_kept"): ("Ordered, kept", dict(_KEPT_BY_HAND)),
    ("djinn", "default"): ("Djinn", dict(_OURS)),
    ("djinn", "attended"): ("Djinn, attended", {**_OURS, "linestyle": (0, (4, 1.5)), "marker": "v"}),
    ("djinn", KEPT): ("Djinn, kept", dict(BY_KEY["djinn", KEPT].style)),
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One workload and clock. A line's ``layers`` are places: decades of the wait in ms, see :func:`_place`."""

    workload: str
    layer: int
    title: str
    lines: Sequence[Curve]


def panels(rows: Sequence[Wait]) -> list[list[Panel]]:
    """Those of each workload and layer; raises :class:`TableError` if there are none."""
    shortest = min((row.think_time_ms for row in rows if row.think_time_ms), default=1.0)
    found = []
    for workload, layer in dict.fromkeys((row.workload, row.layer) for row in rows):
        own = [row for row in rows if (row.workload, row.layer) == (workload, layer)]
        group = []
        for clock in _CLOCKS:
            of_clock = [row for row in own if row.method == FLOOR or row.metric == CLOCK[clock].metric]
            title = CLOCK[clock].words.capitalize()
            group.append(Panel(workload=workload, layer=layer, title=title, lines=_lines(of_clock, shortest)))
        found.append(group)
    if not found:
        raise TableError("thinking.csv: the run has no resume after any wait")
    return found


def _lines(rows: Sequence[Wait], shortest: float) -> list[Curve]:
    lines = []
    for form, (name, style) in _LOOKS.items():
        if own := [row for row in rows if row.form == form]:
            places = [_place(row.think_time_ms, shortest) for row in own]
            medians, lows, highs = ([getattr(row, column) for row in own] for column in ("median", "ci_low", "ci_high"))
            ends = {"lows": lows, "highs": highs, "ranged": [row.is_range for row in own]}
            lines.append(Curve(label=name, style=style, layers=places, medians=medians, **ends))
    return lines


def _place(wait_ms: float, shortest: float) -> float:
    """Decades of a wait; no wait stands left of the ``shortest`` one."""
    return log10(wait_ms) if wait_ms else log10(shortest) - _NONE


def draw(shown: Sequence[Sequence[Panel]], waits: Sequence[float], *, functional: bool) -> Figure:
    """The figure of ``shown`` after ``waits``; a functional run is marked as such across each panel."""
    figure = Figure(figsize=(BOTH_COLUMNS_IN, HEIGHT_IN))
    left = _LEFT
    for group in shown:
        highest = max(high for panel in group for line in panel.lines for high in (*line.medians, *line.highs))
        for number, panel in enumerate(group):
            axes = figure.add_axes((left, _BOTTOM, _WIDTH, _TOP - _BOTTOM))
            left += _WIDTH + _BETWEEN
            plot(axes, panel.lines)
            _scale(axes, waits, highest)
            axes.set_title(panel.title, size=FONT_PT, pad=3)
            axes.tick_params(labelleft=not number)
            if functional:
                mark_functional(axes, size=7)
        name_ends(axes, group[-1].lines)
        middle = (left - _BETWEEN - len(group) * (_WIDTH + _BETWEEN) + left) / 2
        name = f"{group[0].workload.capitalize()}, after layer {group[0].layer}"
        figure.text(middle, 0.985, name, ha="center", va="top", size=FONT_PT)
        figure.text(middle, 0.015, "Wait between pause and resume (ms)", ha="center", va="bottom", size=FONT_PT)
        left += _LABELS
    figure.axes[0].set_ylabel("Resume latency (ms)", labelpad=2)
    return figure


def _scale(axes: Axes, waits: Sequence[float], highest: float) -> None:
    """From 0, the same for both clocks of a workload; ticks at the waits, of which every other has its number."""
    shortest = min((wait for wait in waits if wait), default=1.0)
    places = [_place(wait, shortest) for wait in waits]
    axes.set_xlim(places[0] - 0.25, places[-1] + 0.25)
    names = [_name(wait) if index % 2 == 0 or len(waits) <= 4 else "" for index, wait in enumerate(waits)]
    axes.set_xticks(places, names)
    axes.set_ylim(0, 1.06 * highest or 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _name(wait_ms: float) -> str:
    return f"{wait_ms:g}" if wait_ms < 1000 else f"{wait_ms / 1000:g} s"


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    rows = material.rows("thinking", Wait)
    shown = panels(rows)
    waits = sorted({row.think_time_ms for row in rows})
    return rendered(lambda: draw(shown, waits, functional=material.functional))
