"""Turns: what the user puts around them, and programs that wait for each other."""

import contextlib
import os
import threading
import time

import pytest
import torch
from tests.programs import equal, greedy, parked, prefill
from torch import nn

import djinn
from djinn.program.device_lock import DeviceLock

pytestmark = pytest.mark.usefixtures("without_climb")


class Adapted(nn.Module):
    """A linear layer with adapters of rank 2 by name, of which one is active, as in PEFT."""

    def __init__(self, base):
        super().__init__()
        self.base, self.active = base, None
        self.low = nn.ModuleDict({name: nn.Linear(base.in_features, 2, bias=False) for name in "ab"})
        self.high = nn.ModuleDict({name: nn.Linear(2, base.out_features, bias=False) for name in "ab"})

    def forward(self, x):
        y = self.base(x)
        return y if self.active is None else y + self.high[self.active](self.low[self.active](x))


@pytest.fixture
def adapted(llama):
    """The Llama with two adapters at each query projection, none active, and a function that activates one."""
    projections = [(layer.self_attn, layer.self_attn.q_proj) for layer in llama.model.layers]
    torch.manual_seed(3)
    for attention, base in projections:
        attention.q_proj = Adapted(base)

    @contextlib.contextmanager
    def using(name):
        for attention, _ in projections:
            assert attention.q_proj.active is None
            attention.q_proj.active = name
        yield
        for attention, _ in projections:
            attention.q_proj.active = None

    yield llama, using
    for attention, base in projections:
        attention.q_proj = base


def test_each_session_computes_with_its_own_adapter(adapted, input_ids):
    """However their turns alternate; the caller computes without one, also in between."""
    model, using = adapted
    expected = {None: greedy(model, input_ids, 4)}
    for name in "ab":
        with using(name):
            expected[name] = greedy(model, input_ids, 4)
    assert not equal(expected["a"], expected["b"])
    names = {}
    with djinn.Runtime(
        model, host_memory_bytes=32 << 20, around_turn=lambda session: using(names[session.number])
    ) as runtime:
        sessions = [runtime.open(breakpoint=2) for _ in range(4)]
        for session, name in zip(sessions, "abba", strict=True):
            names[session.number] = name
            session.start(greedy, model, input_ids, 4)
        for _ in range(3):
            for session in sessions:
                assert session.wait(30) is djinn.Phase.PAUSED
                session.io_wait()
            assert equal(greedy(model, input_ids, 4), expected[None])
            for session in sessions:
                session.break_at(4)
                session.resume()
        for session, name in zip(sessions, "abba", strict=True):
            session.wait(30)
            session.resume()
            assert equal(session.result(30), expected[name])


class Masked(nn.Module):
    """Three layers, each of which multiplies by its mask, if it has one."""

    def __init__(self):
        super().__init__()
        self.mask = None
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x) if self.mask is None else layer(x) * self.mask
        return x


def test_what_is_around_a_turn_may_set_tensors_on_modules():
    """What it sets and takes back is neither the session's nor anybody else's, at any turn and after the last."""
    model, x = Masked().eval(), torch.ones(1, 8)
    mask = torch.full((8,), 3.0)

    @contextlib.contextmanager
    def masked():
        before, model.mask = model.mask, mask
        try:
            yield
        finally:
            model.mask = before

    plain = model(x)
    with masked():
        wanted = model(model(x))
    with djinn.Runtime(
        model, layers=model.layers, host_memory_bytes=1 << 20, around_turn=lambda session: masked()
    ) as runtime:
        session = parked(runtime, 1, lambda: model(model(x)))
        for _ in range(4):
            assert model.mask is None
            assert torch.equal(model(x), plain)
            session.step(30)
        session.resume()
        assert torch.equal(session.result(30), wanted)
        assert model.mask is None


class Oops(Exception):
    pass


@pytest.mark.parametrize("when", ["made", "entered", "left"])
@pytest.mark.parametrize("turn", [1, 2])
def test_an_error_around_a_turn_fails_the_program(llama, input_ids, when, turn):
    """With that error, at the first turn and later, whatever the program catches; others compute."""
    turns = []

    @contextlib.contextmanager
    def around():
        if when == "entered" and len(turns) == turn:
            raise Oops
        yield
        if when == "left" and len(turns) == turn:
            raise Oops

    def make(session):
        if session.number > 1:
            return contextlib.nullcontext()
        turns.append(session)
        if when == "made" and len(turns) == turn:
            raise Oops
        return around()

    with djinn.Runtime(llama, host_memory_bytes=8 << 20, around_turn=make) as runtime:
        session = runtime.open(breakpoint=2).start(prefill, llama, input_ids)
        if session.wait(30) is djinn.Phase.PAUSED:
            session.io_wait()
            session.resume()
        with pytest.raises(Oops):
            session.result(30)
        other = runtime.open(breakpoint=2).start(prefill, llama, input_ids)
        other.wait(30)
        other.resume()
        assert torch.equal(other.result(30), prefill(llama, input_ids))
        assert not runtime._device_lock.locked


def test_a_program_that_catches_everything_does_not_compute_without_its_turn(llama, input_ids):
    """It is unwound again at every layer."""
    turns = []

    def around(session):
        turns.append(session)
        if len(turns) == 2:
            raise Oops
        return contextlib.nullcontext()

    def program():
        for _ in range(3):
            with contextlib.suppress(BaseException):
                return prefill(llama, input_ids)
        return None

    with djinn.Runtime(llama, host_memory_bytes=8 << 20, around_turn=around) as runtime:
        session = runtime.open(breakpoint=2).start(program)
        session.wait(30)
        session.io_wait()
        session.resume()
        with pytest.raises(Oops):
            session.result(30)


def test_what_is_put_around_a_turn_must_be_callable(llama):
    """The message says of what kind."""
    with pytest.raises(TypeError, match="takes a session and returns a context manager"):
        djinn.Runtime(llama, host_memory_bytes=1 << 20, around_turn=contextlib.nullcontext())


@pytest.fixture
def second():
    """A runtime of another model on the same device."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as runtime:
        yield runtime, lambda: model(torch.ones(4, 8) * 1)


def test_a_program_does_not_wait_for_another_runtime_s(runtime, second):
    """Nor for its own way to the device in any other way; both sessions are named, and nothing is cancelled."""
    other, program = second
    target = parked(other, 1, program)
    target.io_wait()
    calls = [
        lambda: other.open().start(program).wait(),
        lambda: other.open().start(program).result(),
        target.close,
        other.close,
        target.wait_resident,
    ]
    for call in calls:
        session = runtime.open().start(call)
        with pytest.raises(djinn.IllegalMove, match=rf"session {session.number} cannot wait for session \d+.*waiting"):
            session.result(10)
    target.resume()
    assert torch.equal(target.result(10), program())


def test_a_program_that_waits_gives_up_its_turn(runtime, llama, input_ids, second):
    """Others compute meanwhile, and it may wait for them, of whichever runtime; then it computes on."""
    other, small = second

    def program():
        before = prefill(llama, input_ids)
        torch.manual_seed(4)
        torch.set_default_dtype(torch.float64)
        with djinn.waiting(), djinn.waiting():
            assert torch.get_default_dtype() is torch.float32
            theirs = runtime.open().start(prefill, llama, input_ids).result(30)
            assert torch.equal(other.open().start(small).result(30), small())
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        return [before, theirs, prefill(llama, input_ids)], dtype, torch.rand(2).tolist()

    torch.manual_seed(1)
    session = runtime.open(breakpoint=3, visit=2).start(program)
    assert session.wait(30) is djinn.Phase.PAUSED
    session.io_wait()
    session.resume()
    logits, dtype, drawn = session.result(30)
    assert equal(logits, [prefill(llama, input_ids)] * 3)
    assert dtype is torch.float64
    torch.manual_seed(4)
    assert drawn == torch.rand(2).tolist()


def test_a_program_may_wait_inside_a_layer_and_behind_a_resume(runtime, llama, input_ids):
    """While its state is still being swapped in."""

    def hook(*args):
        with djinn.waiting():
            time.sleep(0.001)

    expected = greedy(llama, input_ids, 2)
    handles = [llama.model.layers[2].mlp.register_forward_hook(hook), llama.model.norm.register_forward_hook(hook)]
    try:
        sessions = [runtime.open(breakpoint=2, visit=2).start(greedy, llama, input_ids, 2) for _ in range(3)]
        for session in sessions:
            session.wait(30)
            session.io_wait()
        for session in sessions:
            session.resume()
        for session in sessions:
            assert equal(session.result(30), expected)
    finally:
        for handle in handles:
            handle.remove()


def test_elsewhere_waiting_does_nothing():
    """On a thread that runs no session."""
    with djinn.waiting():
        assert torch.ones(1).item() == 1


def test_a_program_does_not_compute_while_it_waits(runtime, llama, input_ids):
    """The device is another's at that time: a layer in the block is refused."""

    def program():
        with djinn.waiting():
            return prefill(llama, input_ids)

    with pytest.raises(djinn.IllegalMove, match="cannot call its model in a block"):
        runtime.open().start(program).result(10)


class Waiter:
    """A program that waits in a block until it is told to go on, and then computes."""

    def __init__(self, call):
        self.begun, self.go, self.call = threading.Event(), threading.Event(), call

    def __call__(self):
        with djinn.waiting():
            self.begun.set()
            self.go.wait(10)
        return self.call()


def test_a_program_that_is_cancelled_while_it_waits(runtime, llama, input_ids):
    """It is unwound at the end of its block, and computes no more."""
    computed = []
    program = Waiter(lambda: computed.append(True))
    session = runtime.open().start(program)
    program.begun.wait(10)
    session.cancel()
    with pytest.raises(TimeoutError):
        session.close(0.05)
    program.go.set()
    with pytest.raises(djinn.SessionCancelled):
        session.result(10)
    session.close(10)
    assert not computed
    assert not runtime._device_lock.locked


def test_programs_that_wait_for_each_other_are_told(runtime):
    """The one that closes the circle is refused, also while both have given up their turns."""
    sessions, ready = [], threading.Barrier(3)

    def program(mine):
        with djinn.waiting():
            ready.wait(10)
            return sessions[(mine + 1) % 3].result()

    for _ in range(3):
        sessions.append(runtime.open())
    for mine in range(3):
        sessions[mine].start(program, mine)
    for session in sessions:
        with pytest.raises(djinn.IllegalMove, match="cannot wait for session"):
            session.result(10)
    alone = runtime.open()

    def wait_for_itself():
        with djinn.waiting():
            alone.wait()

    with pytest.raises(djinn.IllegalMove, match="cannot wait for itself"):
        alone.start(wait_for_itself).result(10)


def test_a_thread_that_a_program_starts_computes_plainly(runtime, llama, input_ids):
    """It has no session and passes no breakpoint; the program may wait for it."""

    def program():
        results = []
        thread = threading.Thread(target=lambda: results.append(prefill(llama, input_ids)))
        thread.start()
        thread.join()
        return results[0]

    with torch.inference_mode():
        expected = prefill(llama, input_ids)
    assert torch.equal(runtime.open(breakpoint=2).start(program).result(30), expected)


def test_status_tells_what_a_program_does(runtime, llama, input_ids, monkeypatch):
    """Computing, waiting for its turn, holding it without a layer, or having given it up."""
    stop = threading.Event()
    blocking = Waiter(lambda: stop.wait(10))

    def doing(session):
        (status,) = [status for status in runtime.status() if status.number == session.number]
        assert status.doing in str(runtime.status())
        return status.doing

    holder = runtime.open()
    assert doing(holder) == "-"
    holder.start(blocking)
    blocking.begun.wait(10)
    assert doing(holder) == "gave up its turn"
    blocking.go.set()
    while doing(holder) != "computing":
        time.sleep(0.001)
    queued = runtime.open(breakpoint=2).start(prefill, llama, input_ids)
    assert doing(queued) == "waiting for its turn"
    monkeypatch.setattr("djinn.program.turn._QUIET_SECONDS", 0.01)
    time.sleep(0.02)
    assert doing(holder) == "holds the turn, no layer for 0 s"
    stop.set()
    assert queued.wait(10) is djinn.Phase.PAUSED
    assert doing(queued) == "-"


def test_a_lock_whose_holder_has_died_is_free(monkeypatch):
    """Whoever waits for it looks from time to time."""
    monkeypatch.setattr("djinn.program.device_lock._LOOK_SECONDS", 0.01)

    class Dead:
        thread = None

        def bury(self):
            lock.release(self)

    lock, dead = DeviceLock(), Dead()
    thread = threading.Thread(target=lambda: (setattr(dead, "thread", threading.get_ident()), lock.acquire(dead)))
    thread.start()
    thread.join()
    mine = Dead()
    lock.acquire(mine)
    assert lock.holder is mine


def test_a_fork_has_turns_of_its_own(runtime):
    """A child that is made while a program computes does not wait for it."""
    held, go = threading.Event(), threading.Event()
    session = runtime.open().start(lambda: (held.set(), go.wait(10)))
    held.wait(10)
    child = os.fork()
    if child == 0:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        own = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        os._exit(own.open().start(lambda: 7).result(10))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    go.set()
    session.result(10)


def test_what_around_turn_returns_must_be_a_context_manager(llama):
    """The program fails with a message that names the argument."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20, around_turn=lambda session: None) as runtime:
        session = runtime.open().start(int)
        with pytest.raises(TypeError, match="around_turn= must return a context manager, not None"):
            session.result(30)
