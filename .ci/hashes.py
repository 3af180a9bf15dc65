"""Writes below each pin in ``envs/`` the hashes of all files of that version: ``python .ci/hashes.py``.

To change a pin, edit its version first. Needs uv, which asks the registry for names and hashes and fetches no wheel.
``torch.txt`` has none, for torch has builds from several places. ``evaluation.yaml``, which is conda's, gets the same
versions without hashes.
"""

import re
import subprocess
import sys
from pathlib import Path

ENVS = Path(__file__).parents[1] / "envs"
TORCH, STUDY = ENVS / "torch.txt", ENVS / "requirements.txt"
PIN = re.compile(r"^([\w.-]+==[\w.]+)(?: \\\n +--hash=\S+)*", re.MULTILINE)


def hashes(pins: list[str]) -> dict[str, str]:
    """The lines below each pin, by the pin as uv spells it."""
    command = ["uv", "pip", "compile", "--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--quiet", "-"]
    done = subprocess.run(command, input="\n".join(pins), check=True, stdout=subprocess.PIPE, text=True)
    return {match[1]: match[0].removeprefix(match[1]) for match in PIN.finditer(done.stdout)}


def spelled(pin: str) -> str:
    """As uv spells it."""
    name, version = pin.split("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def main() -> None:
    """Write all files of pins anew, but torch's."""
    files = {path: path.read_text(encoding="utf-8") for path in sorted(ENVS.glob("*.txt")) if path != TORCH}
    found = hashes(sorted({match[1] for text in files.values() for match in PIN.finditer(text)}))
    for path, text in files.items():
        path.write_text(PIN.sub(lambda match: match[1] + found[spelled(match[1])], text), encoding="utf-8")
    versions = [match[1] for path in (TORCH, STUDY) for match in PIN.finditer(path.read_text(encoding="utf-8"))]
    conda = ENVS / "evaluation.yaml"
    head, pip, _ = conda.read_text(encoding="utf-8").partition("  - pip:\n")
    conda.write_text(head + pip + "".join(f"      - {version}\n" for version in versions), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
