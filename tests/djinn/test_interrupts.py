"""Interrupts: an exception at any line of the runtime, and again in the clean-up, loses nothing and hangs nobody.

A trace function raises KeyboardInterrupt before the n-th line of ``src/djinn`` that a signal runs on the caller's
thread, for every n; a second one follows some lines later, in whatever cleans up after the first. A signal timer does
the same at random moments. After each, the session is as it was or has done what was asked: it is led to its end, which
is bit-equal, and the arena is whole and empty.
"""

import contextlib
import random
import signal
import sys
import threading
import time
import weakref
from contextlib import suppress
from functools import partial

import pytest
import torch
from tests.interrupt import SOURCES, Interrupt
from torch import nn

import djinn
from djinn import interrupts
from djinn.durable import session_file
from djinn.state.tensors import plain_torch

PARKED = (djinn.Phase.PAUSED, djinn.Phase.IO_WAIT)


pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.fixture
def model():
    """Two layers of 8 units: a session takes some milliseconds. What one test leaves on it fails no other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()


@pytest.fixture
def runtime(model):
    runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
    yield runtime
    runtime.close(10)


INPUT = torch.linspace(-1, 1, 32).reshape(4, 8)


def program(model):
    return model(INPUT * 1)


def slow(model):
    time.sleep(2e-3)
    return program(model)


def parked(runtime, model, *, swapped=None):
    session = runtime.open(breakpoint=1).start(program, model)
    assert session.wait(10) is djinn.Phase.PAUSED
    if swapped is not None:
        session.io_wait(force=swapped)
    return session


def at_its_end(session, model):
    """Lead ``session`` to its end from wherever it is; what it computed."""
    if session.phase is djinn.Phase.CREATED:
        session.start(program, model)
    if session.wait(10) is djinn.Phase.PAUSED:
        session.io_wait()
    if session.phase is djinn.Phase.IO_WAIT:
        session.resume()
    return session.result(10)


def edit(session):
    session.state["hidden_states"].mul_(1)


# What is interrupted, the state that it is asked in, and whether the program still comes to its end.
SIGNALS = {
    "start": (lambda runtime, model: runtime.open(breakpoint=1), lambda one, model: one.start(program, model), True),
    "wait": (lambda runtime, model: runtime.open().start(slow, model), lambda one, model: one.wait(10), True),
    "pause": (parked, lambda one, model: suppressed(one.pause), True),
    "break_at": (parked, lambda one, model: one.break_at(1), True),
    "io_wait": (parked, lambda one, model: one.io_wait(), True),
    "io_wait unforced": (parked, lambda one, model: one.io_wait(force=False), True),
    "resume": (lambda *call: parked(*call, swapped=True), lambda one, model: one.resume(), True),
    "resume paused": (parked, lambda one, model: one.resume(), True),
    "step": (lambda *call: parked(*call, swapped=True), lambda one, model: one.step(10), True),
    "step paused": (parked, lambda one, model: one.step(10), True),
    "resume idle": (lambda *call: parked(*call, swapped=False), lambda one, model: one.resume(), True),
    "edit": (lambda *call: parked(*call, swapped=True), lambda one, model: edit(one), True),
    "edit idle": (lambda *call: parked(*call, swapped=False), lambda one, model: edit(one), True),
    "left behind": (parked, lambda one, model: one.left_behind, True),
    "result": (lambda runtime, model: runtime.open().start(slow, model), lambda one, model: one.result(10), True),
    "cancel": (lambda *call: parked(*call, swapped=True), lambda one, model: one.cancel(), False),
    "close": (lambda *call: parked(*call, swapped=True), lambda one, model: one.close(10), False),
    "close paused": (parked, lambda one, model: one.close(10), False),
}


def suppressed(call):
    with suppress(djinn.DjinnError):
        call()


def modes():
    """What an interrupt might leave switched on or off on the caller's thread."""
    with torch.device("meta"):
        function = torch.empty(1).device.type
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch._C._is_torch_function_enabled(), function


MODES = (False, False, True, "meta")


def check(runtime, session, model, *, ends):
    """``session`` can be led to its end, or is closed within its timeout, and nothing stays behind."""
    assert modes() == MODES
    runtime.arena.check_integrity()
    if ends:
        assert torch.equal(at_its_end(session, model), program(model))
    session.close(10)
    assert session.phase is djinn.Phase.CLOSED
    assert runtime.arena.reserved_bytes == 0
    runtime.arena.check_integrity()


@pytest.mark.parametrize("again", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("name", SIGNALS)
def test_an_interrupt_at_any_line(runtime, model, name, again):
    """The session is as it was, or done; a retry, a result and a close work, each within its timeout."""
    prepare, interrupted, ends = SIGNALS[name]
    line = 0
    raised = 1
    while raised:
        line += 1
        session = prepare(runtime, model)
        with Interrupt(line, again) as interrupt:
            interrupted(session, model)
        raised = interrupt.raised
        if name == "resume" and not again and session.phase is djinn.Phase.IO_WAIT:
            assert session.device_bytes == 0
        check(runtime, session, model, ends=ends)
    assert line > 5


def test_an_interrupt_leaves_no_guard_of_torch_s_on():
    """At any line: the thread is the caller's, whose modes and subclasses would have no effect from then on."""
    line, raised = 0, 1
    while raised:
        line += 1
        with Interrupt(line) as interrupt, plain_torch():
            pass
        raised = interrupt.raised
        assert torch._C._is_torch_function_enabled()
    assert line > 3


def test_no_generator_stands_between_the_steps_of_a_resume(runtime, model):
    """An interrupt behind its first part would leave the rest to whoever collects it, on any thread and at any time."""
    session = parked(runtime, model, swapped=True)
    entered = []

    def noting(frame, event, arg):
        if frame.f_code is contextlib._GeneratorContextManager.__enter__.__code__:
            entered.append(frame.f_locals["self"].gen.__qualname__)

    sys.settrace(noting)
    try:
        session.resume()
    finally:
        sys.settrace(None)
    assert torch.equal(session.result(10), program(model))
    assert entered == []


@pytest.mark.parametrize("again", [0, 1, 3])
def test_closing_a_runtime_can_be_interrupted(model, again):
    """At any line; a second close ends all sessions and gives the model back."""
    line, raised = 0, 1
    while raised:
        line += 1 + again  # a half and a quarter of the lines for the second interrupt: each takes a runtime
        runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        sessions = [parked(runtime, model, swapped=True), runtime.open()]
        with Interrupt(line, again) as interrupt:
            runtime.close(10)
        raised = interrupt.raised
        runtime.close(10)
        assert {session.phase for session in sessions} == {djinn.Phase.CLOSED}
        assert runtime.arena.reserved_bytes == 0
        assert not any("forward" in vars(module) for module in model.modules())
        assert torch._C._is_torch_function_enabled()  # no guard of torch's is left on
    assert line > 50


def test_making_a_runtime_can_be_interrupted(model):
    """At any line; the model is free for another one."""
    line, raised = 0, 1
    while raised:
        line += 1
        runtime = None
        with Interrupt(line) as interrupt:
            runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        raised = interrupt.raised
        if runtime is not None:
            runtime.close(10)
        assert not any("forward" in vars(module) for module in model.modules())
    assert line > 50


@pytest.mark.parametrize("name", ["open", "status", "make_room"])
def test_what_a_runtime_is_asked_can_be_interrupted(runtime, model, name):
    """Opening, looking and making room leave the sessions as they were, or have done their work."""
    calls = {
        "open": lambda: runtime.open(breakpoint=1),
        "status": runtime.status,
        "make_room": lambda: runtime.make_room(1),
    }
    line, raised = 0, 1
    while raised:
        line += 1
        session = parked(runtime, model, swapped=False)
        with Interrupt(line) as interrupt:
            calls[name]()
        raised = interrupt.raised
        check(runtime, session, model, ends=True)
        for opened in list(runtime._sessions.values()):
            opened.close()


ARMED = []


def raise_in_the_runtime(signum, frame):
    """A signal's handler; the test itself is spared."""
    inside = False
    while frame is not None and ARMED and not inside:
        inside = frame.f_code.co_filename.startswith(SOURCES)
        frame = frame.f_back
    if ARMED:
        signal.setitimer(signal.ITIMER_REAL, 1e-4)  # the next one, when this one is over
    if inside:
        raise KeyboardInterrupt


def test_an_interrupt_at_any_moment(runtime, model, monkeypatch):
    """The same by a timer's signals, which come between any two bytecodes, one after another."""
    # Some come in callbacks of weak references, in the standard library, where they are reported and lost.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    chance = random.Random(5)
    before = signal.signal(signal.SIGALRM, raise_in_the_runtime)
    raised = 0
    try:
        for round_ in range(40 * len(SIGNALS)):
            prepare, interrupted, ends = SIGNALS[list(SIGNALS)[round_ % len(SIGNALS)]]
            session = prepare(runtime, model)
            ARMED.append(True)
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-4))
            try:
                interrupted(session, model)
            except KeyboardInterrupt:
                raised += 1
            ARMED.clear()
            signal.setitimer(signal.ITIMER_REAL, 0)
            check(runtime, session, model, ends=ends)
    finally:
        ARMED.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised > 100


def test_a_call_that_has_ended_holds_nothing(monkeypatch):
    """However slowly the worker thread lets go of it: a storage that it held would stay on the device."""

    class Storage:
        pass

    class SlowBell(interrupts.Bell):
        def ring(self):
            super().ring()
            go_on.wait(30)

    monkeypatch.setattr(interrupts, "Bell", SlowBell)
    go_on = threading.Event()
    storages = [Storage(), Storage()]
    references = [weakref.ref(storage) for storage in storages]
    hands = interrupts.Hands("test")
    hands.start()
    try:
        hands.do(partial(lambda argument: storages.pop(), storages.pop()))
        assert [reference() for reference in references] == [None, None]
    finally:
        go_on.set()
        hands.close()


def test_two_threads_ring_a_bell_at_once(monkeypatch):
    """Each alarm is released by one of them: a second release would be an error in whoever rings."""
    bell = interrupts.Bell()
    left = [1]

    def ringing_between(made):
        while left:
            left.pop()
            bell.ring()
        return made

    alarm = threading.Lock()
    alarm.acquire()
    bell.admit(alarm)
    for name, kind in (("set", set), ("list", list)):
        monkeypatch.setattr(interrupts, name, lambda *of, kind=kind: ringing_between(kind(*of)), raising=False)
    bell.ring()
    assert not left
    assert not alarm.locked()


@pytest.mark.parametrize("again", [0, 3])
def test_saving_and_restoring_can_be_interrupted(runtime, model, tmp_path, again):
    """At any line: the file is absent or whole, the session is as it was, and no half-restored one is left."""
    path, line, raised = tmp_path / "one.djinn", 0, 1
    while raised:
        line += 1 + again
        path.unlink(missing_ok=True)
        with runtime.open(breakpoint=1, durable=True).start(program, model) as session:
            session.wait(10)
            with Interrupt(line, again) as interrupt:
                session.save(path)
            raised = interrupt.raised
            session.save(tmp_path / "other.djinn")  # behind whatever the first call still does
            if path.exists():
                session_file.read(path)
            check(runtime, session, model, ends=True)
    assert line > 5
    line, raised = 0, 1
    while raised:
        line += 1 + again
        with Interrupt(line, again) as interrupt:
            runtime.restore(path, program, model)
        raised = interrupt.raised
        for session in runtime.sessions:
            check(runtime, session, model, ends=not raised)
        runtime.open().close()  # forgets those that are closed, for which open() would need more lines each time
    assert line > 20
    assert {one.name for one in tmp_path.iterdir()} == {"one.djinn", "other.djinn"}


@pytest.mark.parametrize("again", [0, 3])
def test_forking_can_be_interrupted(runtime, model, again):
    """At any line: the origin is as it was, and there is a whole fork or none; after two it can be closed."""
    line, raised = 0, 1
    while raised:
        line += 1 + again
        with runtime.open(breakpoint=1, durable=True).start(program, model) as session:
            session.wait(10)
            session.break_at(1, visit=9)
            with Interrupt(line, again) as interrupt:
                session.fork()
            raised = interrupt.raised
            assert session.phase is djinn.Phase.PAUSED
            for fork in [one for one in runtime.sessions if one is not session]:
                whole = not raised or not again
                assert not whole or fork.phase is djinn.Phase.PAUSED
                check(runtime, fork, model, ends=whole)
            check(runtime, session, model, ends=True)
        runtime.open().close()
    assert line > 20
