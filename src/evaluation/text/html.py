r"""The paper's tables and pages as HTML, for a browser: LaTeX and Markdown as far as this paper writes them.

What only places things on a printed page is left out. A command of LaTeX that is not known here stays in sight,
backslash and all.
"""

import re
from collections.abc import Iterator
from html import escape

from markdown_it import MarkdownIt

_TABULAR = re.compile(r"\\begin\{tabular\}(?P<rest>.*?)\\end\{tabular\}", re.DOTALL)
_TABLE = re.compile(r"\\begin\{table\*?\}.*?\\end\{table\*?\}", re.DOTALL)
_MACRO = re.compile(r"\\newcommand\{\\\w+\}(?=\{)")
_RULES = re.compile(r"\\(?:toprule|midrule|bottomrule|addlinespace(?:\[\w+\])?|cmidrule(?:\([a-z]+\))?\{[\d-]+\})\s*")
_ROW_END = re.compile(r"(?:\\\\|\\tabularnewline)(?:\[\w+\])?\s*")
_SPAN = re.compile(r"\s*\\multicolumn\{(\d+)\}(?=\{)")
_TOKEN = re.compile(r"\\[a-zA-Z]+\s*|\\.|---?|.", re.DOTALL)

_SYMBOLS = {
    **{f"\\{character}": escape(character) for character in "%_#&$ {}"},
    r"\sys": "Djinn",
    r"\,": "&thinsp;",
    r"\;": "&nbsp;",
    r"\quad": "&emsp;",
    r"\newline": "<br>",
    r"\times": "&times;",
    r"\geq": "&ge;",
    r"\leq": "&le;",
    r"\pm": "&plusmn;",
    r"\div": "&divide;",
    r"\mu": "&mu;",
    r"\circ": "&deg;",
    r"\dagger": "&dagger;",
    r"\ddagger": "&Dagger;",
    r"\textbackslash": "\\",
    r"\textasciicircum": "^",
    r"\textasciitilde": "~",
    r"\textless": "&lt;",
    r"\textgreater": "&gt;",
    r"\textbar": "|",
    r"\textregistered": "&reg;",
    r"\texttrademark": "&trade;",
    **dict.fromkeys((r"\raggedright", r"\allowbreak", r"\centering"), ""),
    "~": "&nbsp;",
    "--": "&ndash;",
    "---": "&mdash;",
}
_MARKED = {r"\textbf": "b", r"\emph": "em", r"\texttt": "code", r"\scriptsize": "small", r"\tiny": "small"}
_ENDS_OF_COLUMNS = {"l": "left", "p": "left", "c": "center", "r": "right"}


def of_markdown(text: str) -> str:
    """A page of Markdown."""
    return str(MarkdownIt("commonmark").enable("table").render(text))


def of_latex(text: str) -> str:
    """The tables in ``text``, each with its caption, and the macros that it defines, each a paragraph."""
    parts = [_table(match[0]) for match in _TABLE.finditer(text)]
    macros = (_group(text, match.end())[0] for match in _MACRO.finditer(text))
    return "\n".join([*parts, *(f"<p>{_inline(macro)}</p>" for macro in macros)])


def _table(text: str) -> str:
    body = _TABULAR.search(text)
    written = re.search(r"\\caption(?=\{)", text)
    caption = f"<figcaption>{_inline(_group(text, written.end())[0])}</figcaption>" if written else ""
    if body is None:
        return caption
    spec, end = _group(body["rest"], 0)
    rows = "\n".join(_rows(body["rest"][end:], _columns(spec)))
    return f"<figure><table>\n{rows}\n</table>{caption}</figure>"


def _columns(spec: str) -> list[str]:
    """How each column is aligned."""
    plain = re.sub(r"@\{[^{}]*\}|(?<=p)\{[^{}]*\}", "", spec)
    return [_ENDS_OF_COLUMNS[letter] for letter in plain if letter in _ENDS_OF_COLUMNS]


def _rows(body: str, columns: list[str]) -> Iterator[str]:
    for row in _split(body, _ROW_END):
        ruled = ' class="ruled"' if r"\midrule" in row else ""
        cells = list(_cells(_RULES.sub("", row), columns))
        if any(cells):
            yield f"<tr{ruled}>{''.join(cells)}</tr>"


def _cells(row: str, columns: list[str]) -> Iterator[str]:
    if not row.strip():
        return
    place = 0
    for cell in _split(row, re.compile("&")):
        count, align = 1, columns[place] if place < len(columns) else "left"
        if span := _SPAN.match(cell):
            spec, end = _group(cell, span.end())
            count, align = int(span[1]), next(iter(_columns(spec)), "left")
            cell = _group(cell, end)[0]  # noqa: PLW2901 - what is spanned
        spans = f' colspan="{count}"' if count > 1 else ""
        yield f'<td{spans} style="text-align:{align}">{_inline(cell.strip())}</td>'
        place += count


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """``text`` at each ``separator`` that is in no group and not escaped."""
    parts, begin, place, depth = [], 0, 0, 0
    while place < len(text):
        if depth == 0 and (match := separator.match(text, place)):
            parts.append(text[begin:place])
            begin = place = match.end()
            continue
        token = _TOKEN.match(text, place)
        assert token is not None
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        place = token.end()
    return [*parts, text[begin:]]


def _group(text: str, place: int) -> tuple[str, int]:
    """What stands in the braces that open at ``place``, and where they have closed."""
    depth = 0
    for token in _TOKEN.finditer(text, place):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return text[place + 1 : token.start()], token.end()
    return text[place + 1 :], len(text)


def _inline(text: str) -> str:
    """A cell or a caption."""
    found, place, mathematics = [], 0, False
    text = re.sub(r"(?<!\\)%.*\n?", "", text)
    while place < len(text):
        token = _TOKEN.match(text, place)
        assert token is not None
        name, after = token[0].strip() or " ", token.end()
        if name == "{":
            inner, after = _group(text, place)
            found.append(_math(inner) if mathematics else _marked(inner))
        elif name in _MARKED and text[after : after + 1] == "{":
            inner, after = _group(text, after)
            found.append(f"<{_MARKED[name]}>{_inline(inner)}</{_MARKED[name]}>")
        elif name in (r"\hspace", r"\ref") and text[after : after + 1] == "{":
            inner, after = _group(text, after)
            found.append("&emsp;" if name == r"\hspace" else escape(inner.rpartition(":")[2]))
        elif name == "$":
            mathematics = not mathematics
        elif mathematics and name == "^":
            inner, after = _argument(text, after)
            found.append(_math(inner) if inner == r"\circ" else f"<sup>{_math(inner)}</sup>")
        elif name in _SYMBOLS:
            found.append(_SYMBOLS[name])
            after += 2 if text.startswith("{}", after) else 0
        else:
            found.append(_letter(name) if mathematics else escape(name))
        place = after
    return "".join(found)


def _argument(text: str, place: int) -> tuple[str, int]:
    if text[place : place + 1] == "{":
        return _group(text, place)
    token = _TOKEN.match(text, place)
    return ("", place) if token is None else (token[0].strip(), token.end())


def _marked(group: str) -> str:
    """A group, which may begin with a size of letters."""
    for name, tag in _MARKED.items():
        if re.match(rf"{re.escape(name)}\b", group):
            inner = _inline(group.removeprefix(name).lstrip())
            return f"<{tag}>{inner}</{tag}>" if inner else ""
    return _inline(group)


def _math(text: str) -> str:
    return _inline(f"${text}$")


def _letter(name: str) -> str:
    if name == "-":
        return "&minus;"
    return f"<i>{name}</i>" if name.isalpha() else escape(name)
