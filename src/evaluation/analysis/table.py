"""The one codec of the study's CSV files: a table is a list of frozen dataclasses, whose fields are its columns.

The same rows give the same bytes: 6 significant digits, whole numbers exactly, nothing for None.
"""

import csv
import math
import types
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import pandas as pd

from evaluation.command import Refusal
from evaluation.records.atomic import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    AnyRow = TypeVar("AnyRow", bound=DataclassInstance)
else:
    AnyRow = TypeVar("AnyRow")


class TableError(Refusal):
    """A table lacks or contradicts something; the message names it."""


class _Strict(csv.excel):
    """CSV as it is written here: a quote that stands where none may is an error."""

    strict = True


def write_table(path: str | Path, kind: type[AnyRow], rows: Sequence[AnyRow]) -> None:
    """Write ``rows`` of one kind, in the order given."""
    printed = [[_printed(value) for value in astuple(row)] for row in rows]
    write_text(path, pd.DataFrame(printed, columns=columns(kind)).to_csv(index=False, lineterminator="\n"))


def read_table(path: str | Path, kind: type[AnyRow]) -> list[AnyRow]:
    """The rows of the table at ``path``; raises :class:`TableError` for one that cannot be read."""
    try:
        # With the head as a line like any other, no line may have more cells, and one that has fewer shows it.
        cells = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            engine="python",
            dialect=_Strict,
        )
    except FileNotFoundError as error:
        raise TableError(f"{path}: missing; `python -m evaluation.analysis.aggregate` writes it") from error
    except ValueError as error:  # pandas' own errors are ValueErrors, and so is broken UTF-8
        raise TableError(f"{path} cannot be read: {error}") from error
    head, *lines = cells.itertuples(index=False, name=None)
    if list(head) != columns(kind):
        raise TableError(f"{path}: the columns are not {', '.join(columns(kind))}")
    hints = get_type_hints(kind)
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(kind(**_parsed(line, hints)))
        except ValueError as error:
            raise TableError(f"{path}: line {number} cannot be read: {error}") from error
    return rows


def columns(kind: type[AnyRow]) -> list[str]:
    """Names of the columns of a table of ``kind``."""
    return [field.name for field in fields(kind)]


def _printed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        kept = value if value.is_integer() else float(f"{value:.6g}")
        return str(int(kept)) if kept.is_integer() else f"{kept:.6g}"  # as it is read, so that it is written so again
    return "" if value is None else str(value)


def _parsed(line: Sequence[str], hints: dict[str, Any]) -> dict[str, Any]:
    present = [cell for cell in line if isinstance(cell, str)]
    if len(present) != len(hints):
        raise ValueError(f"{len(present)} cells, not {len(hints)}")
    return {name: _value(text, hints[name]) for name, text in zip(hints, line, strict=True)}


def _value(text: str, hint: Any) -> Any:
    """``text`` as a field of type ``hint``: text, a count, a number, true or false, or one of them or nothing."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not types.NoneType)
        if not text:
            return None
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text == "true"
    value = hint(text)
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{text!r} is no number")
    return value
