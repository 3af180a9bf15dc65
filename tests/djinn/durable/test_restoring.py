"""A session that was saved goes on in another process, and its result is that of an uninterrupted run, bit for bit."""

import json
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from tests.djinn import late_link
from tests.djinn.families import LAYERS, MODELS, built, tokens_and_mask
from tests.programs import equal

import djinn

HERE = Path(__file__).parents[3]
# By what the model answers: its tape, or its layers, which compute again.
CALLS = {
    "greedy": {},
    "sampled": {"do_sample": True},
    "beams": {"num_beams": 2},
    "static cache": {"cache_implementation": "static"},
    "hidden states": {"output_hidden_states": True},
    "no cache": {"use_cache": False},
}
WHERE = [(2, 1), (1, 3), (LAYERS, 2)]  # layer, and how often it has been called: a prefill, and two decode steps
CASES = {
    f"{name}, {call}, layer {layer}, visit {visit}": (name, CALLS[call], layer, visit)
    for number, name in enumerate(MODELS)
    for turn, call in enumerate(CALLS)
    for layer, visit in [WHERE[(number + turn) % len(WHERE)]]
    if (name, call) != ("mamba", "static cache") and (name == "llama" or (number + turn) % 2)
}
COMPUTED = {"mistral", "gemma3", "mamba", "t5"}  # sliding, recurrent and encoder-decoder caches


def generate(model, tokens, mask, more):
    """Tokens and scores of every step."""
    found = model.generate(
        tokens, attention_mask=mask, max_new_tokens=4, return_dict_in_generate=True, output_scores=True, **more
    )
    return [found.sequences, *found.scores]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the file of each case, and the results of the uninterrupted runs."""
    folder, expected = tmp_path_factory.mktemp("saved"), {}
    tokens, mask = tokens_and_mask()
    for name in MODELS:
        model = built(name)
        for number, (case, (its, more, layer, visit)) in enumerate(CASES.items()):
            if its != name:
                continue
            torch.manual_seed(3)
            expected[case] = generate(model, tokens, mask, more)
            torch.manual_seed(3)
            with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
                session = runtime.open(breakpoint=layer, visit=visit, durable=True)
                assert session.start(generate, model, tokens, mask, more).wait(60) is djinn.Phase.PAUSED
                if number % 2:
                    session.io_wait()
                session.save(folder / f"{number}.djinn")
                session.close()
    return folder, expected


@pytest.fixture(scope="module")
def results(saved, tmp_path_factory, interpreters):
    """What each case results in, in one other process, and whether its layers computed again."""
    folder, _ = saved
    answers = tmp_path_factory.mktemp("answers")
    script = f"""
    import sys, torch
    sys.path[:0] = [{str(HERE)!r}, {str(HERE / "src")!r}]
    import djinn
    from tests.djinn.families import MODELS, built, tokens_and_mask
    from tests.djinn.durable.test_restoring import CASES, generate

    tokens, mask = tokens_and_mask()
    torch.set_num_threads({torch.get_num_threads()})
    for name in MODELS:
        model = built(name)
        with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
            for number, (case, (its, more, layer, visit)) in enumerate(CASES.items()):
                if its == name:
                    torch.manual_seed(99)
                    path = {str(folder)!r} + f"/{{number}}.djinn"
                    with runtime.restore(path, generate, model, tokens, mask, more) as session:
                        assert (session.phase, session.layer) == (djinn.Phase.PAUSED, layer)
                        session.io_wait()
                        torch.rand(10)
                        session.resume()
                        result = session.result(60)
                    torch.save([result, session._tape.computed], {str(answers)!r} + f"/{{number}}.pt")
    """
    ended = interpreters.run(textwrap.dedent(script))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return {case: torch.load(answers / f"{number}.pt") for number, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_the_result_in_another_process(saved, results, case):
    """Every family, greedy and sampled, with the caches that it has, prefill and decode."""
    result, computed = results[case]
    assert equal(result, saved[1][case])
    name, more, _, _ = CASES[case]
    has_such_a_cache = name not in COMPUTED and "cache_implementation" not in more
    assert computed is not (has_such_a_cache or (more == CALLS["no cache"] and name != "t5"))


# -- on one model ----------------------------------------------------------------------------------------------------


def spoken(model, ids, steps, told):
    """A program of a user's own: its cache is made by the model, it decides by logits, and tells of each step."""
    output = model(ids, use_cache=True)
    logits = [output.logits]
    for step in range(steps):
        told.append(step)
        token = logits[-1][:, -1:].argmax(-1) if step % 2 else torch.multinomial(logits[-1][:, -1].softmax(-1), 1)
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits)
    return logits


@torch.no_grad()
def talk(*args):
    return spoken(*args)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "one.djinn"


def saved_at(runtime, path, layer, visit, *args, edit=None, program=talk):
    torch.manual_seed(3)
    session = runtime.open(breakpoint=layer, visit=visit, durable=True).start(program, *args)
    assert session.wait(30) is djinn.Phase.PAUSED
    if edit is not None:
        edit(session.state)
    session.save(path)
    return session


def finished(session):
    session.resume()
    return session.result(30)


def test_side_effects_happen_again(runtime, llama, input_ids, path):
    told = []
    session = saved_at(runtime, path, 3, 3, llama, input_ids, 4, told)
    expected = finished(session)
    again = []
    with runtime.restore(path, talk, llama, input_ids, 4, again) as restored:
        assert again == [0, 1]
        assert equal(finished(restored), expected)
    assert again == told == [0, 1, 2, 3]


def test_edits_are_in_the_file(runtime, llama, input_ids, path):
    """At the breakpoint of the file and at one before it, of hidden states, KV and the program's own tensors."""

    def steer(state):
        state["hidden_states"][:, -1] += 3
        state["kv.2.keys"][:, :, 0] = 0
        state["kv.5.values"][:, :, 1] = 1

    session = saved_at(runtime, path, 2, 2, llama, input_ids, 4, [], edit=steer)
    session.break_at(4, visit=1)
    session.resume()
    assert session.wait(30) is djinn.Phase.PAUSED
    steer(session.state)
    session.save(path)
    expected = finished(session)
    with runtime.restore(path, talk, llama, input_ids, 4, []) as restored:
        assert not restored._tape.computed
        assert restored.layer == 4
        assert equal(finished(restored), expected)


def test_a_restored_session_is_saved_again(runtime, llama, input_ids, path):
    session = saved_at(runtime, path, 2, 2, llama, input_ids, 4, [])
    expected = finished(session)
    for layer, visit in ((2, 1), (6, 1), (6, 2)):
        with runtime.restore(path, talk, llama, input_ids, 4, []) as restored:
            restored.break_at(layer, visit=visit)
            restored.resume()
            assert restored.wait(30) is djinn.Phase.PAUSED
            restored.save(path)
    with runtime.restore(path, talk, llama, input_ids, 4, []) as restored:
        assert restored.recorded_bytes == sum(logits.nbytes for logits in expected[:4])
        assert equal(finished(restored), expected)


def test_state_on_its_way_is_no_reason_to_compute(late_runtime, link, llama, input_ids, monkeypatch):
    """A pass that begins while an earlier pause's state is still being swapped in is answered like any other."""
    monkeypatch.setattr(late_link, "SECONDS", 2)  # for so long it is; the next pause waits for it
    session = late_runtime.open(breakpoint=6, durable=True).start(talk, llama, input_ids, 2, [])
    session.wait(30)
    session.io_wait()
    session.break_at(2)
    session.resume()
    session.wait(30)
    assert session._tape.only_by_computing == ""
    link.arrive()
    session.close(30)


def test_steps_after_a_restore(runtime, llama, input_ids, path):
    expected = finished(saved_at(runtime, path, 5, 1, llama, input_ids, 2, []))
    with runtime.restore(path, talk, llama, input_ids, 2, []) as restored:
        assert [(restored.step(30), restored.layer) for _ in range(3)] == [(djinn.Phase.PAUSED, at) for at in (6, 1, 2)]
        assert equal(finished(restored), expected)


def test_all_random_generators(runtime, llama, input_ids, path):
    """Those of Python and NumPy are the program's too, and a layer that draws has drawn."""
    import random

    import numpy

    def rolls(model, ids):
        drawn = [torch.tensor([random.random(), numpy.random.rand(), numpy.random.randn(), random.gauss(0, 1)])]
        with torch.no_grad():
            drawn.append(model(ids).logits)
            drawn.append(torch.rand(2))  # behind layers that have drawn
            drawn.append(model(ids).logits)
        return [*drawn, torch.tensor([random.random(), numpy.random.randn(), random.gauss(0, 1)]), torch.rand(3)]

    llama.train()
    llama.config.attention_dropout = 0.3
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.3
    try:
        random.seed(1)
        numpy.random.seed(1)
        session = saved_at(runtime, path, 3, 2, llama, input_ids, program=rolls)
        expected = finished(session)
        random.seed(2)
        numpy.random.seed(2)
        with runtime.restore(path, rolls, llama, input_ids) as restored:
            assert not restored._tape.computed
            assert equal(finished(restored), expected)
    finally:
        for layer in llama.model.layers:
            layer.self_attn.attention_dropout = 0.0
        llama.config.attention_dropout = 0.0
        llama.eval()


def test_autograd_needs_what_was_computed(runtime, llama, input_ids, path):
    """Where a pass has made a graph its layers compute again; where the breakpoint's is one it cannot be saved."""

    def gradient(model, ids):
        with torch.enable_grad():
            loss = model(ids, labels=ids).loss
        model(ids)
        return torch.autograd.grad(loss, model.lm_head.weight)

    session = saved_at(runtime, path, 3, 2, llama, input_ids, program=gradient)
    expected = finished(session)
    with runtime.restore(path, gradient, llama, input_ids) as restored:
        assert restored._tape.computed
        assert equal(finished(restored), expected)
    with pytest.raises(djinn.IllegalMove, match=r"without its hidden_states: .*no_grad"):
        saved_at(runtime, path, 3, 1, llama, input_ids, program=gradient)


def test_hooks_see_what_layers_compute(runtime, llama, input_ids, path):
    """Where somebody listens in the layers they compute again, and he hears the same."""
    heard = []
    expected = finished(saved_at(runtime, path, 3, 2, llama, input_ids, 3, []))
    hook = llama.model.layers[0].mlp.register_forward_hook(lambda *call: heard.append(call[2].clone()))
    try:
        with runtime.restore(path, talk, llama, input_ids, 3, []) as restored:
            assert restored._tape.computed
            assert equal(finished(restored), expected)
    finally:
        hook.remove()
    assert len(heard) == 4
    assert not any(torch.isnan(one).any() for one in heard)


def test_what_a_layer_returned_is_kept_outside(runtime, llama, input_ids, path):
    """A function of the program's own keeps what each layer returns: answered, it would keep NaN."""
    kept = []

    @torch.no_grad()
    def keeps(model, ids):
        held = []
        forwards = [(layer, vars(layer)["forward"]) for layer in model.model.layers]
        for layer, forward in forwards:
            vars(layer)["forward"] = lambda *args, forward=forward, **more: (
                held.append(forward(*args, **more)) or held[-1]
            )
        try:
            logits = [model(ids).logits for _ in range(2)]
        finally:
            for layer, forward in forwards:
                vars(layer)["forward"] = forward
        kept[:] = [one.sum() for one in held]
        return [*logits, *kept]

    session = saved_at(runtime, path, 3, 2, llama, input_ids, program=keeps)
    expected = finished(session)
    with runtime.restore(path, keeps, llama, input_ids) as restored:
        assert equal(finished(restored), expected)


def test_what_somebody_held_when_it_was_saved(runtime, llama, input_ids, path):
    """It was not the session's then, and is not in its file; the restored program makes it again."""
    shelf = []

    def program(model, ids, shelf):
        with torch.no_grad():
            first = model(ids).logits
            shelf.append(first)
            return [first, model(ids).logits]

    session = saved_at(runtime, path, 3, 2, llama, input_ids, shelf, program=program)
    assert any("first" in line.name for line in session.left_behind)
    expected = finished(session)

    class Deaf:
        append = staticmethod(lambda item: None)

    with pytest.raises(djinn.NotRestored, match=r"argument args\.2"):
        runtime.restore(path, program, llama, input_ids, Deaf())
    shelf.clear()
    with runtime.restore(path, program, llama, input_ids, shelf) as restored:
        shelf.clear()
        assert equal(finished(restored), expected)


def test_other_sessions_go_on(runtime, llama, input_ids, path):
    """A session that is paused, and one that is swapped out, are as they were after a restore and after a refusal."""
    expected = finished(saved_at(runtime, path, 2, 2, llama, input_ids, 3, []))
    others = []
    for swapped in (False, True):
        torch.manual_seed(3)
        others.append(runtime.open(breakpoint=4, visit=1).start(talk, llama, input_ids, 3, []))
        others[-1].wait(30)
        if swapped:
            others[-1].io_wait()
    with pytest.raises(djinn.NotRestored):
        runtime.restore(path, talk, llama, input_ids + 1, 3, [])
    with runtime.restore(path, talk, llama, input_ids, 3, []) as restored:
        assert equal(finished(restored), expected)
    for other in others:
        assert equal(finished(other), expected)


def test_an_adopted_cache(runtime, llama, input_ids, path):
    """It is given anew, empty as it was, and the restored session may adopt it too."""

    def call(cache):
        first = llama(input_ids, past_key_values=cache).logits
        return [first, llama(first[:, -1:].argmax(-1), past_key_values=cache).logits]

    caches = [transformers.DynamicCache(config=llama.config) for _ in range(3)]
    session = runtime.open(breakpoint=2, visit=2, durable=True, adopt=[caches[0]]).start(call, caches[0])
    session.wait(30)
    session.save(path)
    expected = finished(session)
    with pytest.raises(djinn.NotRestored, match=r"no kv\..*adopt"):
        runtime.restore(path, call, caches[1])
    with runtime.restore(path, call, caches[2], adopt=[caches[2]]) as restored:
        restored.io_wait()
        assert equal(finished(restored), expected)
    assert caches[2].get_seq_length() == input_ids.shape[1] + 1


def test_the_document_is_readable(runtime, llama, input_ids, path):
    """Whoever has the file and the library sees what it is, without this package."""
    saved_at(runtime, path, 2, 2, llama, input_ids, 3, [])
    document = json.loads(bytes(safetensors.torch.load_file(path)["document"].tolist()))
    assert (document["program"], document["layer"], len(document["passes"])) == ("talk", 2, 2)
    assert document["machine"]["torch"] == torch.__version__
