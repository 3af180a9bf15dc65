"""``last_resume``: what the last RESUME moved and how long it took."""

import threading

import pytest
import torch
from tests.interrupt import Interrupt
from tests.programs import parked, prefill

import djinn
from djinn.resumes import Resume, ResumeClock

pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.mark.parametrize("keep", ["nothing", "frontier"])
@pytest.mark.parametrize("timeout", [10, None])
def test_who_waits_for_all_state_sends_for_it(runtime, llama, input_ids, keep, timeout):
    """A program may wait for its caller before it begins its work, and the caller for all state."""
    go = threading.Event()

    def program(llama, input_ids):
        handle = llama.model.layers[2].register_forward_hook(lambda *args: go.wait(20) and None)
        try:
            return llama(input_ids, use_cache=True).logits
        finally:
            handle.remove()

    session = parked(runtime, 3, program, llama, input_ids)
    session.io_wait(keep=keep)
    session.resume()
    assert session.wait_resident(timeout)
    assert session.phase is djinn.Phase.RUNNING
    go.set()
    session.result(10)


@pytest.mark.parametrize("tier", ["device", "host", "idle"])
def test_a_session_knows_its_last_resume(runtime, llama, input_ids, tier):
    """The bytes that were swapped in, none from the device; ready comes before resident."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    assert session.last_resume is None
    if tier != "device":
        session.io_wait(force=tier == "host")
    moved = session.host_bytes
    session.resume()
    assert session.wait_resident(30)  # with a limit, which waits for the runtime's own notice
    last = session.last_resume
    assert last.nbytes == moved
    assert last.ready_seconds > 0
    assert last.resident_seconds > 0
    assert (last.bytes_per_second is None) is not moved
    if moved:
        assert last.bytes_per_second == moved / last.resident_seconds
    else:
        assert last.resident_seconds == last.ready_seconds
    session.result(30)
    session.close()
    assert session.last_resume == last


def test_the_last_resume_is_the_last(runtime, llama, input_ids):
    """A step is a RESUME; each has its own bytes."""
    session = parked(runtime, 2, prefill, llama, input_ids)
    session.io_wait()
    moved = session.host_bytes
    session.step(30)
    assert session.last_resume.nbytes == moved
    session.step(30)
    assert session.last_resume.nbytes == 0


def test_a_resume_that_failed_is_none(runtime, llama, input_ids, monkeypatch):
    """One that raises before the program goes on is not the last; a retry is, with its own time."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    with monkeypatch.context() as patched:
        patched.setattr(runtime._engine, "_send_frontier", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.resume()
    assert session.last_resume is None
    session.resume()
    assert session.last_resume.nbytes > 0
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_an_interrupted_resume_has_bytes_and_no_time(runtime, llama, input_ids):
    """Wherever Ctrl-C comes, the session has no last RESUME, or one that says what it moved."""
    seen = set()
    for line in range(1, 400, 3):
        session = parked(runtime, 3, prefill, llama, input_ids)
        session.io_wait()
        moved = session.host_bytes
        with Interrupt(line) as interrupt:
            session.resume()
        last = session.last_resume
        seen.add((last is None, last is not None and last.ready_seconds is None))
        assert last is None or last.nbytes == moved
        assert (last is None) is (session.phase is djinn.Phase.IO_WAIT)
        if last is None:
            session.resume()
        session.close(30)
        if not interrupt.raised:
            break
    assert seen == {(True, False), (False, True), (False, False)}


def test_a_clock_tells_once_whichever_moment_comes_last():
    """Ready and resident come from two threads, in either order."""
    for first, second in (("ready", "resident"), ("resident", "ready")):
        told = []
        clock = ResumeClock(8, called=0.0)
        clock.tell = told.append
        getattr(clock, first)()
        assert told == []
        getattr(clock, second)()
        clock.ready()
        assert [type(read()) for read in told] == [Resume]


def test_state_is_not_resident_before_the_resume_is_ready():
    """Though the engine's thread may notice it before RESUME returns, and write that down before or behind."""
    clock, told = ResumeClock(8, called=0.0), []
    clock.tell = lambda read: told.append(read())
    clock.resident()
    assert told == []
    assert clock.read().ready_seconds is None
    clock.ready()
    assert [one.resident_seconds == one.ready_seconds for one in (*told, clock.read())] == [True, True]
    clock._resident = clock._ready - 1
    assert clock.read().resident_seconds == clock.read().ready_seconds
