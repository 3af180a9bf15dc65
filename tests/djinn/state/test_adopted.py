"""Adopted caches leave the device with their session; guards stand in for their tensors meanwhile."""

import copy
import io
import threading
import time
import weakref
from contextlib import suppress

import pytest
import torch
import transformers
from tests.djinn.test_faults import Fault
from tests.interrupt import Interrupt
from tests.programs import spoil, without_climb
from torch import nn

import djinn
from djinn.memory import transfer
from djinn.memory.lanes import Lane
from djinn.state.guard import GuardedTensor

CALL = {"do_sample": False, "pad_token_id": 0}
PARKED = (djinn.Phase.PAUSED, djinn.Phase.IO_WAIT)


def tensors_in(cache):
    """The tensors of a cache's layers, or what is in their places."""
    if isinstance(cache, transformers.EncoderDecoderCache):
        return tensors_in(cache.self_attention_cache) + tensors_in(cache.cross_attention_cache)
    return [part for layer in cache.layers if layer.is_initialized for part in (layer.keys, layer.values)]


def same(left, right):
    return all(map(torch.equal, tensors_in(left), tensors_in(right))) and len(tensors_in(left)) == len(
        tensors_in(right)
    )


def is_out(tensor):
    """Whether a guard is in the place, and whatever is done with it raises."""
    with pytest.raises(djinn.IllegalMove):
        tensor.sum()
    return isinstance(tensor, GuardedTensor)


def opened(runtime, cache, program, *args, layer=3, visit=1, **kwargs):
    """A paused session that has adopted ``cache``."""
    session = runtime.open(breakpoint=layer, visit=visit, adopt=[cache]).start(program, *args, **kwargs)
    assert session.wait(30) is djinn.Phase.PAUSED
    return session


CACHES = {
    "dynamic": lambda config: transformers.DynamicCache(config=config),
    "static": lambda config: transformers.StaticCache(config=config, max_cache_len=64),
}


@pytest.mark.parametrize("kind", CACHES)
def test_a_chat_of_three_turns(runtime, llama, input_ids, kind):
    """A session each on the caller's own cache, paused in prefill and decode: tokens and cache equal the plain loop's.

    Meanwhile the cache has no bytes on the device, and a read of it names the place and the session.
    """
    cache, plain = CACHES[kind](llama.config), CACHES[kind](llama.config)
    tokens = expected = input_ids
    for turn in range(3):
        expected = llama.generate(expected, max_new_tokens=4, past_key_values=plain, **CALL)
        session = opened(runtime, cache, llama.generate, tokens, max_new_tokens=4, past_key_values=cache, **CALL)
        for _ in range(2):
            tensors = list(map(weakref.ref, tensors_in(cache)))
            session.io_wait()
            assert {f"kv.{layer}.{part}" for layer in (1, 2, 3) for part in ("keys", "values")} <= set(session.state)
            assert [tensor().untyped_storage().nbytes() for tensor in tensors] == [0] * len(tensors)
            assert all(map(is_out, tensors_in(cache)))
            with pytest.raises(djinn.IllegalMove, match=rf"cache.layers\[0\].keys .* session {turn + 1}, .* parked"):
                cache.layers[0].keys.clone()
            spoil(session.storage_sizes)
            session.break_at(3, visit=2)
            session.resume()
            session.wait(30)
        tokens = session.result(30)
        assert torch.equal(tokens, expected)
        assert same(cache, plain)
        assert not any(isinstance(tensor, GuardedTensor) for tensor in tensors_in(cache))
        session.close()


def test_an_edit_reaches_the_cache(runtime, llama, input_ids):
    """What is written into the state is in the caller's cache, as if he had written it there himself."""
    cache, plain = (transformers.DynamicCache(config=llama.config) for _ in range(2))
    for one in (cache, plain):
        llama(input_ids, past_key_values=one)
    plain.layers[4].values.mul_(2)
    expected = llama(input_ids[:, :1], past_key_values=plain).logits
    session = opened(runtime, cache, llama, input_ids[:, :1], past_key_values=cache)
    session.io_wait()
    session.state["kv.5.values"].mul_(2)
    session.resume()
    assert torch.equal(session.result(30).logits, expected)
    assert same(cache, plain)


def test_both_caches_of_an_encoder_decoder(input_ids):
    """The decoder's own cache and that of the encoder's states."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=128, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, pad_token_id=0, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()

    def empty():
        return transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())

    plain, cache = empty(), empty()
    call = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(input_ids, past_key_values=plain, **call)
    with djinn.Runtime(model, host_memory_bytes=16 << 20) as runtime:
        session = opened(runtime, cache, model.generate, input_ids, past_key_values=cache, layer=2, visit=2, **call)
        session.io_wait()
        assert {"kv.1.keys", "kv.1.cross.values"} <= set(session.state)
        assert len(tensors_in(cache)) == 12
        assert all(map(is_out, tensors_in(cache)))
        session.resume()
        assert torch.equal(session.result(30), expected)
    assert same(cache, plain)


def test_what_a_guard_still_tells(runtime, llama, input_ids):
    """Shape and length can be read; copying, saving, cutting and printing raise."""
    cache = transformers.DynamicCache(config=llama.config)
    session = opened(runtime, cache, llama, input_ids, past_key_values=cache)
    session.io_wait()
    assert cache.get_seq_length() == input_ids.shape[1]
    for use in (
        copy.deepcopy,
        lambda cache: torch.save(cache, io.BytesIO()),
        lambda cache: cache.crop(-1),
        lambda cache: repr(cache.layers[0].keys),
        lambda cache: cache.layers[0].keys.untyped_storage(),
        lambda cache: llama(input_ids, past_key_values=cache),
    ):
        with pytest.raises(djinn.IllegalMove, match="is in host memory with session 1"):
            use(cache)
    kept = cache.layers[0].keys
    session.resume()
    session.result(30)
    with pytest.raises(djinn.IllegalMove, match="was in host memory with session 1 when it was read"):
        kept.sum()


# -- whose tensors they are --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers():
    """Three layers of 8 units."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)]).eval()


@pytest.fixture
def small(layers):
    with djinn.Runtime(layers, host_memory_bytes=1 << 20, layers=list(layers)) as runtime:
        yield runtime
        for session in runtime._sessions.values():
            session.close(30)
        assert runtime.arena.reserved_bytes == 0
        runtime.arena.check_integrity()


X = torch.linspace(-1, 1, 32).reshape(4, 8)


def program(model, kept):
    """Adds to each tensor of ``kept``; appends a new one at each layer."""
    x = X * 1
    for layer in model:
        x = layer(x)
        for index, tensor in enumerate(kept):
            kept[index] = tensor + x.sum()
        kept.append(x * 2)
    return x


def made():
    return [torch.full((16,), float(number)) for number in range(4)]


def expected(layers):
    plain = made()
    return program(layers, plain), plain


def swapped(small, layers, kept):
    session = opened(small, kept, program, layers, kept, layer=2)
    session.io_wait()
    return session


def ended(session, layers, kept):
    """Lead ``session`` to its end from wherever it is; the result and ``kept`` must be those of a plain run."""
    if session.phase is djinn.Phase.CREATED:
        session.start(program, layers, kept)
    if session.wait(10) is djinn.Phase.PAUSED:
        session.io_wait()
    if session.phase is djinn.Phase.IO_WAIT:
        session.resume()
    value, plain = expected(layers)
    assert torch.equal(session.result(10), value)
    assert len(kept) == len(plain)
    assert all(map(torch.equal, kept, plain))
    return True


def test_a_list_of_tensors(small, layers):
    """Its very tensors are back at the end of the pause, and the program goes on with them."""
    kept = made()
    session = opened(small, kept, program, layers, kept, layer=2)
    before = [weakref.ref(tensor) for tensor in kept]
    session.io_wait()
    assert all(map(is_out, kept))
    with pytest.raises(djinn.IllegalMove, match=r"adopt\[0\]\[3\] is in host memory"):
        kept[3].tolist()
    session.cancel()
    with pytest.raises(djinn.SessionCancelled):
        session.result(10)
    assert [one() for one in before] == kept or all(one() is tensor for one, tensor in zip(before, kept, strict=True))


def test_without_adoption_it_stays_where_it_is(small, layers):
    """The same call, not adopted: the caller's list keeps its bytes."""
    kept = made()
    session = small.open(breakpoint=2).start(program, layers, kept)
    session.wait(10)
    session.io_wait()
    assert all(tensor.untyped_storage().nbytes() for tensor in kept)
    assert ended(session, layers, kept)


HOLDERS = {
    "variable": lambda tensor: tensor,
    "list": lambda tensor: [tensor],
    "view": lambda tensor: tensor[1:],
    "alias": lambda tensor: tensor.detach(),
    "numpy": lambda tensor: tensor.numpy(),
    "storage": lambda tensor: tensor.untyped_storage(),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", HOLDERS)
def test_a_tensor_to_which_the_caller_has_a_reference_stays(small, layers, how, when):
    """It is left behind with the reason, whether he got it before the park or after; the others leave."""
    kept = made()
    held = HOLDERS[how](kept[1]) if when == "before" else None
    session = opened(small, kept, lambda: program(layers, list(kept)), layer=1)
    if when == "after":
        held = HOLDERS[how](kept[1])
    session.io_wait()
    assert [isinstance(tensor, GuardedTensor) for tensor in kept[:4]] == [True, False, True, True]
    assert kept[1].sum() is not None
    assert len([line for line in session.left_behind if line.nbytes == 64]) == 1
    session.resume()
    session.result(10)
    del held


def test_a_tensor_that_another_thread_is_just_reading_stays(small, layers):
    """From before the park until after the swap-out, though Python shows nobody the value stack that holds it."""
    kept = made()
    reads, enough = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (kept[1], reads.set(), enough.wait(10)))
    thread.start()
    reads.wait(10)
    session = opened(small, kept, lambda: program(layers, list(kept)), layer=1)
    session.io_wait()
    assert [isinstance(tensor, GuardedTensor) for tensor in kept] == [True, False, True, True]
    enough.set()
    thread.join()


def test_an_argument_that_is_in_the_cache_too_stays(small, layers):
    """The caller passed the tensor itself, so he holds it."""
    kept = made()

    def with_argument(kept, tensor):
        del tensor
        return program(layers, kept)

    session = small.open(breakpoint=1, adopt=[kept]).start(with_argument, kept, kept[2])
    session.wait(10)
    session.io_wait()
    assert [isinstance(tensor, GuardedTensor) for tensor in kept] == [True, True, False, True]
    assert any(line.reason == "the caller holds it" for line in session.left_behind)
    assert ended(session, layers, kept)


def test_who_leads_to_the_cache_does_not_hold_its_tensors(small, layers):
    """The cache, its parts, and objects of the caller that the program uses to come to it."""

    class Chat:
        def __init__(self):
            self.kept = made()

        def turn(self):
            return program(layers, self.kept)

    chat = Chat()
    also = {"chat": chat, "kept": chat.kept}
    session = small.open(breakpoint=2, adopt=[chat.kept]).start(chat.turn)
    session.wait(10)
    session.io_wait()
    assert all(map(is_out, also["kept"]))
    assert ended(session, layers, chat.kept)


def test_what_is_in_a_tuple_stays(small, layers):
    """A tuple cannot hold a guard, so its tensors are the caller's."""
    kept, pair = made(), (torch.ones(16),)
    root = [kept, pair]
    session = opened(small, root, lambda: [program(layers, root[0]), root[1][0] + 1][0], layer=2)
    session.io_wait()
    assert all(map(is_out, kept))
    assert pair[0].sum() == 16
    assert ended(session, layers, kept)


def test_a_cache_that_only_the_closure_names(small, layers):
    """Adopted objects are found whether the layer gets them or not."""
    kept = made()
    session = opened(small, kept, lambda: program(layers, kept), layer=1)
    session.io_wait()
    assert all(map(is_out, kept))
    assert ended(session, layers, kept)


def test_a_place_that_the_caller_fills_anew_keeps_what_he_put(small, layers):
    """The program finds it, as it finds any other edit; entries of a list may move."""
    kept = made()
    first, new, last = torch.full((16,), 7.0), torch.full((16,), 8.0), weakref.ref(kept[3])
    session = opened(small, kept, lambda: (layers(X), list(kept))[1], layer=2)
    session.io_wait()
    kept[1] = new
    kept.insert(0, first)
    session.resume()
    found = session.result(10)
    assert [found[0] is first, found[2] is new, found[4] is last()] == [True] * 3
    assert not any(isinstance(tensor, GuardedTensor) for tensor in kept)


# -- one session at a time ---------------------------------------------------------------------------------------------


def test_a_living_session_has_it_alone(small, layers):
    """Adopting it again, a part of it, or giving it to a program raises and names the session, until that has ended."""
    inner = made()
    kept = [inner]
    other = small.open(adopt=[inner])
    session = opened(small, kept, lambda: program(layers, inner), layer=2)
    for attempt in (
        lambda: small.open(adopt=[kept]),
        lambda: small.open(adopt=[{"a": inner}]),
        lambda: other.start(program, layers, inner),
        lambda: small.open().start(program, layers, inner),
        lambda: small.open().start(lambda **kwargs: None, caches=(inner,)),
    ):
        with pytest.raises(djinn.IllegalMove, match=f"session {session.number}, which is paused, has adopted"):
            attempt()
    assert other.phase is djinn.Phase.CREATED
    session.resume()
    session.result(10)
    other.start(lambda: None).result(10)
    assert small.open(adopt=[kept]).start(lambda: 1).result(10) == 1


def test_a_session_that_cannot_start_has_adopted_nothing(small, layers, monkeypatch):
    """The system refuses its thread."""

    def refuse(*args):
        raise RuntimeError("can't start new thread")

    kept = made()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            small.open(adopt=[kept]).start(program, layers, kept)
    assert ended(small.open(adopt=[kept]), layers, kept)


def test_a_session_that_has_ended_keeps_nothing(small, layers):
    """Neither the cache nor its tensors, though the session object lives."""
    kept = [made()]
    session = swapped(small, layers, kept[0])
    session.resume()
    session.result(10)
    tensors = [weakref.ref(tensor) for tensor in kept[0]]
    kept.clear()
    assert not any(tensor() is not None for tensor in tensors)


def test_what_the_program_replaces_is_free_at_once(small, layers):
    """A resumed session does not keep the tensors of the pause."""
    kept = made()
    session = opened(small, kept, program, layers, kept, layer=1)
    session.io_wait()
    old = [one.tensor for one in session._adopted._noted]
    old = list(map(weakref.ref, old))
    session.break_at(3)
    session.resume()
    session.wait(10)
    assert not any(tensor() is not None for tensor in old)
    assert ended(session, layers, kept)


# -- every way out -----------------------------------------------------------------------------------------------------


def test_idle_state_is_guarded_when_it_leaves(small, layers):
    """IO_WAIT without force leaves the tensors in their places until another session needs the room."""
    kept = made()
    session = opened(small, kept, program, layers, kept, layer=2)
    session.io_wait(force=False)
    assert not any(isinstance(tensor, GuardedTensor) for tensor in kept)
    small.make_room(1)
    out = [isinstance(tensor, GuardedTensor) for tensor in kept]
    assert [tensor.device for tensor in kept] == [torch.device("cpu")] * len(kept)
    small.make_room(1 << 20)
    assert all(map(is_out, kept))
    assert sum(out) < len(kept)
    assert ended(session, layers, kept)


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_program_that_is_unwound_finds_its_tensors(small, layers, how):
    """Its ``finally`` sees them with their bytes, and so does the caller afterwards."""
    kept, seen = made(), []

    def careful():
        try:
            return program(layers, kept)
        finally:
            seen.extend(tensor.clone() for tensor in kept)

    session = opened(small, kept, careful, layer=2)
    before = [tensor.clone() for tensor in kept]
    session.io_wait()
    getattr(session, how)()
    session.close(10)
    assert all(map(torch.equal, seen, before))
    assert all(map(torch.equal, kept, before))


def test_a_program_that_fails_gives_them_back(small, layers):
    """After an error in the program the cache is plain and whole."""
    kept = made()

    def failing():
        layers(X)
        raise ValueError("broken")

    session = opened(small, kept, failing, layer=2)
    session.io_wait()
    session.resume()
    with pytest.raises(ValueError, match="broken"):
        session.result(10)
    assert all(map(torch.equal, kept, made()))


def test_a_read_while_the_program_is_about_to_go_on(small, layers):
    """The guards stay until the program's thread has its turn: nobody finds an empty tensor."""
    kept = made()
    session = swapped(small, layers, kept)
    computes, enough = threading.Event(), threading.Event()
    small.open().start(lambda: (computes.set(), enough.wait(10)))
    computes.wait(10)
    session.resume()
    with pytest.raises(djinn.IllegalMove, match="which is running"):
        kept[0].sum()
    enough.set()
    assert ended(session, layers, kept)


def test_a_reader_on_another_thread(small, layers):
    """It reads the tensor or is told where it is, however often the session parks and goes on."""
    kept = [torch.ones(1 << 12) for _ in range(4)]
    told, read, stop = [], [], threading.Event()

    def reader():
        while not stop.is_set():
            try:
                read.append(float(kept[0].sum() + kept[3].clone().sum()))
            except djinn.IllegalMove as error:
                told.append(str(error))
            time.sleep(0)

    def looking(model):
        for _ in range(20):
            model(X)
        return [tensor + 1 for tensor in kept]

    session = small.open(breakpoint=2, adopt=[kept]).start(looking, layers)
    thread = threading.Thread(target=reader)
    thread.start()
    try:
        while session.wait(10) is djinn.Phase.PAUSED:
            session.io_wait()
            session.break_at(2)
            session.resume()
    finally:
        stop.set()
        thread.join()
    assert all(torch.equal(tensor, torch.full((1 << 12,), 2.0)) for tensor in session.result(10))
    assert told or read


# -- faults and interrupts ---------------------------------------------------------------------------------------------


def settled(kept):
    """Whether a guard stands exactly where a storage is empty."""
    return all(isinstance(tensor, GuardedTensor) or tensor.untyped_storage().nbytes() for tensor in kept)


def test_a_full_arena_leaves_the_tensors_in_their_places(layers):
    """IO_WAIT raises; the cache can be read and the program goes on."""
    kept = made()
    with djinn.Runtime(layers, host_memory_bytes=1 << 10, layers=list(layers)) as runtime:
        kept.append(torch.ones(1 << 12))
        session = opened(runtime, kept, lambda: layers(X), layer=2)
        with pytest.raises(djinn.HostMemoryFull):
            session.io_wait()
        assert not any(isinstance(tensor, GuardedTensor) for tensor in kept)
        session.resume()
        session.result(10)


@pytest.mark.parametrize("kind", ["allocate", "free", "copy in", "copy out"])
def test_one_failure_loses_nothing(small, layers, monkeypatch, kind):
    """Of every allocation, release and copy each fails once; guards stand exactly where bytes are away."""
    without_climb(monkeypatch)
    fault = Fault(monkeypatch, kind)
    count, failed = 0, True
    while failed:
        count += 1
        kept = made()
        session = opened(small, kept, program, layers, kept, layer=2)
        fault.at(count, RuntimeError("injected"))
        for signal in (session.io_wait, session.resume):
            with suppress(RuntimeError):
                signal()
            assert session.phase not in PARKED or settled(kept)
        assert ended(session, layers, kept)
        failed = fault.left is None
        fault.left = None
        session.close(10)
    assert count > (1 if kind == "copy out" else 6)


@pytest.mark.parametrize(("owner", "where"), [(transfer, "_allocate"), (Lane, "bring")])
def test_what_is_lost_is_never_read(layers, monkeypatch, owner, where):
    """State that can never come back: the session fails, and its part of the cache says so for ever."""
    without_climb(monkeypatch)
    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(transfer, "_ASK_FROM", 1)
    main, broken, original = threading.current_thread(), [], getattr(owner, where)

    def fail(*args, **kwargs):
        if broken and threading.current_thread() is not main:
            raise RuntimeError("the device is gone")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, where, fail)
    kept = made()
    with djinn.Runtime(layers, host_memory_bytes=1 << 20, layers=list(layers)) as runtime:
        session = swapped(runtime, layers, kept)
        broken.append(True)
        session.resume()
        with pytest.raises(djinn.DjinnError, match="could not be brought back"):
            session.result(10)
        assert all(map(is_out, kept))
        with pytest.raises(djinn.IllegalMove, match="was lost with session 1, which is failed"):
            kept[0].sum()
        session.close(10)
        with pytest.raises(djinn.IllegalMove, match="was lost with session 1, which is closed"):
            kept[0].sum()


SIGNALS = {
    "open": (lambda *call: None, lambda small, one, kept: small.open(adopt=[kept])),
    "start": (lambda small, layers, kept: small.open(breakpoint=2, adopt=[kept]), None),
    "io_wait": (
        lambda *call: opened(call[0], call[2], program, *call[1:], layer=2),
        lambda _, one, kept: one.io_wait(),
    ),
    "resume": (swapped, lambda _, one, kept: one.resume()),
    "close": (swapped, lambda _, one, kept: one.close(10)),
}


@pytest.mark.parametrize("again", [0, 2])
@pytest.mark.parametrize("name", SIGNALS)
def test_an_interrupt_at_any_line(small, layers, monkeypatch, name, again):
    """Guards stand exactly where bytes are away; the session comes to its end, and the next may adopt the list."""
    without_climb(monkeypatch)
    prepare, signal = SIGNALS[name]
    line, raised = 0, 1
    while raised:
        line += 1
        kept = made()
        session = prepare(small, layers, kept)
        with Interrupt(line, again) as interrupt:
            if signal is None:
                session.start(program, layers, kept)
            else:
                signal(small, session, kept)
        raised = interrupt.raised
        if session is not None and name != "close":
            if session.phase in PARKED:
                assert settled(kept)
            assert ended(session, layers, kept)
        for opened_ in list(small._sessions.values()):
            opened_.close(10)
        assert not any(isinstance(tensor, GuardedTensor) for tensor in kept)
        assert small.open(adopt=[kept]).start(lambda: 1).result(10) == 1
    assert line > 5
