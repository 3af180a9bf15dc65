"""Finds room for a text among the lines of a plot: on no line, marker, bar or other text.

For what stands beside one line of many, where no fixed place is free in every run.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import hypot
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Bbox

_CLEAR_PT = 2.5  # between a text and what it is kept from
_STEPS = 40  # places across the axes, and upwards, that are tried


def put(axes: Axes, said: str, near: Sequence[tuple[float, float]], **look: Any) -> None:
    """Write ``said`` with its middle as close to one of ``near``, in data, as there is room.

    ``look`` is for ``Axes.text``. Without any room it stands at the first.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    text = axes.text(*near[0], said, ha="center", va="center", **look)
    figure.draw_without_rendering()
    size, frame = text.get_window_extent(), axes.get_window_extent()
    clear = _CLEAR_PT / 72 * figure.dpi
    width, height = size.width + 2 * clear, size.height + 2 * clear
    targets = [tuple(axes.transData.transform(point)) for point in near]
    taken, paths = [one.get_window_extent() for one in axes.texts if one is not text], list(_paths(axes))
    xs, ys = (
        [low + extent / 2 + (high - low - extent) * step / _STEPS for step in range(_STEPS + 1)]
        for low, high, extent in ((frame.x0, frame.x1, width), (frame.y0, frame.y1, height))
    )
    for x, y in sorted(product(xs, ys), key=lambda at: min(hypot(at[0] - x, at[1] - y) for x, y in targets)):
        box = Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
        if not box.count_overlaps(taken) and not any(path.intersects_bbox(box, filled=False) for path in paths):
            text.set_position(tuple(axes.transData.inverted().transform((x, y))))
            return


def _paths(axes: Axes) -> Iterator[Path]:
    """Of lines, of markers as squares, and of bars, in pixels."""
    assert axes.figure is not None
    for line in axes.lines:
        path = line.get_path().transformed(line.get_transform())
        yield path
        half = line.get_markersize() / 2 / 72 * axes.figure.dpi
        if line.get_marker() not in (None, "None", ""):
            for x, y in np.asarray(path.vertices, dtype=float):
                yield Path([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)])
    for bars in axes.collections:
        yield from (path.transformed(bars.get_transform()) for path in bars.get_paths())
