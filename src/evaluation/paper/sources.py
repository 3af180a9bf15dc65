"""Which files take part where a module of the evaluation runs: read from the sources, without importing anything."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2]
_TEMPLATE = re.compile(r"\w+\.tex\.j2")


@cache
def sources(*modules: str) -> list[Path]:
    """The files of ``modules`` and of all that they import of the evaluation, directly or not, templates included."""
    found: dict[Path, None] = {}
    left = [part for module in modules for part in _with_packages(module)]
    while left:
        path = _file(left.pop())
        if path is not None and path not in found:
            found[path] = None
            imported, templates = _links(path)
            left += imported
            found |= templates
    return sorted(found)


@cache
def _links(path: Path) -> tuple[dict[str, None], dict[Path, None]]:
    """The modules and the templates that a file names, each once; most outputs share most of their files."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return dict.fromkeys(_imported(tree)), dict.fromkeys(_templates(tree))


def _file(module: str) -> Path | None:
    """The file of ``module``; None for the name of something in one."""
    base = SOURCE.joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.exists()), None)


def _imported(tree: ast.Module) -> Iterator[str]:
    """Modules of the evaluation that are imported anywhere in ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "evaluation":
                yield from _with_packages(name)


def _with_packages(module: str) -> list[str]:
    """``module`` and the packages that it lies in, which are imported with it."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _templates(tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _TEMPLATE.fullmatch(node.value):
            yield SOURCE / "evaluation" / "text" / "templates" / node.value
