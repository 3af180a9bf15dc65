"""How sessions, runtimes and the interpreter end: cancelled while parked, parking or swapped out, in bounded time."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from tests.programs import greedy, prefill

import djinn
from djinn import transfer
from djinn.discovery import Discovery


@pytest.fixture
def runtime(llama):
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime
        for session in runtime._sessions.values():
            session.close(30)
        assert runtime.arena.reserved_bytes == 0
        runtime.arena.check_integrity()


def parked(runtime, *call, layer=3, visit=1):
    session = runtime.open(breakpoint=layer, visit=visit).start(*call)
    assert session.wait(30) is djinn.Phase.PAUSED
    return session


class Touching:
    """A program that looks at its own state when it is unwound."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, tokens):
        embedded = model.model.embed_tokens(tokens) * 1
        try:
            return model(inputs_embeds=embedded, use_cache=True).logits
        finally:
            self.seen.append(embedded.clone())


@pytest.mark.parametrize("how", ["cancel", "close", "close of the runtime"])
@pytest.mark.parametrize("swapped", ["paused", "idle", "swapped out", "edited"])
def test_a_cancelled_program_finds_its_state(llama, input_ids, swapped, how):
    """Its ``finally`` blocks may touch what was swapped out: it is back by then."""
    runtime = djinn.Runtime(llama, host_memory_bytes=32 << 20)
    program = Touching()
    session = parked(runtime, program, llama, input_ids)
    if swapped != "paused":
        session.io_wait(force=swapped != "idle")
    if swapped == "edited":
        session.state["hidden_states"].mul_(2)
    {"cancel": session.cancel, "close": session.close, "close of the runtime": runtime.close}[how]()
    if how == "cancel":
        with pytest.raises(djinn.SessionCancelled):
            session.result(30)
    runtime.close()
    assert torch.equal(program.seen[0], llama.model.embed_tokens(input_ids))


def test_without_room_a_cancelled_program_stays_parked(runtime, llama, input_ids, monkeypatch):
    """close() raises TimeoutError that names the bytes, others compute meanwhile, and it ends when there is room."""
    program = Touching()
    session = parked(runtime, program, llama, input_ids)
    session.io_wait()
    waiting = session.host_bytes
    with monkeypatch.context() as patched:

        def refuse(batches):
            raise torch.OutOfMemoryError("no room")

        patched.setattr(transfer, "_allocate", refuse)
        with pytest.raises(TimeoutError, match=f"no room yet for {waiting} bytes"):
            session.close(0.1)
        assert session.phase is djinn.Phase.IO_WAIT
        assert session.host_bytes == waiting
        with pytest.raises(TimeoutError):
            session.result(0.05)
        for signal in (session.resume, session.io_wait, lambda: session.state):
            with pytest.raises(djinn.IllegalMove, match="was cancelled"):
                signal()
        assert torch.equal(runtime.open().start(prefill, llama, input_ids).result(30), prefill(llama, input_ids))
        assert not program.seen
    session.close(30)
    assert torch.equal(program.seen[0], llama.model.embed_tokens(input_ids))


def test_room_for_a_cancelled_program_is_taken_from_others(runtime, llama, input_ids, monkeypatch):
    """Sessions in IO_WAIT leave the device for it, as for a RESUME."""
    idle = parked(runtime, greedy, llama, input_ids, 2)
    idle.io_wait(force=False)
    program = Touching()
    session = parked(runtime, program, llama, input_ids)
    session.io_wait()
    allocate = transfer._allocate

    def refuse(batches):
        if idle.device_bytes:
            raise torch.OutOfMemoryError("no room")
        allocate(batches)

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_allocate", refuse)
        session.close(30)
    assert torch.equal(program.seen[0], llama.model.embed_tokens(input_ids))
    assert idle.device_bytes == 0
    idle.resume()
    assert all(map(torch.equal, idle.result(30), greedy(llama, input_ids, 2)))


@pytest.fixture
def slow_parking(monkeypatch):
    """A session is looking for its state while ``parking`` is set and until ``go`` is."""
    parking, go = threading.Event(), threading.Event()
    state_at = Discovery.state_at

    def slow(*args, **kwargs):
        state = state_at(*args, **kwargs)
        parking.set()
        go.wait(10)
        return state

    monkeypatch.setattr(Discovery, "state_at", slow)
    return parking, go


@pytest.mark.parametrize("how", ["cancel", "close", "close of the runtime"])
def test_a_session_that_parks_is_ended(llama, input_ids, slow_parking, how):
    """What is asked between the last layer and the pause is not lost."""
    parking, go = slow_parking
    runtime = djinn.Runtime(llama, host_memory_bytes=32 << 20)
    session = runtime.open(breakpoint=2).start(greedy, llama, input_ids, 3)
    assert parking.wait(10)
    threading.Timer(0.05, go.set).start()
    if how == "cancel":
        session.cancel()
        with pytest.raises(djinn.SessionCancelled):
            session.result(10)
    elif how == "close":
        session.close(10)
    runtime.close(10)
    assert session.phase is djinn.Phase.CLOSED


def test_a_session_is_closed_at_any_moment(runtime, llama, input_ids):
    """Closed at random moments around its pause, a session always ends within its timeout."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        for index in range(40):
            session = runtime.open(breakpoint=2).start(greedy, llama, input_ids, 3)
            time.sleep(0.0005 * (index % 20))
            session.close(timeout=5)
    finally:
        sys.setswitchinterval(interval)


def test_pause_asked_twice_parks_once(runtime, llama, input_ids, slow_parking):
    """Also if the second comes while the first is on its way."""
    parking, go = slow_parking
    session = runtime.open(breakpoint=2).start(greedy, llama, input_ids, 3)
    assert parking.wait(10)
    session.pause()
    session.pause()
    go.set()
    assert session.wait(30) is djinn.Phase.PAUSED
    session.resume()
    assert all(map(torch.equal, session.result(30), greedy(llama, input_ids, 3)))


def test_result_and_close_at_once(runtime, monkeypatch):
    """Whoever waits for the result gets the value, or is told that the session is closed; never None."""
    for delay in (0, 0.0001, 0.001, 0.01):
        session = runtime.open().start(lambda: 42)
        found = []

        def ask(session=session, found=found):
            try:
                found.append(session.result(10))
            except djinn.SessionCancelled:
                found.append("closed")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(delay)
        session.close()
        for thread in threads:
            thread.join(10)
        assert len(found) == 4
        assert set(found) <= {42, "closed"}


def test_a_program_does_not_wait_for_what_waits_for_it(runtime, llama, input_ids):
    """Itself, or a session that needs the device which it holds: refused instead of hanging for ever."""
    other = parked(runtime, prefill, llama, input_ids)
    calls = [
        lambda own: own.wait(),
        lambda own: own.result(),
        lambda own: own.close(),
        lambda own: runtime.open().start(prefill, llama, input_ids).result(),
        lambda own: other.close(),
    ]
    for call in calls:
        session = runtime.open()
        with pytest.raises(djinn.IllegalMove, match="cannot"):
            session.start(call, session).result(10)
        session.close(10)


def test_a_program_may_signal(runtime, llama, input_ids):
    """Its own pause, and the signals of another session that do not wait for it."""
    other = parked(runtime, prefill, llama, input_ids)
    box = []

    def program():
        other.io_wait()
        box[0].pause()
        return prefill(llama, input_ids)

    session = runtime.open()
    box.append(session)
    assert session.start(program).wait(30) is djinn.Phase.PAUSED
    assert other.host_bytes > 0
    for one in (session, other):
        one.resume()
        assert torch.equal(one.result(30), prefill(llama, input_ids))


class Blocked:
    """A program that waits for something else than the runtime."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        self.go.wait(30)

    def start(self, runtime):
        session = runtime.open().start(self)
        assert self.begun.wait(30)
        return session


def test_timeouts_bound_the_whole_call(runtime):
    """Also behind another thread that waits for the same."""
    program = Blocked()
    session = program.start(runtime)
    closer = threading.Thread(target=session.close)
    closer.start()
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="session 1 is not closed after 0.1 seconds"):
        session.close(timeout=0.1)
    with pytest.raises(TimeoutError):
        session.result(0.1)
    session.cancel()
    assert time.monotonic() - start < 5
    program.go.set()
    closer.join(10)
    assert session.phase is djinn.Phase.CLOSED


def test_an_error_comes_through_a_program_that_blocks(llama, monkeypatch):
    """Leaving a ``with`` by an error does not wait for ever for a program that comes to no layer."""
    monkeypatch.setattr("djinn.runtime._EXIT_SECONDS", 0.2)
    program = Blocked()
    runtime = djinn.Runtime(llama, host_memory_bytes=1 << 20)

    def fail():
        with runtime:
            program.start(runtime)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert "next layer" in caught.value.__notes__[0]
    program.go.set()
    runtime.close(10)


def test_a_closed_runtime_opens_nothing(llama):
    """It says that it is closed; so does a runtime in a fork, which has none of its threads."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        child = os.fork()
        if child == 0:
            try:
                runtime.open()
            except djinn.DjinnError as error:
                os._exit("fork" in str(error))
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    with pytest.raises(djinn.IllegalMove, match="closed"):
        runtime.open()


@pytest.mark.parametrize(("last", "code"), [("", 0), ("raise ValueError('my own mistake')", 1), ("sys.exit(3)", 3)])
def test_the_interpreter_ends_while_a_session_computes(last, code):
    """With its own exit code, and no other word than the error's."""
    script = f"""
        import sys, time, torch, djinn
        from torch import nn
        model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
        runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        def program():
            x = torch.ones(64, 256)
            while True:
                x = model(x)
        with torch.no_grad():
            runtime.open().start(program)
            paused = runtime.open(breakpoint=1).start(program)
        time.sleep(0.1)
        {last}
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ("my own mistake" in ended.stderr) if code == 1 else not ended.stderr
