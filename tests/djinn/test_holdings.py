"""A runtime that is lost, or was never whole, gives back the model, its threads and its memory."""

import gc
import threading
import time
import weakref

import pytest
import torch
from tests.interrupt import Interrupt
from torch import nn

import djinn

pytestmark = pytest.mark.usefixtures("without_climb", "_collections_are_short")


@pytest.fixture(scope="module")
def _collections_are_short():
    """The collector looks at what is made from here on, and not each time at all of torch and transformers."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()


@pytest.fixture(autouse=True)
def _as_before(model):
    """Whatever a test does, it ends with the threads and the modules of before."""
    threads, attributes = set(threading.enumerate()), [dict(vars(module)) for module in model.modules()]
    yield
    until = time.monotonic() + 10
    while set(threading.enumerate()) - threads and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert set(threading.enumerate()) <= threads
    assert [set(vars(module)) for module in model.modules()] == [set(before) for before in attributes]
    runtime_of(model).close()


INPUT = torch.linspace(-1, 1, 32).reshape(4, 8)


def runtime_of(model):
    return djinn.Runtime(model, host_memory_bytes=1 << 20, layers=model)


class Program:
    """A program that looks at its own state when it is unwound; it must know no session, which it would keep alive."""

    def __init__(self):
        self.seen = []

    def __call__(self, model):
        x = INPUT * 2
        try:
            return model(x)
        finally:
            self.seen.append(x.clone())


def parked(runtime, model, program, how):
    session = runtime.open(breakpoint=1).start(program, model)
    assert session.wait(10) is djinn.Phase.PAUSED
    if how != "paused":
        session.io_wait(force=how == "swapped out")
    return session


def until(happened):
    deadline = time.monotonic() + 10
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.005)
    return happened()


def test_a_lost_runtime(model):
    """Without sessions it is gone at once, by its last reference."""
    runtime = runtime_of(model)
    arena = weakref.ref(runtime.arena)
    del runtime
    assert not any("forward" in vars(module) for module in model.modules())
    assert until(lambda: arena() is None)


def test_a_lost_runtime_whose_sessions_have_ended(model):
    """Sessions that never began, have ended or failed, or are closed, keep nothing."""
    runtime = runtime_of(model)
    arena = weakref.ref(runtime.arena)
    runtime.open()
    runtime.open().start(model, INPUT).result(10)
    runtime.open().start(lambda: 1 / 0).wait(10)
    again = parked(runtime, model, Program(), "swapped out")
    again.resume()
    again.wait(10)
    runtime.open().close()
    del runtime, again
    assert until(lambda: gc.collect() >= 0 and arena() is None)  # their threads may not be gone yet


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("how", ["paused", "idle", "swapped out"])
def test_a_lost_runtime_with_parked_sessions(model, how, times):
    """Programs that nobody can resume any more are unwound, and find their state as they left it."""
    runtime = runtime_of(model)
    arena = weakref.ref(runtime.arena)
    programs = [Program() for _ in range(times)]
    sessions = [parked(runtime, model, program, how) for program in programs]
    del runtime, sessions
    # More than once: a thread that has just parked may still be in the session's method, which keeps the session.
    assert until(lambda: gc.collect() >= 0 and all(program.seen for program in programs))
    assert all(torch.equal(program.seen[0], INPUT * 2) for program in programs)
    assert until(lambda: gc.collect() >= 0 and arena() is None)


def test_a_lost_runtime_after_a_second_pause(model):
    """What a RESUME prepared keeps nothing either."""
    program = Program()
    runtime = runtime_of(model)
    session = parked(runtime, model, program, "swapped out")
    session.break_at(2)
    session.resume()
    assert session.wait(10) is djinn.Phase.PAUSED
    session.io_wait()
    del runtime, session
    assert until(lambda: gc.collect() >= 0 and program.seen)


def test_a_session_keeps_its_runtime(model):
    """Whoever has the session, or a tensor of its state, needs no more to resume it."""
    expected = model(INPUT * 2)
    session = parked(runtime_of(model), model, Program(), "swapped out")
    gc.collect()
    assert session.phase is djinn.Phase.IO_WAIT
    session.state["hidden_states"].mul_(1)
    session.resume()
    assert torch.equal(session.result(10), expected)


def test_a_view_of_the_state_keeps_its_session(model):
    """The bytes that a tensor shows are there as long as it is."""
    shown = parked(runtime_of(model), model, Program(), "swapped out").state["hidden_states"]
    gc.collect()
    assert torch.equal(shown.clone(), model[0](INPUT * 2))


def test_a_program_that_computes_is_not_cut_short(model):
    """It goes on until it parks or ends, though nobody will ask for its result."""
    go, ended = threading.Event(), threading.Event()

    def program():
        go.wait(10)
        model(INPUT)
        ended.set()

    runtime_of(model).open().start(program)
    gc.collect()
    go.set()
    assert ended.wait(10)


def test_a_program_that_parks_when_it_is_lost(model):
    """It is unwound as soon as it parks."""
    go, program = threading.Event(), Program()

    def late():
        go.wait(10)
        return program(model)

    runtime_of(model).open(breakpoint=1).start(late)
    gc.collect()
    assert not program.seen
    go.set()
    assert until(lambda: gc.collect() >= 0 and program.seen)
    assert torch.equal(program.seen[0], INPUT * 2)


def test_closed_runtimes_are_lost_quietly(model):
    """A closed runtime has nothing more to give back."""
    with runtime_of(model):
        pass
    gc.collect()


@pytest.mark.parametrize("step", ["put_on", "_arena", "Journal", "TransferEngine", "Hands", "StateScanner"])
def test_a_constructor_that_fails(model, step, monkeypatch):
    """At any of its steps: the error comes through, and the model is free at once."""

    def fail(*args, **kwargs):
        raise ZeroDivisionError(step)

    with monkeypatch.context() as patched:
        where = "djinn.program.forward.Interceptors.put_on" if step == "put_on" else f"djinn.runtime.{step}"
        patched.setattr(where, fail)
        with pytest.raises(ZeroDivisionError, match=step):
            runtime_of(model)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("again", [0, 1, 3])
def test_a_constructor_that_is_interrupted(model, again):
    """At any line, and again as it gives back, and behind the last: nothing is left when the error is gone."""
    line, raised = 0, 1
    while raised:
        line += 1 + again
        runtime = None
        with Interrupt(line, again) as interrupt:
            runtime = runtime_of(model)
        raised = interrupt.raised
        del runtime
        gc.collect(1)
        assert not any("forward" in vars(module) for module in model.modules()), line
    assert line > 50


@pytest.mark.parametrize("step", range(6))
def test_a_close_that_is_interrupted_and_forgotten(model, step):
    """Before any step of giving back: what is left is given back when nobody can reach the runtime any more."""
    runtime = runtime_of(model)
    arena = weakref.ref(runtime.arena)
    ways = iter([KeyboardInterrupt])

    def interrupted():
        for error in ways:
            raise error

    runtime._holdings._steps.insert(-step or len(runtime._holdings._steps), interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.close(10)
    del runtime
    assert until(lambda: gc.collect(1) >= 0 and arena() is None)
