"""Writes the reference of the runtime's front door from its docstrings: ``python .ci/api_reference.py``."""

import enum
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import djinn

_HEAD = """# The API of djinn

Made from the docstrings by `python .ci/api_reference.py`; a test holds it to them. How a pause works, step by
step, is in the [README](../../README.md#life-of-a-pause).
"""


def reference() -> str:
    """The reference as Markdown: every public name of ``djinn`` with its signature, members and docstrings."""
    front = ["Runtime", "Session"]
    names = [*front, *(name for name in djinn.__all__ if name not in front)]
    return "\n".join([_HEAD, *(line for name in names for line in _of_class(name, getattr(djinn, name)))])


def _of_class(name: str, kind: type) -> Iterator[str]:
    yield f"## {name}\n"
    if "__init__" in vars(kind) and name == "Runtime":
        yield f"`{name}{_signature(kind)}`\n"
    yield _plain(inspect.getdoc(kind))
    if issubclass(kind, enum.Enum):
        yield ", ".join(f"`{member.name}`" for member in kind) + "\n"
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"### {name}.{member}\n"
            yield _plain(value.__doc__)
        elif inspect.isfunction(value):
            yield f"### {name}.{member}{_signature(value)}\n".replace("(self, ", "(").replace("(self)", "()")
            yield _plain(value.__doc__)


def _signature(value: Callable[..., object]) -> str:
    signature = inspect.signature(value)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _plain(docstring: str | None) -> str:
    """Cleaned, with the roles of cross-references as plain code."""
    text = inspect.cleandoc(docstring or "")
    for role in ("class", "meth", "func", "mod", "attr"):
        text = text.replace(f":{role}:`", "`")
    return text.replace("``", "`") + "\n"


def main() -> int:
    """Command line: write the page beside the package."""
    Path(djinn.__file__).with_name("API.md").write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
