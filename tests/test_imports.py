"""Imports point one way; of folders and of the evaluation ``lint-imports`` tells it, by the rules in pyproject.toml."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "djinn").rglob("*.py"))
}


def imported(path):
    """Names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names.add(node.module)
    return names


# What the debugger's extra brings. `import djinn` imports nothing of the debugger.
OF_THE_DEBUGGER = {"textual", "rich", "transformers", "safetensors", "numpy"}


KERNELS = "djinn.memory.codec_kernels"  # Triton comes with torch for a GPU, and not with every torch


@pytest.mark.parametrize("module", MODULES)
def test_the_system_needs_torch_alone(module):
    """No module of it imports the evaluation, or any other package; those of the debugger what its extra brings."""
    names = imported(MODULES[module])
    tops = {name.partition(".")[0] for name in names}
    more = OF_THE_DEBUGGER if module.startswith("djinn.debugger.") else {"triton"} if module == KERNELS else set()
    assert KERNELS not in names, "kernels are loaded when a runtime asks for them"
    assert tops <= {"djinn", "torch", *sys.stdlib_module_names, *more}


def test_no_module_of_the_system_needs_itself():
    """Imports make no circle, of modules neither."""
    order = graphlib.TopologicalSorter({name: imported(path) & set(MODULES) for name, path in MODULES.items()})
    order.prepare()  # raises for a circle, and names it


def reached(module, seen=None):
    """Modules of the evaluation that ``module`` imports, directly or not, with everything those import."""
    seen = set() if seen is None else seen
    base = SOURCE.joinpath("evaluation", *module.split("."))
    for name in imported(base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"):
        if name not in seen:
            seen.add(name)
            top, _, rest = name.partition(".")
            if top == "evaluation" and rest:
                reached(rest, seen)
    return seen


def test_only_one_benchmark_imports_djinn():
    """The hand-written baselines run by code that does not import the system."""
    for module in ("vanilla", "recompute", "manual_offload"):
        assert not any(name.split(".")[0] == "djinn" for name in reached(f"methods.benchmark_{module}")), module
    assert "djinn" in reached("methods.benchmark_djinn")
