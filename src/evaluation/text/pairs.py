"""The tables of pairs: Djinn beside the strongest form by hand, a line per workload and clock, a column per layer.

There is one for each of Djinn's forms, with the layers at which it was measured. Of what swaps everything it prints
ratios, and of coded state which share of the bytes it takes in host memory. Where the frontier is kept on the device,
times are so short that it prints differences in ms. LaTeX that needs booktabs, across both columns. Everything comes
from ``pairs.csv``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from evaluation.analysis.comparisons import Comparison
from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.numerals import decimals, significant
from evaluation.analysis.pairs import IDLE, NOTHING, RAW
from evaluation.analysis.table import TableError
from evaluation.text.latex import Latex, environment, latex

_NONE = Latex("--")
_ENOUGH = 6  # processes for an interval of 95 %
_MOST_DECIMALS = 3  # of milliseconds


@dataclass(frozen=True, kw_only=True)
class Value:
    """A ratio or a difference, and the ends of its interval, as they are printed."""

    middle: Latex
    ends: Latex


@dataclass(frozen=True, kw_only=True)
class Line:
    """One workload and clock: a value of each layer, one of all, the strongest forms, and MB on the device of both."""

    workload: str
    clock: str
    values: list[Value]
    pooled: Value
    by_hand: Latex
    device: Latex


@dataclass(frozen=True, kw_only=True)
class Group:
    """The table of one of Djinn's forms: what it is compared by, under which conditions, and at which ``layers``."""

    variant: str
    heading: str
    label: Latex
    layers: list[int]
    lines: list[Line]


def groups(rows: Sequence[Comparison]) -> list[Group]:
    """The tables of the rows of one run; raises :class:`TableError` if there are none."""
    if not rows:
        raise TableError("pairs.csv: the run has no pairs")
    strongest = [row for row in rows if row.strongest]
    found = []
    for variant in dict.fromkeys(row.variant for row in strongest):
        own = [row for row in strongest if row.variant == variant]
        layers = sorted({row.layer for row in own if row.layer is not None})
        lines = [_line(list(line), layers) for _, line in groupby(own, key=lambda row: (row.workload, row.clock))]
        plain = (own[0].keeps, own[0].link, own[0].codec) == (NOTHING, IDLE, RAW)
        label = "tab:pairs" if plain else f"tab:pairs-{variant}"
        label = Latex(label.replace("_", "-"))
        found.append(Group(variant=variant, heading=_heading(own), label=label, layers=layers, lines=lines))
    return found


def _heading(rows: Sequence[Comparison]) -> str:
    row = rows[0]
    what = "ratio, everything swapped" if row.keeps == NOTHING else f"difference in ms, {row.keeps} kept on the device"
    if row.codec != RAW and not row.djinn_buffer_bytes:
        what += ", nothing coded, for no kernel could be had"
    elif row.codec != RAW:
        what += f", coded to {_share(rows)} of the bytes by hand in host memory"
        what += f", by {significant(row.djinn_buffer_bytes / 1e6)} MB on the device for all sessions together"
    return what if row.link == IDLE else f"{what}, link {row.link}"


def _share(rows: Sequence[Comparison]) -> str:
    """Of the bytes that the strongest form for the clock resident, which moves all, has in host memory."""
    moved = [row for row in rows if row.layer is not None and row.clock == "resident"]
    shares = [f"{row.djinn_host_bytes / row.by_hand_host_bytes:.2f}" for row in moved if row.by_hand_host_bytes]
    ends = sorted({min(shares), max(shares)}) if shares else []
    return " to ".join(ends) or "an unknown share"


def _line(rows: Sequence[Comparison], layers: Sequence[int]) -> Line:
    of_layer = {row.layer: row for row in rows}
    first = rows[0]
    return Line(
        workload=first.workload,
        clock=CLOCK[first.clock].words,
        values=[_value(of_layer.get(layer)) for layer in layers],
        pooled=_value(of_layer.get(None)),
        by_hand=_forms([row for row in rows if row.layer is not None]),
        device=Latex(f"{_megabytes(rows, 'djinn')} / {_megabytes(rows, 'by_hand')}"),
    )


def _value(row: Comparison | None) -> Value:
    """The ratio of what swaps everything, and else the difference."""
    if row is None:
        return Value(middle=_NONE, ends=Latex(""))
    if row.keeps != NOTHING:
        numbers = (row.difference_ms, row.difference_low, row.difference_high)
        places = min(decimals(max(map(abs, numbers))), _MOST_DECIMALS)
        middle, low, high = (Latex(f"{number:.{places}f}".replace("-", "$-$")) for number in numbers)
        return Value(middle=middle, ends=Latex(f"{low} to {high}"))
    if row.ratio is None:
        return Value(middle=_NONE, ends=Latex(""))
    return Value(middle=Latex(f"{row.ratio:.3f}"), ends=Latex(f"{row.ratio_low:.3f}--{row.ratio_high:.3f}"))


def _forms(rows: Sequence[Comparison]) -> Latex:
    """The strongest forms: one name, or which layers each has."""
    layers: dict[str, list[str]] = {}
    for row in rows:
        layers.setdefault(row.by_hand, []).append(str(row.layer))
    if len(layers) == 1:
        return latex(next(iter(layers)))
    return latex(", ".join(f"{name} ({' '.join(where)})" for name, where in layers.items()))


def _megabytes(rows: Sequence[Comparison], side: str) -> str:
    """The most that is in use on the device while paused; on a CPU what is meant to stay."""
    sizes = [getattr(row, f"{side}_device_bytes") for row in rows]
    known = [size for size in sizes if size is not None] or [getattr(row, f"{side}_kept_bytes") for row in rows]
    return significant(max(known) / 1e6) if max(known) else "0"


def table(rows: Sequence[Comparison], *, functional: bool) -> str:
    """The tables as LaTeX source."""
    processes = min(row.processes for row in rows) if rows else 0
    shown = groups(rows)
    return (
        environment()
        .get_template("pairs.tex.j2")
        .render(
            run=rows[0].run,
            functional=functional,
            groups=shown,
            processes=processes,
            spread=Latex(r"95\,\% interval" if processes >= _ENOUGH else "range"),
        )
    )


def files(material: Material, workload: str) -> list[str]:
    """``pairs.tex``."""
    return [table(material.rows("pairs", Comparison), functional=material.functional)]
