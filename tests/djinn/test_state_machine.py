"""Many sessions at once, led by chance through all signals while the system fails, against a plain model of them.

The model knows a session's phase, layer, edits and what its program has drawn. It computes the result with a loop over
the layers. After each step the arena is whole, and every session is where the model has it.
"""

import dataclasses
import threading
from contextlib import contextmanager
from types import MappingProxyType

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.djinn.fault import DISK_ERROR, ERRORS, Fault
from torch import nn

import djinn
from djinn.durable import session_file

DEPTH, PASSES = 4, 3
X = torch.linspace(-1, 1, 32).reshape(4, 8)
PAUSED, IO_WAIT, CREATED, FINISHED, FAILED = (
    getattr(djinn.Phase, name) for name in ("PAUSED", "IO_WAIT", "CREATED", "FINISHED", "FAILED")
)
GOING, COMING, DISK = ["free", "copy out"], ["allocate", "copy in"], ["write", "read"]
INJECTED = sorted(set(ERRORS) - {"KeyboardInterrupt"})  # ``test_interrupts`` is about those


def faults(kinds):
    """None, or the kind, the number and the error of the call that is to fail; where there is no disk it does not."""
    return st.none() | st.tuples(st.sampled_from([*kinds, *DISK]), st.integers(1, 3), st.sampled_from(INJECTED))


torch.manual_seed(0)
MODEL = nn.Sequential(*(nn.Linear(8, 8) for _ in range(DEPTH))).eval()


def program(model, x):
    """Several passes with a history of tensors between them, and numbers drawn before each."""
    kept = []
    for _ in range(PASSES):
        x = model(x * torch.rand(()))
        kept.append(x * 2)
    return torch.stack(kept)


def computed(edits):
    """What ``program`` returns if what ``edits`` has is added behind the layer calls 1 .. DEPTH * PASSES."""
    torch.manual_seed(5)
    x, kept = X, []
    for number in range(PASSES):
        x = x * torch.rand(())
        for layer, module in enumerate(MODEL, start=1):
            x = module(x)
            for call, amount in edits:
                x = x + amount if call == number * DEPTH + layer else x
        kept.append(x * 2)
    return torch.stack(kept)


@dataclasses.dataclass(eq=False)
class Expected:
    """The model of a session: how many calls of layers it has behind it, and what was added at which."""

    session: djinn.Session
    phase: djinn.Phase = CREATED
    calls: int = 0
    edits: list = dataclasses.field(default_factory=list)
    durable: bool = False

    def goes_on(self, calls):
        """Go on by so many calls of layers, or to the end."""
        self.calls += calls
        self.phase = PAUSED if self.calls <= DEPTH * PASSES else FINISHED


def in_phases(*phases):
    """A rule for a session that is in one of ``phases``; it gets the model of one by ``data``."""

    def decorate(function):
        def with_one(self, data, **drawn):
            return function(self, data.draw(st.sampled_from(self.within(*phases))), **drawn)

        return with_one

    return decorate


class Machine(RuleBasedStateMachine):
    """Sessions, files, and the rules by which both change."""

    folder = None
    memory = MappingProxyType({"host_memory_bytes": 1 << 17})

    def __init__(self):
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.faults = {kind: Fault(self.patches, kind) for kind in (*GOING, *COMING, *DISK)}
        self.patches.setattr("djinn.state.ownership.Ownership._held", lambda *args: (set(), set()))
        # Some sessions fit, and others are refused.
        self.runtime = djinn.Runtime(MODEL, layers=list(MODEL), **self.memory)
        self.expected = []
        self.files = []
        self.written = 0

    def within(self, *phases):
        return [one for one in self.expected if one.phase in phases]

    def any_in(*phases):
        return precondition(lambda self: self.within(*phases))

    @contextmanager
    def under(self, fault):
        """Let a call fail meanwhile as ``fault`` says; its error, or one of ours, reaches whoever asks."""
        self.refused = False
        if fault is not None:
            kind, count, error = fault
            self.faults[kind].at(count, DISK_ERROR if kind in DISK else ERRORS[error])
        try:
            yield
        except (djinn.DeviceMemoryFull, djinn.HostMemoryFull, djinn.DiskFailed):
            self.refused = True
        except (RuntimeError, MemoryError) as raised:
            assert "injected" in str(raised)
            self.refused = True
        finally:
            for one in self.faults.values():
                one.left = None

    # -- what a caller does ------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.expected) < 9)
    @rule(
        stop=st.integers(1, DEPTH * PASSES),
        durable=st.sampled_from([True, True, False]),
        thread_fails=st.integers(0, 7),
    )
    def open_and_start(self, stop, durable, thread_fails):
        session = self.runtime.open(breakpoint=_layer(stop), visit=(stop - 1) // DEPTH + 1, durable=durable)
        one = Expected(session, durable=durable)
        self.expected.append(one)
        torch.manual_seed(5)
        if thread_fails == 0:
            with self.patches.context() as patch:
                patch.setattr(threading.Thread, "start", _refuse)
                with pytest.raises(RuntimeError, match="injected"):
                    session.start(program, MODEL, X)
            assert session.phase is CREATED
        session.start(program, MODEL, X)
        assert session.wait(10) is PAUSED
        one.goes_on(stop)

    @any_in(PAUSED)
    @rule(
        data=st.data(),
        force=st.sampled_from([True, True, False]),
        keep=st.sampled_from(["nothing", "nothing", "frontier"]),
        fault=faults(GOING),
    )
    @in_phases(PAUSED)
    def io_wait(self, one, force, keep, fault):
        with self.under(fault):
            one.session.io_wait(force=force, keep=keep)
        assert one.session.phase in ((PAUSED, IO_WAIT) if self.refused else (IO_WAIT,))
        one.phase = one.session.phase

    @precondition(lambda self: len(self.within(PAUSED)) > 1)
    @rule(fault=faults(GOING))
    def all_wait(self, fault):
        """Where there is a disk, most of them go there."""
        for one in self.within(PAUSED):
            with self.under(fault):
                one.session.io_wait()
            one.phase = one.session.phase
            assert self.refused or one.phase is IO_WAIT

    @any_in(PAUSED, IO_WAIT)
    @rule(data=st.data(), amount=st.sampled_from([-0.5, 0.25, 2.0]), fault=faults([]))
    @in_phases(PAUSED, IO_WAIT)
    def edit(self, one, amount, fault):
        with self.under(fault):  # what waits on the device or the disk is edited in host memory, which may be full
            one.session.state["hidden_states"] += amount
        if not self.refused:
            one.edits.append((one.calls, amount))

    @any_in(PAUSED)
    @rule(data=st.data(), steps=st.booleans(), ahead=st.integers(1, 2 * DEPTH))
    @in_phases(PAUSED)
    def go_on(self, one, steps, ahead):
        self._resume(one, steps, ahead, None)

    @any_in(IO_WAIT)
    @rule(data=st.data(), steps=st.booleans(), ahead=st.integers(1, 2 * DEPTH), fault=faults(COMING))
    @in_phases(IO_WAIT)
    def resume(self, one, steps, ahead, fault):
        self._resume(one, steps, ahead, fault)

    def _resume(self, one, steps, ahead, fault):
        if not steps:
            one.session.break_at(_layer(one.calls + ahead), visit=(ahead - 1) // DEPTH + 1)
        with self.under(fault):
            one.session.step(10) if steps else one.session.resume()
        stays = self.refused and one.session.phase in (PAUSED, IO_WAIT) and one.session.layer == _layer(one.calls)
        if not stays:
            one.session.wait(10)
            one.goes_on(1 if steps else ahead)

    @any_in(IO_WAIT)
    @rule(nbytes=st.sampled_from([1, 500, 1 << 20]), fault=faults(GOING))
    def make_room(self, nbytes, fault):
        with self.under(fault):
            self.runtime.make_room(nbytes)

    @any_in(FINISHED)
    @rule(data=st.data())
    @in_phases(FINISHED)
    def result(self, one):
        assert torch.equal(one.session.result(10), computed(one.edits))
        self.close(one)

    @any_in(PAUSED, IO_WAIT)
    @rule(data=st.data(), fault=faults(COMING))
    @in_phases(PAUSED, IO_WAIT)
    def cancel(self, one, fault):
        with self.under(fault):
            one.session.cancel()
            assert one.session.wait(10) is FAILED
        self.close(one)

    def close(self, one):
        one.session.close(10)
        self.expected.remove(one)

    # -- files -------------------------------------------------------------------------------------------------------

    @any_in(PAUSED, IO_WAIT)
    @rule(data=st.data(), fails=st.sampled_from([None, None, None, "_sync", "_remove_left_over"]))
    @in_phases(PAUSED, IO_WAIT)
    def save(self, one, fails):
        self.written += 1
        path = self.folder / f"{self.written}.djinn"
        path.unlink(missing_ok=True)
        with self.patches.context() as patch:
            if fails is not None:
                patch.setattr(session_file, fails, _refuse)
            if one.durable and fails is None:
                one.session.save(path)
                self.files.append((path, one.calls, list(one.edits)))
            else:
                with pytest.raises(RuntimeError, match="injected" if one.durable else "durable=True"):
                    one.session.save(path)
                assert not path.exists()

    @precondition(lambda self: self.files and len(self.expected) < 9)
    @rule(data=st.data(), broken=st.integers(0, 4))
    def restore(self, data, broken):
        path, calls, edits = data.draw(st.sampled_from(self.files))
        if broken == 0:
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            with pytest.raises(djinn.NotRestored, match="altered"):
                self.runtime.restore(path, program, MODEL, X)
            path.write_bytes(whole)
        session = self.runtime.restore(path, program, MODEL, X)
        one = Expected(session, durable=True, edits=list(edits))
        self.expected.append(one)
        one.goes_on(calls)

    @precondition(lambda self: len(self.expected) < 9)
    @any_in(PAUSED, IO_WAIT)
    @rule(data=st.data(), fault=faults([]))
    @in_phases(PAUSED, IO_WAIT)
    def fork(self, one, fault):
        with self.under(fault):  # of a disk that has to give back the state
            try:
                fork = one.session.fork()
            except djinn.IllegalMove as error:
                assert not one.durable
                assert "durable=True" in str(error)
                return
        if not self.refused:
            fork = Expected(fork, durable=True, edits=list(one.edits))
            self.expected.append(fork)
            fork.goes_on(one.calls)

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def the_arena_and_the_disk_are_whole(self):
        self.runtime.arena.check_integrity()
        if self.runtime.disk is not None:
            self.runtime.disk.check_integrity()
        assert self.runtime.arena.reserved_bytes >= sum(one.session.host_bytes for one in self.within(PAUSED, IO_WAIT))

    @invariant()
    def each_session_is_where_the_model_has_it(self):
        for one in self.expected:
            assert one.session.phase is one.phase
            if one.phase in (PAUSED, IO_WAIT):
                assert one.session.layer == _layer(one.calls)
        assert {session.number for session in self.runtime.sessions} == {one.session.number for one in self.expected}

    def teardown(self):
        try:
            # Those on the disk last: where arena and disk are full there is room when others have gone on.
            for one in sorted(self.expected, key=lambda one: one.session.disk_bytes):
                if one.phase in (PAUSED, IO_WAIT):
                    one.session.break_at(1, visit=1000)
                    one.session.resume()
                    assert torch.equal(one.session.result(10), computed(one.edits))
                one.session.close(10)
            assert self.runtime.arena.reserved_bytes == 0
        finally:
            self.runtime.close(10)
            self.patches.undo()


def _refuse(*args, **kwargs):
    raise RuntimeError("injected")


def _layer(calls):
    return (calls - 1) % DEPTH + 1


@pytest.mark.parametrize(("disk", "examples"), [(False, 30), (True, 25)], ids=["host memory", "and a disk"])
def test_sessions_are_where_the_model_has_them(tmp_path, disk, examples):
    """Some thousands of steps, the same ones each time; with a disk too that becomes full, and fails."""

    class Here(Machine):
        folder = tmp_path
        if disk:
            memory = {"host_memory_bytes": 3 << 10, "disk_folder": tmp_path, "disk_bytes": 160 << 10}

    case = Here.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[HypothesisPhase.generate],
    )
    case().runTest()
