"""Chains of referrers, on every Python that is there: each counts references, and keeps local variables, its own way.

The cases need nothing but Python, so that one without torch runs them too (``referrers_cases``).
"""

import subprocess
from pathlib import Path

import pytest
from tests import pythons
from tests.djinn.referrers_cases import CASES

ROOT = Path(__file__).parents[3]
PYTHONS = {"{}.{}".format(*version): path for version, path in pythons.found().items()}


@pytest.mark.parametrize("version", PYTHONS)
def test_every_case_on_every_python(version):
    """Who holds an object is found, who does not is not taken for an owner, and no thread loses a variable."""
    command = [PYTHONS[version], "-I", ROOT / "tests/djinn/referrers_cases.py", ROOT / "src/djinn/state/referrers.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[:-1] == list(CASES)
    assert f"{len(CASES)} cases, Python {version}" in done.stdout


def test_make_tells_of_a_python_that_does_not_start(tmp_path):
    """``make test-pythons`` says which it was, and that nothing was tested."""
    for name in ("Makefile", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        ["make", "-C", tmp_path, "test-pythons", "PYTHONS=missing-python"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert errors == ["error: missing-python does not start", "error: no Python to test on"]
