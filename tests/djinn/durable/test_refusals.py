"""What cannot be saved or restored is refused by name, and the runtime serves other sessions as before."""

import copy
import logging

import pytest
import torch
import transformers
from tests.programs import equal, greedy

import djinn
from djinn.durable import session_file

STEPS = 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "one.djinn"


def saved(runtime, path, program, *args, layer=2, visit=2, edit=None):
    session = runtime.open(breakpoint=layer, visit=visit, durable=True).start(program, *args)
    assert session.wait(30) is djinn.Phase.PAUSED
    if edit is not None:
        edit(session)
    session.save(path)
    session.close()


@pytest.fixture
def file(runtime, path, llama, input_ids):
    saved(runtime, path, greedy, llama, input_ids, STEPS)
    return path


@pytest.fixture
def refused(runtime, llama, input_ids):
    """A function that restores, and checks that it is refused with these words and harms nobody."""

    def check(words, path, program, *args, **more):
        expected = greedy(llama, input_ids, STEPS)
        with pytest.raises(djinn.NotRestored, match=words) as refusal:
            runtime.restore(path, program, *args, **more)
        assert str(refusal.value).startswith(f"{path}: ")
        with runtime.open().start(greedy, llama, input_ids, STEPS) as session:
            assert equal(session.result(30), expected)
        assert runtime.sessions == ()

    return check


# -- saving ----------------------------------------------------------------------------------------------------------


def test_a_session_that_was_not_recorded(runtime, path, llama, input_ids):
    with runtime.open(breakpoint=2).start(greedy, llama, input_ids, STEPS) as session:
        session.wait(30)
        assert session.recorded_bytes == 0
        with pytest.raises(djinn.IllegalMove, match="durable=True"):
            session.save(path)
    assert not path.exists()


def test_a_session_that_is_not_parked(runtime, path, llama, input_ids):
    with runtime.open(durable=True) as session:
        with pytest.raises(djinn.IllegalMove, match="created"):
            session.save(path)
        session.start(greedy, llama, input_ids, STEPS).result(30)
        with pytest.raises(djinn.IllegalMove, match="finished"):
            session.save(path)
    assert not path.exists()


def test_a_cache_of_the_caller_s(runtime, path, llama, input_ids):
    """He can change it at any time, so it is no state of the session, unless that may adopt it."""
    cache = transformers.DynamicCache(config=llama.config)

    def call():
        return llama(input_ids, past_key_values=cache).logits

    with runtime.open(breakpoint=2, durable=True).start(call) as session:
        session.wait(30)
        with pytest.raises(djinn.IllegalMove, match=r"without its kv\.1\.keys: .*adopt"):
            session.save(path)
        session.resume()
        session.result(30)


def test_a_folder_that_is_not_there(runtime, tmp_path, llama, input_ids):
    with runtime.open(breakpoint=2, durable=True).start(greedy, llama, input_ids, STEPS) as session:
        session.wait(30)
        with pytest.raises(NotADirectoryError, match="nowhere"):
            session.save(tmp_path / "nowhere" / "one.djinn")
        assert session.phase is djinn.Phase.PAUSED


# -- the model and the machine ---------------------------------------------------------------------------------------


def test_one_bit_of_a_weight(file, llama, input_ids, refused):
    """Found although the model is the same object with the same shapes, and named."""
    weight = llama.model.layers[4].mlp.up_proj.weight
    bits = weight.data.view(torch.int32)
    with torch.no_grad():
        before = weight.clone()
        bits[3, 5] ^= 1
        weight.copy_(weight.clone())  # a write that torch counts
    refused(r"the model's model\.layers\.4\.mlp\.up_proj\.weight", file, greedy, llama, input_ids, STEPS)
    with torch.no_grad():
        weight.copy_(before)


def test_weights_from_another_seed(file, llama, input_ids):
    torch.manual_seed(1)
    other = type(llama)(llama.config).eval()
    refusal = pytest.raises(djinn.NotRestored, match=r"the model's lm_head\.weight")
    with djinn.Runtime(other, host_memory_bytes=8 << 20) as runtime, refusal:
        runtime.restore(file, greedy, other, input_ids, STEPS)


def test_another_configuration(file, llama, input_ids):
    """The weights alone do not tell: the same ones with another base of the positions compute other numbers."""
    config = copy.deepcopy(llama.config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 5e5}
    other = type(llama)(config).eval()
    other.load_state_dict(llama.state_dict())
    refusal = pytest.raises(djinn.NotRestored, match="the model's configuration")
    with djinn.Runtime(other, host_memory_bytes=8 << 20) as runtime, refusal:
        runtime.restore(file, greedy, other, input_ids, STEPS)


def test_weights_of_inference_mode(input_ids, llama, path):
    """torch counts no writes to them, so they are looked at each time."""
    with torch.inference_mode():
        torch.manual_seed(2)
        other = type(llama)(llama.config).eval()
        with djinn.Runtime(other, host_memory_bytes=8 << 20) as runtime:
            saved(runtime, path, greedy, other, input_ids, STEPS)
            runtime.restore(path, greedy, other, input_ids, STEPS).close()
            other.lm_head.weight[0, 0] += 1
            with pytest.raises(djinn.NotRestored, match=r"the model's lm_head\.weight"):
                runtime.restore(path, greedy, other, input_ids, STEPS)


def test_the_same_weights_elsewhere(file, llama, input_ids):
    other = copy.deepcopy(llama)
    with djinn.Runtime(other, host_memory_bytes=8 << 20) as runtime:
        session = runtime.restore(file, greedy, other, input_ids, STEPS)
        session.resume()
        assert equal(session.result(30), greedy(llama, input_ids, STEPS))
        session.close()


def test_another_machine(runtime, file, llama, input_ids, refused, monkeypatch):
    here = djinn.runtime.machine_of(torch.device("cpu"))
    monkeypatch.setattr("djinn.runtime.machine_of", lambda device: {**here, "torch": "3.0.0"})
    refused(r"differs in torch: 3\.0\.0 here, .*allow_other=True", file, greedy, llama, input_ids, STEPS)
    with runtime.restore(file, greedy, llama, input_ids, STEPS, allow_other=True) as session:
        session.resume()
        assert equal(session.result(30), greedy(llama, input_ids, STEPS))


# -- the file's document ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document.update(format=2), "its format is 2"),
        (lambda document: document.pop("passes"), "KeyError: 'passes'"),
        (lambda document: document["passes"][0].update(way=7), "IndexError"),
        (lambda document: document.update(layer="second"), "ValueError"),
        (lambda document: document["ways"][0][0]["output"].update(dtype="nn"), "TypeError: nn"),
        (lambda document: document["calls"].update({"2": 0}), "calls"),
        (lambda document: document.update(layer=1 << 80), "KeyError"),
        (lambda document: document["ways"][0][0]["output"].update(dtype="onnx"), "TypeError: onnx"),
        (lambda document: document["ways"][0][0]["grown"][0].__setitem__(0, 10**12), "ValueError: grown"),
        (lambda document: document["parked"]["hidden_states"]["views"][0].update(shape=[1 << 70]), "lie otherwise"),
        (lambda document: document.update(layer=float("inf")), "Infinity is no JSON"),
        (lambda document: document["passes"][0].update(inputs=[]), "AttributeError"),
        (lambda document: document["random"]["numpy"].__setitem__(1, 10**6), "generator numpy is no state"),
        (lambda document: document["parked_random"].update(torch="AAAA"), "generator torch is no state"),
    ],
)
def test_a_document_that_is_not_ours(file, llama, input_ids, refused, change, words):
    """Whole and with right digests, but not written by this version."""
    document, tensors = session_file.read(file)
    change(document)
    session_file.write(file, document, tensors)
    refused(words, file, greedy, llama, input_ids, STEPS)


def test_shapes_that_no_memory_can_hold(file, runtime, llama, input_ids):
    """All is computed again then; no loop goes over an element that is shown 2**44 times."""
    document, tensors = session_file.read(file)
    for strides in ([1], [0]):
        for way in document["ways"]:
            way[0]["output"] = {"dtype": "float32", "sizes": [1 << 44], "strides": strides}
        session_file.write(file, document, tensors)
        with runtime.restore(file, greedy, llama, input_ids, STEPS) as session:
            assert session._tape.computed
            session.resume()
            assert equal(session.result(30), greedy(llama, input_ids, STEPS))


# -- the program -----------------------------------------------------------------------------------------------------


def test_other_arguments(file, llama, input_ids, refused):
    other = input_ids.clone()
    other[1, 7] += 1
    refused(r"argument args\.1 is torch\.int64 \[2, 24\]", file, greedy, llama, other, STEPS)
    refused(r"argument args\.2 is 4; .* it was 3", file, greedy, llama, input_ids, STEPS + 1)
    refused(r"argument args\.2 is not there; .* it was 3", file, greedy, llama, input_ids, steps=STEPS)


def test_another_mode(file, llama, input_ids, refused):
    with torch.inference_mode():
        refused("setting inference mode is True", file, greedy, llama, input_ids, STEPS)
    with torch.autocast("cpu", torch.bfloat16):
        refused("setting autocast on cpu", file, greedy, llama, input_ids, STEPS)
    torch.use_deterministic_algorithms(True)
    try:
        refused("setting deterministic", file, greedy, llama, input_ids, STEPS)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_program_that_does_something_else(file, llama, input_ids, refused):
    """Each is found where it first differs."""

    def ends(model, ids, steps):
        return model(ids, use_cache=True).logits

    def raises(model, ids, steps):
        model(ids, use_cache=True)
        raise ValueError("not any more")

    def exits(model, ids, steps):
        model(ids, use_cache=True)
        raise SystemExit(3)

    def feeds(model, ids, steps):
        output = model(ids, use_cache=True)
        return model(output.logits[:, -1:].argmin(-1), past_key_values=output.past_key_values, use_cache=True)

    def goes_on(model, ids, steps):
        return [model(ids, use_cache=True).logits for _ in range(4)]

    def inner(model, ids, steps):
        return model.model(ids, use_cache=True)

    def keeps(model, ids, steps):
        output = model(ids, use_cache=True)
        more = output.logits * 2
        return model(output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True), more

    told = {
        ends: "ended before it came to where it was parked",
        raises: "raised ValueError before it came",
        exits: "raised SystemExit before it came",
        feeds: r"in pass 2: input args\.0",
        goes_on: r"in pass 2: input args\.0",
        inner: "pass 1 calls LlamaModel, and called LlamaForCausalLM before",
        keeps: r"the state of the program has no greedy\.output",
    }
    for program, words in told.items():
        refused(words, file, program, llama, input_ids, STEPS)


def test_what_the_program_reads_elsewhere(runtime, path, llama, input_ids, refused):
    """The passes are as before, but a tensor of the program's own is not."""
    elsewhere = [2.0]

    def reads(model, ids):
        scaled = model(ids, use_cache=False).logits * elsewhere[0]
        return model(ids, use_cache=False).logits + scaled

    saved(runtime, path, reads, llama, input_ids)
    elsewhere[0] = 3.0
    refused(r"reads\.scaled is not what it was", path, reads, llama, input_ids)


def test_an_edit_before_a_computed_breakpoint(runtime, path, llama, input_ids):
    """Where passes are computed again, what an edit has changed in them would not be there, and that is said."""

    def static(model, ids):
        return model.generate(ids, max_new_tokens=4, do_sample=False, cache_implementation="static")

    def edited(session):
        session.state["hidden_states"] += 1
        session.break_at(3, visit=2)
        session.resume()
        session.wait(30)

    with pytest.raises(djinn.IllegalMove, match="at an earlier pause hidden_states was edited"):
        saved(runtime, path, static, llama, input_ids, edit=edited)
    assert not path.exists()


def test_a_layer_called_by_itself(runtime, path, llama, input_ids):
    """Outside of its model nothing can be answered, so it computes."""

    def alone(model, ids):
        hidden = model.model.embed_tokens(ids)
        positions = model.model.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
        for layer in model.model.layers:
            hidden = layer(hidden, position_embeddings=positions)
        return [hidden]

    expected = alone(llama, input_ids)
    saved(runtime, path, alone, llama, input_ids, layer=4, visit=1)
    with runtime.restore(path, alone, llama, input_ids) as session:
        assert session._tape.computed
        session.resume()
        assert equal(session.result(30), expected)


def test_saving_is_told(runtime, path, llama, input_ids, caplog):
    """The bytes that recording costs are in ``status()``, and in the line that saving leaves in the log."""
    caplog.set_level(logging.INFO, logger="djinn")
    with runtime.open(breakpoint=2, visit=2, durable=True).start(greedy, llama, input_ids, STEPS) as session:
        session.wait(30)
        recorded = input_ids.numel() * llama.config.vocab_size * 4
        assert session.recorded_bytes == runtime.status()[0].recorded_bytes == recorded
        assert "beside it for durable sessions" in str(runtime.status())
        nbytes = session.save(path)
    runtime._journal.close()
    line = next(record.getMessage() for record in caplog.records if "saved" in record.getMessage())
    assert line.startswith(f"session 1: saved, {nbytes / 2**20:.1f} MiB")
