"""A process of its own for a part of a job: what it says, how it ends, and what the job makes of that."""

import json
import os
import signal

import pytest

from evaluation.measure import child as module
from evaluation.measure.child import Child, Ended
from evaluation.measure.harness import NotBitExact
from evaluation.measure.method import HostFull
from evaluation.measure.peer import Unsupported
from evaluation.study.plan import ConfigError
from evaluation.study.resolve import resolve
from tests.evaluation.measure import spawned


@pytest.fixture(scope="module")
def study():
    return resolve({"device": "cpu"})


def test_a_fresh_process_is_told_and_done(study):
    """It is given the study and the arguments; reports go to the job on the way."""
    told = []
    with Child(spawned.program, study, 3, report=told.append) as process:
        process.hear("paused")
        process.tell("resume")
        assert process.hear("done") == ("resume", "cpu", 3)
    assert told == ["at work"]
    assert process._process.exitcode == 0


def is_refused(connection, study, kind):
    raise kind("no such thing")


def is_wrong(connection, study):
    raise KeyError("a fault of ours")


def exits(connection, study):
    raise SystemExit(9)


def calls_exit(connection, study):
    os._exit(1)  # as a C library's exit: nothing of Python runs any more


def is_killed(connection, study):
    os.kill(os.getpid(), signal.SIGKILL)


def says_something_else(connection, study):
    connection.send(("aside", 7))


@pytest.mark.parametrize("kind", [Unsupported, NotBitExact, ConfigError, HostFull])
def test_a_refusal_is_raised_in_the_job(forked, study, kind):
    """By its own name, with its message and its exit status."""
    with Child(is_refused, study, kind) as process, pytest.raises(kind) as caught:
        process.hear("done")
    assert (type(caught.value), str(caught.value)) == (kind, str(kind("no such thing")))
    assert caught.value.status == (1 if kind is NotBitExact else 2)


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        (is_wrong, RuntimeError, "said 'failed' instead of 'done': what went wrong stands above"),
        (exits, RuntimeError, "said 'failed' instead of 'done': what went wrong stands above"),
        (says_something_else, RuntimeError, "said 'aside' instead of 'done': 7"),
        (calls_exit, Ended, "its process was ended from within, with status 1"),
        (is_killed, Ended, "its process was ended from within, by signal 9"),
    ],
)
def test_what_came_of_a_process(forked, study, program, error, message):
    """What is wrong in its program is no refusal; a process that ends without a last word says how."""
    with Child(program, study) as process, pytest.raises(error, match=message) as caught:
        process.hear("done")
    assert type(caught.value) is error
    assert getattr(caught.value, "killed", False) is (program is is_killed)


def hangs(connection, study):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(("paused", None))
    signal.pause()


@pytest.mark.parametrize("program", [spawned.waits, hangs])
def test_nothing_outlives_the_context(forked, study, program):
    """A process that waits for a word, or for nothing, is gone when the context is left, by an error too."""
    process = Child(program, study)

    def go_wrong():
        with process:
            process.hear("paused")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go_wrong()
    assert process._process.exitcode is not None


def test_a_process_that_has_gone_cannot_be_told_anything(forked, study):
    """The job is not killed by a broken pipe."""
    with Child(is_killed, study) as process:
        process._process.join()
        with pytest.raises(Ended):
            process.tell("resume")


class Pipe:
    """The process's end of a pipe whose other end is closed."""

    def __init__(self):
        self.said = []

    def recv(self):
        raise EOFError

    def send(self, word):
        self.said.append(word)
        raise BrokenPipeError


def test_a_process_whose_job_has_gone_ends_quietly(study):
    """It neither waits on nor fails."""
    pipe = Pipe()
    module._in_the_process(pipe, lambda connection, study: connection.recv(), json.dumps(study.to_json()))
    assert [word for word, _ in pipe.said] == ["failed"]
