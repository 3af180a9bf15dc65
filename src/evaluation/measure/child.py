"""A process of its own for a part of a job, and the words in which it and the job talk.

A session may need weights and an allocator of its own. A library may call ``exit`` where the driver refuses it
something, and a driver that restores a process may end it. So a program, a function of a module, is run in a fresh
process. It is given its end of a pipe, the study and further arguments, and sends pairs of a word and what belongs to
it. Four words are this module's: ``report`` on the way, and as the last one ``done``, ``refused`` or ``failed``. A
process that ends without a last word was ended by a library, the driver or the system.
"""

import contextlib
import json
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from evaluation.command import Refusal
from evaluation.study.plan import Study

_PATIENCE_S = 60  # seconds that a process has to end by itself

Program = Callable[..., Any]


class Ended(RuntimeError):
    """A process ended without a last word; ``killed`` says whether the system, or somebody else, killed it."""

    def __init__(self, status: int | None) -> None:
        how = f"by signal {-status}" if status is not None and status < 0 else f"with status {status}"
        super().__init__(f"its process was ended from within, {how}; what it said stands in the job's log")
        self.killed = status == -signal.SIGKILL


class Child:
    """Runs ``program`` in a process that :meth:`end`, or leaving the context, ends."""

    def __init__(
        self, program: Program, study: Study, *arguments: object, report: Callable[[str], None] = lambda line: None
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, self._theirs = spawn.Pipe()
        given = (self._theirs, program, json.dumps(study.to_json()), *arguments)
        self._process = spawn.Process(target=_in_the_process, args=given)
        self._report = report

    def __enter__(self) -> "Child":
        self._process.start()
        self._theirs.close()  # so that its end is noticed
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """Return when the process has gone: by itself, which it does if it waits for a word, or killed."""
        self._connection.close()
        self._process.join(timeout=_PATIENCE_S)
        self._process.kill()  # also one that the driver has locked
        self._process.join()

    def kill(self) -> int:
        """Kill the process, whatever it does; returns the signal that ended it, 0 if it had ended by itself."""
        self._process.kill()
        self._process.join()
        return max(0, -(self._process.exitcode or 0))

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None, "it is started"
        return self._process.pid

    def tell(self, word: str) -> None:
        """Say ``word`` to the program; raises :class:`Ended`."""
        try:
            self._connection.send(word)
        except BrokenPipeError as error:
            raise self._ended() from error

    def hear(self, expected: str) -> Any:
        """What the program sends with the word ``expected``, after any reports.

        Raises the :class:`Refusal` with which the program ended, :class:`Ended` if it was ended, and ``RuntimeError``
        if it went wrong.
        """
        while True:
            try:
                word, content = self._connection.recv()
            except (EOFError, ConnectionResetError) as error:
                raise self._ended() from error
            if word == expected:
                return content
            if word == "refused":
                raise content
            if word != "report":
                raise RuntimeError(f"a process said {word!r} instead of {expected!r}: {content}")
            self._report(content)

    def _ended(self) -> Ended:
        self._process.join(timeout=_PATIENCE_S)
        return Ended(self._process.exitcode)


def _in_the_process(connection: Connection, program: Program, study_json: str, *arguments: object) -> None:
    """Run ``program`` and say what came of it; what is wrong with the program itself is said as well, and raised."""
    word: tuple[str, Any] = ("failed", "what went wrong stands above")
    try:
        with torch.no_grad():
            word = ("done", program(connection, Study.from_json(json.loads(study_json)), *arguments))
    except Refusal as refusal:
        word = ("refused", refusal)
    except EOFError:  # the job has gone, and nobody waits for this process
        pass
    finally:
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            connection.send(word)
