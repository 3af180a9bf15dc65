"""Counts the lines that a method asks of the user's program, beyond those of plain PyTorch.

The rule: the example programs of the method and of vanilla are parsed, docstrings are dropped, and both are printed
again by ``ast.unparse``, one statement a line. Comments, blank lines, line breaks and docstrings therefore do not
count. ``state_lines`` is the number of the method's lines that a line diff (``difflib``) does not find in vanilla's.
These were added or changed, and a library's calls count as much as code written by hand. What vanilla has and the
method lacks does not count. Vanilla's own number is 0 by construction.
"""

import ast
import difflib
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"

IMPORTS = "imports"

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def state_lines(program: str, vanilla: str) -> int:
    """Lines of ``program`` that are not found in ``vanilla``; both are source texts. Raises ``SyntaxError``."""
    ours, theirs = _statements(program), _statements(vanilla)
    # Without autojunk: it would take a line that a long program repeats for noise and never match it.
    blocks = difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks()
    return len(ours) - sum(block.size for block in blocks)


def example(method: str, variant: str | None = None) -> Path | None:
    """The example program of ``method``, or of its ``variant``; None where there is none."""
    path = EXAMPLES / f"debug_{method if variant is None else f'{method}_{variant}'}.py"
    return path if path.exists() else None


def changed_parts(program: str, vanilla: str) -> list[str]:
    """Top-level definitions of either text that the other has not or has otherwise, and ``imports`` if those differ.

    What is neither an import nor a definition goes by its first words. Comments, layout and docstrings do not count.
    Raises ``SyntaxError``.
    """
    ours, theirs = _parts(program), _parts(vanilla)
    names = dict.fromkeys([*ours, *theirs])
    return [name for name in names if name not in ours or name not in theirs or _differ(ours[name], theirs[name])]


def _differ(part: str, other: str) -> bool:
    return bool(state_lines(part, other) or state_lines(other, part))


def _parts(source: str) -> dict[str, str]:
    parts: dict[str, list[str]] = {}
    for node in ast.parse(source).body:
        text = ast.unparse(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            name = IMPORTS
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring
        else:
            name = text.partition("\n")[0]
        parts.setdefault(name, []).append(text)
    return {name: "\n".join(texts) for name, texts in parts.items()}


def _statements(source: str) -> list[str]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return [line for line in ast.unparse(tree).splitlines() if line]
