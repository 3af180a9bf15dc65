"""LaTeX and Markdown that print any text as it is, and the templates with delimiters that LaTeX does not use."""

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
        "\n": " ",
    }
)


def latex(text: object) -> Latex:
    """LaTeX that prints ``text``; :class:`Latex` stays as it is. TypeError for what is not text or int."""
    if isinstance(text, Latex):
        return text
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise TypeError(f"{text!r} cannot go into LaTeX; a number must be formatted first")
    return Latex(str(text).translate(_ESCAPES))


def markdown(text: str) -> str:
    """``text`` whose own characters Markdown takes for neither a column nor a tag."""
    for character in "\\|<>`_":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


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
