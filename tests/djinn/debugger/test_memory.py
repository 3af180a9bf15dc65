"""Device memory over time: its samples say what the sessions have, and their phases."""

import threading

import pytest
import torch

import djinn
from djinn.debugger import memory
from djinn.debugger.memory import MemoryRing


def test_a_sample_is_what_the_sessions_have_on_the_device(bench, started):
    """Byte by byte, before and after IO_WAIT, with the phase of each session."""
    session = started()
    one = bench.sample()
    assert one.nbytes == sum(session.storage_sizes) == session.device_bytes > 0
    assert one.phases == ((1, djinn.Phase.PAUSED),)
    assert not one.waits
    session.io_wait()
    two = bench.sample()
    assert (two.nbytes, two.phases, two.waits) == (0, ((1, djinn.Phase.IO_WAIT),), True)
    assert bench.memory() == (one, two)
    assert 0 <= one.seconds <= two.seconds


def test_while_a_session_computes_the_state_of_its_last_stop_counts(bench, runtime, llama, input_ids, does):
    """All of it, for RESUME has brought it back from host memory; after its end nothing. The words say so."""
    inside, go_on = threading.Event(), threading.Event()

    def program():
        llama(input_ids, use_cache=False)
        inside.set()
        go_on.wait(20)

    session = runtime.open(breakpoint=2).start(program)
    session.wait(30)
    state = bench.sample().nbytes
    session.io_wait()
    bench.sample()
    assert "last stop" not in does("memory")
    session.resume()
    assert inside.wait(20)
    computing = bench.sample()
    assert (computing.nbytes, computing.held_bytes) == (state, state)
    assert does("memory").splitlines()[-1] == "of one that computes: the state of its last stop"
    go_on.set()
    session.wait(30)
    assert bench.sample().nbytes == 0


def test_a_command_that_waits_takes_samples(bench, started, does):
    """So that a front without a clock of its own has a history."""
    started()
    does("wait")
    does("resume")
    phases = [phase for sample in bench.memory() for _, phase in sample.phases]
    assert phases[0] is phases[1] is djinn.Phase.IO_WAIT
    assert phases[-1] is djinn.Phase.FINISHED


def test_the_oldest_samples_go(monkeypatch, runtime):
    """Their number is bounded."""
    monkeypatch.setattr(memory, "_SAMPLES", 3)
    ring = MemoryRing(runtime)
    taken = [ring.take() for _ in range(5)]
    assert ring.samples == tuple(taken[2:])


@pytest.mark.gpu
def test_on_a_gpu_it_is_what_torch_has_in_use(runtime, monkeypatch):
    """The allocator's number."""
    monkeypatch.setattr(runtime, "_device", torch.device("cuda", 0))
    assert MemoryRing(runtime).take().nbytes == torch.cuda.memory_allocated(0)
