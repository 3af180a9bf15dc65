"""Runtimes, sessions and tables say what they are, as the last expression of a notebook's cell."""

import re

import pytest
import torch
from tests.programs import parked, prefill

import djinn

pytestmark = pytest.mark.usefixtures("without_climb")


def test_a_session_says_where_it_stands(runtime, llama, input_ids):
    """Its phase, the layer, the bytes per tier, and in its end what became of it."""
    session = runtime.open(breakpoint=3)
    assert repr(session) == "<Session 1: created, to stop after layer 3>"
    session.start(prefill, llama, input_ids).wait(30)
    assert re.fullmatch(r"<Session 1: paused after layer 3, 0\.\d MiB on the device>", repr(session))
    session.io_wait()
    assert re.fullmatch(r"<Session 1: io_wait after layer 3, 0\.\d MiB in host memory>", repr(session))
    session.break_at(2)
    session.resume()
    session.wait(30)
    assert repr(session) == "<Session 1: finished without reaching its breakpoint, layer 2>"
    session.close()
    assert repr(session) == "<Session 1: closed>"


def test_a_failed_session_names_the_class_of_its_error_alone(runtime):
    """The error's text is made by code of the user's, which may raise."""

    class Odd(Exception):
        def __str__(self):
            raise ZeroDivisionError

    def program():
        raise Odd

    session = runtime.open().start(program)
    session.wait(30)
    assert repr(session) == "<Session 1: failed with Odd: result() raises it>"


def test_a_cancelled_session_is_said_to_be_cancelled(runtime, llama, input_ids):
    """Its phase is FAILED, but no error has come; who waits for it and gets its end as an error of his own has one."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    other = runtime.open().start(session.result)
    other.wait(30)
    session.cancel()
    assert session.wait(30) is djinn.Phase.FAILED
    waiter = runtime.open().start(session.result)
    waiter.wait(30)
    assert repr(session) == "<Session 1: cancelled>"
    assert repr(waiter) == "<Session 3: failed with SessionCancelled: result() raises it>"
    words = [re.split(r"  +", line.strip())[1] for line in str(runtime.status()).splitlines()[1:-1]]
    assert words == ["cancelled", "failed", "failed"]
    with pytest.raises(djinn.IllegalMove, match="this one is cancelled"):
        session.resume()


def test_a_repr_waits_for_nobody(runtime, llama, input_ids):
    """A session whose lock another thread holds can be shown, and so can its runtime."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    shown = []
    with session._lock:
        other = runtime.open().start(lambda: shown.append((repr(session), repr(runtime), repr(runtime.status()))))
        other.wait(5)
    assert "<Session 1: paused after layer 3" in shown[0][0]


def test_a_runtime_says_what_it_holds(llama, input_ids):
    """Its model, layers, open sessions and the use of its host memory; closed, that it is closed."""
    with djinn.Runtime(llama, host_memory_bytes=4 << 20) as runtime:
        said = "<Runtime of LlamaForCausalLM: 6 layers, {}, {} MiB of 4.0 MiB of host memory in use>"
        assert repr(runtime) == said.format("0 sessions", "0.0")
        session = parked(runtime, 3, prefill, llama, input_ids)
        assert repr(runtime) == said.format("1 session", "0.0")
        session.io_wait()
        assert repr(runtime) == said.format("1 session", f"{session.host_bytes / 2**20:.1f}")
    assert repr(runtime) == "<Runtime of LlamaForCausalLM: closed>"


def test_the_status_is_its_table(runtime, llama, input_ids):
    """As an expression it shows what it prints; so does the state, by name, shape and dtype."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    assert re.search(r"^ +1  paused +3  device", repr(runtime.status()), re.MULTILINE)
    assert re.search(r"^hidden_states +torch.float32 +\[2, 24, 64\]$", repr(session.state), re.MULTILINE)
    assert "LeftBehind(name='" in repr(session.left_behind) or session.left_behind == ()


@pytest.mark.parametrize("hold", [False, True])
def test_a_void_view_can_be_shown(runtime, llama, input_ids, hold):
    """A view of the state that the session has left still shows names and shapes."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    view = session.state
    with torch.inference_mode(hold):
        session.resume()
    session.wait(30)
    assert "hidden_states" in repr(view)


def test_the_state_offers_its_names(runtime, llama, input_ids):
    """To whoever types ``session.state["`` in IPython; they are no attributes that can be assigned."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    with pytest.raises(AttributeError):
        session.state.hidden_states = session.state["hidden_states"] * 2  # would do nothing
    assert session.state._ipython_key_completions_() == list(session.state)
