"""The memory wall: device memory in use against the number of paused sessions, one line per method.

Each line ends where its method was stopped: by the device (a cross), by the host or the arena (a bar), or by the cap
(an arrow). The horizontal line is all memory of the device. Drawn from the capacity records of a run, whose figures
were read from the device after each pause; nothing in it is computed from sizes. A functional run has no device memory
to show, and no such figure.
"""

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from evaluation.analysis.material import Material
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import BY_KEY, CODED, DRAWN
from evaluation.figures.style import FONT_PT, HEIGHT_IN, WIDTH_IN, readable, rendered, spread
from evaluation.records.runs import Run

_GIB = 2**30
_AXES = (0.135, 0.165, 0.385, 0.805)  # left, bottom, width, height of the figure; the rest is for labels
_LINES = [BY_KEY["vanilla", "own_process"], *DRAWN, BY_KEY["djinn", CODED]]
_STOPS = {  # marker, its size, word
    "device_oom": ("x", 5, "OOM"),
    "host_full": ("|", 10, "host"),
    "arena": ("|", 10, "arena"),
    "cap": (">", 5, "cap"),
}


@dataclass(frozen=True, kw_only=True)
class Wall:
    """One line: GiB in use on the device with 1 .. n paused sessions, and what stopped it."""

    label: str
    style: dict[str, Any]
    sessions: list[int]
    gib: list[float]
    stopped_by: str


def walls(run: Run) -> list[Wall]:
    """The lines of ``run``, as many sessions as were paused; raises :class:`TableError` if it has none."""
    found = []
    for line in _LINES:
        record = run.beside.get(f"capacity/{line.method}.json", {"cells": []})
        for cell in record["cells"]:
            if (cell["headline"] if line.primary else cell["variant"] == line.name) and cell["sessions"]:
                paused = [one for one in cell["figures"] if one.get("device_bytes")][: cell["sessions"]]
                if paused:
                    found.append(
                        Wall(
                            label=line.label,
                            style={"linewidth": 1.0, **line.style, **line.wall},
                            sessions=[one["sessions"] for one in paused],
                            gib=[one["device_bytes"] / _GIB for one in paused],
                            stopped_by=cell["stopped_by"],
                        )
                    )
    if not found:
        raise TableError(f"run {run.name}: no capacity record holds device memory")
    return found


def _device_gib(run: Run) -> float:
    nbytes = (run.machine.get("gpu") or {}).get("memory_bytes")
    if not isinstance(nbytes, int):
        raise TableError(f"run {run.name}: machine.json does not say how much memory the device has: {nbytes}")
    return nbytes / _GIB


def draw(lines: list[Wall], total_gib: float) -> Figure:
    """The figure of ``lines`` on a device of ``total_gib``."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    axes = figure.add_axes(_AXES)
    most = max(line.sessions[-1] for line in lines)
    for number, line in enumerate(lines):
        axes.plot(line.sessions, line.gib, clip_on=False, **{**line.style, "marker": None})
        # Lines that coincide are told apart by their markers, which stand at other sessions for each.
        step = max(most // 3, 1)
        between = slice((2 * number + 1) * step // (2 * len(lines)), -1, step)
        alone = {**line.style, "linestyle": "none", "clip_on": False, "zorder": 3}
        axes.plot(line.sessions[between], line.gib[between], **alone)
        end, size, _ = _STOPS[line.stopped_by]
        axes.plot(line.sessions[-1:], line.gib[-1:], **{**alone, "marker": end, "markersize": size})
    axes.axhline(total_gib, color="0.35", linewidth=0.6)
    axes.set_xlim(0, most * 1.04)
    axes.set_ylim(0, total_gib * 1.12)
    axes.set_xlabel("Paused sessions", labelpad=2)
    axes.set_ylabel("Device memory in use (GiB)", labelpad=2)
    ceiling = Wall(label="", style={"color": "0.35", "linewidth": 0.6}, sessions=[], gib=[total_gib], stopped_by="")
    named = sorted([ceiling, *lines], key=lambda line: -line.gib[-1])
    gap = 1.25 * FONT_PT / 72 / (HEIGHT_IN * _AXES[3])
    heights = spread([line.gib[-1] / (total_gib * 1.12) for line in named], gap)
    for line, height in zip(named, heights, strict=True):
        text = f"Device memory: {total_gib:.0f} GiB"
        if line.sessions:
            least = "\N{GREATER-THAN OR EQUAL TO} " if line.stopped_by == "cap" else ""
            text = f"{line.label}: {least}{line.sessions[-1]} ({_STOPS[line.stopped_by][-1]})"
        right: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([1.045, 1.095, 1.145], [height] * 3, markevery=[1], **line.style, **right)
        right |= {"va": "center_baseline", "color": readable(line.style["color"]), "size": FONT_PT - 0.5}
        axes.text(1.19, height, text, **right)
    return figure


def files(material: Material, workload: str) -> list[bytes]:
    """The figure as PDF and PNG."""
    lines, total_gib = walls(material.run), _device_gib(material.run)
    return rendered(lambda: draw(lines, total_gib))
