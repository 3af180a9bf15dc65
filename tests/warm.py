"""A Python that starts at once: its processes are forked from one that has imported torch, transformers and Snakemake.

The real Snakemake starts a process for each job, and a test starts Snakemake many times. Each takes seconds for imports
alone. :class:`WarmPython` has one process import them, once. It forks for each command ``python3 -m MODULE ...``. The
child has the command's arguments, folder, environment and outputs. It imports the project's own modules itself. At its
end it waits for its threads and calls what is registered for the exit, as any interpreter does. It does not take down
what it has imported: that took longer than many a command. Commands run one after another in ``run``; in the shell of a
job there is a ``python3``.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

MODULES = (
    *("torch", "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto"),
    *("pandas", "matplotlib.figure", "matplotlib.backends.backend_pdf", "pydantic", "jinja2", "tqdm", "yaml"),
    *("snakemake.cli", "snakemake.report", "snakemake.scheduling.job_scheduler"),
)
# Isolated and without site, so that it starts in a few milliseconds. It stands for the process in its parent's eyes.
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    status = int(server.makefile().read() or 1)
sys.exit(status)
"""


class WarmPython:
    """The process that forks, and a folder with the ``python3`` that asks it to."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")  # a socket's path must be short
        folder = Path(self._folder.name)
        path = str(folder / "socket")
        program = folder / "python3"
        program.write_text(_CLIENT.format(python=sys.executable, path=path))
        program.chmod(0o755)
        self._program = str(program)
        # The shell of a job reads this file before its command, when Snakemake has already put its own Python in front.
        self._shell = folder / "shell"
        self._shell.write_text(f'PATH="{folder}:$PATH"\n')
        command = [sys.executable, str(Path(__file__)), path]
        self._parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ""}, stdout=subprocess.PIPE)
        self._parent.stdout.readline()  # it listens

    def run(self, *arguments, folder, **environment):
        """Run ``python3 *arguments`` in ``folder``; returns the finished process, whose output is text."""
        environment = {**os.environ, "PYTHONPATH": "", "BASH_ENV": str(self._shell), **environment}
        command = [self._program, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    def close(self):
        """End the process that forks."""
        self._parent.terminate()
        self._parent.communicate(timeout=60)
        self._folder.cleanup()


def _asked(path):
    """Commands to run, each in a new child, where this returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("listening", flush=True)
        while True:
            client, _ = listener.accept()
            with client:
                if os.fork() == 0:  # it waits for the command, which may ask for others meanwhile
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _, outputs, _, _ = socket.recv_fds(client, 1, 3)
                    request = json.loads(client.makefile().read())
                    child = os.fork()
                    if child == 0:
                        return outputs, *request
                    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    client.sendall(str(status if status >= 0 else 128 - status).encode())
                    os._exit(0)


if __name__ == "__main__":
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # a child does not look at what it shares with its parent
    outputs, arguments, folder, environment = _asked(sys.argv[1])
    for number, output in enumerate(outputs):
        os.dup2(output, number)
        os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # As the interpreter does when it starts.
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    sys.pycache_prefix = environment.get("PYTHONPYCACHEPREFIX")
    below = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [folder, *below]  # in place of this script's folder
    assert arguments[0] == "-m", arguments
    sys.argv = arguments[1:]
    status = 0
    try:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
        if not isinstance(status, int):
            print(status or "", end="\n" if status else "", file=sys.stderr)
            status = int(bool(status))
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)
