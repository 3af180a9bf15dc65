"""The logit lens: behind the last layer it says what the model says."""

import functools

import pytest
import torch
from tests.djinn.families import LAYERS, MODELS, built, tokens_and_mask
from torch import nn

import djinn
from djinn.debugger import lens, patience
from djinn.debugger.bench import Bench
from djinn.debugger.lens import NoLens, find_tail


@pytest.mark.parametrize("name", [name for name in MODELS if name != "t5"])
def test_behind_the_last_layer_it_is_the_model(name):
    """Logits and probabilities of each sequence are those of the model's own last token.

    Products of one row are summed in another order than those of many.
    """
    model = built(name)
    tokens, _ = tokens_and_mask()
    expected = model(tokens, use_cache=False).logits[:, -1].float()
    with djinn.Runtime(model, host_memory_bytes=16 << 20) as runtime:
        session = runtime.open(breakpoint=LAYERS).start(lambda: model(tokens, use_cache=False))
        session.wait(30)
        bench = Bench(runtime)
        for sequence in (0, 1):
            found = bench.lens(3, sequence=sequence)
            best = expected[sequence].topk(3)
            close = functools.partial(pytest.approx, rel=1e-4, abs=1e-5)
            assert found.label.startswith(f"logit lens, layer {LAYERS}: ")
            assert [guess.token.id for guess in found.guesses] == best.indices.tolist()
            assert [guess.logit for guess in found.guesses] == close(best.values.tolist())
            chances = expected[sequence].softmax(-1)[best.indices]
            assert [guess.probability for guess in found.guesses] == close(chances.tolist())
        bench.close()


def test_in_the_middle_it_is_the_norm_and_the_head(bench, started, llama):
    """At any layer, in every bit, from device and from host memory alike."""
    session = started(3, visit=2)
    hidden = session.state["hidden_states"].clone()
    scores = llama.lm_head(llama.model.norm(hidden[0, -1:]))[0].float()
    expected = scores.topk(5)
    for _ in range(2):
        found = bench.lens()
        assert (found.layer, found.label) == (3, "logit lens, layer 3: model.norm and lm_head, sequence 1 of 2")
        assert [guess.token.id for guess in found.guesses] == expected.indices.tolist()
        assert [guess.logit for guess in found.guesses] == expected.values.tolist()
        assert [guess.probability for guess in found.guesses] == scores.softmax(-1)[expected.indices].tolist()
        assert found.guesses[0].token.text == f"<{found.guesses[0].token.id}>"
        if session.phase is djinn.Phase.PAUSED:
            session.io_wait()


def test_a_head_in_pieces_is_the_head(monkeypatch, llama):
    """Slices of the words give the same logits; a bias comes along."""
    torch.manual_seed(0)
    row = torch.randn(1, 64)
    head = nn.Linear(64, 40)
    tail = lens.Tail(norm=llama.model.norm, head=head, norm_name="", head_name="", beyond="")
    expected = head(llama.model.norm(row))[0]
    assert torch.equal(lens.logits(tail, row, row.device, lambda piece: piece()), expected)
    monkeypatch.setattr(lens, "_PIECE_ELEMENTS", 64 * 7)
    turns = []
    found = lens.logits(tail, row, row.device, lambda piece: turns.append(piece) or piece())
    assert len(turns) == 1 + 6
    torch.testing.assert_close(found, expected)


def test_hooks_on_norm_and_head_do_not_run(bench, started, llama):
    """They are for the program's passes."""
    started()
    ran = []
    handles = [part.register_forward_hook(lambda *args: ran.append(1)) for part in (llama.model.norm, llama.lm_head)]
    assert bench.lens().guesses
    for handle in handles:
        handle.remove()
    assert ran == []


def test_what_comes_behind_the_head_is_named(llama):
    """A cap or a scale of the logits is not applied, and the label says so."""
    names = tuple(f"model.layers.{index}" for index in range(6))
    assert find_tail(llama, names).beyond == ""
    llama.config.final_logit_softcapping = 30.0
    try:
        assert find_tail(llama, names).beyond == "final_logit_softcapping"
    finally:
        del llama.config.final_logit_softcapping
    assert find_tail(built("t5"), ("decoder.block.0",)).beyond == "scale_decoder_outputs"


def test_a_model_without_a_tail_has_no_lens(llama):
    """A line says what was not found."""
    names = tuple(f"layers.{index}" for index in range(6))
    with pytest.raises(NoLens, match=r"LlamaModel has no head .*: no logit lens"):
        find_tail(llama.model, names)
    llama.model.other_norm = nn.LayerNorm(64)
    try:
        with pytest.raises(NoLens, match="has 2 modules that may be its final norm"):
            find_tail(llama, tuple(f"model.{name}" for name in names))
    finally:
        del llama.model.other_norm


def test_a_norm_before_the_layers_is_not_the_final_one(llama):
    """As where embeddings are normed."""
    parts = dict(llama.model.named_children())
    llama.model._modules = {"first_norm": nn.LayerNorm(64), **parts}
    try:
        assert find_tail(llama, ("model.layers.0",)).norm_name == "model.norm"
    finally:
        llama.model._modules = parts


def test_there_are_notes_in_place_of_errors(bench, started, does, refuses, llama):
    """Without a paused session, for a sequence or a count that is none, and where logits or the model's code fail."""
    assert bench.lens().note == "there is no paused session to look into"
    started()
    assert bench.lens(sequence=2).note == "there is no sequence 3: 1 to 2"
    assert len(bench.lens(10**6).guesses) == 128
    assert refuses("lens 0") == "lens shows at least 1 token, not 0"
    does("edit scale -1")
    does("edit expr h / 0")
    assert refuses("lens").endswith(": the logits are not finite: no token is likelier than another")
    llama.model.norm.forward = lambda row: {}["missing"]
    try:
        assert bench.lens().note == "the final norm or the head raised KeyError: 'missing'"
    finally:
        del llama.model.norm.forward


@pytest.fixture
def forks(monkeypatch):
    """The forks that were made."""
    made, fork = [], djinn.Session.fork
    monkeypatch.setattr(djinn.Session, "fork", lambda session: made.append(fork(session)) or made[-1])
    return made


def test_the_lens_of_all_layers_is_that_of_hooks(bench, started, does, llama, input_ids, forks):
    """From an edited layer on, in a decode step. The session does not move, and of the fork nothing is left."""
    found, visits = {}, []

    def note(module, args, output, layer):
        visits.append(layer)
        if visits.count(layer) == 2:
            output = output * 1.5 if layer == 2 else output
            found[layer] = output[1, -1:].clone()
        return output

    handles = [
        module.register_forward_hook(functools.partial(note, layer=layer))
        for layer, module in enumerate(llama.model.layers, start=1)
    ]
    expected = llama.generate(input_ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    for handle in handles:
        handle.remove()
    session = started(2, visit=2, durable=True)
    does("edit scale 1.5")
    does("break 4")
    before, in_use = session.state["hidden_states"].clone(), bench.sample().nbytes
    asked = bench.do("lens layers 3 2")
    assert (asked.question, forks) == ("Fork?", [])
    assert asked.lines[0] == "a fork of session 1 goes on to layer 6 and is closed: its program runs again up to here"
    heading, *lines, last = does("lens layers 3 2", confirmed=True).splitlines()
    assert heading == "logit lens, layers 2 to 6: model.norm and lm_head, sequence 2 of 2"
    assert last == "the program's side effects up to here have happened again"
    for layer, line in zip(range(2, 7), lines, strict=True):
        chances = llama.lm_head(llama.model.norm(found[layer]))[0].float().softmax(-1)
        best = chances.topk(3)
        assert line.split() == [
            str(layer),
            *(f for p, i in zip(*best, strict=True) for f in (f"{p:.4f}", f"'<{i}>'")),
        ]
    assert [fork.phase for fork in forks] == [djinn.Phase.CLOSED]
    assert (bench.runtime.sessions, bench.selected) == ((session,), session)
    assert bench.sample().nbytes == in_use
    assert (session.layer, session.breakpoint) == (2, 4)
    assert torch.equal(session.state["hidden_states"], before)
    does("resume")
    does("resume")
    assert torch.equal(session.result(30), expected)


def test_the_lens_of_all_layers_is_refused_before_it_is_asked(bench, started, refuses):
    """Where no fork can be made, no layer is behind, or there is nothing to show."""
    started(2)
    assert refuses("lens layers") == "IllegalMove: session 1 was not recorded: open it with durable=True to fork it"
    started(6, durable=True)
    bench.do("use 2")
    assert refuses("lens layers") == "no layer comes after layer 6: lens shows this one"
    started(2, durable=True)
    bench.do("use 3")
    assert refuses("lens layers 0") == "lens layers shows at least 1 token, not 0"
    assert refuses("lens layers 1 3").endswith("there is no sequence 3: 1 to 2")
    assert refuses("lens layers k") == "'k' is no whole number: type lens layers K SEQUENCE"


@pytest.mark.parametrize("by", ["interrupt", "Ctrl-C"])
def test_the_lens_of_all_layers_can_be_stopped(bench, started, forks, monkeypatch, by):
    """At any layer, of which it tells; then the fork is closed and the session is where it was."""
    monkeypatch.setattr(patience, "SAY_SECONDS", 0)
    session = started(2, durable=True)
    said = []

    def stops(text):
        said.append(text)
        if text == "waiting for layer 4 of 6":
            if by == "Ctrl-C":
                raise KeyboardInterrupt
            bench.interrupt()

    (line,) = bench.do("lens layers", confirmed=True, say=stops).lines
    assert line.startswith("interrupted: session 1 is paused after layer 2")
    assert said[0] == "the program runs again up to here"
    assert "waiting for layer 5 of 6" not in said
    assert [fork.phase for fork in forks] == [djinn.Phase.CLOSED]
    assert bench.runtime.sessions == (session,)


def test_a_pass_that_does_not_come_to_its_end_is_said(bench, started, forks, llama):
    """Behind the layers that came; the fork is closed too."""
    started(2, durable=True)

    def fails(module, args):
        raise RuntimeError("no room")

    handle = llama.model.layers[3].register_forward_pre_hook(fails)
    try:
        outcome = bench.do("lens layers", confirmed=True)
    finally:
        handle.remove()
    assert outcome.failed
    assert [line.split()[0] for line in outcome.lines[1:3]] == ["2", "3"]
    assert outcome.lines[3] == "no layer 4 came in the fork's pass: failed with RuntimeError: no room"
    assert [fork.phase for fork in forks] == [djinn.Phase.CLOSED]
