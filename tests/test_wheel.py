"""What a library user installs, and what the study's versions may be."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files in the wheel, built of a copy, because pip builds in the folder that it is given."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_holds_djinn_alone(wheel):
    """All of its modules, its reference and the mark of its types; nothing called evaluation."""
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "djinn").rglob("*.py")}
    files = {name for name in wheel if ".dist-info/" not in name}
    assert files == {*wanted, "djinn/py.typed"}


def pinned(last="\0"):
    """Version by name in what `make paper_figures` installs, up to ``last``."""
    text = "".join((ROOT / "envs" / name).read_text() for name in ("torch.txt", "requirements.txt")).partition(last)[0]
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


def test_the_debugger_asks_for_versions_that_were_tested():
    """Of Textual the minor that the tests have, of transformers what the evaluation asks for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tested = re.search(r"^textual==(\d+\.\d+)\.", (ROOT / "envs/requirements-dev.txt").read_text(), re.MULTILINE)[1]
    (transformers,) = (one for one in extras["evaluation"] if one.startswith("transformers"))
    assert extras["debugger"] == [f"textual>={tested}", transformers]


def test_lower_bounds_are_versions_that_were_tested():
    """Each is the minor that is pinned, or for torch and transformers the GPU machine's; none is lacking."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    stated = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["evaluation"]]
    bounds = {}
    for requirement in map(Requirement, [*stated, *project["build-system"]["requires"]]):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        bounds[canonicalize_name(requirement.name)] = bound.version
    minors = {name: re.match(r"\d+\.\d+", version)[0] for name, version in pinned().items()}
    on_a_gpu = {"torch": "2.11", "transformers": "5.17"}
    assert bounds == {name: on_a_gpu.get(name, minors[name]) for name in bounds}
    assert bounds.keys() - {"setuptools"} == pinned("# needed by these").keys()
