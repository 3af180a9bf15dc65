"""The journal: what ``logging.getLogger("djinn")`` is told, and that no handler can disturb a session."""

import logging
import re
import threading
import time

import pytest
import torch
from tests.programs import parked, prefill, without_climb

import djinn

MIB = r"\d+\.\d MiB"


@pytest.fixture
def lines():
    """The lines of a test, once :func:`told` has waited for them."""
    kept = []

    class Keeper(logging.Handler):
        def emit(self, record):
            kept.append((record.levelname, record.getMessage()))

    log, keeper = logging.getLogger("djinn"), Keeper()
    log.addHandler(keeper)
    log.setLevel(logging.DEBUG)
    yield kept
    log.removeHandler(keeper)
    log.setLevel(logging.NOTSET)


def told(runtime, lines, *, level="INFO"):
    """The texts of ``lines`` at ``level`` so far, in order."""
    runtime._journal.drain(10)
    return [text for name, text in lines if name == level]


def test_moves_resumes_and_evictions_are_told(runtime, llama, input_ids, lines):
    """One line each, in order, with the session, the layer and the bytes."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait(force=False)
    runtime.make_room(1 << 30)
    session.resume()
    session.wait_resident()
    session.result(30)
    session.close()
    patterns = [
        r"session 1: created -> running, to stop after layer 3",
        rf"session 1: running -> paused after layer 3, {MIB} on the device",
        rf"session 1: paused -> io_wait after layer 3, {MIB} on the device",
        rf"session 1: {MIB} evicted to make room",
        rf"session 1: resumed with {MIB}, ready after \d+\.\d{{3}} ms, all on the device after \d+\.\d{{3}} ms",
        r"session 1: running -> finished",
        r"session 1: finished -> closed",
    ]
    found = told(runtime, lines)
    found.sort(key=lambda text: "-> " in text and text.endswith(("finished", "closed")))  # "resumed" comes from behind
    assert len(found) == len(patterns)
    for text, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, text), text


def test_what_stays_is_told(runtime, llama, input_ids, lines, monkeypatch):
    """Each tensor that stays is a line for who looks closely; a warning comes if most of a large state stays."""
    monkeypatch.setattr("djinn.journal._MUCH_BYTES", 1)
    with torch.enable_grad():
        session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    (warning,) = told(runtime, lines, level="WARNING")
    assert "of state stay on the device" in warning
    assert "start the program under torch.no_grad()" in warning
    largest_first = sorted(session.left_behind, key=lambda line: -line.nbytes)
    details = told(runtime, lines, level="DEBUG")
    assert details == [f"session 1: stays on the device: {line}" for line in largest_first]


def test_an_error_that_nobody_asked_for_is_told(runtime, lines):
    """At the close, by the name of its class; not if ``result`` has raised it, nor for what was cancelled."""

    def fail():
        raise ZeroDivisionError

    for asks in (False, True):
        session = runtime.open().start(fail)
        session.wait(30)
        if asks:
            with pytest.raises(ZeroDivisionError):
                session.result()
        session.close()
    runtime.open().close()
    text = "session 1 is closed, and nobody asked for its ZeroDivisionError: call result() before close()"
    assert told(runtime, lines, level="WARNING") == [text]


def test_nobody_listens_and_nothing_is_queued(runtime, monkeypatch):
    """By default the logger has a handler that writes nothing, so that not even a warning reaches the terminal."""
    log = logging.getLogger("djinn")
    assert [type(handler) for handler in log.handlers] == [logging.NullHandler]
    assert log.level == logging.NOTSET
    monkeypatch.setattr(runtime._journal._hands, "posting", lambda function: 1 / 0)
    assert runtime.open().start(lambda: 5).result(30) == 5


class Handler(logging.Handler):
    """Calls ``function`` for each line."""

    def __init__(self, function):
        super().__init__()
        self.emit = lambda record: function()


@pytest.fixture
def handle():
    """Puts a handler on that calls a function for each line; it comes off at the end."""
    log, handlers = logging.getLogger("djinn"), []

    def put_on(function):
        handlers.append(Handler(function))
        log.addHandler(handlers[-1])
        log.setLevel(logging.INFO)

    yield put_on
    for handler in handlers:
        log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def test_a_handler_may_look_and_signal(runtime, llama, input_ids, handle, monkeypatch):
    """It may ask for the status, show a session, and even step it: it runs under no lock, on no session's thread."""
    without_climb(monkeypatch)
    seen, session = [], runtime.open(breakpoint=2)

    def look():
        seen.append((threading.current_thread().name, repr(session), str(runtime.status())))
        if session.phase is djinn.Phase.PAUSED and session.layer == 2:
            session.step(30)

    handle(look)
    session.start(prefill, llama, input_ids)
    for _ in range(100):
        runtime._journal.drain(10)
        if session.layer == 3:
            break
        time.sleep(0.02)
    assert session.layer == 3
    assert {name for name, *_ in seen} == {"djinn-log"}


@pytest.mark.parametrize("what", ["blocks", "raises"])
def test_a_handler_cannot_disturb_a_session(llama, input_ids, handle, what):
    """One that never returns delays no signal; one that raises ends nothing."""
    go = threading.Event()
    handle(go.wait if what == "blocks" else lambda: 1 / 0)
    want = prefill(llama, input_ids)
    with djinn.Runtime(llama, host_memory_bytes=4 << 20) as runtime:
        session = parked(runtime, 3, prefill, llama, input_ids)
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), want)
        session.close()
        go.set()


def test_a_line_has_the_time_at_which_it_happened(runtime, handle):
    """Not that at which a slow handler came to it."""
    times, first = [], []

    class Timer(logging.Handler):
        def emit(self, record):
            times.append((record.created, record.msecs))
            if not first:
                first.append(time.sleep(0.1))

    timer = Timer()
    logging.getLogger("djinn").addHandler(timer)
    handle(lambda: None)
    start = time.time()
    runtime.open().start(lambda: None).wait(30)
    end = time.time()
    runtime._journal.drain(10)
    logging.getLogger("djinn").removeHandler(timer)
    assert [start <= created <= end for created, _ in times] == [True, True]
    assert all(msecs == created % 1 * 1e3 for created, msecs in times)


def test_a_closed_runtime_has_told_everything(llama, lines):
    """``close`` returns when all lines are with the handlers, and the journal's thread ends."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        runtime.open().start(lambda: None).wait(30)
    assert [text for _, text in lines][-1] == "session 1: finished -> closed"
