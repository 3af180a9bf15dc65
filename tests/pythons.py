"""The Pythons that are there, one of each minor version from 3.11 on, this one first; a script that prints them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MINORS = range(11, 15)


def found():
    """Paths of interpreters by version, as (3, 11): this one, those on the path and those of pyenv that start."""
    pythons = {sys.version_info[:2]: sys.executable}
    for path in candidates():
        version = version_of(path)
        if version is not None and version[0] == 3 and version[1] in MINORS:
            pythons.setdefault(version, path)
    return pythons


def candidates():
    names = [shutil.which(f"python3.{minor}") for minor in MINORS]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return [name for name in names if name] + sorted(map(str, pyenv.glob("versions/*/bin/python3")))


def version_of(path):
    """The version that it says it has; None for one that does not start."""
    ask = "import sys; print('version', *sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", ask], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    answer = re.fullmatch(r"version (\d+) (\d+)", done.stdout.strip())
    return (int(answer[1]), int(answer[2])) if answer else None


if __name__ == "__main__":
    print(*found().values())
