"""Where a record comes from: code, versions, device, command. No names of machines, users or folders."""

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

SOURCE = Path(__file__).parents[1]
# Editing one of these changes no measurement.
_PAPER_MODULES = (
    *("aggregate", "paper", "paper_figure", "paper_numbers", "paper_table"),
    *("publish", "runs", "statistics", "summary"),
)
_PACKAGES = ("torch", "transformers", "numpy", "snakemake", "nvidia-ml-py")


def git_state() -> dict[str, object]:
    """``{commit, dirty}`` of the project's repository, or ``{unavailable: reason}``."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except FileNotFoundError:
        return {"unavailable": "git is not installed"}
    except subprocess.CalledProcessError:
        return {"unavailable": "not a git repository with a commit"}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(SOURCE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def measuring_sources() -> list[Path]:
    """The Python files that a measurement depends on: the system, and of the evaluation all but the paper's tools."""
    return sorted(path for path in SOURCE.rglob("*.py") if path.stem not in _PAPER_MODULES)


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


def provenance(device: str) -> dict[str, object]:
    """The ``provenance`` entry of a record, for a run on ``device`` (``cuda`` or ``cpu``)."""
    import torch  # noqa: PLC0415 - only where it is loaded anyway

    main = sys.modules["__main__"].__spec__
    program = f"python -m {main.name}" if main is not None else Path(sys.argv[0]).name
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([program, *sys.argv[1:]]),
        "git": git_state(),
        "source_sha256": source_sha256(),
        "device": device,
        "device_name": torch.cuda.get_device_name(0) if device == "cuda" else "CPU",
        "versions": versions(),
    }
