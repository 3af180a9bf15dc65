"""How sessions, runtimes and the interpreter end: cancelled while parked, parking or swapped out, in bounded time."""

import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest
import torch
from tests.programs import greedy, parked, prefill

import djinn
from djinn.memory import transfer
from djinn.memory.lanes import Lane
from djinn.state.discovery import StateScanner

pytestmark = pytest.mark.usefixtures("without_climb")


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
    session = parked(runtime, 3, program, llama, input_ids)
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
    session = parked(runtime, 3, program, llama, input_ids)
    session.io_wait()
    waiting = session.host_bytes
    with monkeypatch.context() as patched:

        def refuse(entries):
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
    idle = parked(runtime, 3, greedy, llama, input_ids, 2)
    idle.io_wait(force=False)
    program = Touching()
    session = parked(runtime, 3, program, llama, input_ids)
    session.io_wait()
    allocate = transfer._allocate

    def refuse(entries):
        if idle.device_bytes:
            raise torch.OutOfMemoryError("no room")
        allocate(entries)

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
    state_at = StateScanner.state_at

    def slow(*args, **kwargs):
        state = state_at(*args, **kwargs)
        parking.set()
        go.wait(10)
        return state

    monkeypatch.setattr(StateScanner, "state_at", slow)
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
    other = parked(runtime, 3, prefill, llama, input_ids)
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
    other = parked(runtime, 3, prefill, llama, input_ids)
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


def test_a_parked_session_that_is_not_closed_in_time_waits_for_nobody(runtime, llama, input_ids):
    """Its program is being unwound, and nothing has to be ended for it."""
    session = parked(runtime, 2, greedy, llama, input_ids, 2)
    with pytest.raises(TimeoutError, match=r"after 0 seconds: its program is still being unwound: close\(\) it again"):
        session.close(timeout=0)
    session.close(30)


@pytest.mark.parametrize("end", ["cancel", "close"])
@pytest.mark.parametrize("swapped", ["paused", "idle", "swapped out"])
def test_a_session_that_waits_for_its_turn_behind_a_resume_is_ended(runtime, llama, input_ids, swapped, end):
    """Its program sees the cancellation and no error of the runtime, though ``except Exception`` is around it."""
    computes, enough = threading.Event(), threading.Event()

    def careful(model, tokens):
        try:
            return prefill(model, tokens)
        except Exception as error:  # noqa: BLE001 - as users write it
            return f"went on behind {error}"

    session = parked(runtime, 3, careful, llama, input_ids)
    if swapped != "paused":
        session.io_wait(force=swapped == "swapped out")
    other = runtime.open().start(lambda model: (computes.set(), enough.wait(20)), llama)
    assert computes.wait(20)
    session.resume()
    threading.Timer(0.1, enough.set).start()
    getattr(session, end)()
    with pytest.raises(djinn.SessionCancelled):
        session.result(30)
    other.result(30)


def test_a_session_that_parks_and_goes_on_while_its_result_is_awaited(runtime, llama, input_ids, monkeypatch):
    """It has no result yet, and the error does not speak of a timeout that nobody set."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    told, program = session._told_phase, Blocked()

    def told_and_resumed():
        session.resume()
        return told()

    with monkeypatch.context() as patch:
        patch.setattr(session, "_told_phase", told_and_resumed)
        patch.setattr(type(session), "_moves", property(lambda session: session.phase is djinn.Phase.RUNNING))
        patch.setattr(type(session._program), "_is_back", lambda self: program.go.wait(0.1))
        with pytest.raises(djinn.IllegalMove, match=r"goes on again: call result\(\) again"):
            session.result()
    program.go.set()
    assert session.result(30) is not None


def test_a_runtime_that_could_not_close_says_so(llama):
    """It is not called closed, for it still has the model; the message names the sessions to end, and its bounds."""
    runtime, program = djinn.Runtime(llama, host_memory_bytes=1 << 20), Blocked()
    session = program.start(runtime)
    with pytest.raises(TimeoutError, match=r"session 1 is not closed after 0\.1 seconds"):
        runtime.close(timeout=0.1 + 1e-9)
    assert repr(session) == "<Session 1: running, cancelled>"
    assert repr(runtime) == "<Runtime of LlamaForCausalLM: being closed, 1 session has not ended>"
    with pytest.raises(djinn.IllegalMove, match=r"being closed, and 1 session has not ended: close\(\) it again"):
        runtime.open()
    with pytest.raises(djinn.DjinnError, match="belongs to another runtime already: close that one first"):
        djinn.Runtime(llama, host_memory_bytes=1 << 20)
    program.go.set()
    runtime.close(30)
    assert repr(runtime) == "<Runtime of LlamaForCausalLM: closed>"
    djinn.Runtime(llama, host_memory_bytes=1 << 20).close()


def test_a_timeout_bounds_the_close_of_a_runtime(llama, input_ids):
    """Also while another thread moves a session."""
    with djinn.Runtime(llama, host_memory_bytes=64 << 20) as runtime:
        session = runtime.open(breakpoint=1).start(prefill, llama, input_ids)
        assert session.wait(30) is djinn.Phase.PAUSED
        go, begun = threading.Event(), threading.Event()

        def move():
            with session._lock:
                begun.set()
                go.wait(5)

        mover = threading.Thread(target=move)
        mover.start()
        assert begun.wait(10)
        with pytest.raises(TimeoutError, match="session 1 is not closed"):
            runtime.close(0.1)
        assert mover.is_alive()
        go.set()
        mover.join(10)


def test_an_error_comes_through_a_program_that_blocks(llama, monkeypatch):
    """Leaving a ``with`` by an error does not wait for ever for a program that comes to no layer."""
    monkeypatch.setattr("djinn.blocks.EXIT_SECONDS", 0.2)
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
def test_the_interpreter_ends_while_a_session_computes(interpreters, last, code):
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
    ended = interpreters.run(script)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ("my own mistake" in ended.stderr) if code == 1 else not ended.stderr


@pytest.mark.parametrize(
    "program",
    ["while True: a = (a @ a).clamp(-1, 1)", "while True: (a.requires_grad_() ** 2).sum().backward()"],
    ids=["loop", "autograd"],
)
def test_the_interpreter_ends_while_a_program_comes_to_no_layer(interpreters, program):
    """It is interrupted wherever it is, and the exit code is the script's."""
    script = f"""
        import sys, time, torch, djinn
        from torch import nn
        djinn.runtime.EXIT_SECONDS = 0.5
        model = nn.Sequential(nn.Linear(8, 8))
        runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        def program():
            a = torch.randn(64, 64)
            {program}
        runtime.open().start(program)
        time.sleep(0.2)
        sys.exit(5)
    """
    ended = interpreters.run(script)
    assert (ended.returncode, ended.stderr) == (5, "")


def test_the_interpreter_ends_while_a_session_waits_for_room(interpreters):
    """A cancelled program that the device has no room for does not disturb the end."""
    script = """
        import sys, time, torch, djinn
        from torch import nn
        from djinn.memory import transfer
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        with torch.no_grad():
            session = runtime.open(breakpoint=1).start(lambda: model(torch.ones(4, 8) * 1))
        session.wait(30)
        session.io_wait()
        def refuse(entries):
            raise torch.OutOfMemoryError("no room")
        transfer._allocate = refuse
        session.cancel()
        sys.exit(5)
    """
    ended = interpreters.run(script)
    assert (ended.returncode, ended.stderr) == (5, "")


def test_an_exit_handler_of_the_user_s_may_end_a_session(interpreters):
    """One that was registered before the runtime runs after the runtime's own, and still resumes."""
    script = """
        import atexit, torch
        box = {}
        @atexit.register
        def bye():
            box["session"].resume()
            print(box["session"].result(30).sum().item() != 0)
            box["session"].close(30)
        import djinn
        from torch import nn
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        with torch.no_grad():
            session = runtime.open(breakpoint=1).start(lambda: model(torch.ones(4, 8) * 1))
        box["session"] = session
        session.wait(30)
        session.io_wait()
    """
    ended = interpreters.run(script)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "True", "")


def test_a_fork_leaves_its_block_at_once(llama, input_ids):
    """With its own exit code: there is nothing in it to close."""
    start = time.monotonic()
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        parked(runtime, 3, prefill, llama, input_ids)
        child = os.fork()
        if child == 0:
            code = 2
            try:
                with runtime:
                    raise SystemExit(3)
            except SystemExit as end:
                code = end.code
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert time.monotonic() - start < 9


def busy(runtime, seconds):
    """Keep the thread that serves signals busy."""
    thread = threading.Thread(target=lambda: runtime._hands.do(lambda: time.sleep(seconds)))
    thread.start()
    time.sleep(0.05)
    return thread


def test_a_handler_may_look_while_a_signal_is_served(runtime, llama, input_ids):
    """A signal's handler that reads the status does not call off what it has interrupted."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *args: seen.append((runtime.status()[0].phase, session.phase)))
    thread = busy(runtime, 0.3)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        session.io_wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        thread.join(10)
    assert seen == [(djinn.Phase.PAUSED,) * 2]
    assert session.phase is djinn.Phase.IO_WAIT
    assert session.host_bytes > 0


def test_a_handler_cannot_signal_in_the_middle_of_a_resume(runtime, llama, input_ids, monkeypatch):
    """It is refused instead of waiting for itself; the resume goes on."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    bring = Lane.bring
    refused = []

    def handler(*args):
        try:
            session.cancel()
        except djinn.IllegalMove as error:
            refused.append(error)

    def slow(*args, **kwargs):
        if not refused:
            signal.raise_signal(signal.SIGALRM)
        bring(*args, **kwargs)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Lane, "bring", slow)
            session.resume()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert refused
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_a_finaliser_may_close_its_session(runtime, llama, input_ids, monkeypatch):
    """Wherever a garbage collection comes, on whichever thread: nothing waits for itself."""

    class Agent:
        def __init__(self, session):
            self.session, self.me = session, self

        def __del__(self):
            with suppress(djinn.IllegalMove):
                self.session.close(5)

    make = djinn.memory.host_memory.Extent.__init__

    def collecting(extent, *args):
        gc.collect()
        make(extent, *args)

    monkeypatch.setattr(djinn.memory.host_memory.Extent, "__init__", collecting)
    other = parked(runtime, 3, prefill, llama, input_ids)
    Agent(other)
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_a_result_is_never_missed(runtime):
    """Whoever polls gets the value, whenever the program ends."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            session = runtime.open().start(lambda: 42)
            value = None
            while value is None:
                with suppress(TimeoutError):
                    value = session.result(0)
            assert value == 42
            session.close()
    finally:
        sys.setswitchinterval(interval)


def test_a_session_that_is_being_closed_cannot_start(runtime, llama, input_ids, monkeypatch):
    """Whichever comes first: it runs and is cancelled, or never begins."""
    session = runtime.open(breakpoint=2)
    wait = djinn.Session._wait

    def start_meanwhile(self, *args):
        waited = wait(self, *args)
        with pytest.raises(djinn.IllegalMove, match="started once"):
            self.start(greedy, llama, input_ids, 2)
        return waited

    with monkeypatch.context() as patched:
        patched.setattr(djinn.Session, "_wait", start_meanwhile)
        session.close(10)
    assert session.phase is djinn.Phase.CLOSED


def test_a_turn_that_cannot_be_taken_is_free(runtime, llama, input_ids, monkeypatch):
    """A program whose random state cannot be put up fails by itself; the others compute."""
    read = djinn.program.generators.TorchGenerator.read
    failed = []

    def fail(self):
        if threading.current_thread().name.startswith("djinn-") and not failed:
            failed.append(True)
            raise MemoryError
        return read(self)

    monkeypatch.setattr(djinn.program.generators.TorchGenerator, "read", fail)
    with pytest.raises(MemoryError):
        runtime.open().start(prefill, llama, input_ids).result(30)
    assert torch.equal(runtime.open().start(prefill, llama, input_ids).result(30), prefill(llama, input_ids))


def test_host_memory_that_cannot_be_given_back_at_once(runtime, llama, input_ids, monkeypatch):
    """It is tried again, and nobody waits for ever."""
    release = djinn.memory.host_memory.HostArena.release
    failed = []

    def fail(arena, extents):
        if not failed:
            failed.append(True)
            raise MemoryError
        release(arena, extents)

    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    monkeypatch.setattr(djinn.memory.host_memory.HostArena, "release", fail)
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))
    session.close(10)
    assert failed
    assert runtime.arena.reserved_bytes == 0


def test_a_session_opened_while_its_runtime_closes_is_refused(llama, monkeypatch):
    """And the runtime can be closed again: nothing is left that nobody can end."""
    runtime = djinn.Runtime(llama, host_memory_bytes=1 << 20)
    make = djinn.runtime.Session

    def make_late(*args, **kwargs):
        session = make(*args, **kwargs)
        runtime.close(10)
        return session

    monkeypatch.setattr(djinn.runtime, "Session", make_late)
    with pytest.raises(djinn.IllegalMove, match="closed"):
        runtime.open(breakpoint=2)
    runtime.close(10)
    assert not any("forward" in vars(module) for module in llama.modules())
