"""The growth of the arena, by itself and under a runtime whose sessions need more than is ready."""

import gc
import threading
import time

import pytest
import torch
from tests.djinn.driver import PIECE, FakeDriver
from tests.interrupt import Interrupt
from tests.programs import without_climb
from torch import nn

import djinn
from djinn.memory.growth import Growth
from djinn.memory.host_memory import HostArena

X = torch.linspace(-1, 1, 4096).reshape(512, 8)


@pytest.fixture
def driver(monkeypatch):
    driver = FakeDriver(monkeypatch)
    yield driver
    driver.allow(1000)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(8)]).eval()


def program(model):
    """At layer 8 its state is more than one piece, and less than three."""
    x, kept = X * 1, []
    for layer in model:
        x = layer(x * 1)
        kept.append(x * 2)
    return torch.stack([x, *kept])


@pytest.fixture
def runtime(driver, model, monkeypatch):
    """A runtime whose arena has one piece of four."""
    without_climb(monkeypatch)
    monkeypatch.setattr(
        "djinn.runtime._arena", lambda nbytes, *, pinned, warn: HostArena(nbytes, pinned=True, warn=warn)
    )
    with djinn.Runtime(model, host_memory_bytes=4 * PIECE, layers=list(model)) as runtime:
        yield runtime
        driver.allow(1000)
        for session in runtime._sessions.values():
            session.close(10)
        runtime.arena.check_integrity()
        assert runtime.arena.reserved_bytes == 0
    assert driver.pinned == []


def parked(runtime, model):
    session = runtime.open(breakpoint=8).start(program, model)
    assert session.wait(10) is djinn.Phase.PAUSED
    assert PIECE < sum(session.storage_sizes) < 3 * PIECE
    return session


def aside(call):
    """Make ``call`` on another thread; the thread, and the list of what it raises."""
    raised = []

    def run():
        try:
            call()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def waits_for_a_piece(runtime):
    """Wait until some thread waits for the arena."""
    deadline = time.monotonic() + 10
    while not runtime.arena._growth._bell._asleep and time.monotonic() < deadline:
        time.sleep(0.001)
    return bool(runtime.arena._growth._bell._asleep)


def test_a_pause_that_comes_too_early_waits_for_a_piece(runtime, driver, model):
    """It holds nobody up meanwhile, ends when there is room, and the result is bit-equal."""
    session = parked(runtime, model)
    thread, raised = aside(session.io_wait)
    assert waits_for_a_piece(runtime)
    assert session.phase is djinn.Phase.PAUSED
    other = parked(runtime, model)
    other.resume()
    assert torch.equal(other.result(10), program(model))
    driver.allow(3)
    thread.join(10)
    assert (raised, session.phase, session.device_bytes) == ([], djinn.Phase.IO_WAIT, 0)
    session.resume()
    assert torch.equal(session.result(10), program(model))


def test_reading_idle_state_waits_for_a_piece(runtime, driver, model):
    """The state of a session that may be evicted goes to the host first, when it has grown."""
    session = parked(runtime, model)
    session.io_wait(force=False)
    thread, raised = aside(lambda: session.state["hidden_states"].mul_(2))
    assert waits_for_a_piece(runtime)
    driver.allow(3)
    thread.join(10)
    assert raised == []
    session.resume()
    session.result(10)


def test_an_eviction_that_comes_too_early_waits_for_a_piece(runtime, driver, model):
    """Whoever needs the room gets it; a session that is not there to be evicted is not waited for."""
    assert runtime.make_room(1) == 0
    session = parked(runtime, model)
    session.io_wait(force=False)
    freed = []
    thread, raised = aside(lambda: freed.append(runtime.make_room(1 << 30)))
    assert waits_for_a_piece(runtime)
    driver.allow(3)
    thread.join(10)
    assert (raised, freed) == ([], [session.host_bytes])
    session.resume()
    assert torch.equal(session.result(10), program(model))


def test_what_never_fits_is_refused_at_once(driver, model, monkeypatch):
    """Though the arena still grows."""
    monkeypatch.setattr(
        "djinn.runtime._arena", lambda nbytes, *, pinned, warn: HostArena(nbytes, pinned=True, warn=warn)
    )
    with djinn.Runtime(model, host_memory_bytes=PIECE + 512, layers=list(model)) as runtime:
        session = parked(runtime, model)
        with pytest.raises(djinn.HostMemoryFull):
            session.io_wait()
        session.resume()
        assert torch.equal(session.result(10), program(model))
        driver.allow(1)


def test_closing_ends_a_pause_that_waits(runtime, driver, model):
    """The session is closed, the runtime too, and whoever waited is told."""
    session = parked(runtime, model)
    thread, raised = aside(session.io_wait)
    assert waits_for_a_piece(runtime)
    closing, failed = aside(runtime.close)
    growth = runtime.arena._growth
    assert growth._bell.wait(lambda: growth._stopped, 10)
    driver.allow(1)  # the piece under way
    closing.join(10)
    thread.join(10)
    assert failed == []
    assert isinstance(raised[0], djinn.IllegalMove)
    assert driver.pinned == []


def test_an_interrupted_wait_leaves_the_session_paused(runtime, driver, model):
    """At any line of the wait; the next IO_WAIT has room, and the result is bit-equal."""
    line, raised = 0, 1
    while raised:
        line += 1
        session = parked(runtime, model)
        opened = threading.Timer(0.002, driver.allow, [1])  # until it has grown; then nothing waits any more
        opened.start()
        with Interrupt(line) as interrupt:
            session.io_wait()
        raised = interrupt.raised
        driver.allow(4)
        if session.phase is djinn.Phase.PAUSED:
            session.io_wait()
        session.resume()
        assert torch.equal(session.result(10), program(model))
        session.close(10)
        runtime.arena.check_integrity()
        opened.join()
    assert line > 20


def test_status_says_how_much_is_ready(runtime, driver):
    """Only while the arena grows."""
    table = runtime.status()
    assert (table.arena_ready_bytes, table.arena_bytes) == (PIECE, 4 * PIECE)
    assert str(table).endswith("host memory: - of 0.2 MiB in use, 0.1 MiB ready so far")
    driver.allow(3)
    assert runtime.arena.wait_grown(10)
    assert str(runtime.status()).endswith("host memory: - of 0.2 MiB in use")


def test_making_a_runtime_can_be_interrupted(driver, model, monkeypatch):
    """At any line; what was pinned is given back, and no thread goes on."""
    monkeypatch.setattr(
        "djinn.runtime._arena", lambda nbytes, *, pinned, warn: HostArena(nbytes, pinned=True, warn=warn)
    )
    driver.allow(10_000)
    line, raised = 0, 1
    while raised:
        line += 1
        runtime = None
        with Interrupt(line) as interrupt:
            runtime = djinn.Runtime(model, host_memory_bytes=4 * PIECE, layers=list(model))
        raised = interrupt.raised
        if runtime is not None:
            runtime.close(10)
        runtime = None
        if driver.pinned:  # a collection takes long
            gc.collect()
        for thread in threading.enumerate():
            if thread.name == "djinn-arena":
                thread.join(10)
        assert driver.pinned == []
    assert line > 100


def test_a_stop_waits_for_the_piece_under_way(driver):
    """And no further one is begun; stopping twice is stopping."""
    done = []
    go_on, begun = threading.Event(), threading.Event()

    def prepare(offset, nbytes):
        if offset:
            begun.set()
            assert go_on.wait(10)
        done.append(offset)

    growth = Growth(4 * PIECE, prepare, print)
    growth.start()
    assert begun.wait(10)
    stopping, _ = aside(growth.stop)
    assert not growth.wait_for_more(PIECE, 0) or not growth.growing
    go_on.set()
    stopping.join(10)
    growth.stop()
    assert (done, growth.ready_bytes, growth.limit) == ([0, PIECE], 2 * PIECE, 4 * PIECE)


def test_a_thread_that_is_refused_leaves_nothing(driver, monkeypatch):
    """The arena's maker is told; nothing is pinned."""

    def refuse(*args):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            HostArena(4 * PIECE, pinned=True)
    gc.collect()
    assert driver.pinned == []


def test_the_interpreter_ends_while_the_arena_grows(interpreters):
    """With its own exit code, after the piece under way: a thousand more would take a minute."""
    script = """
        import sys, time
        from djinn.memory import growth
        growth.FIRST_BYTES = growth.PIECE_BYTES = 1
        growing = growth.Growth(1000, lambda offset, nbytes: time.sleep(0.06), print)
        growing.start()
        sys.exit(7)
    """
    ended = interpreters.run(script)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "", "")
