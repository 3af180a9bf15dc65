"""The front door: what it refuses, and how it ends."""

import copy
import os
import pickle

import pytest
import torch
from tests.programs import prefill
from torch import nn

import djinn
from djinn.runtime import _arena


def test_two_runtimes_on_one_model_are_refused(llama, input_ids):
    """A model, or a part of it, belongs to one runtime at a time; the refusal takes nothing from the first."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        for part in (llama, llama.model):
            with pytest.raises(djinn.DjinnError, match="belongs to another runtime"):
                djinn.Runtime(part, host_memory_bytes=1 << 20)
        session = runtime.open(breakpoint=2).start(prefill, llama, input_ids)
        assert session.wait(30) is djinn.Phase.PAUSED
    with djinn.Runtime(llama, host_memory_bytes=1 << 20):
        pass


def stack():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Linear(8, 8)).eval()


@pytest.mark.parametrize("compiled", ["model", "layer", "in place"])
def test_compiled_models_are_refused(compiled):
    """What is put on a compiled module is ignored by it, so that it would never stop: the message names the module."""
    model = stack()
    layers = [model[0], model[1]]
    if compiled == "model":
        model = torch.compile(model, backend="eager")
        layers = [model._orig_mod[0], model._orig_mod[1]]
    elif compiled == "layer":
        model[1] = torch.compile(model[1], backend="eager")
        layers = [model[0], model[1]]
    else:
        model[0].compile(backend="eager")
    with pytest.raises(djinn.DjinnError, match="is compiled"):
        djinn.Runtime(model, host_memory_bytes=1 << 20, layers=layers)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_compiled_after_the_runtime_was_made_works():
    """The watch breaks the graph: the program parks, and goes on to the same numbers."""
    model, x = stack(), torch.randn(4, 8)
    expected = model(x)
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=[model[0], model[1]]) as runtime:
        compiled = torch.compile(model, backend="eager")
        session = runtime.open(breakpoint=1).start(compiled, x)
        assert session.wait(120) is djinn.Phase.PAUSED
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(120), expected)


@pytest.mark.parametrize("offloaded", [["0.0"], ["0.0", "0.1", "1"]])
def test_a_model_that_is_not_whole_on_one_device(offloaded):
    """Weights that are not in memory are refused before anything is changed, with what is where and what to do."""
    model = stack()
    for name in offloaded:
        model.get_submodule(name).to("meta")
    with pytest.raises(ValueError, match=r"0.0.weight on meta.*Load all of it onto one device"):
        djinn.Runtime(model, host_memory_bytes=1 << 20, layers=[model[0], model[1]])
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(ValueError, match="one device, .*: it has no parameters"):
        djinn.Runtime(nn.Tanh(), host_memory_bytes=1 << 20)


def test_a_breakpoint_that_was_never_reached_is_named(llama, input_ids):
    """The session ends, and whoever signals it is told which breakpoint it did not come to."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        session = runtime.open(breakpoint=3, visit=2).start(prefill, llama, input_ids)
        assert session.wait(30) is djinn.Phase.FINISHED
        for signal in (session.io_wait, session.resume):
            with pytest.raises(djinn.IllegalMove, match="never came to its breakpoint, layer 3"):
                signal()


def test_a_program_that_failed_early_is_named_as_the_cause(llama, input_ids):
    """IO_WAIT of a session whose program has raised shows what it raised."""

    def program():
        raise ZeroDivisionError("the program's own")

    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        session = runtime.open(breakpoint=3).start(program)
        session.wait(30)
        with pytest.raises(djinn.IllegalMove, match="failed") as caught:
            session.io_wait()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_fork_is_told_that_it_has_no_session(llama, input_ids):
    """In a forked child signals raise at once instead of waiting for threads that are not there."""
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        session = runtime.open(breakpoint=3).start(prefill, llama, input_ids)
        session.wait(30)
        child = os.fork()
        if child == 0:
            refusals = 0
            for signal in (session.io_wait, session.resume, session.wait, session.close, runtime.close):
                try:
                    signal()
                except djinn.DjinnError as error:
                    refusals += "fork" in str(error)
            os._exit(refusals)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_the_interpreter_exits_with_parked_sessions(interpreters):
    """A script that forgets its sessions, parked and swapped out, ends without a word."""
    script = """
        import torch, djinn
        from torch import nn
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        runtime = djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model))
        with torch.no_grad():
            for layer in (1, 2):
                session = runtime.open(breakpoint=layer).start(lambda: model(torch.ones(4, 8)))
                assert session.wait(30) is djinn.Phase.PAUSED
        session.io_wait()
        runtime.open(breakpoint=1)
    """
    ended = interpreters.run(script)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_closing_ends_every_session(llama, input_ids):
    """A runtime that closes unwinds what is parked or computes, and takes its watch off."""
    hooks = [dict(module._forward_hooks) for module in llama.modules()]  # transformers may have left some
    runtime = djinn.Runtime(llama, host_memory_bytes=1 << 20)
    runtime.open()
    parked = runtime.open(breakpoint=2).start(prefill, llama, input_ids)
    parked.wait(30)
    running = runtime.open().start(lambda: [prefill(llama, input_ids) for _ in range(10_000)])
    runtime.close()
    assert {session.phase for session in (parked, running)} == {djinn.Phase.CLOSED}
    assert not any("forward" in vars(module) for module in llama.modules())
    assert [dict(module._forward_hooks) for module in llama.modules()] == hooks
    with pytest.raises(djinn.SessionCancelled):
        running.result()


def test_default_arena_is_half_of_what_is_free(llama, monkeypatch):
    """Without a size the arena takes half of the memory that the machine has free."""
    monkeypatch.setattr("djinn.runtime.available_bytes", lambda: 4 << 20)
    with djinn.Runtime(llama) as runtime:
        assert runtime.arena.nbytes == 2 << 20


def test_default_arena_falls_back_to_what_may_be_locked(monkeypatch):
    """Where the system does not pin half of the free memory, the memory-lock limit is what it will pin."""
    asked = []

    def arena(nbytes, *, pinned, warn):
        asked.append(nbytes)
        if nbytes > 1000:
            raise djinn.HostMemoryFull("refused")

    monkeypatch.setattr("djinn.runtime.HostArena", arena)
    monkeypatch.setattr("djinn.runtime.available_bytes", lambda: 8000)
    for limit, expected in ((1000, [4000, 1000]), (None, [4000]), (5000, [4000])):
        asked.clear()
        monkeypatch.setattr("djinn.runtime.memory_lock_limit", lambda limit=limit: limit)
        if limit == 1000:
            _arena(None, pinned=True, warn=print)
        else:
            with pytest.raises(djinn.HostMemoryFull):
                _arena(None, pinned=True, warn=print)
        assert asked == expected


def test_freed_state_is_never_read_as_another_s(llama, input_ids):
    """A session that gets the host memory of one that has ended sees its own bytes only."""
    with djinn.Runtime(llama, host_memory_bytes=200_000) as runtime:
        for shift in range(4):
            ids = (input_ids + shift) % 128
            session = runtime.open(breakpoint=3).start(prefill, llama, ids)
            session.wait(30)
            before = {name: tensor.clone() for name, tensor in session.state.items()}
            session.io_wait()
            assert all(torch.equal(tensor, before[name]) for name, tensor in session.state.items())
            session.close()
            assert runtime.arena.reserved_bytes == 0


def test_a_session_whose_name_is_lost_is_found_again(runtime, llama, input_ids):
    """As when a notebook's cell is run twice: every session that is not closed is in ``sessions``, by its order."""
    first, second = (runtime.open(breakpoint=3).start(llama, input_ids) for _ in range(2))
    assert runtime.sessions == (first, second)
    for session in runtime.sessions:
        session.close()
    assert runtime.sessions == ()


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_runtimes_and_sessions_are_not_copied(runtime, llama, input_ids, copied):
    """The end of a copy would end the original, so each is refused by a message that says what to do instead."""
    session = runtime.open(breakpoint=3)
    with pytest.raises(TypeError, match="a runtime cannot be copied or pickled: make one where it is needed"):
        copied(runtime)
    with pytest.raises(TypeError, match=r"a session cannot be copied or pickled: keep its result\(\)"):
        copied(session)
    assert session.start(llama, input_ids).wait(30) is djinn.Phase.PAUSED


@pytest.mark.parametrize("copied", [lambda table: pickle.loads(pickle.dumps(table)), copy.copy, copy.deepcopy])
def test_a_status_can_be_kept(runtime, llama, input_ids, copied):
    """A copy or a pickle of it, with its sums, is the same table."""
    runtime.open(breakpoint=3).start(llama, input_ids).wait(30)
    table = runtime.status()
    kept = copied(table)
    assert (kept, str(kept), vars(kept)) == (table, str(table), vars(table))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("copied", [lambda view: pickle.loads(pickle.dumps(view)), copy.copy, copy.deepcopy])
def test_a_copy_of_the_state_is_plain_and_outlives_it(runtime, llama, input_ids, swapped, grad, copied):
    """It has all names, an edit of it does not reach the session, and it can be read when the session has gone on."""
    with torch.set_grad_enabled(grad):
        session = runtime.open(breakpoint=3).start(llama, input_ids)
    session.wait(30)
    if swapped:
        session.io_wait()
    view = session.state
    before = {name: tensor.detach().clone() for name, tensor in view.items()}
    kept = copied(view)
    assert list(kept) == list(view)
    kept["hidden_states"][0, 0] += 1
    assert torch.equal(view["hidden_states"], before["hidden_states"])
    session.resume()
    session.result(30)
    assert all(type(tensor) is torch.Tensor for tensor in kept.values())
    del kept["hidden_states"], before["hidden_states"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
