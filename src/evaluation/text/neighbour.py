"""The table of the neighbour: what a session that decodes loses to another one's swaps, and that one's ready meanwhile.

A column for Djinn and one for the copies by hand. LaTeX that needs booktabs. Everything comes from ``neighbour.csv``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.analysis.material import Material
from evaluation.analysis.neighbours import Disturbance
from evaluation.analysis.numerals import significant
from evaluation.analysis.table import TableError
from evaluation.text.latex import Latex, environment, latex

_RATE, _SHARE, _COST = "tokens_per_s", "relative_rate", "cost_ms"
# Words, window and metric of each line; an empty window heads those below it.
_LINES = (
    ("Neighbour's tokens per second", "", ""),
    ("nobody else computes", "undisturbed", _RATE),
    ("another one decodes", "steps", _RATE),
    ("and is swapped at each step", "swaps", _RATE),
    ("Milliseconds that it loses for each step", "", ""),
    ("another one decodes", "steps", _COST),
    ("and is swapped at each step", "swaps", _COST),
    ("The other one's ready (ms)", "", ""),
    ("nobody else computes", "alone", "ready_ms"),
    ("the neighbour decodes", "swaps", "ready_ms"),
    ("The other one's swap-out (ms)", "", ""),
    ("nobody else computes", "alone", "pause_ms"),
    ("the neighbour decodes", "swaps", "pause_ms"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is measured, and a value of each side; ``heads``: it only heads those below it."""

    what: str
    heads: bool
    values: list[Latex]


def lines(rows: Sequence[Disturbance]) -> list[Line]:
    """The lines of the rows of one run; raises :class:`TableError` if there are none."""
    if not rows:
        raise TableError("neighbour.csv: the run has no neighbour")
    sides = _sides(rows)
    found = []
    for what, window, metric in _LINES:
        values = [_value(rows, side, window, metric) for side in sides] if window else [Latex("")] * len(sides)
        found.append(Line(what=what, heads=not window, values=values))
    return found


def _sides(rows: Sequence[Disturbance]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _value(rows: Sequence[Disturbance], method: str, window: str, metric: str) -> Latex:
    """The median, and its interval behind it."""
    own = (row for row in rows if (row.method, row.window, row.metric) == (method, window, metric))
    if (row := next(own, None)) is None:
        return Latex("--")
    middle, low, high = (significant(value).replace("-", "$-$") for value in (row.median, row.ci_low, row.ci_high))
    return Latex(rf"{middle} {{\tiny {low} to {high}}}")


def table(rows: Sequence[Disturbance], *, functional: bool) -> str:
    """The table as LaTeX source."""
    shown = lines(rows)
    heads = [
        Latex(r"\sys{}") if row.method == "djinn" else latex(f"by hand ({row.variant})")
        for row in {row.method: row for row in rows}.values()
    ]
    return (
        environment()
        .get_template("neighbour.tex.j2")
        .render(run=rows[0].run, functional=functional, heads=heads, lines=shown)
    )


def files(material: Material, workload: str) -> list[str]:
    """``neighbour.tex``."""
    return [table(material.rows("neighbour", Disturbance), functional=material.functional)]
