"""Finds sentences that are too long, and words that say nothing, in pages, docstrings, templates and captions.

``python -m tests.prose [PATH ...]`` lists them; ``tests/test_prose.py`` holds that there are none.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_WORDS = 30
_EMPTY_WORDS = re.compile(r"\b(presumably|obviously|of course)\b", re.IGNORECASE)
# What ends with a full stop and no sentence.
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|vs|cf|No|Fig|approx)\.")
_END = re.compile(r"(?<=[.!?])[)\"'*]*\s+(?=[A-Z0-9`(\"'*\[])|\n\s*\n|\n\s*[-*|]\s|\n#+\s")


def sentences(text: str) -> Iterator[str]:
    """Sentences of ``text``; a list item, a heading and a cell of a table end one as well. Code blocks have none."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"::\n\n(?: {4}.*\n?|\n)+", ".\n\n", text)  # a literal block
    text = re.sub(r"<!--.*?-->", "\n\n", text, flags=re.DOTALL)
    text = _ABBREVIATIONS.sub(lambda match: match[0].replace(".", ""), text)
    text = re.sub(r"^\s*\|(.*)$", lambda match: "\n\n" + match[1].replace("|", "\n\n"), text, flags=re.MULTILINE)
    for sentence in _END.split(text):
        if sentence and sentence.strip():
            yield " ".join(sentence.split())


def words(sentence: str) -> int:
    """Words of ``sentence``; what stands in backticks counts as one."""
    plain = re.sub(r"``?[^`]+``?|\]\([^)]*\)|:\w+:`[^`]*`", " x ", sentence)
    return len(re.findall(r"[\w$%'.-]*\w[\w$%'.-]*", plain))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring in a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def flaws(path: Path) -> Iterator[str]:
    """What is wrong with the prose in ``path``, one line each."""
    python = path.suffix == ".py"
    texts = docstrings(path) if python else [(1, path.read_text(encoding="utf-8"))]
    for line, text in texts:
        for sentence in sentences(text):
            where = f"{path.relative_to(ROOT)}:{line}" if python else f"{path.relative_to(ROOT)}"
            if (count := words(sentence)) > MOST_WORDS:
                yield f"{where}: {count} words: {sentence}"
            if found := _EMPTY_WORDS.search(sentence):
                yield f"{where}: {found[0]!r}: {sentence}"


def prose() -> list[Path]:
    """Every file of the project whose prose people read."""
    pages = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"))
    captions = ROOT.glob("rules/captions/*.rst")
    code = (path for folder in ("src", "examples", ".ci") for path in (ROOT / folder).rglob("*.py"))
    return sorted([*pages, *captions, *code, ROOT / "paper_figures" / "README.md", ROOT / "src" / "djinn" / "API.md"])


if __name__ == "__main__":
    for chosen in [Path(name).resolve() for name in sys.argv[1:]] or prose():
        print(*flaws(chosen), sep="\n", end="\n")
