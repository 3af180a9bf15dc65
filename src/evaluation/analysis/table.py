"""The one codec of the study's CSV files: a table is a list of frozen dataclasses, whose fields are its columns.

The same rows give the same bytes: 6 significant digits, whole numbers exactly, nothing for None.
"""

import types
from collections.abc import Callable, Sequence
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


def write_table(path: str | Path, kind: type[AnyRow], rows: Sequence[AnyRow]) -> None:
    """Write ``rows`` of one kind, in the order given."""
    printed = [[_printed(value) for value in astuple(row)] for row in rows]
    write_text(path, pd.DataFrame(printed, columns=columns(kind)).to_csv(index=False, lineterminator="\n"))


def read_table(path: str | Path, kind: type[AnyRow]) -> list[AnyRow]:
    """The rows of the table at ``path``; raises :class:`TableError` for one that cannot be read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise TableError(f"{path} cannot be read: {error}") from error
    except FileNotFoundError as error:
        raise TableError(f"{path}: missing; `python -m evaluation.analysis.aggregate` writes it") from error
    if list(table.columns) != columns(kind):
        raise TableError(f"{path}: the columns are not {', '.join(columns(kind))}")
    parsers = {name: _parser(hint) for name, hint in get_type_hints(kind).items()}
    rows = []
    for number, line in enumerate(table.to_dict("records"), start=2):
        try:
            rows.append(kind(**{name: parsers[name](text) for name, text in line.items()}))
        except (ValueError, TypeError, KeyError) as error:
            raise TableError(f"{path}: line {number} cannot be read: {error}") from error
    return rows


def columns(kind: type[AnyRow]) -> list[str]:
    """Names of the columns of a table of ``kind``."""
    return [field.name for field in fields(kind)]


def _printed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return "" if value is None else str(value)


def _parser(hint: Any) -> Callable[[str], Any]:
    """What reads a field of type ``hint``: text, a count, a number, true or false, or one of them or nothing."""
    if isinstance(hint, types.UnionType):
        (kind,) = (part for part in get_args(hint) if part is not types.NoneType)
        return lambda text: _parser(kind)(text) if text else None
    if hint is bool:
        return {"true": True, "false": False}.__getitem__
    parser: Callable[[str], Any] = hint
    return parser
