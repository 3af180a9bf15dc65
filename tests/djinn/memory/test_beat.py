"""The beat on a device's link, by itself and under runtimes: there while it is wanted, and nothing is left of it."""

import gc
import os
import threading
import time

import pytest
import torch
from torch import nn

import djinn
from djinn.memory.beat import Attention, Beat, beat_of

pytestmark = pytest.mark.usefixtures("without_climb")
X = torch.linspace(-1, 1, 64).reshape(8, 8)


class Counted:
    """Copies that are counted."""

    def __init__(self):
        self.copies = self.prepared = 0
        self.error = None

    def prepare(self):
        self.prepared += 1
        return self.copy

    def copy(self):
        self.copies += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def beat(counted, monkeypatch):
    """The beat of the runtimes that the test makes; at its end no thread is left."""
    beat = Beat(counted.prepare)
    monkeypatch.setattr("djinn.runtime.beat_of", lambda device: beat)
    yield beat
    assert until(lambda: not of_beats())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()


def of_beats():
    return [thread for thread in threading.enumerate() if thread.name == "djinn-beat"]


def until(happened):
    deadline = time.monotonic() + 10
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.001)
    return happened()


def goes_on(counted, more=3):
    copies = counted.copies
    return until(lambda: counted.copies >= copies + more)


def runtime_of(model, attentive=0.001):
    return djinn.Runtime(model, host_memory_bytes=1 << 20, layers=model, attentive=attentive)


def program(model):
    return model(X * 2)


def parked(runtime, model, *, force=True):
    session = runtime.open(breakpoint=1).start(program, model)
    assert session.wait(10) is djinn.Phase.PAUSED
    session.io_wait(force=force)
    return session


def test_it_goes_on_while_a_session_is_in_host_memory(model, beat, counted):
    """No thread before IO_WAIT, one during it, none after RESUME; the result is that of the plain call."""
    with runtime_of(model) as runtime:
        session = runtime.open(breakpoint=1).start(program, model)
        session.wait(10)
        assert not of_beats()
        session.io_wait()
        assert goes_on(counted)
        assert len(of_beats()) == 1
        session.resume()
        assert until(lambda: not of_beats())
        assert torch.equal(session.result(10), program(model))


def test_it_comes_back_at_every_pause(model, beat, counted):
    """Each IO_WAIT is attended, however soon it follows on a RESUME."""
    with runtime_of(model) as runtime:
        for _ in range(50):
            session = parked(runtime, model)
            assert goes_on(counted, more=1)
            session.resume()
            session.close(10)


def test_state_that_is_swapped_out_later_is_attended(model, beat, counted):
    """By an eviction, and by a look at the state; before that a RESUME needs no link."""
    with runtime_of(model) as runtime:
        evicted, looked_at = (parked(runtime, model, force=False) for _ in range(2))
        assert not of_beats()
        assert runtime.make_room(1 << 30)
        assert evicted.host_bytes
        assert goes_on(counted)
        for session in (evicted, looked_at):
            session.close(10)
        assert until(lambda: not of_beats())
        looked_at = parked(runtime, model, force=False)
        looked_at.state["hidden_states"].sum()
        assert goes_on(counted)


def test_runtimes_share_it(model, beat, counted):
    """One thread for both; it goes on until neither wants it, and the shorter interval counts."""
    other_model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    with runtime_of(model, attentive=1) as slow, runtime_of(other_model) as fast:
        first = parked(slow, model)
        second = parked(fast, other_model)
        assert goes_on(counted)
        assert len(of_beats()) == 1
        first.close(10)
        assert goes_on(counted)
        second.close(10)
        assert until(lambda: not of_beats())


def test_a_longer_interval_is_cut_short_by_who_comes(model, beat, counted):
    """Whoever comes with a shorter interval does not wait for the end of the longer one."""
    other_model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    with runtime_of(model, attentive=1) as slow, runtime_of(other_model) as fast:
        parked(slow, model)
        begun = time.monotonic()
        parked(fast, other_model)
        assert goes_on(counted, more=10)
        assert time.monotonic() - begun < 0.9


@pytest.mark.parametrize("attentive", [0.001, 1.0])
def test_close_leaves_no_thread(model, beat, attentive):
    """Also while a session is parked, and without waiting for the interval to end."""
    runtime = runtime_of(model, attentive)
    parked(runtime, model)
    runtime.close(10)
    assert not beat.running


def test_without_being_asked_for_there_is_none(model, beat):
    """The default: no thread, and no word of it."""
    with runtime_of(model, attentive=None) as runtime:
        parked(runtime, model)
        assert not of_beats()
        assert runtime.attentive is None
        assert "beat" not in f"{runtime} {runtime.status()}"


def test_the_cpu_has_none(model):
    """It is accepted there, and does nothing."""
    assert beat_of(torch.device("cpu")) is None
    with runtime_of(model) as runtime:
        parked(runtime, model)
        assert not of_beats()
        assert runtime.attentive == 0.001
        assert "beat" not in f"{runtime} {runtime.status()}"


def test_status_and_repr_tell_of_it(model, beat, counted):
    """Whether it goes on, or would, and at which interval."""
    with runtime_of(model, attentive=0.0025) as runtime:
        for shown in (repr(runtime), str(runtime.status())):
            assert "a beat every 2.5 ms while sessions are in host memory" in shown
        session = parked(runtime, model)
        assert goes_on(counted)
        assert until(lambda: "a beat every 2.5 ms now" in repr(runtime))
        assert until(lambda: "a beat every 2.5 ms now" in str(runtime.status()))
        session.resume()
        session.result(10)


def test_a_lost_runtime_is_attended_no_more(model, beat, counted):
    """The thread does not keep it alive, and ends with it."""
    runtime = runtime_of(model)
    session = parked(runtime, model)
    assert goes_on(counted)
    del runtime, session
    gc.collect()
    assert until(lambda: not of_beats())
    assert until(lambda: not any("forward" in vars(module) for module in model.modules()))


@pytest.mark.parametrize("where", ["prepare", "copy"])
def test_an_error_of_the_driver_ends_it(model, beat, counted, where, monkeypatch):
    """Sessions do without it, and status() says why it is not there."""

    def fail():
        raise RuntimeError("CUDA error 700")

    monkeypatch.setattr(beat, "_prepare", fail if where == "prepare" else lambda: fail)
    with runtime_of(model) as runtime:
        session = parked(runtime, model)
        assert until(lambda: not of_beats())
        assert until(lambda: "no beat: CUDA error 700" in str(runtime.status()))
        session.resume()
        assert torch.equal(session.result(10), program(model))
        parked(runtime, model)
        assert not of_beats()


def test_a_thread_that_the_system_refuses_is_done_without(model, beat, counted, monkeypatch):
    """IO_WAIT does what it does, and the next one asks again."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "djinn-beat":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with runtime_of(model) as runtime:
        session = parked(runtime, model)
        assert session.host_bytes
        assert not beat.running
        monkeypatch.setattr(threading.Thread, "start", start)
        parked(runtime, model)
        assert goes_on(counted)


def test_a_fork_begins_with_none(model, beat, counted):
    """The thread is the parent's. The child ends as ever, and the parent's beat goes on."""
    with runtime_of(model) as runtime:
        parked(runtime, model)
        assert goes_on(counted)
        child = os.fork()
        if child == 0:
            os._exit(len(of_beats()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert goes_on(counted)


def test_the_interpreter_ends_beside_it(interpreters):
    """With a session in host memory, its exit code is its own and nobody waits for the beat."""
    ended = interpreters.run(
        """
        import sys, threading, time, torch
        import djinn, djinn.runtime
        from djinn.memory.beat import Beat
        copies = []
        beat = Beat(lambda: lambda: copies.append(None))
        djinn.runtime.beat_of = lambda device: beat
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
        runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=model, attentive=0.001)
        session = runtime.open(breakpoint=1).start(torch.no_grad()(lambda: model(torch.ones(8, 8))))
        session.wait(10)
        session.io_wait()
        while len(copies) < 3:
            time.sleep(0.001)
        print("beats", [thread.name for thread in threading.enumerate()].count("djinn-beat"))
        sys.exit(7)
        """
    )
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout == "beats 1\n"
    assert ended.stderr == ""


def test_claims_that_come_and_go_lose_none(counted):
    """A claim that comes just as the thread ends is served, by this thread or the next."""
    beat = Beat(counted.prepare)
    wants = []
    attention = Attention(beat, 0.001, lambda: bool(wants))
    for _ in range(200):
        wants.append(True)
        attention.attend()
        assert goes_on(counted, more=1)
        wants.clear()
    attention.close()
    assert not beat.running
