"""The logit lens: behind the last layer it says what the model says."""

import functools

import pytest
import torch
from tests.djinn.families import LAYERS, MODELS, built, tokens_and_mask
from torch import nn

import djinn
from djinn.debugger import lens
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
