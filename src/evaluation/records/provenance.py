"""Where a record comes from: code, versions, device, command. No names of machines, users or folders."""

import contextlib
import hashlib
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from evaluation.records.wording import one_line
from evaluation.study.devices import Gpu, visible_gpu

SOURCE = Path(__file__).parents[2]
# What a measurement depends on: the system, and of the evaluation the folders that measure.
MEASURING = ("djinn", *(f"evaluation/{folder}" for folder in ("study", "measure", "methods", "experiments", "peers")))
# What `make paper_figures` installs.
PINS = tuple(SOURCE.parent / "envs" / name for name in ("torch.txt", "requirements.txt"))
_PACKAGES = (
    *("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors"),
    *("numpy", "snakemake", "nvidia-ml-py"),
)
_BOOT, _STARTED = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/stat")


def git_state(root: Path | None = None) -> dict[str, object]:
    """``{commit, dirty}`` of the repository of the folder ``root`` (the sources), or ``{unavailable: reason}``.

    Dirty: a tracked file differs from the commit.
    """
    root = root or SOURCE
    try:
        if not _git(root, "ls-files"):  # as in a copy that lies inside some other repository
            return {"unavailable": "the sources are not tracked by git"}
        commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except FileNotFoundError:
        return {"unavailable": "git is not installed"}
    except subprocess.CalledProcessError as error:
        if "dubious ownership" in error.stderr:
            return {"unavailable": "git distrusts the repository, because another user owns it"}
        in_repository = "rev-parse" in error.cmd
        return {"unavailable": "no commit yet" if in_repository else "the sources are not tracked by git"}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def measuring_sources() -> list[Path]:
    """The Python files that a measurement depends on: those in the folders of :data:`MEASURING`."""
    return sorted(path for folder in MEASURING for path in (SOURCE / folder).rglob("*.py"))


def source_sha256() -> str:
    """Digest of the measuring sources, by relative path and content: which code ran, without git."""
    digest = hashlib.sha256()
    for path in measuring_sources():
        content = path.read_bytes()
        digest.update(f"{path.relative_to(SOURCE).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a measurement depends on; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command of this process; of files elsewhere on the machine only the name."""
    main = sys.modules["__main__"].__spec__
    program = f"python -m {main.name}" if main is not None else Path(sys.argv[0]).name
    return shlex.join([*program.split(), *(_without_folders(argument) for argument in sys.argv[1:])])


def _without_folders(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    path = Path(value)
    if path.is_absolute():
        here = Path.cwd()
        value = str(path.relative_to(here)) if path.is_relative_to(here) else path.name
    return f"{option}{equals}{value}"


def sitting(uuid: str | None) -> str | None:
    """A digest of the GPU with ``uuid`` (None: the CPU) and of this boot: of all processes of one sitting the same.

    The boot is known by the kernel's random id of it. Where that is hidden, as in some containers, the time at which
    the system was started stands for it; None where both are hidden.
    """
    boot = _boot()
    return None if boot is None else hashlib.sha256(f"{uuid or ''}\0{boot}".encode()).hexdigest()[:12]


def _boot() -> str | None:
    with contextlib.suppress(OSError):
        return _BOOT.read_text().strip()
    with contextlib.suppress(OSError):
        return next((line for line in _STARTED.read_text().splitlines() if line.startswith("btime ")), None)
    return None


def _driver(gpu: Gpu | None) -> object:
    if gpu is None:
        return {"unavailable": "measured without a GPU"}
    return one_line(gpu.driver) or {"unavailable": "NVML does not tell it"}


def surroundings(gpu: Gpu | None) -> dict[str, object]:
    """What all records of a run share of the machine besides its device: the driver of ``gpu``, and the packages."""
    return {"driver": _driver(gpu), "versions": versions()}


def provenance(device: str) -> dict[str, object]:
    """The ``provenance`` entry of a record, for a run on ``device`` (``cuda`` or ``cpu``), without its conditions."""
    import torch  # noqa: PLC0415 - only where it is loaded anyway

    gpu = visible_gpu() if device == "cuda" else None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "git": git_state(),
        "source_sha256": source_sha256(),
        "device": device,
        "device_name": one_line(torch.cuda.get_device_name(0)) if device == "cuda" else "CPU",
        **surroundings(gpu),
        "sitting": sitting(None if gpu is None else gpu.uuid),
    }
