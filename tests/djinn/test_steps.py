"""A step goes on to the next decoder layer, over the ends of forward passes, to the end of the program."""

import threading

import pytest
import torch
from tests.conftest import LAYERS
from tests.programs import equal, greedy, parked, prefill

import djinn

pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.mark.parametrize("tier", ["device", "by turns"])
def test_steps_visit_every_layer_of_every_pass(runtime, llama, input_ids, tier):
    """Layers L+1 to N, then 1 to N of each decode step, then the end; the result is that of an unbroken run."""
    want = greedy(llama, input_ids, 1)
    session = parked(runtime, 2, greedy, llama, input_ids, 1)
    layers = []
    while True:
        if tier == "by turns" and len(layers) % 2:
            session.io_wait()
        if session.step(30) is not djinn.Phase.PAUSED:
            break
        layers.append(session.layer)
    assert layers == [*range(3, LAYERS + 1), *range(1, LAYERS + 1)]
    assert session.phase is djinn.Phase.FINISHED
    assert equal(session.result(), want)


def test_an_edit_between_two_steps_is_computed_with(runtime, llama, input_ids):
    """Each layer finds what was written after the one before."""
    shift = torch.linspace(-1, 1, 64)
    hooks = [
        layer.register_forward_hook(lambda module, args, out: out.add_(shift)) for layer in llama.model.layers[1:4]
    ]
    want = prefill(llama, input_ids)
    for hook in hooks:
        hook.remove()
    session = parked(runtime, 2, prefill, llama, input_ids)
    for _ in range(2):
        session.state["hidden_states"].add_(shift)
        session.step(30)
    session.state["hidden_states"].add_(shift)
    session.resume()
    assert torch.equal(session.result(30), want)


def test_a_step_keeps_the_breakpoint_and_counts_its_hits(runtime, llama, input_ids):
    """A breakpoint with hits left stays; the layer that a step stops at counts, and is stopped at once."""
    session = parked(runtime, 2, greedy, llama, input_ids, 3)
    session.break_at(3, visit=2)
    assert session.step(30) is djinn.Phase.PAUSED  # the first hit
    assert session.layer == 3
    session.resume()
    assert session.wait(30) is djinn.Phase.PAUSED  # the second, in the next pass
    assert session.layer == 3
    session.break_at(4)
    assert session.step(30) is djinn.Phase.PAUSED  # step and breakpoint at once: one stop
    assert session.layer == 4
    session.resume()
    assert session.wait(30) is djinn.Phase.FINISHED


def test_a_step_ends_with_its_program(runtime, llama, input_ids):
    """FAILED if it raises before another layer; ``result`` has the error."""

    def program():
        prefill(llama, input_ids)
        raise ZeroDivisionError

    session = parked(runtime, LAYERS, program)
    assert session.step(30) is djinn.Phase.FAILED
    with pytest.raises(ZeroDivisionError):
        session.result()


def test_a_step_is_of_a_parked_session(runtime, llama, input_ids):
    """It is refused where there is nothing to go on with, and says what to do."""
    session = runtime.open()
    with pytest.raises(djinn.IllegalMove, match=r"created.*start\(\)"):
        session.step()
    end = threading.Event()
    session.start(end.wait)
    with pytest.raises(djinn.IllegalMove, match="running"):
        session.step()
    end.set()
    session.wait(30)
    with pytest.raises(djinn.IllegalMove, match="finished"):
        session.step()


def test_a_step_whose_time_is_up_still_stops(runtime, llama, input_ids):
    """It returns RUNNING, and the program parks at its next layer, once."""
    end = threading.Event()

    def program():
        prefill(llama, input_ids)
        end.wait()
        return prefill(llama, input_ids)

    session = parked(runtime, LAYERS, program)
    assert session.step(0.01) is djinn.Phase.RUNNING
    end.set()
    assert session.wait(30) is djinn.Phase.PAUSED
    assert session.layer == 1
    session.resume()
    assert session.wait(30) is djinn.Phase.FINISHED


def test_a_program_steps_no_other_session(runtime, llama, input_ids):
    """The other needs the device that the program holds: the step is refused before the other goes on."""
    other = parked(runtime, 2, prefill, llama, input_ids)
    with pytest.raises(djinn.IllegalMove, match="cannot wait for session 1"):
        runtime.open().start(other.step).result(30)
    assert other.phase is djinn.Phase.PAUSED


def test_what_an_interrupted_step_asked_for_is_void(runtime, llama, input_ids, monkeypatch):
    """A step that is interrupted before the program goes on leaves no request behind: RESUME runs to the end."""
    session = parked(runtime, 2, prefill, llama, input_ids)
    with monkeypatch.context() as patched:
        patched.setattr(session, "_leaving", lambda clock, restore: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.step(30)
    session.resume()
    assert session.wait(30) is djinn.Phase.FINISHED
