"""Lays out text in a given number of columns of a terminal: tables that leave columns out, wrapped and cut text.

Pure functions of values. Needs rich, which Textual brings: it knows how wide a character is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells

_GAP = "  "
_LEAST = 4  # columns that a cut cell keeps


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table. Where the width is too small, the highest ``rank`` leaves first; rank 0 stays and is cut.

    One with a ``least`` width is cut to that before any column leaves.
    """

    head: str
    rank: int = 0
    right: bool = False
    least: int | None = None


def cut(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` columns; ``..`` at its end marks that there is more."""
    if cell_len(text) <= width:
        return text
    return chop_cells(text, width - 2)[0] + ".." if width > 2 else "."[:width]


def tail(text: str, *, width: int, rows: int) -> list[str]:
    """Return the end of ``text`` in at most ``rows`` lines of ``width``; it begins with ``..`` if there is more."""
    if not cell_len(text):  # such as a lone skin tone, which rich would leave out
        return [text] if text and width > 2 else []
    lines = chop_cells(text, width) if width > 2 else []
    if len(lines) <= rows:
        return lines
    kept = text[-width * rows :]
    while len(lines := chop_cells(".." + kept, width)) > rows:
        kept = kept[1:]
    return lines


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """Return a head and a line for each row, none wider than ``width``."""
    heads = [column.head for column in columns]
    wanted = [max(cell_len(row[at]) for row in (heads, *rows)) for at in range(len(columns))]
    widths = [min(want, column.least or want) for want, column in zip(wanted, columns, strict=True)]
    shown = list(range(len(columns)))

    def lacking() -> int:
        return sum(widths[at] for at in shown) + len(_GAP) * (len(shown) - 1) - width

    while lacking() > 0 and any(columns[at].rank for at in shown):
        shown.remove(max(shown, key=lambda at: columns[at].rank))
    if lacking() > 0:
        widest = max(shown, key=widths.__getitem__)
        widths[widest] = max(widths[widest] - lacking(), _LEAST)
    for at in shown:
        widths[at] += min(wanted[at] - widths[at], max(-lacking(), 0))
    return [cut(_line(columns, row, shown, widths), width) for row in (heads, *rows)]


def _line(columns: Sequence[Column], row: Sequence[str], shown: Iterable[int], widths: Sequence[int]) -> str:
    parts = []
    for at in shown:
        text = cut(row[at], widths[at])
        space = " " * (widths[at] - cell_len(text))
        parts.append(space + text if columns[at].right else text + space)
    return _GAP.join(parts).rstrip()
