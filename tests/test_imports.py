"""Imports point one way."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
# A module of the system may import those of lower rank only.
RANK = {
    "arguments": 0,
    "core": 0,
    "cuda_graphs": 0,
    "extents": 0,
    "generators": 0,
    "referrers": 0,
    "remedies": 0,
    "resumes": 0,
    "settings": 0,
    "static": 0,
    "blocks": 1,
    "caller": 1,
    "compiled": 1,
    "containers": 1,
    "device_lock": 1,
    "interrupts": 1,
    "page_lock": 1,
    "policy": 1,
    "state": 1,
    "streams": 1,
    "tensors": 1,
    "wording": 1,
    "gates": 2,
    "growth": 2,
    "guard": 2,
    "interceptor": 2,
    "journal": 2,
    "layers": 2,
    "module_values": 2,
    "places": 2,
    "status": 2,
    "surroundings": 2,
    "walk": 2,
    "watch": 2,
    "adopted": 3,
    "forward": 3,
    "host_memory": 3,
    "module_attributes": 3,
    "ownership": 3,
    "state_view": 3,
    "swapped": 3,
    "discovery": 4,
    "holdings": 4,
    "module_state": 4,
    "transfer": 4,
    "placement": 5,
    "turn": 5,
    "program": 6,
    "session": 7,
    "waiting": 7,
    "runtime": 8,
    "__init__": 9,
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


def test_every_module_has_a_rank():
    """A new module must be given its place."""
    assert {path.stem for path in (SOURCE / "djinn").glob("*.py")} == set(RANK)


@pytest.mark.parametrize("module", sorted(RANK))
def test_djinn_imports_point_down(module):
    """No module of the system imports its own rank or above, the evaluation, or anything but torch."""
    import sys

    for name in imported(SOURCE / "djinn" / f"{module}.py"):
        top, _, rest = name.partition(".")
        if top == "djinn":
            assert RANK[rest] < RANK[module], f"{module} imports {name}"
        else:
            assert top == "torch" or top in sys.stdlib_module_names, f"{module} imports {name}"


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
