"""Waiting for several sessions at once, on a thread and in an event loop."""

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from tests.interrupt import Interrupt
from tests.programs import parked, prefill

import djinn

pytestmark = pytest.mark.usefixtures("without_climb")


class Blocked:
    """A program that waits for ``go``."""

    def __init__(self, runtime):
        self.go = threading.Event()
        self.session = runtime.open().start(self.go.wait)


def test_whoever_stops_first_is_returned(runtime, llama, input_ids):
    """Each stop once, in the order in which they happened, until there is nothing more to wait for."""
    want = prefill(llama, input_ids)
    sessions = [runtime.open(breakpoint=layer).start(prefill, llama, input_ids) for layer in (2, 4)]
    stops = []
    for _ in range(4):
        session = runtime.wait_any(timeout=30)
        stops.append((session, session.phase))
        if session.phase is djinn.Phase.PAUSED:
            session.io_wait()
            session.resume()
    assert [stops.count((session, djinn.Phase.PAUSED)) for session in sessions] == [1, 1]
    assert [stops.count((session, djinn.Phase.FINISHED)) for session in sessions] == [1, 1]
    assert all(torch.equal(session.result(), want) for session in sessions)
    blocked = Blocked(runtime)
    assert runtime.wait_any(timeout=0.01) is None
    blocked.go.set()
    assert runtime.wait_any(timeout=30) is blocked.session
    with pytest.raises(djinn.IllegalMove, match=r"nothing to wait for: start\(\) or resume\(\)"):
        runtime.wait_any()


def test_a_stop_that_somebody_waited_for_is_no_news(runtime, llama, input_ids):
    """``wait``, ``result`` and ``io_wait`` know of it; only what stopped since is returned by default."""
    waited = parked(runtime, 2, prefill, llama, input_ids)
    unseen = runtime.open(breakpoint=3).start(prefill, llama, input_ids)
    while unseen.phase is djinn.Phase.RUNNING:
        time.sleep(0.001)
    blocked = Blocked(runtime)
    assert runtime.wait_any(timeout=30) is unseen
    assert runtime.wait_any(timeout=0.01) is None
    assert runtime.wait_any([blocked.session, waited], timeout=30) is waited  # it is asked for by name
    blocked.go.set()
    blocked.session.result(30)
    with pytest.raises(djinn.IllegalMove, match="nothing to wait for"):
        runtime.wait_any()


def test_who_is_named_is_waited_for(runtime, llama, input_ids):
    """Sessions that were never started or are closed are passed over; what is no session is refused."""
    created, closed = runtime.open(), runtime.open().start(lambda: None)
    closed.close(30)
    with pytest.raises(djinn.IllegalMove, match="nothing to wait for"):
        runtime.wait_any([created, closed])
    session = runtime.open().start(lambda: 5)
    assert runtime.wait_any([created, closed, session], timeout=30) is session
    created.close()
    with pytest.raises(TypeError, match=r"waits for sessions, not for int: pass what open"):
        runtime.wait_any([5])


def test_who_has_stopped_longest_ago_is_returned_first(runtime, llama, input_ids):
    """So that no session is forgotten behind others."""
    first, second = (parked(runtime, 2, prefill, llama, input_ids) for _ in range(2))
    assert runtime.wait_any([second, first]) is first
    first.io_wait()
    assert runtime.wait_any([second, first]) is second


def test_sessions_of_two_runtimes_are_waited_for_together(runtime, llama, input_ids):
    """A session is one, whatever model it runs."""
    other_model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with djinn.Runtime(other_model, host_memory_bytes=1 << 20, layers=list(other_model)) as other:
        waited_for = {
            runtime.open(breakpoint=2).start(prefill, llama, input_ids),
            other.open(breakpoint=1).start(other_model, torch.ones(1, 4)),
        }
        while waited_for:
            waited_for.remove(runtime.wait_any(waited_for, timeout=30))


def test_a_program_waits_for_no_other(runtime, llama, input_ids):
    """The others need the device that the program holds: an error, where it would be a deadlock."""
    other = runtime.open()

    def program():
        other.start(prefill, llama, input_ids)
        with pytest.raises(djinn.IllegalMove, match="cannot wait for session"):
            runtime.wait_any([other])
        with pytest.raises(djinn.IllegalMove, match="cannot wait for session"):
            asyncio.run(other.wait_async())

    runtime.open().start(program).result(30)
    assert runtime.wait_any(timeout=30) is other


def test_a_session_whose_thread_died_has_stopped(runtime, monkeypatch):
    """Nobody waits for ever for a thread that cannot report its end."""
    monkeypatch.setattr("djinn.watch.LOOK_SECONDS", 0.02)
    blocked = Blocked(runtime)
    program = blocked.session._program
    program.callbacks = replace(program.callbacks, ended=lambda value, error: None)  # its report is lost
    blocked.go.set()
    assert runtime.wait_any(timeout=30) is blocked.session
    assert blocked.session.phase is djinn.Phase.FAILED


@pytest.mark.parametrize("again", [0, 1, 3])
def test_waiting_for_any_can_be_interrupted(runtime, llama, again):
    """At any line; the sessions are as they were, and the next call finds the stop or the session itself."""
    line, raised = 0, 1
    while raised:
        line += 1
        session = runtime.open().start(time.sleep, 0.003)
        with Interrupt(line, again) as interrupt:
            runtime.wait_any(timeout=10)
        raised = interrupt.raised
        with suppress(djinn.IllegalMove):  # the interrupted call was told of it
            assert runtime.wait_any(timeout=10) is session
        assert session.wait(10) is djinn.Phase.FINISHED
        session.close(10)
    assert line > 10


def test_an_event_loop_goes_on_while_a_session_computes(runtime, llama, input_ids):
    """Several tasks wait for sessions of their own; the loop runs other work meanwhile, and no thread is started."""
    want = prefill(llama, input_ids)
    ticks, threads = [], []

    async def tick():
        while True:
            ticks.append(1)
            threads.append(len(set(threading.enumerate()) - before))
            await asyncio.sleep(0.001)

    async def pause_and_resume(layer):
        session = runtime.open(breakpoint=layer).start(prefill, llama, input_ids)
        assert await session.wait_async(30) is djinn.Phase.PAUSED
        session.io_wait()
        session.resume()
        assert await session.wait_async() is djinn.Phase.FINISHED
        return session.result()

    async def main():
        ticking = asyncio.create_task(tick())
        results = await asyncio.gather(*(pause_and_resume(layer) for layer in (2, 3, 4)))
        ticking.cancel()
        return results

    before = set(threading.enumerate())
    assert all(torch.equal(result, want) for result in asyncio.run(main()))
    assert len(ticks) > 3
    assert max(threads) <= 3  # the programs' own


def test_waiting_in_a_loop_ends_at_its_timeout_and_can_be_cancelled(runtime):
    """Either leaves nothing behind in the session's bell."""
    blocked = Blocked(runtime)

    async def main():
        assert await blocked.session.wait_async(0.01) is djinn.Phase.RUNNING
        task = asyncio.create_task(blocked.session.wait_async())
        await asyncio.sleep(0.01)
        assert len(blocked.session._changed._asleep) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(blocked.session.wait_async(), 0.01)

    asyncio.run(main())
    assert not blocked.session._changed._asleep
    blocked.go.set()
    blocked.session.result(30)


def test_a_loop_that_was_closed_disturbs_no_session(runtime):
    """A waiter that never gets to clean up leaves an alarm that rings into nothing."""
    blocked = Blocked(runtime)
    loop = asyncio.new_event_loop()
    waiting = blocked.session.wait_async()
    task = loop.create_task(waiting)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert len(blocked.session._changed._asleep) == 1
    loop.close()
    blocked.go.set()
    assert blocked.session.result(30) is True
    with suppress(RuntimeError):
        waiting.close()
    task._log_destroy_pending = False


def test_a_session_at_rest_is_awaited_at_once(runtime, llama, input_ids):
    """One that was never started, one that is parked, and one that is closed."""
    created, stopped = runtime.open(), parked(runtime, 2, prefill, llama, input_ids)
    assert asyncio.run(created.wait_async()) is djinn.Phase.CREATED
    assert asyncio.run(stopped.wait_async()) is djinn.Phase.PAUSED
    stopped.close(30)
    assert asyncio.run(stopped.wait_async()) is djinn.Phase.CLOSED
