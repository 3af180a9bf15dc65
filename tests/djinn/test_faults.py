"""Faults of the system: memory that is refused, copies that fail, threads that cannot start.

Whichever allocation, release or copy fails, on whichever thread: the state is intact, a retry works, and whoever waits
is told.
"""

import gc
import random
import threading
import time
from contextlib import suppress

import pytest
import torch
from tests.djinn.fault import ERRORS, Fault
from tests.programs import greedy, prefill
from torch import nn

import djinn
from djinn.memory import transfer
from djinn.memory.lanes import Lane

pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.fixture(scope="module", autouse=True)
def _short_collections():
    """What the libraries have made is no garbage: to look at it takes a collection a quarter of a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model():
    """Forty layers of 8 units and a cache of one tensor a layer: as many storages as a deep session has."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(40)]).eval()


def program(model, x):
    kept = []
    for layer in model:
        x = layer(x * 1)
        kept.append(x * 2)
    return torch.stack([x, *kept])


X = torch.linspace(-1, 1, 32).reshape(4, 8)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("kind", "calls"), [("allocate", 40), ("free", 40), ("copy in", 40), ("copy out", 1)])
def test_one_failure_loses_nothing(model, monkeypatch, kind, calls, error):
    """Of every allocation, release and copy between a pause and the end, each fails once: at least ``calls``."""
    fault = Fault(monkeypatch, kind)
    expected = program(model, X)
    count, failed = 0, True
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as runtime:
        while failed:
            count += 1
            session = runtime.open(breakpoint=38).start(program, model, X)
            assert session.wait(10) is djinn.Phase.PAUSED
            fault.at(count, ERRORS[error])
            signal(session.io_wait)
            assert session.phase in (djinn.Phase.PAUSED, djinn.Phase.IO_WAIT)
            if session.phase is djinn.Phase.PAUSED:
                session.io_wait()
            signal(session.resume)
            if session.phase is djinn.Phase.IO_WAIT:
                session.resume()
            assert torch.equal(session.result(10), expected)
            failed = fault.left is None
            fault.left = None
            session.close(10)
            assert runtime.arena.reserved_bytes == 0
            runtime.arena.check_integrity()
    assert count > calls


def signal(call):
    """Serve a signal; whether it worked."""
    try:
        call()
    except (RuntimeError, MemoryError, KeyboardInterrupt) as error:
        assert isinstance(error, djinn.DeviceMemoryFull) or "injected" in str(error)
        return False
    return True


@pytest.mark.parametrize("kind", ["allocate", "copy in"])
def test_what_fails_for_ever_is_told_to_whoever_waits(model, monkeypatch, kind):
    """A history that can never come back ends the program with an error that names it; the next session is well."""
    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(transfer, "_ASK_FROM", 1)
    main = threading.current_thread()
    broken = []
    for owner, name in ((transfer, "_allocate"), (Lane, "bring")):
        original = getattr(owner, name)

        def fail(*args, original=original, name=name, **kwargs):
            if broken == [name] and threading.current_thread() is not main:
                raise RuntimeError("the device is gone")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, fail)
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as runtime:
        session = runtime.open(breakpoint=38).start(program, model, X)
        session.wait(10)
        session.io_wait()
        broken.append("_allocate" if kind == "allocate" else "bring")
        session.resume()
        with pytest.raises(djinn.DjinnError, match="could not be brought back .* the device is gone"):
            session.result(10)
        session.close(10)
        broken.clear()
        assert runtime.arena.reserved_bytes == 0
        assert torch.equal(runtime.open().start(program, model, X).result(10), program(model, X))


def refuse_threads(monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_thread_that_cannot_start_changes_nothing(llama, input_ids, monkeypatch):
    """start() raises and can be tried again; a runtime that gets no thread leaves the model free."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        session = runtime.open(breakpoint=3)
        with monkeypatch.context() as patched:
            refuse_threads(patched)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                session.start(prefill, llama, input_ids)
            assert session.phase is djinn.Phase.CREATED
        session.start(prefill, llama, input_ids).wait(30)
        session.resume()
        assert torch.equal(session.result(30), prefill(llama, input_ids))
    with monkeypatch.context() as patched:
        refuse_threads(patched)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            djinn.Runtime(llama, host_memory_bytes=1 << 20)
    with djinn.Runtime(llama, host_memory_bytes=1 << 20):
        pass


def test_a_victim_whose_copy_fails_stays_whole(llama, input_ids, monkeypatch):
    """A resume that needs the room of another gets none by it, and says so; both come to their ends later."""
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        victim, session = (runtime.open(breakpoint=3).start(greedy, llama, input_ids, 2) for _ in range(2))
        for one in (victim, session):
            one.wait(30)
        victim.io_wait(force=False)
        session.io_wait()
        with monkeypatch.context() as patched:
            patched.setattr(transfer, "_allocate", raising(torch.OutOfMemoryError("no room")))
            patched.setattr(transfer.TransferEngine, "copy_out", raising(RuntimeError("CUDA error")))
            with pytest.raises(djinn.DeviceMemoryFull):
                session.resume()
        assert victim.host_bytes == 0
        for one in (session, victim):
            one.resume()
            assert all(map(torch.equal, one.result(30), greedy(llama, input_ids, 2)))


def raising(error):
    def raise_it(*args, **kwargs):
        raise error

    return raise_it


class Driver:
    """Sends random signals to some sessions, while copies and allocations fail now and then."""

    def __init__(self, runtime, model, seed):
        self.runtime, self.model = runtime, model
        self.chance = random.Random(seed)
        self.expected = [program(model, X * shift) for shift in range(6)]
        self.open = {}

    def step(self):
        if len(self.open) < 6 and self.chance.random() < 0.3:
            shift = self.chance.randrange(6)
            session = self.runtime.open(breakpoint=self.chance.randint(1, 40))
            self.open[session] = shift
            session.start(program, self.model, X * shift)
            return
        if self.open:
            session = self.chance.choice(list(self.open))
            getattr(self, self.chance.choice(["swap", "idle", "resume", "edit", "finish", "cancel", "room"]))(session)

    def swap(self, session):
        session.io_wait()

    def idle(self, session):
        session.io_wait(force=False)

    def resume(self, session):
        session.resume()

    def edit(self, session):
        session.state["hidden_states"].mul_(1)

    def room(self, session):
        self.runtime.make_room(self.chance.randrange(10_000))

    def cancel(self, session):
        shift = self.open.pop(session)
        session.cancel()
        with suppress(djinn.SessionCancelled):
            assert torch.equal(session.result(10), self.expected[shift])  # it had ended
        session.close(10)

    def finish(self, session):
        while session.wait(10) in (djinn.Phase.PAUSED, djinn.Phase.IO_WAIT):
            session.resume()
        assert torch.equal(session.result(10), self.expected[self.open.pop(session)])
        session.close(10)


@pytest.mark.parametrize("seed", range(3))
def test_random_signals_with_random_faults(model, monkeypatch, seed):
    """Hundreds of moves with a failure every tenth time: every result is bit-equal, nothing hangs or leaks."""
    chance = random.Random(seed)
    served = 0
    for kind in ("allocate", "free", "copy in", "copy out"):
        with monkeypatch.context() as patched:
            fault = Fault(patched, kind)
            runtime = djinn.Runtime(model, host_memory_bytes=96 << 10, idle_device_bytes=8 << 10, layers=list(model))
            driver = Driver(runtime, model, seed)
            for _ in range(200):
                if chance.random() < 0.1:
                    fault.at(chance.randint(1, 30), ERRORS[chance.choice(list(ERRORS))])
                try:
                    driver.step()
                    served += 1
                except (djinn.DjinnError, RuntimeError, MemoryError, KeyboardInterrupt) as error:
                    assert isinstance(error, djinn.DjinnError) or "injected" in str(error)
                runtime.arena.check_integrity()
            fault.left = None
            for session in list(driver.open):
                driver.finish(session)
            gc.collect()
            assert runtime.arena.reserved_bytes == 0
            runtime.close(10)
    assert served > 300


def test_a_pause_soon_after_a_swap_in_takes_everything(llama, input_ids, monkeypatch):
    """The engine's thread still releases host memory when the program parks again: its references are not foreign."""
    release = transfer.TransferEngine.release
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        session = runtime.open(breakpoint=2, visit=2).start(greedy, llama, input_ids, 3)
        session.wait(30)
        session.io_wait()
        taken = len(session.state)
        monkeypatch.setattr(transfer.TransferEngine, "release", lambda *args: (time.sleep(0.2), release(*args)))
        session.step()
        assert session.wait(30) is djinn.Phase.PAUSED
        assert [line.reason for line in session.left_behind] == ["the caller holds it"]  # its argument
        assert len(session.state) == taken


def test_an_error_of_a_signal_holds_nothing_once_it_is_gone(llama, input_ids, monkeypatch):
    """A pause behind an IO_WAIT that failed takes everything, though no garbage was collected."""
    fault = Fault(monkeypatch, "copy out")
    gc.disable()
    try:
        with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
            session = runtime.open(breakpoint=2, visit=2).start(greedy, llama, input_ids, 3)
            session.wait(30)
            fault.at(1, ERRORS["MemoryError"])
            with pytest.raises(MemoryError):
                session.io_wait()
            session.step()
            assert session.wait(30) is djinn.Phase.PAUSED
            assert [line.reason for line in session.left_behind] == ["the caller holds it"]  # its argument
    finally:
        gc.enable()


@pytest.mark.parametrize(("kind", "signal"), [("copy out", "io_wait"), ("allocate", "resume"), ("copy in", "step")])
def test_an_error_of_a_signal_that_somebody_keeps_holds_nothing(llama, input_ids, monkeypatch, kind, signal):
    """As a future does: the next pause takes everything."""
    fault = Fault(monkeypatch, kind)
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        session = runtime.open(breakpoint=2, visit=2).start(greedy, llama, input_ids, 3)
        session.wait(30)
        if signal != "io_wait":
            session.io_wait()
        fault.at(1, ERRORS["no room"])
        with pytest.raises(RuntimeError) as kept:
            getattr(session, signal)()
        session.step()
        assert session.wait(30) is djinn.Phase.PAUSED
        assert [line.reason for line in session.left_behind] == ["the caller holds it"]  # its argument
        assert kept.value.__traceback__ is not None
