"""The table of sessions that outlive their process: saved, restored, and run again, in seconds, beside plain bytes.

A row for each workload, with medians, and below them intervals or extremes. LaTeX that needs booktabs, across both
columns. Everything comes from ``durable.csv``, of the run itself or of the one that stands for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from evaluation.analysis.durability import Durability
from evaluation.analysis.material import Material
from evaluation.analysis.numerals import decimals, significant
from evaluation.analysis.statistics import ENOUGH
from evaluation.analysis.table import TableError
from evaluation.text.latex import Latex, environment

_MOST_DECIMALS = 3  # a millisecond
_COLUMNS = ("save_ms", "write_ms", "restore_ms", "read_ms", "restored_ms", "rerun_ms", "rerun_whole_ms")


@dataclass(frozen=True, kw_only=True)
class Value:
    """A median and the ends of its interval in seconds, as they are printed."""

    middle: str
    ends: Latex

    @classmethod
    def of(cls, row: Durability) -> "Value":
        """Of times in ms."""
        middle, low, high = (ms / 1000 for ms in (row.median, row.ci_low, row.ci_high))
        places = min(decimals(middle), _MOST_DECIMALS)
        ends = max(places, 1)
        return cls(middle=f"{middle:.{places}f}", ends=Latex(f"{low:.{ends}f}--{high:.{ends}f}"))


@dataclass(frozen=True, kw_only=True)
class Line:
    """A workload: its name, the size of its file in 10^6 bytes, and a value of each column."""

    name: str
    megabytes: str
    values: list[Value]


def lines(rows: Sequence[Durability]) -> list[Line]:
    """The workloads in the order of the study; raises :class:`TableError` if there are none."""
    if not rows:
        raise TableError("durable.csv: no session was saved")
    found = []
    for workload, own in groupby(rows, key=lambda row: row.workload):
        of = {row.metric: row for row in own}
        size = significant(of["file_bytes"].median / 1e6)
        found.append(Line(name=workload, megabytes=size, values=[Value.of(of[name]) for name in _COLUMNS]))
    return found


def table(rows: Sequence[Durability], *, functional: bool) -> str:
    """The table as LaTeX source."""
    shown = lines(rows)
    samples = min(row.n for row in rows if row.metric in _COLUMNS)
    return (
        environment()
        .get_template("durable.tex.j2")
        .render(
            run=rows[0].run,
            functional=functional,
            layer=rows[0].layer,
            lines=shown,
            samples=samples,
            spread=Latex(r"95\,\% interval" if samples >= ENOUGH else "range"),
        )
    )


def files(material: Material, workload: str) -> list[str]:
    """``durable.tex``."""
    return [table(material.rows("durable", Durability), functional=material.functional)]
