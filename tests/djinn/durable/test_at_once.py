"""Saving and restoring while other threads work on the same sessions, paths and runtimes."""

import contextlib
import contextvars
import gc
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.programs import equal, greedy

import djinn
from djinn.durable import session_file

STEPS = 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "one.djinn"


@pytest.fixture
def expected(llama, input_ids):
    return greedy(llama, input_ids, STEPS)


def parked(runtime, llama, input_ids):
    session = runtime.open(breakpoint=2, visit=2, durable=True).start(greedy, llama, input_ids, STEPS)
    assert session.wait(30) is djinn.Phase.PAUSED
    return session


@pytest.fixture
def disk(monkeypatch):
    """A disk that writes when it is let go; ``disk.asked`` tells that there is something to write."""

    class Disk:
        asked, free = threading.Event(), threading.Event()

        def write(self, *file):
            self.asked.set()
            assert self.free.wait(30)
            return session_file.write(*file)

    disk = Disk()
    monkeypatch.setattr("djinn.session.write", disk.write)
    yield disk
    disk.free.set()


SIGNALS = {
    "resume": lambda session: session.resume(),
    "swap out": lambda session: session.io_wait(),
    "cancel": lambda session: session.cancel(),
    "close": lambda session: session.close(30),
    "edit": lambda session: session.state["hidden_states"].zero_(),
    "step": lambda session: session.step(30),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_slow_disk_holds_nobody_up(runtime, llama, input_ids, path, expected, disk, signal, swapped):
    """A session that is being saved takes every signal at once, others too, and the file has the state of the call."""
    session, other = (parked(runtime, llama, input_ids) for _ in range(2))
    if swapped:
        session.io_wait()
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(session.save, path)
        assert disk.asked.wait(30)
        if (signal, swapped) != ("swap out", True):
            SIGNALS[signal](session)
        other.io_wait()
        assert not saving.done()
        disk.free.set()
        assert saving.result(30) == path.stat().st_size
    with runtime.restore(path, greedy, llama, input_ids, STEPS) as restored:
        restored.resume()
        assert equal(restored.result(30), expected)


def test_many_threads(runtime, llama, input_ids, path, expected):
    """They save two sessions to one path, and restore from it: each file is whole."""
    sessions = [parked(runtime, llama, input_ids) for _ in range(2)]
    sessions[0].save(path)

    def saves(number):
        return sessions[number % 2].save(path)

    @torch.no_grad()
    def restores(number):
        with runtime.restore(path, greedy, llama, input_ids, STEPS) as restored:
            restored.resume()
            return equal(restored.result(30), expected)

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(job, number) for number in range(6) for job in (saves, restores)]
        assert all(job.result(60) for job in jobs)
    assert os.listdir(path.parent) == [path.name]


def test_saving_in_the_middle_of_a_signal(runtime, llama, input_ids, path, expected, monkeypatch):
    """A handler that saves while this thread resumes the session is refused; it would wait for itself."""
    session = parked(runtime, llama, input_ids)
    refused = []
    let_go = type(session)._let_go

    def interrupted(self, steps):
        try:
            session.save(path)
        except djinn.IllegalMove as error:
            refused.append(str(error))
        return let_go(self, steps)

    monkeypatch.setattr(type(session), "_let_go", interrupted)
    session.resume()
    assert equal(session.result(30), expected)
    assert refused == ["a signal was asked for in the middle of another, by a handler or a finaliser: ask later"]


def test_restoring_in_a_program(runtime, llama, input_ids, path, expected):
    """A program that holds the device is refused, and leaves no session; in a block in which it waits it may."""
    parked(runtime, llama, input_ids).save(path)
    found = runtime.sessions

    def restores():
        return runtime.restore(path, greedy, llama, input_ids, STEPS)

    def waits():
        with djinn.waiting():
            return restores()

    with runtime.open().start(restores) as session, pytest.raises(djinn.IllegalMove, match=r"djinn\.waiting"):
        session.result(30)
    assert runtime.sessions == found
    with runtime.open().start(waits) as session, session.result(30) as restored:
        restored.resume()
        assert equal(restored.result(30), expected)


def test_a_restore_that_somebody_cancels(runtime, llama, input_ids, path):
    """It is not tried in another way."""
    parked(runtime, llama, input_ids).save(path)
    begun, free, times = threading.Event(), threading.Event(), []

    def slow(*args):
        times.append(begun.set())
        assert free.wait(30)
        return greedy(*args)

    @torch.no_grad()
    def restores():
        return runtime.restore(path, slow, llama, input_ids, STEPS)

    with ThreadPoolExecutor(1) as pool:
        restoring = pool.submit(restores)
        assert begun.wait(30)
        runtime.sessions[-1].cancel()
        free.set()
        with pytest.raises(djinn.SessionCancelled):
            restoring.result(30)
    assert len(runtime.sessions) == len(times) == 1


def test_a_program_without_room_on_the_device(runtime, llama, input_ids, path):
    """That says nothing about the file, and computing again would need even more."""
    parked(runtime, llama, input_ids).save(path)

    def large(*args):
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    with pytest.raises(djinn.DeviceMemoryFull, match="80 GiB"):
        runtime.restore(path, large, llama, input_ids, STEPS)
    assert len(runtime.sessions) == 1


def test_no_room_for_the_copy(runtime, llama, input_ids, path, monkeypatch):
    session = parked(runtime, llama, input_ids)
    monkeypatch.setattr("djinn.durable.copying.available_bytes", lambda: 1000)
    with pytest.raises(djinn.HostMemoryFull, match="1000 are free"):
        session.save(path)
    assert not path.exists()
    assert session.phase is djinn.Phase.PAUSED


def test_an_adapter_of_another_session(llama, input_ids, path):
    """What is on the model while another program computes is not the saved one's, whose own adapter is compared."""
    scale, entered, free = contextvars.ContextVar("scale", default=2.0), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def adapter(session):
        head = llama.lm_head
        head.register_buffer("scale", torch.tensor(scale.get()))
        hook = head.register_forward_hook(lambda head, args, output: output * head.scale)
        try:
            yield
        finally:
            hook.remove()
            del head.scale

    def computes():
        entered.set()
        assert free.wait(30)

    with djinn.Runtime(llama, host_memory_bytes=32 << 20, around_turn=adapter) as runtime:
        session = parked(runtime, llama, input_ids)
        scale.set(7.0)
        with runtime.open().start(computes) as other:
            assert entered.wait(30)
            session.save(path)
            free.set()
            other.wait(30)
        session.resume()
        expected = session.result(30)
        with pytest.raises(djinn.NotRestored, match=r"the model's lm_head\.scale"):
            runtime.restore(path, greedy, llama, input_ids, STEPS)
        scale.set(2.0)
        with runtime.restore(path, greedy, llama, input_ids, STEPS) as restored:
            restored.resume()
            assert equal(restored.result(30), expected)


def test_the_folder_of_the_process_may_change(runtime, llama, input_ids, path, disk, monkeypatch, tmp_path_factory):
    """A path is that of the call, whenever it is written."""
    session = parked(runtime, llama, input_ids)
    monkeypatch.chdir(path.parent)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(session.save, path.name)
        assert disk.asked.wait(30)
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        disk.free.set()
        saving.result(30)
    assert path.exists()


@pytest.mark.parametrize("restored", [False, True])
def test_a_lost_runtime(llama, input_ids, path, restored):
    """A durable session that nobody can reach any more ends, with its recording and the thread that saved it."""
    threads = set(threading.enumerate())
    runtime = djinn.Runtime(llama, host_memory_bytes=32 << 20)
    session = parked(runtime, llama, input_ids)
    session.save(path)
    if restored:
        session.close()
        session = runtime.restore(path, greedy, llama, input_ids, STEPS)
    tape = weakref.ref(session._tape)
    del runtime, session
    until = time.monotonic() + 10
    while (tape() is not None or set(threading.enumerate()) - threads) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert tape() is None
    assert set(threading.enumerate()) <= threads
    assert "forward" not in vars(llama.model.layers[0])


def test_nothing_is_kept(runtime, llama, input_ids, path):
    """Saving and restoring leave no thread, no open file and no session behind."""

    def once():
        with parked(runtime, llama, input_ids) as session:
            session.save(path)
        runtime.restore(path, greedy, llama, input_ids, STEPS).close()

    def held():
        return len(set(threading.enumerate()) - others), len(os.listdir("/proc/self/fd"))

    others = set(threading.enumerate())  # of earlier tests: they may end meanwhile
    once()
    before = held()
    for _ in range(5):
        once()
    until = time.monotonic() + 10
    while held() != before and time.monotonic() < until:
        time.sleep(0.01)
    assert held() == before
    assert runtime.sessions == ()
