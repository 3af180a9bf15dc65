"""Edits on the bench are those of a plain hook, bit by bit; what cannot be done is a line and changes nothing."""

import re
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import djinn
from djinn.debugger import cutting, patience

VECTOR = torch.linspace(-1, 1, 64)


def hooked(llama, input_ids, layer, change):
    """The tokens of a run in which a plain hook changes what ``layer`` returns in the prefill."""

    def once(module, args, output):
        handle.remove()
        return change(output)

    handle = llama.model.layers[layer - 1].register_forward_hook(once)
    return llama(input_ids, use_cache=False).logits


def zeroed(h):
    h = h.clone()
    h[:, -1] = 0
    return h


EDITS = {
    "edit scale -2.5": lambda h: h * -2.5,
    "edit zero -1": zeroed,
    "edit add vector.pt": lambda h: h + VECTOR,
    "edit add vector.npy": lambda h: h + VECTOR,
    "edit add vector.safetensors": lambda h: h + VECTOR,
    "edit expr torch.where(h > 0, h, 0.1 * h)": lambda h: torch.where(h > 0, h, 0.1 * h),
    "e h.double()": lambda h: h,
    "e torch.save(h, 'h.pt') or h": lambda h: h,
}


ODD = {
    "(_ for _ in ()).throw(BaseException('x'))": "the expression raised BaseException: x",
    "(_ for _ in ()).throw(type('E', (Exception,), {'__str__': lambda s: 1 / 0})())": "the expression raised E",
    "(_ for _ in ()).throw(type('E', (BaseException,), {'__str__': lambda s: exec('raise SystemExit')})())": (
        "the expression raised E"
    ),
    "exec('raise ValueError(\\'a\\\\nb\\')')": "the expression raised ValueError: a",
    "f(" * 5000 + ")" * 5000: f"{'f(' * 30!r}... is no Python expression: too many nested parentheses",
    "-" * 10_000 + "h": "the expression is too deep for Python's compiler: MemoryError",
    "h" + "+h" * 10_000: "the expression is too deep for Python's compiler: RecursionError",
    "(lambda f: f(f))(lambda f: f(f))": "the expression raised RecursionError: maximum recursion depth exceeded",
    "exit()": "the expression raised NameError: name 'exit' is not defined",
    "h.to(torch.complex64)": "what the expression gave is no plain tensor of real numbers, but torch.complex64 in ",
    "h.to_sparse()": "what the expression gave is no plain tensor of real numbers, but torch.float32 in torch.sparse",
    "h.to('meta')": "what the expression gave is no plain tensor of real numbers, but meta",
}


@pytest.mark.parametrize("expression", ODD, ids=range(len(ODD)))
def test_an_odd_expression_is_a_line(runtime, llama, input_ids, refuses, expression):
    """Whatever it raises or gives; the session is as it was."""
    session = runtime.open(breakpoint=2).start(lambda: llama(input_ids, use_cache=False).logits)
    session.wait(30)
    before = session.state["hidden_states"].clone()
    assert refuses(f"edit expr {expression}").startswith(ODD[expression])
    assert torch.equal(session.state["hidden_states"], before)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(VECTOR, "vector.pt")
    np.save("vector.npy", VECTOR.numpy())
    save_file({"steer": VECTOR}, "vector.safetensors")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("line", EDITS)
def test_an_edit_is_that_of_a_plain_hook(bench, runtime, llama, input_ids, does, line, waits):
    """While paused and in IO_WAIT: the same hidden states, the same norms in the answer, the same logits at the end."""
    session = runtime.open(breakpoint=2).start(lambda: llama(input_ids, use_cache=False).logits)
    session.wait(30)
    before = session.state["hidden_states"].clone()
    if waits:
        does("wait")
    said = does(line)
    expected = EDITS[line](before)
    assert torch.equal(session.state["hidden_states"], expected)
    was, is_now, difference = (one.double().norm() for one in (before, expected, expected.double() - before.double()))
    assert f"their norm was {was:.4g} and is {is_now:.4g}, that of the difference is {difference:.4g}" in said
    does("resume")
    assert torch.equal(session.result(30), hooked(llama, input_ids, 2, EDITS[line]))


REFUSALS = {
    "edit scale": "an edit needs its argument: see help",
    "edit scale much": "edit scale takes a number, not 'much': for example edit scale 1.5",
    "edit scale nan": "edit scale takes a finite number, not nan",
    "edit zero 1.5": "edit zero takes a position, not '1.5': for example edit zero -1 for the last",
    "edit zero 24": "there is no position 24: the hidden states have 24, 0 to 23",
    "edit add none.pt": "there is no file none.pt",
    "edit add vector.bin": "vector.bin is no .pt, .npy or .safetensors file",
    "edit add long.pt": "long.pt has shape [65], which is not added to [2, 24, 64]",
    "edit add many.safetensors": "many.safetensors has 2 tensors in place of one tensor",
    "edit add broken.npy": "broken.npy cannot be read as a tensor: ",
    "edit add broken.pt": "broken.pt cannot be read as a tensor: ",
    "edit add broken.safetensors": "broken.safetensors cannot be read as a tensor: ",
    "edit add code.pt": "code.pt cannot be read as a tensor: Weights only load failed",
    "edit add code.npy": "code.npy cannot be read as a tensor: Object arrays cannot be loaded when allow_pickle=False",
    "edit add words.npy": "words.npy cannot be read as a tensor: can't convert np.ndarray of type numpy.str_",
    "edit expr h +": "'h +' is no Python expression: ",
    "edit expr h[0]": "the expression gave shape [24, 64]; it must give the shape of h, [2, 24, 64]",
    "edit expr 3": "the expression gave int; it must give the shape of h, [2, 24, 64]",
    "edit expr h / 0 + k": "the expression raised NameError: name 'k' is not defined",
    "edit expr h.mul_(2)[0]": "the expression gave shape [24, 64]; it must give the shape of h, [2, 24, 64]",
    "edit expr exit()": "the expression raised ",
    "edit": "'edit' may be edit scale or edit zero or edit add or edit expr",
}


@pytest.mark.usefixtures("files")
def test_what_cannot_be_done_is_a_line(started, refuses):
    """And the hidden states are as before, also where an expression has written into its copy."""
    torch.save(torch.zeros(65), "long.pt")
    torch.save(pytest.approx, "code.pt")
    np.save("code.npy", np.array([pytest.approx], dtype=object))
    np.save("words.npy", np.array(["word"]))
    save_file({"a": VECTOR, "b": -VECTOR}, "many.safetensors")
    for kind in ("npy", "pt", "safetensors"):
        with open(f"broken.{kind}", "w") as file:
            file.write("no tensor")
    session = started()
    before = session.state["hidden_states"].clone()
    for line, expected in REFUSALS.items():
        assert refuses(line).startswith(expected), line
    assert torch.equal(session.state["hidden_states"], before)
    assert session.phase is djinn.Phase.PAUSED


def test_an_endless_expression_is_cut_off(bench, started, monkeypatch):
    """By a stop from another thread, as on the screen, and by Ctrl-C; its thread ends, and the session is as it was.

    What is in an operation that takes long is left to end by itself, and the line says so.
    """
    monkeypatch.setattr(patience, "SAY_SECONDS", 0)
    session = started()
    before = session.state["hidden_states"].clone()

    def strikes(text):
        raise KeyboardInterrupt

    for says in (lambda text: bench.interrupt(), strikes):
        outcome = bench.do("edit expr exec('while True: h.mul_(2)')", say=says)
        (said,) = outcome.lines
        assert outcome.failed
        assert re.fullmatch(r"interrupted: session 1 is paused after layer 2, \S+ MiB on the device", said)
        for thread in [one for one in threading.enumerate() if one.name == "djinn-edit"]:
            thread.join(20)
            assert not thread.is_alive()
    monkeypatch.setattr(cutting, "_CUT_SECONDS", 0.01)
    goes_on = threading.Lock()
    monkeypatch.setattr(torch, "waits", goes_on.acquire, raising=False)
    with goes_on:
        (said,) = bench.do("edit expr torch.waits()", say=lambda text: bench.interrupt()).lines
    assert said.endswith("; what was executed has not ended yet, and what it gives is dropped")
    assert torch.equal(session.state["hidden_states"], before)


def test_an_interrupt_in_an_expression_changes_nothing(started, refuses, monkeypatch):
    """Ctrl-C ends it, and the session stays as it was."""
    session = started()
    before = session.state["hidden_states"].clone()

    def strikes():
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "strikes", strikes, raising=False)
    assert refuses("edit expr h.mul_(2) + torch.strikes()").startswith("interrupted: session 1 is paused after layer 2")
    assert torch.equal(session.state["hidden_states"], before)
