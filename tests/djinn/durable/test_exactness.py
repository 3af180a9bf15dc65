"""A restore is exact, or refused by name, whatever the program does beside calling its model."""

import copy
import functools
import random

import numpy
import pytest
import torch
import transformers
from tests.programs import equal
from torch.utils.flop_counter import FlopCounterMode

import djinn

_heard = []  # outside of every session


@pytest.fixture
def path(tmp_path):
    return tmp_path / "one.djinn"


def parked(runtime, program, *args, layer=3, visit=3):
    torch.manual_seed(3)
    session = runtime.open(breakpoint=layer, visit=visit, durable=True).start(program, *args)
    assert session.wait(30) is djinn.Phase.PAUSED
    return session


def finished(session):
    session.resume()
    result = session.result(30)
    session.close()
    return result


def restored(runtime, path, program, *args, expected):
    """Restore ``program``, check its result, and return whether its layers have computed again."""
    torch.manual_seed(99)
    session = runtime.restore(path, program, *args)
    computed = session._tape.computed
    assert equal(finished(session), expected)
    return computed


def decoded(model, ids, between):
    """Three passes; ``between`` them something is done with the cache, and what it returns is kept."""
    output, kept = model(ids, use_cache=True), []
    for _ in range(3):
        kept.append(between(output.past_key_values))
        token = output.logits[:, -1:].argmax(-1)
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
    return [output.logits, *(tensor for one in kept for tensor in _tensors(one)), torch.rand(2)]


def _tensors(value):
    if isinstance(value, transformers.DynamicCache):
        return [layer.keys for layer in value.layers]
    return value if isinstance(value, list) else [] if value is None else [value]


def keys(cache):
    return cache.layers[1].keys


def _evict(cache):
    chosen = keys(cache).norm(dim=-1).mean((0, 1)).topk(9).indices.sort().values
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, chosen], layer.values[:, :, chosen]


def _caught(cache):
    try:
        torch.multinomial(keys(cache)[0, 0].abs(), 1)
    except RuntimeError:
        return torch.ones(1)
    return torch.zeros(1)


def _listed(cache):
    _heard[:] = [keys(cache).mean()]
    return _heard


def _saved(cache, folder):
    torch.save(keys(cache), folder / "keys.pt")
    return torch.load(folder / "keys.pt")


@torch.inference_mode()
def _in_inference(cache):
    keys(cache)[:, :, 0] *= 2


def _in_an_error(cache):
    try:
        raise ValueError(f"{keys(cache)}")
    except ValueError as error:
        return torch.tensor(len(str(error)))


IN_TENSORS = {  # what comes of it is in the state, and is answered
    "cropped": lambda cache: cache.crop(-2),
    "reordered": lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
    "evicted by their norm": _evict,
    "written into": lambda cache: keys(cache)[:, :, 1].mul_(0.5).sum(),
    "in inference mode": _in_inference,
    "copied": copy.deepcopy,
    "a mask": lambda cache: keys(cache) > 0,
    "chosen by": lambda cache: torch.where(keys(cache).sum() > 0, torch.ones(2), torch.zeros(2)),
}
ELSEWHERE = {  # what comes of it is a number, in a list of the caller's, in a file: it must be computed
    "a number": lambda cache: torch.tensor(keys(cache).norm().item()),
    "a branch": lambda cache: torch.ones(1) if keys(cache).sum() > 0 else torch.zeros(1),
    "a list": lambda cache: torch.tensor(keys(cache).tolist()),
    "numpy": lambda cache: torch.tensor(numpy.mean(keys(cache).clone().numpy())),
    "a number of places": lambda cache: torch.zeros(len((keys(cache) > 0).nonzero()) % 7),
    "a shape": lambda cache: torch.zeros(keys(cache)[keys(cache) > 0].numel() % 7),
    "the bytes": lambda cache: torch.tensor(keys(cache).untyped_storage()[:8].tolist()),
    "an error that is caught": _caught,
    "words": _in_an_error,
    "a list of all sessions": _listed,
}


@pytest.mark.parametrize("what", [*IN_TENSORS, *ELSEWHERE])
def test_a_program_that_looks_into_its_cache(runtime, llama, input_ids, path, what):
    """It has made-up numbers there, and none of them comes to light."""
    _heard.clear()
    between = (IN_TENSORS | ELSEWHERE)[what]
    session = parked(runtime, decoded, llama, input_ids, between)
    session.save(path)
    expected = finished(session)
    _heard.clear()
    assert restored(runtime, path, decoded, llama, input_ids, between, expected=expected) is (what in ELSEWHERE)


def test_a_file_that_the_program_writes(runtime, llama, input_ids, path):
    """It has what it had, and no made-up numbers."""
    between = functools.partial(_saved, folder=path.parent)
    session = parked(runtime, decoded, llama, input_ids, between)
    session.save(path)
    expected = finished(session)
    assert restored(runtime, path, decoded, llama, input_ids, between, expected=expected)


def test_modes_of_torch_are_as_they_were(runtime, llama, input_ids, path):
    """Also in a block that was entered before the breakpoint, and left behind it."""
    modes = []

    def program(model, ids):
        with torch.inference_mode():
            logits = [model(ids).logits for _ in range(3)]
            modes.append((torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()))
        logits = [(one.clone() * 2).sum() for one in logits]
        return [*logits, model(ids).logits]

    session = parked(runtime, program, llama, input_ids, layer=2, visit=2)
    session.save(path)
    expected = finished(session)
    assert not restored(runtime, path, program, llama, input_ids, expected=expected)
    with runtime.open().start(lambda: (torch._C._len_torch_dispatch_stack(), torch.rand(1))) as after:
        assert after.result(30)[0] == 0

    def plain(model, ids):
        logits = [model(ids).logits for _ in range(3)]
        modes.append((torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()))
        return logits

    session = parked(runtime, plain, llama, input_ids, layer=2, visit=2)
    session.save(path)
    expected = finished(session)
    assert not restored(runtime, path, plain, llama, input_ids, expected=expected)
    assert modes[-1] == (0, 0)


def test_a_restored_session_is_answered_again(runtime, llama, input_ids, path):
    """To follow a program leaves no mark in what it records from then on."""
    session = parked(runtime, decoded, llama, input_ids, IN_TENSORS["cropped"], visit=2)
    session.save(path)
    expected = finished(session)
    for layer in (4, 3):
        again = runtime.restore(path, decoded, llama, input_ids, IN_TENSORS["cropped"])
        again.break_at(layer)
        again.resume()
        again.wait(30)
        again.save(path)
        again.close()
    assert not restored(runtime, path, decoded, llama, input_ids, IN_TENSORS["cropped"], expected=expected)


# -- who notices that layers run -------------------------------------------------------------------------------------


def _hooked(module_of, model, ids, *, passes):
    """Numbers that a hook on a module of the model has heard, in the first of three passes or in all."""
    heard = []
    hook = module_of(model).register_forward_hook(lambda module, args, output: heard.append(output.mean().item()))
    try:
        model(ids)
        if passes == 1:
            hook.remove()
        logits = [model(ids).logits, model(ids).logits]
    finally:
        hook.remove()
    return [*logits, torch.tensor(heard)]


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize(
    "module_of",
    [lambda model: model.model.layers[0].mlp, lambda model: model.model.layers[1], lambda model: model.model.norm],
    ids=["in a layer", "on a layer", "beside the layers"],
)
def test_a_hook_of_the_program_s_own(runtime, llama, input_ids, path, module_of, passes):
    program = functools.partial(_hooked, passes=passes)
    session = parked(runtime, program, module_of, llama, input_ids)
    session.save(path)
    expected = finished(session)
    assert restored(runtime, path, program, module_of, llama, input_ids, expected=expected)


def test_code_of_the_user_s_own_in_a_layer(runtime, llama, input_ids, path):
    """It may count, or tell somebody. So the layers run again."""

    def counting(model, ids):
        mlp, calls = model.model.layers[0].mlp, []
        vars(mlp)["forward"] = lambda hidden: calls.append(1) or type(mlp).forward(mlp, hidden)
        try:
            return [*(model(ids).logits for _ in range(3)), torch.tensor(len(calls))]
        finally:
            del vars(mlp)["forward"]

    session = parked(runtime, counting, llama, input_ids)
    session.save(path)
    expected = finished(session)
    assert restored(runtime, path, counting, llama, input_ids, expected=expected)


def test_an_attention_function_of_the_user_s_own(runtime, llama, input_ids, path):
    calls = []
    functions = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS

    def attend(*args, **more):
        calls.append(1)
        return functions["sdpa"](*args, **more)

    def counting(model, ids):
        calls.clear()
        return [*(model(ids).logits for _ in range(3)), torch.tensor(len(calls))]

    functions.register("of_the_user", attend)
    llama.config._attn_implementation = "of_the_user"
    try:
        session = parked(runtime, counting, llama, input_ids)
        session.save(path)
        expected = finished(session)
        assert restored(runtime, path, counting, llama, input_ids, expected=expected)
    finally:
        llama.config._attn_implementation = "sdpa"
        del functions._global_mapping["of_the_user"]


def test_a_mode_of_the_user_s_own(runtime, llama, input_ids, path):
    """It counts what the layers compute, of which some has been before the breakpoint."""

    def counted(model, ids):
        with FlopCounterMode(display=False) as counter:
            logits = [model(ids).logits for _ in range(3)]
        return [*logits, torch.tensor(counter.get_total_flops())]

    session = parked(runtime, counted, llama, input_ids)
    session.save(path)
    expected = finished(session)
    assert restored(runtime, path, counted, llama, input_ids, expected=expected)


def test_an_error_that_only_made_up_numbers_cause(runtime, llama, input_ids, path):
    """A pass raises and the program catches it, where it did not raise before."""

    def careful(model, ids):
        def check(module, args, output):
            if not torch.isfinite(output).all():
                raise ValueError

        hook, raised, logits = model.model.norm.register_forward_hook(check), 0, []
        try:
            for _ in range(3):
                try:
                    logits.append(model(ids).logits)
                except ValueError:
                    raised += 1
        finally:
            hook.remove()
        return [*logits, torch.tensor(raised)]

    session = parked(runtime, careful, llama, input_ids)
    session.save(path)
    expected = finished(session)
    assert restored(runtime, path, careful, llama, input_ids, expected=expected)


# -- edits -----------------------------------------------------------------------------------------------------------


def _halved(model, ids, more):
    scale = torch.full((3,), 0.5)
    logits = model(ids).logits * scale.mean().item()
    del scale
    return [logits, *(model(ids, **more).logits for _ in range(3))]


def _write(state, name):
    state[name][:] = 2


def _write_by_numpy(state, name):
    state[name].numpy()[:] = 2


def _write_by_storage(state, name):
    storage = state[name].storage()
    for place in range(len(storage)):
        storage[place] = 2


def _write_by_apply(state, name):
    state[name].apply_(lambda value: 2)


def _write_in_inference_mode(state, name):
    with torch.inference_mode():
        torch.nn.functional.hardtanh(state[name], 0, 0.25, inplace=True)


def _write_in_a_transform(state, name):
    torch.func.vmap(lambda one: one.fill_(2))(state[name])


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    "edit",
    [_write, _write_by_numpy, _write_by_storage, _write_by_apply, _write_in_inference_mode, _write_in_a_transform],
)
def test_an_edit_that_would_be_lost(runtime, llama, input_ids, path, edit):
    """Of a tensor that is the program's own: at the same pause it is saved, and at a later one that is refused."""
    session = parked(runtime, _halved, llama, input_ids, {}, visit=1)
    edit(session.state, "_halved.scale")
    session.save(path)
    session.break_at(2, visit=2)
    session.resume()
    session.wait(30)
    with pytest.raises(djinn.IllegalMove, match=r"at an earlier pause _halved\.scale was edited"):
        session.save(path)
    expected = finished(session)
    again = runtime.restore(path, _halved, llama, input_ids, {})
    again.break_at(2, visit=2)
    again.resume()
    again.wait(30)
    with pytest.raises(djinn.IllegalMove, match=r"at an earlier pause _halved\.scale was edited"):
        again.save(path)
    assert equal(finished(again), expected)


def test_what_was_only_read_is_no_edit(runtime, llama, input_ids, path):
    session = parked(runtime, _halved, llama, input_ids, {}, visit=1)
    assert float(session.state["_halved.scale"].sum()) == 1.5
    session.break_at(2, visit=2)
    session.resume()
    session.wait(30)
    session.save(path)
    expected = finished(session)
    restored(runtime, path, _halved, llama, input_ids, {}, expected=expected)


def test_edits_where_all_must_be_computed(runtime, llama, input_ids, path):
    """A program that is answered no more in this process: its hidden states were edited, which nobody can compute."""
    session = parked(runtime, decoded, llama, input_ids, IN_TENSORS["a mask"], layer=2, visit=2)
    session.state["hidden_states"] += 1
    session.break_at(2)
    session.resume()
    session.wait(30)
    session.save(path)
    expected = finished(session)
    assert not restored(runtime, path, decoded, llama, input_ids, IN_TENSORS["a mask"], expected=expected)
    hook = llama.model.layers[0].register_forward_hook(lambda *call: None)
    try:
        with pytest.raises(djinn.NotRestored, match="hidden_states was edited at an earlier pause"):
            runtime.restore(path, decoded, llama, input_ids, IN_TENSORS["a mask"])
    finally:
        hook.remove()


# -- arguments and the model -----------------------------------------------------------------------------------------


def _given(model, ids, given):
    return [model(ids).logits]


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _filled(model, ids):
    cache = transformers.DynamicCache(config=model.config)
    model(ids, past_key_values=cache)
    return cache


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (lambda: [3, 3, 5], lambda: [3, 5], r"args\.2\.1"),
        (lambda: {"temperature": 1.0}, lambda: {"top_p": 1.0}, r"args\.2\.temperature"),
        (lambda: [[1], 2], lambda: [1, [2]], r"args\.2\.0"),
        (lambda: {1, 2}, lambda: {1, 3}, r"args\.2"),
        (lambda: _seeded(1), lambda: _seeded(2), r"args\.2"),
        (lambda: random.Random(1), lambda: random.Random(2), r"args\.2"),
        (lambda: numpy.random.default_rng(1), lambda: numpy.random.default_rng(2), r"args\.2"),
        (lambda: numpy.ones(3), lambda: numpy.zeros(3), r"args\.2"),
        (
            lambda: transformers.GenerationConfig(max_new_tokens=4),
            lambda: transformers.GenerationConfig(max_new_tokens=5),
            r"args\.2\.max_new_tokens",
        ),
        (
            lambda: [transformers.TemperatureLogitsWarper(0.5)],
            lambda: [transformers.TemperatureLogitsWarper(0.7)],
            r"args\.2\.0\.temperature",
        ),
    ],
)
def test_an_argument_that_differs(runtime, llama, input_ids, path, one, other, name):
    session = parked(runtime, _given, llama, input_ids, one(), visit=1)
    session.save(path)
    expected = finished(session)
    with pytest.raises(djinn.NotRestored, match=rf"argument {name} is"):
        runtime.restore(path, _given, llama, input_ids, other())
    restored(runtime, path, _given, llama, input_ids, one(), expected=expected)


def test_equal_arguments_that_are_other_objects(runtime, llama, input_ids, path):
    session = parked(runtime, _given, llama, input_ids, [10**6, 10**6], visit=1)
    session.save(path)
    expected = finished(session)
    assert not restored(runtime, path, _given, llama, input_ids, [10**6, int("1000000")], expected=expected)


def test_a_cache_with_other_contents(runtime, llama, input_ids, path):
    """Of the same length, and not yet used at the breakpoint."""

    def goes_on(model, ids, cache):
        return [model(ids).logits, model(ids[:, :1], past_key_values=cache).logits]

    session = parked(runtime, goes_on, llama, input_ids, _filled(llama, input_ids), visit=1)
    session.save(path)
    expected = finished(session)
    with pytest.raises(djinn.NotRestored, match=r"argument args\.2\.layers\.0\.keys is"):
        runtime.restore(path, goes_on, llama, input_ids, _filled(llama, input_ids.flip(1)))
    restored(runtime, path, goes_on, llama, input_ids, _filled(llama, input_ids), expected=expected)


def test_other_settings_of_generation(runtime, llama, input_ids, path):
    """Those of the model count where the program gives none."""

    def generate(model, ids):
        return model.generate(ids, pad_token_id=0)

    llama.generation_config.max_new_tokens = 4
    try:
        parked(runtime, generate, llama, input_ids).save(path)
        llama.generation_config.max_new_tokens = 5
        with pytest.raises(djinn.NotRestored, match="the model's configuration is"):
            runtime.restore(path, generate, llama, input_ids)
    finally:
        llama.generation_config.max_new_tokens = None


def test_a_model_that_was_converted(llama, input_ids, path):
    """Its weights are equal, and its table of frequencies is not."""
    one, other = copy.deepcopy(llama).bfloat16(), copy.deepcopy(llama).bfloat16()
    other.model.rotary_emb.inv_freq = other.model.rotary_emb.inv_freq.float()
    with djinn.Runtime(one, host_memory_bytes=8 << 20) as runtime:
        parked(runtime, _given, one, input_ids, None, visit=1).save(path)
    refusal = pytest.raises(djinn.NotRestored, match=r"the model's model\.rotary_emb\.inv_freq is")
    with djinn.Runtime(other, host_memory_bytes=8 << 20) as runtime, refusal:
        runtime.restore(path, _given, other, input_ids, None)


def test_a_program_that_writes_weights(llama, input_ids, path):
    """What it does to them happens again, and then they are not what they were."""
    model = copy.deepcopy(llama)

    def scaled(ids):
        model.lm_head.weight.mul_(2)
        return [model(ids).logits for _ in range(2)]

    with djinn.Runtime(model, host_memory_bytes=8 << 20) as runtime:
        session = parked(runtime, scaled, input_ids, visit=1)
        session.save(path)
        expected = finished(session)
        with pytest.raises(djinn.NotRestored, match=r"the model's lm_head\.weight is"):
            runtime.restore(path, scaled, input_ids)
        model.lm_head.weight.div_(2)
        assert not restored(runtime, path, scaled, input_ids, expected=expected)
