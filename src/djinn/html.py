"""Makes plain HTML for notebooks: a table, and a line of text.

Everything given is text, and is escaped. There are no colours, no scripts, and no style but the side to which a column
is set. So a page looks like its notebook, light or dark, and reads well where styles are taken out. No notebook package
is needed: a notebook asks what it shows for ``_repr_html_``.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Side = Literal["left", "right"]

# Jupyter would set what stands between two dollar signs as a formula, in a name or a path too.
_NO_FORMULAS = 'class="tex2jax_ignore mathjax_ignore"'
_APART = 'cellpadding="4"'  # for columns would touch where there are no styles


def table(columns: Mapping[str, Side], rows: Iterable[Sequence[str] | str]) -> str:
    """Return a table with these ``columns``, each set to its side.

    A row has a text for each column. A row that is one text goes across all of them.
    """
    sides = list(columns.values())
    head = _row("th", zip(columns, sides, strict=True))
    body = "".join(_across(row, len(sides)) if isinstance(row, str) else _of(row, sides) for row in rows)
    return f"<table {_NO_FORMULAS} {_APART}>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def line(text: str) -> str:
    """Return ``text`` as a paragraph."""
    return f"<p {_NO_FORMULAS}>{html.escape(text)}</p>\n"


def _of(row: Sequence[str], sides: Sequence[Side]) -> str:
    return _row("td", zip(row, sides, strict=True))


def _row(tag: str, cells: Iterable[tuple[str, Side]]) -> str:
    made = (f'<{tag} style="text-align: {side}">{html.escape(text)}</{tag}>' for text, side in cells)
    return f"<tr>{''.join(made)}</tr>\n"


def _across(text: str, columns: int) -> str:
    return f'<tr><td colspan="{columns}" style="text-align: left">{html.escape(text)}</td></tr>\n'
