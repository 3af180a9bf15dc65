"""Runs scripts to the end of an interpreter, without the seconds that importing torch takes each of them.

Run as a program it has torch imported, once, and forks for each script: the child is what the interpreter would be
after ``import torch``, and ends as any interpreter does.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 300  # a slow and busy machine takes half a minute for the longest


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The exit code of an interpreter, negative if a signal killed it, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Interpreters:
    """Interpreters that start at once; ``folder`` is for what they write."""

    def __init__(self, folder):
        self._outputs = [folder / "stdout", folder / "stderr"]
        self._parent = subprocess.Popen(
            [sys.executable, Path(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, script):
        """``script`` from its start to the end of its interpreter, which is killed if it hangs."""
        request = {"script": textwrap.dedent(script), "outputs": [str(path) for path in self._outputs]}
        print(json.dumps(request), file=self._parent.stdin, flush=True)
        code = int(self._parent.stdout.readline())
        return Ended(returncode=code, **{path.name: path.read_text() for path in self._outputs})

    def close(self):
        """End the process that forks."""
        self._parent.communicate(timeout=_SECONDS)


def _asked():
    """Scripts to run, each in a new child, where this returns; it ends the parent when nobody asks any more."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return request
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    import torch  # noqa: F401 - for the children

    asked = _asked()
    signal.alarm(_SECONDS)
    for number, path in enumerate([os.devnull, *asked["outputs"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    exec(compile(asked["script"], "<script>", "exec"), {"__name__": "__main__"})
