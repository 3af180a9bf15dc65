"""A fork goes on from the pause of its origin; both results are those of uninterrupted runs, bit for bit."""

import contextvars
import dataclasses
import gc
import os
import queue
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch
import transformers
from tests.djinn.families import built, tokens_and_mask
from tests.programs import equal, greedy

import djinn
from djinn.durable import copying

STEPS = 3
PAUSED = djinn.Phase.PAUSED

pytestmark = pytest.mark.usefixtures("without_climb")


def parked(runtime, program, *args, layer=2, visit=2, adopt=()):
    torch.manual_seed(3)
    session = runtime.open(breakpoint=layer, visit=visit, durable=True, adopt=adopt).start(program, *args)
    assert session.wait(30) is PAUSED
    return session


def finished(session):
    session.resume()
    result = session.result(30)
    session.close()
    return result


def where(session):
    """What a fork must leave as it is."""
    sizes = session.device_bytes, session.host_bytes, session.disk_bytes, session.recorded_bytes
    return session.phase, session.layer, session.breakpoint, sizes


def hooked(module, visit, edit, program, *args):
    """The result of a plain run in which a hook makes ``edit`` when ``module`` is called for the ``visit``-th time."""
    calls = []

    def hook(module, args, output):
        calls.append(1)
        if len(calls) == visit:
            edit(output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(hook)
    torch.manual_seed(3)
    try:
        return program(*args)
    finally:
        handle.remove()


def scaled(hidden):
    hidden[:, -1] *= 1.5


def shifted(hidden):
    hidden[:, -1] += 3


def generate(model, tokens, mask, more):
    """Tokens and scores of every step."""
    found = model.generate(
        tokens, attention_mask=mask, max_new_tokens=4, return_dict_in_generate=True, output_scores=True, **more
    )
    return [found.sequences, *found.scores]


CALLS = {"greedy": {}, "sampled": {"do_sample": True}, "static cache": {"cache_implementation": "static"}}


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def family(request):
    """One whose layers are answered for, and one with a sliding cache, whose layers compute again."""
    return request.param, built(request.param)


@pytest.mark.parametrize("layer_and_visit", [(2, 1), (1, 3)], ids=["prefill", "decode"])
@pytest.mark.parametrize("call", CALLS)
def test_two_edits_side_by_side(family, call, layer_and_visit):
    """Each result is that of a plain hook which makes the edit; it is the other session's in no bit."""
    (name, model), (layer, visit), (tokens, mask) = family, layer_and_visit, tokens_and_mask()
    args = generate, model, tokens, mask, CALLS[call]
    module = model.model.layers[layer - 1]
    expected = [hooked(module, visit, edit, *args) for edit in (scaled, shifted, lambda hidden: None)]
    assert not equal(expected[0], expected[1])
    with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
        session = parked(runtime, *args, layer=layer, visit=visit)
        fork, third = session.fork(), session.fork()
        assert fork._tape.computed is (name == "gemma3" or call == "static cache")
        assert (fork.phase, fork.layer) == (PAUSED, layer)
        session.io_wait()
        scaled(session.state["hidden_states"])
        shifted(fork.state["hidden_states"])
        fork.io_wait()
        torch.rand(7)
        assert equal(finished(fork), expected[1])
        assert equal(finished(session), expected[0])
        assert equal(finished(third), expected[2])


# -- on one model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def expected(llama, input_ids):
    return greedy(llama, input_ids, STEPS)


@pytest.mark.parametrize("tier", ["paused", "swapped out", "frontier kept", "unforced", "on the disk"])
def test_the_origin_stays_where_it_is(llama, input_ids, expected, tmp_path, tier):
    """In whatever tier; its edits up to then are the fork's too, and later ones are not."""
    with djinn.Runtime(llama, host_memory_bytes=200 << 10, disk_folder=tmp_path) as runtime:
        session = parked(runtime, greedy, llama, input_ids, STEPS)
        shifted(session.state["hidden_states"])
        if tier != "paused":
            session.io_wait(force=tier != "unforced", keep="frontier" if tier == "frontier kept" else "nothing")
        if tier == "on the disk":
            other = parked(runtime, greedy, llama, input_ids, STEPS)
            other.io_wait()
            assert session.disk_bytes
        before = where(session)
        fork = session.fork()
        assert where(session) == before
        state = {name: tensor.clone() for name, tensor in fork.state.items()}
        scaled(session.state["hidden_states"])
        assert all(torch.equal(fork.state[name], tensor) for name, tensor in state.items())
        results = [finished(one) for one in (session, fork)]
    edits = (lambda hidden: (shifted(hidden), scaled(hidden)), shifted)
    for result, edit in zip(results, edits, strict=True):
        assert equal(result, hooked(llama.model.layers[1], 2, edit, greedy, llama, input_ids, STEPS))
        assert not equal(result, expected)


def test_a_fork_of_a_fork(runtime, llama, input_ids, expected, tmp_path):
    """Also of a restored session, and at another pause; a fork is saved like any other."""
    session = parked(runtime, greedy, llama, input_ids, STEPS)
    fork = session.fork()
    fork.break_at(4, visit=2)
    fork.resume()
    assert fork.wait(30) is PAUSED
    shifted(fork.state["hidden_states"])
    second = fork.fork()
    assert second.layer == 4
    second.save(tmp_path / "one.djinn")
    with runtime.restore(tmp_path / "one.djinn", greedy, llama, input_ids, STEPS) as restored:
        third = restored.fork()
        edited = hooked(llama.model.layers[3], 3, shifted, greedy, llama, input_ids, STEPS)
        assert not equal(edited, expected)
        for one in (third, restored, second, fork):
            assert equal(finished(one), edited)
    assert equal(finished(session), expected)


def test_a_breakpoint_ahead_is_so_for_both(runtime, llama, input_ids, expected):
    """With the visits that are left; who had none goes on to the end."""
    session = parked(runtime, greedy, llama, input_ids, STEPS)
    assert session.fork().breakpoint is None
    session.break_at(2, visit=2)
    session.step(30)
    session.break_at(2, visit=2)
    session.step(30)
    fork = session.fork()
    assert (fork.layer, fork.breakpoint) == (4, 2)
    for one in (fork, session):
        one.resume()
        assert (one.wait(30), one.layer, one._tape.calls[2]) == (PAUSED, 2, 4)
        assert equal(finished(one), expected)


def test_side_effects_happen_again(runtime, llama, input_ids):
    """And from then on each program has its own."""
    told = queue.SimpleQueue()  # an object that is compared by its type alone

    def tells(model, ids, told):
        for number in range(3):
            told.put(number)
            logits = model(ids, use_cache=False).logits
        return [logits]

    session = parked(runtime, tells, llama, input_ids, told)
    fork = session.fork()
    assert [told.get() for _ in range(4)] == [0, 1, 0, 1]
    assert equal(finished(fork), finished(session))
    assert [told.get() for _ in range(2)] == [2, 2]


def test_the_caller_of_start_counts(runtime, llama, input_ids):
    """Context variables, modes and settings are those of START, whoever forks, and not what the program has set."""
    variable, seen = contextvars.ContextVar("variable", default="none"), []

    def program(model, ids):
        seen.append((variable.get(), torch.is_grad_enabled(), torch.get_default_dtype()))
        variable.set("the program's")
        torch.set_default_dtype(torch.float16)
        return [model(ids).logits for _ in range(2)]

    variable.set("the caller's")
    torch.set_default_dtype(torch.float64)
    try:
        session = parked(runtime, program, llama, input_ids)
    finally:
        torch.set_default_dtype(torch.float32)
    variable.set("another's")
    with torch.enable_grad():
        fork = session.fork()
        assert equal(finished(fork.fork()), finished(fork))
    assert (variable.get(), torch.get_default_dtype()) == ("another's", torch.float32)
    session.close()
    assert seen == [("the caller's", False, torch.float64)] * 3


def test_layers_compute_again_where_somebody_notices(runtime, llama, input_ids, expected):
    """As in a restore, also at the second attempt; what cannot be computed again is refused by name."""

    def looks(model, ids):
        output = model(ids, use_cache=True)
        scale = output.past_key_values.layers[1].keys.norm().item()
        return [model(ids[:, :1], past_key_values=output.past_key_values).logits * scale]

    session = parked(runtime, looks, llama, input_ids)
    fork = session.fork()
    assert fork._tape.computed
    assert equal(finished(fork), finished(session))
    session = parked(runtime, greedy, llama, input_ids, STEPS)
    shifted(session.state["hidden_states"])
    session.break_at(2)
    session.resume()
    session.wait(30)
    assert not session.fork()._tape.computed
    hook = llama.model.layers[0].register_forward_hook(lambda *call: None)
    try:
        with pytest.raises(djinn.NotRestored, match="hidden_states was edited at an earlier pause"):
            session.fork()
    finally:
        hook.remove()
    assert equal(finished(session), hooked(llama.model.layers[1], 2, shifted, greedy, llama, input_ids, STEPS))


# -- arguments -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Slotted:
    """A container in which nobody looks."""

    __slots__ = ("scale",)
    scale: torch.Tensor


def draws(model, ids, drawn, part, whole, known):
    """Two passes; what is given is written to, and drawn from, behind the first."""
    logits = [model(ids).logits]
    drawn["numbers"].append(torch.rand(2, generator=drawn["torch"]) + drawn["python"].random())
    drawn["numbers"].append(torch.from_numpy(drawn["numpy"].random(2)))
    drawn["array"] += 1
    drawn["seen"].add(len(drawn["seen"]))
    part.add_(1)  # a view of the whole
    ids[:, -1] = drawn["numbers"][0][0].mul(100).long() + len(drawn["seen"])
    logits.append(model(ids).logits * whole.sum() * known.scale)
    return [*logits, *drawn["numbers"], torch.from_numpy(drawn["array"])]


def given(input_ids):
    whole = torch.ones(4)
    drawn = {
        "torch": torch.Generator().manual_seed(1),
        "python": random.Random(1),
        "numpy": numpy.random.default_rng(1),
        "array": numpy.ones(2),
        "seen": {0},
        "numbers": [],
    }
    return input_ids.clone(), drawn, whole[:2], whole, Slotted(torch.ones(()))


def test_arguments_are_the_fork_s_own(runtime, llama, input_ids):
    """What a program writes to and draws from behind the fork is not found by the other; views stay views."""
    expected = draws(llama, *given(input_ids))
    args = given(input_ids)
    session = parked(runtime, draws, llama, *args, visit=1)
    fork, second = session.fork(), session.fork()
    assert equal(finished(fork), expected)
    assert args[1]["numbers"] == []
    assert torch.equal(args[0], input_ids)
    assert equal(finished(session), expected)
    assert len(args[1]["numbers"]) == 2
    assert equal(finished(second), expected)
    assert fork._program is None


def test_an_argument_that_the_program_has_changed(runtime, llama, input_ids):
    """Before the breakpoint: it is named, nothing is left behind, and the origin goes on."""

    def changes(model, ids, kept, scale):
        kept.append(scale)
        scale += 1
        return [model(ids).logits * scale]

    expected = changes(llama, input_ids, [], torch.ones(1))
    for kept, scale, name in (([], 1, r"args\.2\.0"), (queue.deque(maxlen=0), torch.ones(1), r"args\.3")):
        session = parked(runtime, changes, llama, input_ids, kept, scale, visit=1)
        before = where(session)
        words = rf"session {session.number} cannot be forked: argument {name} is .* give restore\(\) what"
        with pytest.raises(djinn.NotRestored, match=words):
            session.fork()
        assert where(session) == before
        assert runtime.sessions == (session,)
        assert equal(finished(session), expected)


def draws_by_numpy(model, ids, generator):
    model(ids)
    return generator.randint(1000)


def test_an_older_generator_of_numpy_is_the_fork_s_own(runtime, llama, input_ids):
    """Both draw what one alone draws."""
    session = parked(runtime, draws_by_numpy, llama, input_ids, numpy.random.RandomState(0), visit=1)
    fork = session.fork()
    assert [finished(one) for one in (fork, session)] == [numpy.random.RandomState(0).randint(1000)] * 2


def draws_by_all(model, ids, generator):
    return [torch.rand(2, generator=generator), model(ids).logits, torch.rand(2, generator=generator), torch.rand(2)]


def test_the_generator_of_the_process_is_each_session_s_own(runtime, llama, input_ids):
    """Also as an argument: what is drawn from it in either way, and by others, is no difference between two runs."""
    torch.manual_seed(3)
    expected = draws_by_all(llama, input_ids, torch.default_generator)
    session = parked(runtime, draws_by_all, llama, input_ids, torch.default_generator, visit=1)
    torch.rand(7)
    fork = session.fork()
    assert equal(finished(fork), expected)
    assert equal(finished(session), expected)


def draws_first(model, ids, generator):
    first = generator.randint(1000)
    model(ids)
    return first


def test_a_generator_that_has_drawn_is_refused(runtime, llama, input_ids):
    """Of NumPy's older kind too: the fork would draw something else."""
    session = parked(runtime, draws_first, llama, input_ids, numpy.random.RandomState(0), visit=1)
    with pytest.raises(djinn.NotRestored, match="RandomState"):
        session.fork()


def test_arguments_are_let_go_at_the_end(runtime, llama, input_ids):
    """Of the origin and of the fork, when the program has ended, whether or not the session is closed."""
    kept = Gate()
    session = parked(runtime, lambda model, ids, kept: greedy(model, ids, STEPS), llama, input_ids, kept)
    fork, gone = session.fork(), weakref.ref(kept)
    del kept
    for one in (session, fork):
        assert gone() is not None
        one.resume()
        one.result(30)
        one._program.join(30)  # its frame has them too
    assert gone() is None


def turns(model, ids, cache):
    first = model(ids, past_key_values=cache).logits
    return [first, model(first[:, -1:].argmax(-1), past_key_values=cache).logits]


def new_cache(model):
    return transformers.DynamicCache(config=model.config)


@pytest.mark.parametrize("swapped", [False, True])
def test_an_adopted_cache(runtime, llama, input_ids, swapped):
    """The fork adopts another one, also where that of its origin is away; each has its own in the end."""
    caches = [new_cache(llama) for _ in range(3)]
    expected = turns(llama, input_ids, new_cache(llama))
    session = parked(runtime, turns, llama, input_ids, caches[0], adopt=[caches[0]])
    if swapped:
        session.io_wait()
    fork = session.fork(adopt=[caches[1]])
    fork.io_wait()
    second = fork.fork(adopt=[caches[2]])
    scaled(second.state["hidden_states"])
    assert equal(finished(fork), expected)
    assert equal(finished(session), expected)
    assert not equal(finished(second), expected)
    assert len({id(cache.layers[0].keys) for cache in caches}) == 3
    assert all(cache.get_seq_length() == input_ids.shape[1] + 1 for cache in caches)


def test_a_cache_that_does_not_fit(runtime, llama, input_ids):
    """None, too many, the origin's, one that is no argument, one with other contents, no cache at all."""
    cache, other, filled = (new_cache(llama) for _ in range(3))
    llama(input_ids, past_key_values=filled)
    expected = turns(llama, input_ids, new_cache(llama))
    session = parked(runtime, turns, llama, input_ids, cache, adopt=[cache])
    refusals = (
        ((), djinn.IllegalMove, r"has adopted 1 object: give its fork another .*fork\(adopt=\[\.\.\.\]\)"),
        ([other, filled], djinn.IllegalMove, "has adopted 1 object"),
        ([cache], djinn.IllegalMove, "has adopted 1 object"),
        ([filled], djinn.NotRestored, r"argument args\.2"),
        ([input_ids], TypeError, "cannot be adopted"),
    )
    for adopt, kind, words in refusals:
        with pytest.raises(kind, match=words):
            session.fork(adopt=adopt)
        assert runtime.sessions == (session,)
    with pytest.raises(djinn.IllegalMove, match="has adopted nothing: "):
        parked(runtime, greedy, llama, input_ids, STEPS).fork(adopt=[other])
    assert equal(finished(session), expected)
    hidden = parked(runtime, lambda: turns(llama, input_ids, other), adopt=[other])
    with pytest.raises(djinn.IllegalMove, match="a DynamicCache that is in no argument"):
        hidden.fork(adopt=[new_cache(llama)])
    assert equal(finished(hidden), expected)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_session_that_cannot_be_forked(runtime, llama, input_ids):
    """Not recorded, not parked, ended, without its own cache."""
    with runtime.open(breakpoint=2).start(greedy, llama, input_ids, STEPS) as session:
        session.wait(30)
        with pytest.raises(djinn.IllegalMove, match="open it with durable=True to fork it"):
            session.fork()
    with runtime.open(durable=True) as session:
        with pytest.raises(djinn.IllegalMove, match=r"forked while .* created: call start"):
            session.fork()
        session.start(greedy, llama, input_ids, STEPS).result(30)
        with pytest.raises(djinn.IllegalMove, match=r"forked while .* finished"):
            session.fork()
    with pytest.raises(djinn.IllegalMove, match=r"forked while .* closed: open another"):
        session.fork()
    with parked(runtime, turns, llama, input_ids, new_cache(llama)) as session:
        with pytest.raises(djinn.IllegalMove, match=r"cannot be forked without its kv\.\d\.keys: .*adopt"):
            session.fork()
        assert runtime.sessions == (session,)


def breaks(model, ids, moods):
    mood = moods.get()
    if mood == "no room":
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")
    if mood == "error":
        raise ValueError("not again")
    if mood == "exit":
        raise SystemExit(3)
    return [model(ids).logits] if mood == "ends" else greedy(model, ids, STEPS)


FAILURES = {
    "no room": (djinn.DeviceMemoryFull, "80 GiB"),
    "error": (djinn.NotRestored, "raised ValueError before it came to where it was parked: not again"),
    "exit": (djinn.NotRestored, "raised SystemExit before it came to where it was parked: 3"),
    "ends": (djinn.NotRestored, "session 1 cannot be forked: in pass 1: input"),
}


@pytest.mark.parametrize("mood", FAILURES)
def test_a_fork_that_fails(runtime, llama, input_ids, expected, mood, monkeypatch):
    """The origin is as it was, there is no half-made session, and the next attempt works. The error holds no state."""
    copies = []

    def recorded(*args):
        recording = copying.recorded(*args)
        copies.extend(map(weakref.ref, recording.state.values()))
        return recording

    monkeypatch.setattr("djinn.session.recorded", recorded)
    moods = queue.SimpleQueue()
    for one in ("well", mood, mood):  # twice, where all is computed again
        moods.put(one)
    session = parked(runtime, breaks, llama, input_ids, moods)
    before, (kind, words) = where(session), FAILURES[mood]
    with pytest.raises(kind, match=words) as refusal:
        session.fork()
    assert refusal.value.__traceback__ is not None
    assert copies
    assert all(copy() is None for copy in copies)
    assert where(session) == before
    assert runtime.sessions == (session,)
    while not moods.empty():
        moods.get()
    moods.put("well")
    fork = session.fork()
    assert equal(finished(session), expected)
    assert equal(finished(fork), expected)


def test_a_model_that_has_changed(runtime, llama, input_ids):
    """One written weight is named; only that one's digest is taken again."""
    session = parked(runtime, greedy, llama, input_ids, STEPS)
    weight = llama.model.layers[4].mlp.up_proj.weight
    before = weight.clone()
    weight[0, 0] += 1
    try:
        with pytest.raises(djinn.NotRestored, match=r"the model's model\.layers\.4\.mlp\.up_proj\.weight"):
            session.fork()
    finally:
        weight.copy_(before)
    session.fork().close()


def test_no_digest_of_an_unchanged_model_is_taken_again(runtime, llama, input_ids, monkeypatch):
    session = parked(runtime, greedy, llama, input_ids, STEPS)
    taken = []
    monkeypatch.setattr("djinn.durable.model_print.digest_of", taken.append)
    session.fork().close()
    assert taken == []


def test_no_room_for_the_copy(runtime, llama, input_ids, expected, monkeypatch):
    session = parked(runtime, greedy, llama, input_ids, STEPS)
    with monkeypatch.context() as patch:
        patch.setattr("djinn.durable.copying.available_bytes", lambda: 1000)
        with pytest.raises(djinn.HostMemoryFull, match=r"cannot be forked: .* 1000 are free"):
            session.fork()
        patch.setattr("djinn.durable.copying.available_bytes", lambda: 1 << 30)
        patch.setattr("djinn.state.module_values._copy_of", no_room)
        with pytest.raises(djinn.DeviceMemoryFull, match="no room for a copy: 80 GiB"):
            session.fork()
    assert runtime.sessions == (session,)
    assert equal(finished(session), expected)


def no_room(*args):
    raise torch.OutOfMemoryError("80 GiB")


# -- at once ---------------------------------------------------------------------------------------------------------


class Gate:
    """A program's argument: it waits there from the second time on."""

    def __init__(self):
        self.times, self.reached, self.free = 0, threading.Event(), threading.Event()

    def pass_by(self):
        self.times += 1
        if self.times > 1:
            self.reached.set()
            assert self.free.wait(30)


def gated(model, ids, gate):
    gate.pass_by()
    return greedy(model, ids, STEPS)


def test_a_fork_that_somebody_cancels(runtime, llama, input_ids, expected):
    """It is not tried in another way, and the origin goes on meanwhile."""
    gate = Gate()
    session = parked(runtime, gated, llama, input_ids, gate)
    with ThreadPoolExecutor(1) as pool:
        forking = pool.submit(session.fork)
        assert gate.reached.wait(30)
        runtime.sessions[-1].cancel()
        session.io_wait()
        gate.free.set()
        with pytest.raises(djinn.SessionCancelled):
            forking.result(30)
    assert gate.times == 2
    assert runtime.sessions == (session,)
    assert equal(finished(session), expected)


def test_the_origin_may_go_on_and_end_meanwhile(runtime, llama, input_ids, expected):
    """The fork has its state of the call."""
    gate = Gate()
    session = parked(runtime, gated, llama, input_ids, gate)
    with ThreadPoolExecutor(1) as pool:
        forking = pool.submit(session.fork)
        assert gate.reached.wait(30)
        shifted(session.state["hidden_states"])
        session.resume()
        session.cancel()
        gate.free.set()
        session.close(30)
        assert equal(finished(forking.result(30)), expected)


def test_many_threads(runtime, llama, input_ids, expected):
    """They fork one session while another one computes, and waits for the device as a program does."""
    session, gate = parked(runtime, greedy, llama, input_ids, STEPS), Gate()
    gate.times = 1
    with ThreadPoolExecutor(4) as pool, runtime.open().start(gated, llama, input_ids, gate) as other:
        assert gate.reached.wait(30)
        forking = [pool.submit(session.fork) for _ in range(4)]
        time.sleep(0.05)
        assert not any(one.done() for one in forking)
        gate.free.set()
        assert all(equal(finished(one.result(30)), expected) for one in forking)
        assert equal(other.result(30), expected)
    assert equal(finished(session), expected)


def test_forking_in_a_program(runtime, llama, input_ids, expected):
    """A program that holds the device is refused; in a block in which it waits it may."""
    session = parked(runtime, greedy, llama, input_ids, STEPS)

    def waits():
        with djinn.waiting():
            return session.fork()

    with runtime.open().start(session.fork) as one, pytest.raises(djinn.IllegalMove, match=r"cannot fork: .*waiting"):
        one.result(30)
    with runtime.open().start(waits) as one, one.result(30) as fork:
        assert equal(finished(fork), expected)


def test_forking_in_the_middle_of_a_signal(runtime, llama, input_ids, expected, monkeypatch):
    """A handler that forks while this thread resumes the session is refused; it would wait for itself."""
    session, refused = parked(runtime, greedy, llama, input_ids, STEPS), []
    let_go = type(session)._let_go

    def interrupted(self, steps):
        with pytest.raises(djinn.IllegalMove, match="in the middle of another") as refusal:
            session.fork()
        refused.append(refusal)
        return let_go(self, steps)

    monkeypatch.setattr(type(session), "_let_go", interrupted)
    assert equal(finished(session), expected)
    assert len(refused) == 1


# -- what is left ----------------------------------------------------------------------------------------------------


def test_nothing_is_kept(runtime, llama, input_ids):
    """Forks that are closed leave no thread, no file, no host memory and no recording; a lost name is found again."""

    def once():
        with parked(runtime, greedy, llama, input_ids, STEPS) as session, session.fork() as fork:
            fork.io_wait()
            assert runtime.sessions == (session, fork)
            assert fork.recorded_bytes == session.recorded_bytes
            assert all(
                one.tensors is other.tensors for one, other in zip(session._tape.passes, fork._tape.passes, strict=True)
            )
            assert runtime.status().recorded_bytes == session.recorded_bytes > 0  # what both share is there once
            return weakref.ref(fork), weakref.ref(fork._tape), weakref.ref(session)

    def held():
        threads = len(set(threading.enumerate()) - others)
        return threads, len(os.listdir("/proc/self/fd")), runtime.arena.reserved_bytes

    others = set(threading.enumerate())  # of earlier tests: they may end meanwhile
    once()
    before, gone = held(), [one for _ in range(4) for one in once()]
    until = time.monotonic() + 10
    while (held() != before or any(one() for one in gone)) and time.monotonic() < until:
        runtime.open().close()  # forgets those that are closed
        gc.collect()
        time.sleep(0.01)
    assert held() == before
    assert not any(one() for one in gone)


def test_a_lost_runtime(llama, input_ids):
    """A fork that nobody can reach any more ends, and its origin with it."""
    threads = set(threading.enumerate())
    runtime = djinn.Runtime(llama, host_memory_bytes=32 << 20)
    session = parked(runtime, greedy, llama, input_ids, STEPS)
    fork = session.fork()
    tapes = [weakref.ref(one._tape) for one in (session, fork)]
    del runtime, session, fork
    until = time.monotonic() + 10
    while (any(tape() for tape in tapes) or set(threading.enumerate()) - threads) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert not any(tape() for tape in tapes)
    assert set(threading.enumerate()) <= threads
    assert "forward" not in vars(llama.model.layers[0])
