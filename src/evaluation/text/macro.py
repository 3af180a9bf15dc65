"""A number as a LaTeX macro and as JSON: its name, which is letters only, its text, and where it comes from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.analysis.material import Material
from evaluation.analysis.numerals import significant
from evaluation.analysis.table import TableError
from evaluation.records.runs import Json
from evaluation.text.latex import latex


@dataclass(frozen=True, kw_only=True)
class Number:
    """A macro: ``value`` as it was computed, ``text`` as LaTeX prints it, ``source`` where it comes from.

    ``source`` lists the rows of a table by their key, each with the column that was read, or the file and key.
    """

    name: str
    value: float | int | str
    text: str
    unit: str
    source: list[Json]


def measured(name: str, value: float, unit: str, *source: Json) -> Number:
    """A number that is printed to three digits."""
    return Number(name=name, value=value, text=significant(value), unit=unit, source=list(source))


def plain(name: str, value: object, *source: Json) -> Number:
    """A word or a count; raises :class:`TableError` where there is none."""
    if not isinstance(value, (str, int)) or value == "":
        raise TableError(f"{name}: no value in {source[0]}: {value!r}")
    return Number(name=name, value=value, text=latex(value), unit="", source=list(source))


# fmt: off
_ONES = (
    "Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven",
    "Twelve", "Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen",
)
_TENS = ("Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")  # from 20
# fmt: on


def in_words(number: int) -> str:
    """``number``, from 0 to 999 999, as one capitalised word: TwentyOne, OneHundredTwentyEight."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"{number} is not between 0 and 999999")
    for size, word in ((1000, "Thousand"), (100, "Hundred")):
        if number >= size:
            rest = number % size
            return in_words(number // size) + word + (in_words(rest) if rest else "")
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10 - 2] + (_ONES[number % 10] if number % 10 else "")


def camel(name: str) -> str:
    """``name`` in letters only: ``first_kernel_ms`` is FirstKernelMs, ``long-8k`` is LongEightK."""
    parts = re.findall(r"[0-9]{1,6}|[A-Za-z]+", name)
    return "".join(in_words(int(part)) if part.isdigit() else part[0].upper() + part[1:] for part in parts)


def prefix_of(material: Material) -> str:
    """What stands before the name of each macro: of a run beside the leading one its name, else nothing."""
    return camel(material.name) if material.further else ""


def as_latex(found: Sequence[Number], run: str, prefix: str = "") -> str:
    """One ``\\newcommand`` a line, with ``prefix`` before its name, so that one paper can read several runs."""
    heading = f"% Written by evaluation.paper from the run {latex(run)}; do not edit.\n"
    return heading + "".join(f"\\newcommand{{\\{prefix}{one.name}}}{{{_set(one.text)}}}\n" for one in found)


def _set(text: str) -> str:
    """A negative number has a sign and no hyphen."""
    return re.sub(r"^-(?=[0-9])", "$-$", text)


def as_json(found: Sequence[Number], run: str) -> dict[str, Any]:
    """The same with unit and source; values to 12 digits, for the last ones of a fit depend on the processor."""
    return {"run": run, "numbers": [{**vars(number), "value": _stable(number.value)} for number in found]}


def _stable(value: float | int | str) -> float | int | str:
    return float(f"{value:.12g}") if isinstance(value, float) else value
