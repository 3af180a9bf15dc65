"""What all figures of the paper share: their looks, and files without dates.

Drawn at the width of a USENIX column, or of both. The same rows give the same bytes: nothing in the files depends on
the time, the user's matplotlib settings or its version string.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

WIDTH_IN = 3.335  # one column of the USENIX style
BOTH_COLUMNS_IN = 7.0
HEIGHT_IN = 2.15
FUNCTIONAL = "functional CPU run\nnot a performance result"
FONT_PT = 7.5

_RC = {
    "font.family": "STIXGeneral",  # Times-like and shipped with matplotlib: the same glyphs on every machine
    "font.size": FONT_PT,
    "axes.labelsize": FONT_PT,
    "xtick.labelsize": FONT_PT - 0.5,
    "ytick.labelsize": FONT_PT - 0.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}

# For methods that the paper does not know, in turn.
OTHERS: list[dict[str, Any]] = [
    {"color": "#3B7A3B", "marker": "P", "linestyle": "-.", "markersize": 4.5},
    {"color": "#7B4FA3", "marker": "*", "linestyle": ":", "markersize": 5.5},
]
_DARK = 0.42  # lightness up to which letters can be read on white


def lightness(color: str) -> float:
    """Of ``color`` in print without colour: 0 is black, 1 is white."""
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def readable(color: str) -> str:
    """``color`` for letters: a light one darker, of the same hue."""
    scale = min(_DARK / lightness(color), 1.0) if lightness(color) else 1.0
    return str(to_hex([scale * part for part in to_rgb(color)]))


def mark_functional(axes: Axes, size: float = 13) -> None:
    """Say across ``axes``, in letters of ``size`` points, that its times are no performance results."""
    axes.text(
        0.5, 0.5, FUNCTIONAL, transform=axes.transAxes, ha="center", va="center", rotation=18, size=size,
        color="0.80", zorder=0, linespacing=1.4,
    )  # fmt: skip


def side_by_side(
    number: int, *, between: float, right: float, axis: str, functional: float | None
) -> tuple[Figure, list[Axes]]:
    """A figure across both columns, with ``number`` axes up to ``right`` and ``between`` them (shares of its width).

    ``axis`` names the vertical axis. ``functional`` is the size in points of the mark of a functional run, or None.
    """
    figure = Figure(figsize=(BOTH_COLUMNS_IN, HEIGHT_IN))
    left, bottom, top = 0.065, 0.165, 0.91
    width = (right - left - between * (number - 1)) / number
    found = [figure.add_axes((left + at * (width + between), bottom, width, top - bottom)) for at in range(number)]
    for axes in found[1:]:
        axes.tick_params(labelleft=False)
    if functional is not None:
        for axes in found:
            mark_functional(axes, size=functional)
    found[0].set_ylabel(axis, labelpad=2)
    found[number // 2].set_xlabel("Breakpoint: paused after layer", labelpad=2)
    return figure, found


def spread(positions: Sequence[float], gap: float, top: float = 1.0) -> list[float]:
    """``positions`` moved as little as possible (least squares) so that any two are ``gap`` apart, within 0
    to ``top``.

    The order is kept, and where there are ties the later one goes below. If they cannot all fit, ``top`` is
    exceeded.
    """
    order = sorted(range(len(positions)), key=lambda i: (positions[i], -i))
    # [sum, count] of neighbours that touch: the pool-adjacent-violators algorithm.
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        blocks.append([positions[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    bases = [total / count for total, count in blocks for _ in range(int(count))]
    limit = max(top - (len(positions) - 1) * gap, 0.0)
    moved = [0.0] * len(positions)
    for rank, index in enumerate(order):
        moved[index] = min(max(bases[rank], 0.0), limit) + rank * gap
    return moved


@contextmanager
def private_style() -> Iterator[None]:
    """The figure's settings over matplotlib's defaults; the user's own are back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def rendered(drawn: Callable[[], Figure]) -> list[bytes]:
    """What ``drawn`` returns, in the private style, as PDF and as PNG, without dates and version strings."""
    pdf, png = io.BytesIO(), io.BytesIO()
    with private_style():
        figure = drawn()
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, format="png", metadata={"Software": None})
    return [pdf.getvalue(), png.getvalue()]
