"""The version is said once, and each place that shows it agrees."""

import ast
import importlib.metadata
import tomllib
from pathlib import Path

import pytest

import djinn

ROOT = Path(__file__).parents[2]


def test_the_version_is_where_the_build_reads_it():
    """It is a literal, so that a build reads it without an import."""
    tree = ast.parse(Path(djinn.__file__).read_text())
    (said,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"]
    assert ast.literal_eval(said) == djinn.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "djinn.__version__"}


def test_an_installed_package_has_the_same_version():
    """What pip knows is what the package says."""
    try:
        installed = importlib.metadata.version("djinn")
    except importlib.metadata.PackageNotFoundError:
        pytest.fail("djinn is not installed here: run the tests with make test")
    assert installed == djinn.__version__
