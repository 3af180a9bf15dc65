"""The table of a debugger's round trip: pause, first pause at a site, edit, resume, usable and their sum, in ms.

A row for each form, with medians, and below them intervals or extremes. LaTeX that needs booktabs, across both columns.
Everything comes from ``editing.csv``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from evaluation.analysis.material import Material
from evaluation.analysis.numerals import decimals
from evaluation.analysis.round_trips import FIRST, KNOWN, LONGEST, PAUSE, TOTAL, RoundTrip
from evaluation.analysis.statistics import ENOUGH
from evaluation.analysis.table import TableError
from evaluation.analysis.variants import KEPT, ORDERED
from evaluation.text.latex import Latex, environment, latex

_NONE = Latex("--")
_MOST_DECIMALS = 3  # a microsecond
_NAMES = {
    ("vanilla", "default"): ("Vanilla PyTorch", ""),
    ("recompute", "replay"): ("Recompute", "edit replayed"),
    ("manual_offload", "pinned"): ("Manual offload", "all at once"),
    ("manual_offload", ORDERED): ("Manual offload", "ordered"),
    ("manual_offload", "ordered_kept"): ("Manual offload", "frontier kept"),
    ("manual_offload", "pinned_kept"): ("Manual offload", "frontier kept"),
    ("djinn", "default"): (r"\sys{}", "all swapped"),
    ("djinn", KEPT): (r"\sys{}", "frontier kept"),
}
_COLUMNS = (  # the template has their headings
    (KNOWN, PAUSE),
    (FIRST, PAUSE),
    (KNOWN, "edit_ms"),
    (KNOWN, "ready_ms"),
    (KNOWN, "usable_ms"),
    (KNOWN, TOTAL),
    (FIRST, TOTAL),
    (KNOWN, LONGEST),
    (FIRST, LONGEST),
)


@dataclass(frozen=True, kw_only=True)
class Value:
    """A median and the ends of its interval, as they are printed."""

    middle: str
    ends: str

    @classmethod
    def of(cls, row: RoundTrip | None) -> "Value":
        """``--`` where there is no such time."""
        if row is None:
            return cls(middle=_NONE, ends="")
        places = min(decimals(row.median), _MOST_DECIMALS)
        return cls(
            middle=f"{row.median:.{places}f}",
            ends=Latex(f"{row.ci_low:.{max(places, 1)}f}--{row.ci_high:.{max(places, 1)}f}"),
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """A form: its name in two lines, and a value of each column."""

    name: Latex
    below: Latex
    values: list[Value]


def lines(rows: Sequence[RoundTrip]) -> list[Line]:
    """The forms of one run in the order of the table; raises :class:`TableError` if there are none."""
    if not rows:
        raise TableError("editing.csv: the run has no round trips")
    found = []
    for (method, variant), own in groupby(rows, key=lambda row: (row.method, row.variant)):
        times = {(row.site, row.metric): row for row in own}
        name, below = _NAMES.get((method, variant), (latex(method), latex(variant)))
        found.append(Line(name=Latex(name), below=Latex(below), values=_values(times)))
    return found


def _values(times: Mapping[tuple[str, str], RoundTrip]) -> list[Value]:
    return [Value.of(times.get(column)) for column in _COLUMNS]


def table(rows: Sequence[RoundTrip], *, functional: bool) -> str:
    """The table as LaTeX source."""
    shown = lines(rows)
    timed = [row.n for row in rows if row.metric != LONGEST]
    watched = [row.n for row in rows if row.metric == LONGEST]
    return (
        environment()
        .get_template("editing.tex.j2")
        .render(
            run=rows[0].run,
            functional=functional,
            workload=rows[0].workload,
            layer=rows[0].layer,
            lines=shown,
            samples=min(timed),
            watched=min(watched),
            spread=_spread(min(timed)),
            spread_of_watched=_spread(min(watched)),
        )
    )


def _spread(samples: int) -> Latex:
    """What the ends are of a median of so many."""
    return Latex(r"95\,\% interval" if samples >= ENOUGH else "range")


def files(material: Material, workload: str) -> list[str]:
    """``editing.tex``."""
    return [table(material.rows("editing", RoundTrip), functional=material.functional)]
