"""The tokens that are shown are those that the program has."""

import time

import pytest
import torch
from tests.djinn.families import built, tokens_and_mask
from tests.programs import greedy, parked

import djinn
from djinn.debugger import views
from djinn.debugger.bench import Bench


def ids(tokens):
    return [[token.id for token in row] for row in tokens.sequences]


def plainly(llama, input_ids, new):
    return llama.generate(input_ids, max_new_tokens=new, do_sample=False, eos_token_id=None)


@pytest.mark.parametrize("visit", [1, 2, 4])
def test_they_are_the_prompt_and_what_was_generated_so_far(bench, started, llama, input_ids, visit):
    """In the prefill and in decode steps, from the device and from host memory; then the result."""
    session = started(2, visit=visit)
    whole = plainly(llama, input_ids, 4)
    for _ in range(2):
        found = bench.tokens()
        assert ids(found) == whole[:, : 24 + visit - 1].tolist()
        assert found.texts[0] == "".join(f"<{one}>" for one in ids(found)[0])
        assert found.sequences[0][3].text == f"<{ids(found)[0][3]}>"
        if session.phase is djinn.Phase.PAUSED:
            session.io_wait()
    session.resume()
    session.wait(30)
    assert ids(bench.tokens()) == whole.tolist()
    assert bench.tokens().source == "the result"


def test_a_look_at_a_result_does_not_count_as_waiting_for_it(bench, runtime, started):
    """``wait_any`` still tells of it."""
    session = started(2)
    session.resume()
    while session.phase is djinn.Phase.RUNNING:
        time.sleep(0.001)  # not spinning: that would take the interpreter from who is waited for
    assert bench.tokens().source == "the result"
    assert runtime.wait_any(timeout=1) is session


def test_without_a_tokenizer_they_are_ids(runtime, started):
    """In digits, and without a text."""
    started()
    found = Bench(runtime).tokens()
    assert found.texts == ()
    assert [token.text for token in found.sequences[0]] == [str(token.id) for token in found.sequences[0]]


def test_what_the_caller_passed_is_found(bench, runtime, llama, input_ids):
    """It stays the caller's and is in no state; a tensor of other numbers is passed over."""

    def program(scores, prompt, **more):
        hidden = prompt + 0
        return llama(inputs_embeds=llama.model.embed_tokens(hidden), use_cache=False)

    session = runtime.open(breakpoint=2).start(program, torch.zeros(2, 3), input_ids)
    session.wait(30)
    assert ids(bench.tokens()) == input_ids.tolist()
    assert bench.tokens().source == "the program's argument inputs"
    session = parked(runtime, 2, greedy, llama, input_ids, 2, visit=2)  # its decode step is given one token
    bench.select(session.number)
    assert ids(bench.tokens()) == input_ids.tolist()
    session = runtime.open(breakpoint=2).start(program, None, input_ids[:, :5].clone(), input_ids=input_ids[:, :7])
    session.wait(30)
    bench.select(session.number)
    assert ids(bench.tokens()) == input_ids[:, :7].tolist()


def test_of_a_model_with_an_encoder_they_are_the_decoders():
    """Not the longer prompt that the encoder was given."""
    model = built("t5")
    tokens, mask = tokens_and_mask()
    with djinn.Runtime(model, host_memory_bytes=16 << 20) as runtime:
        session = runtime.open(breakpoint=2, visit=3)
        session.start(model.generate, tokens, attention_mask=mask, max_new_tokens=4, do_sample=False)
        session.wait(30)
        bench = Bench(runtime)
        expected = model.generate(tokens, attention_mask=mask, max_new_tokens=4, do_sample=False)
        assert ids(bench.tokens()) == expected[:, :3].tolist()


def test_where_there_are_none_a_note_says_so(bench, runtime, llama):
    """Without a session, of a program that computes, and of one that has embeddings only."""
    assert bench.tokens().note == "there is no session"
    session = runtime.open(breakpoint=1).start(lambda: llama(inputs_embeds=torch.zeros(1, 3, 64), use_cache=False))
    session.wait(30)
    assert bench.tokens().note == "no tokens are known of session 1, which is paused"
    session.resume()
    session.wait(30)
    assert bench.tokens().note == "no tokens are known of session 1, which is finished"


class Panic(BaseException):
    """As of a tokenizer that is written in Rust."""


@pytest.mark.parametrize("error", [IndexError("list index out of range"), Panic("overflow")])
def test_a_tokenizer_that_fails_leaves_the_ids(runtime, started, input_ids, error):
    """In place of words, here and in the lens, and both say why in a line."""
    started(2)
    bench = Bench(runtime, tokenizer=Failing(error))
    why = f"ids in place of words: the tokenizer's decode raised {type(error).__name__}: {error}"
    tokens, lens = bench.tokens(), bench.lens()
    assert (tokens.note, tokens.texts, ids(tokens)) == (why, (), input_ids.tolist())
    assert lens.label == f"logit lens, layer 2: model.norm and lm_head, sequence 1 of 2, {why}"
    assert [guess.token.text for guess in lens.guesses] == [str(guess.token.id) for guess in lens.guesses]
    said = bench.do("tokens").lines
    assert said[0] == why
    assert said[1].startswith("sequence 1 of 2")
    first, *others = views.tokens(tokens, lens, width=30, height=8)
    assert first == "ids in place of words: the t.."
    assert str(int(input_ids[0, -1])) in "".join(others[:3])
    bench.close()


class Failing:
    """A tokenizer that has no word for any id."""

    def __init__(self, error):
        self.error = error

    def decode(self, ids):
        raise self.error
