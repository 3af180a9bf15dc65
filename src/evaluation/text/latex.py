"""LaTeX and Markdown that print any text as it is, and the templates with delimiters that LaTeX does not use."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined


class Latex(str):
    """Text that is LaTeX already and must not be escaped."""

    __slots__ = ()


_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "®": r"\textregistered{}",
        "™": r"\texttrademark{}",
        "µ": r"$\mu$",
        "μ": r"$\mu$",  # the Greek letter; the other is the sign
        "°": r"$^{\circ}$",
        "×": r"$\times$",  # noqa: RUF001
        "÷": r"$\div$",
        "±": r"$\pm$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "–": "--",  # noqa: RUF001
        "—": "---",
        "‘": "`",  # noqa: RUF001
        "’": "'",  # noqa: RUF001
        "“": "``",
        "”": "''",
    }
)
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")  # and control characters, at which TeX stops
# Of Latin-1 and Latin Extended-A what LaTeX sets in any of its encodings; these the oldest one, OT1, has not.
_NOT_IN_OT1 = "ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ"
_LETTERS = "".join(letter for letter in map(chr, range(0xC0, 0x180)) if letter.isalpha() and letter not in _NOT_IN_OT1)
_UNKNOWN = re.compile(f"[^ -~{_LETTERS}]+")


def latex(text: object) -> Latex:
    """LaTeX that prints ``text``; :class:`Latex` stays as it is. TypeError for what is not text or int.

    A control character is a space, and what LaTeX has no letter for is named by its code point: ``U+4E2D``.
    """
    if isinstance(text, Latex):
        return text
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise TypeError(f"{text!r} cannot go into LaTeX; a number must be formatted first")
    escaped = _SPACE.sub(" ", unicodedata.normalize("NFC", str(text))).translate(_ESCAPES)
    return Latex(_UNKNOWN.sub(_code_points, escaped))


def ranged(text: str) -> Latex:
    """Text with figures as LaTeX sets them."""
    dashed = re.sub(r"(?<=[0-9]) to (?=[0-9])", "--", latex(text))  # between negative figures a dash reads as a sign
    words = re.sub(r"(?<![A-Za-z0-9-])-(?=[0-9])", "$-$", dashed)
    return Latex(words.replace(r"\textgreater{}= ", r"$\geq$\,").replace("R2", "$R^2$"))


def in_markdown(text: str) -> str:
    """A cell of a LaTeX table as a page has it: "--" between figures is "to"; alone it is a gap, and stays."""
    text = re.sub(r"\\emph\{(.*?)\}", r"*\1*", text).replace(r"$\geq$\,", "≥ ").replace(r"\sys{}", "Djinn")
    text = text.replace(r"$^\dagger$", "†")
    return re.sub(r"(?<=[0-9])--(?=[0-9])", " to ", re.sub(r"\\([%_#&$])", r"\1", text))


def _code_points(unknown: re.Match[str]) -> str:
    return rf"\texttt{{{' '.join(f'U+{ord(character):04X}' for character in unknown[0])}}}"


def markdown(text: str) -> str:
    """``text`` whose own characters Markdown takes for neither a column nor a tag."""
    for character in "\\|<>`_":
        text = text.replace(character, f"\\{character}")
    return _SPACE.sub(" ", text)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; bold marks in a cell stay marks."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(markdown(cell) for cell in line)} |" for line in lines]


def environment() -> Environment:
    """Jinja2 with delimiters that LaTeX does not use; what is printed is escaped, what is missing raises."""
    return Environment(
        loader=PackageLoader("evaluation.text"),
        block_start_string=r"\BLOCK{",
        block_end_string="}",
        variable_start_string=r"\VAR{",
        variable_end_string="}",
        comment_start_string=r"\COMMENT{",
        comment_end_string="}",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # that is for HTML; finalize escapes for LaTeX
        finalize=_printed,
    )


def _printed(value: object) -> Latex:
    if isinstance(value, Undefined):
        str(value)  # raises, and names what is undefined
    return latex(value)
