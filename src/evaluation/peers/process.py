"""The process in which a peer runs, and what it says to the job that started it.

A peer may take its process with it: a library may call ``exit`` on an error of the driver, and a driver that restores a
process may end it. So each has one of its own. Its program is a function of this process's end of a pipe and of the
study, run by :func:`_in_the_process`; the job's end is :class:`PeerProcess`. A last word tells what came of it, and a
process that ends without one was ended by the library or the driver.
"""

import contextlib
import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from evaluation.measure.harness import NotBitExact
from evaluation.study.plan import ConfigError, Study

_PATIENCE_S = 60  # seconds that a process has to end by itself

Program = Callable[[Connection, Study], Any]


class Unsupported(Exception):
    """This machine cannot run the peer; the message is the reason."""


class PeerProcess:
    """Runs ``program``, a function of a module, in a fresh process; leaving the context ends it."""

    def __init__(self, program: Program, study: Study, report: Callable[[str], None]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, self._theirs = spawn.Pipe()
        arguments = (self._theirs, program, json.dumps(study.to_json()))
        self._process = spawn.Process(target=_in_the_process, args=arguments)
        self._report = report

    def __enter__(self) -> "PeerProcess":
        self._process.start()
        self._theirs.close()  # so that its end is noticed
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()  # which ends one that still waits
        self._process.join(timeout=_PATIENCE_S)
        self._process.kill()  # also one that the driver has locked
        self._process.join()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None, "it is started"
        return self._process.pid

    def tell(self, word: str) -> None:
        """Say ``word`` to the program."""
        try:
            self._connection.send(word)
        except BrokenPipeError as error:
            raise self._ended() from error

    def hear(self, expected: str) -> Any:
        """What the program sends with the word ``expected``, after any reports.

        Raises :class:`Unsupported` if it cannot go on or was ended from outside, :class:`NotBitExact` if it computed
        something else, :class:`ConfigError` if the model does not fit, and ``RuntimeError`` if it is wrong itself.
        """
        while True:
            try:
                word, content = self._connection.recv()
            except (EOFError, ConnectionResetError) as error:
                raise self._ended() from error
            if word == expected:
                return content
            if word == "report":
                self._report(content)
            elif word in _ERRORS:
                raise _ERRORS[word](content)
            else:
                raise RuntimeError(f"a peer's process said {word!r} instead of {expected!r}: {content}")

    def _ended(self) -> Unsupported:
        self._process.join(timeout=_PATIENCE_S)
        status = self._process.exitcode
        how = f"by signal {-status}" if status is not None and status < 0 else f"with status {status}"
        return Unsupported(f"its process was ended from within, {how}; what it said stands in the job's log")


_ERRORS: dict[str, type[Exception]] = {
    "unsupported": Unsupported,
    "differs": NotBitExact,
    "no room": ConfigError,
    "failed": RuntimeError,
}


def _in_the_process(connection: Connection, program: Program, study_json: str) -> None:
    """Run ``program`` and say what came of it; whatever is not expected is said as well, and raised."""
    word: tuple[str, Any] = ("failed", "a peer's process failed; what went wrong stands above")
    try:
        with torch.no_grad():
            word = ("done", program(connection, Study.from_json(json.loads(study_json))))
    except Unsupported as error:
        word = ("unsupported", str(error))
    except NotBitExact as error:
        word = ("differs", str(error))
    except ConfigError as error:
        word = ("no room", str(error))
    except EOFError:  # the job has gone, and nobody waits for this process
        pass
    finally:
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            connection.send(word)


def first_line(error: BaseException) -> str:
    """What ``error`` says, in one line; its name if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
