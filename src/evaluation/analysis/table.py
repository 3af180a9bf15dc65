"""The one codec of the study's CSV files: a table is a list of frozen dataclasses, whose fields are its columns.

The same rows give the same bytes: 6 significant digits, whole numbers exactly, nothing for None.
"""

import csv
import io
import math
import types
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from evaluation.command import Refusal
from evaluation.records.atomic import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    AnyRow = TypeVar("AnyRow", bound=DataclassInstance)
else:
    AnyRow = TypeVar("AnyRow")


class TableError(Refusal):
    """A table lacks or contradicts something; the message names it."""


def write_table(path: str | Path, kind: type[AnyRow], rows: Sequence[AnyRow]) -> None:
    """Write ``rows`` of one kind, in the order given."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(kind))
    writer.writerows([_printed(value) for value in astuple(row)] for row in rows)
    write_text(path, text.getvalue())


def read_table(path: str | Path, kind: type[AnyRow]) -> list[AnyRow]:
    """The rows of the table at ``path``; raises :class:`TableError` for one that cannot be read."""
    try:
        lines = csv.reader(io.StringIO(Path(path).read_bytes().decode("utf-8"), newline=""), strict=True)
        head = next(lines, None)
    except FileNotFoundError as error:
        raise TableError(f"{path}: missing; `python -m evaluation.analysis.aggregate` writes it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path} cannot be read: {error}") from error
    if head != columns(kind):
        raise TableError(f"{path}: the columns are not {', '.join(columns(kind))}")
    hints = get_type_hints(kind)
    try:
        return [kind(**_parsed(line, hints)) for line in lines]
    except (ValueError, csv.Error) as error:
        raise TableError(f"{path}: line {lines.line_num} cannot be read: {error}") from error


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
    if len(line) != len(hints):
        raise ValueError(f"{len(line)} cells, not {len(hints)}")
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
