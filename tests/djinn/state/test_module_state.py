"""State that a call keeps in attributes of modules changes with the turn, is swapped, and stays at the end."""

import copy

import pytest
import torch
import transformers
from tests.djinn.keeping import (
    KINDS,
    LAYERS,
    Counting,
    Deleting,
    Registering,
    Replacing,
    Storing,
    Writing,
    WritingOwn,
    kept,
    same,
    stack,
    steps,
    tensors_in,
)
from tests.programs import equal, parked, spoil, without_climb
from torch import nn

import djinn

FIRST, SECOND = (torch.full((1, 8), value) for value in (0.3, -0.7))
ORDERS = ("abbaba", "ababab", "abbbaa", "aabbab", "abaabb", "baabba")
SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def recurrent_gemma():
    config = transformers.RecurrentGemmaConfig(**SMALL, lru_width=64, attention_window_size=8)
    return transformers.RecurrentGemmaForCausalLM(config)


def dynamic_llama():
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    config = transformers.LlamaConfig(**SMALL, max_position_embeddings=16, rope_parameters=rope)
    return transformers.LlamaForCausalLM(config)


def longrope_phi3():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [3.0] * 8,
        "original_max_position_embeddings": 16,
    }
    config = transformers.Phi3Config(
        **SMALL, max_position_embeddings=64, original_max_position_embeddings=16, rope_parameters=rope
    )
    return transformers.Phi3ForCausalLM(config)


def qwen2_vl():
    text = {**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 64}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2VLForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[recurrent_gemma, dynamic_llama, longrope_phi3, qwen2_vl])
def model(request):
    torch.manual_seed(0)
    built = request.param().eval()
    built.generation_config.eos_token_id = None
    return built


def generated(model, tokens, mask):
    """The scores of six greedy steps."""
    found = model.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    return list(found.scores)


def inputs(length, pads, seed):
    """Tokens of shape [2, ``length``]; the first ``pads`` of one row are padding."""
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, :pads] = 0
    return torch.randint(5, 96, (2, length), generator=torch.Generator().manual_seed(seed)), mask


def alone(model, *xs):
    """Outputs of plain calls on a copy of ``model``, one after the other, and what they leave on the modules."""
    fresh = copy.deepcopy(model)
    return [steps(fresh, x) for x in xs], kept(fresh)


def managed(model):
    return djinn.Runtime(model, layers=model.layers, host_memory_bytes=32 << 20)


@pytest.mark.parametrize("visit", [1, 3])
def test_models_that_keep_state_on_modules(model, visit):
    """Two sessions park, leave the device and go on crosswise, one beyond the original length: each is bit-equal."""
    long, short = inputs(20, 5, seed=1), inputs(9, 2, seed=2)
    wanted = [generated(copy.deepcopy(model), *one) for one in (long, short)]
    with djinn.Runtime(model, host_memory_bytes=32 << 20) as runtime:
        sessions = [parked(runtime, 1, generated, model, *one, visit=visit) for one in (long, short)]
        for session in sessions:
            session.io_wait()
            spoil(session.storage_sizes)
        assert equal(generated(copy.deepcopy(model), *short), wanted[1])
        sessions[0].break_at(2, visit=2).resume()
        assert sessions[0].wait(60) is djinn.Phase.PAUSED
        sessions[0].io_wait()
        for session, expected in zip(sessions[::-1], wanted[::-1], strict=True):
            session.resume()
            assert equal(session.result(60), expected)


def turns(runtime, model, order, by_name, *, layer):
    """Two sessions by turns: to a pause after ``layer``, to another, to the end. Yields a name, and its result or None.

    Each is swapped out when its turn has been looked at.
    """
    sessions = {}
    for turn, name in enumerate(order):
        if name not in sessions:
            sessions[name] = parked(runtime, layer, steps, model, by_name[name])
        elif order[:turn].count(name) == 1:
            sessions[name].break_at(1, visit=2).resume()
            assert sessions[name].wait(30) is djinn.Phase.PAUSED
        else:
            sessions[name].resume()
            yield name, sessions[name].result(30)
            continue
        yield name, None
        sessions[name].io_wait()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_sessions_in_any_order_of_turns(monkeypatch, kind, order):
    """Two sessions of three turns each compute what each computes alone, and the last to end leaves its values."""
    without_climb(monkeypatch)
    model, by_name = stack(kind), {"a": FIRST, "b": SECOND}
    before, wanted = kept(model), {name: alone(model, x)[0][0] for name, x in by_name.items()}
    with managed(model) as runtime:
        for name, result in turns(runtime, model, order, by_name, layer=2):
            if result is None:
                assert same(kept(model), before)
            else:
                assert equal(result, wanted[name])
                before = alone(stack(kind), by_name[name])[1]
    assert same(kept(model), alone(stack(kind), by_name[order[-1]])[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_after_another_finds_what_that_left(monkeypatch, kind):
    """Sessions that run one after the other, parked in between or not, are plain calls one after the other."""
    without_climb(monkeypatch)
    model = stack(kind)
    wanted, left = alone(model, FIRST, SECOND, FIRST)
    with managed(model) as runtime:
        for x, expected, pauses in zip((FIRST, SECOND, FIRST), wanted, (True, False, True), strict=True):
            session = runtime.open(breakpoint=2 if pauses else None, visit=2).start(steps, model, x)
            if pauses:
                session.wait(30)
                session.io_wait()
                session.resume()
            assert equal(session.result(30), expected)
    assert same(kept(model), left)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Deleting])
def test_the_state_is_named_and_its_memory_is_freed(kind):
    """Module state is in ``session.state`` under the module's name, and its storages are empty in IO_WAIT."""
    model = stack(kind)
    with managed(model) as runtime:
        for _ in range(2):  # the second begins with copies, where the first wrote in place
            session = parked(runtime, 2, steps, model, FIRST, visit=3)
            of_layers = {entry.layer for entry in session.state.entries if entry.name.startswith("modules.layers.")}
            held = tensors_in([values for _, _, values in session._program._module_state.roots])
            assert of_layers == {1, 2, 3}
            assert held
            session.io_wait()
            assert all(tensor.untyped_storage().nbytes() == 0 for tensor in held)
            session.close(30)


def test_an_edit_of_module_state_is_what_the_program_finds():
    """An edit in IO_WAIT under the module's name has the effect of the same edit in a plain call."""
    model = stack(Replacing)
    fresh = copy.deepcopy(model)
    first = fresh(FIRST)
    fresh.layers[2].last.mul_(2)
    wanted = fresh(first)
    with managed(model) as runtime:
        session = parked(runtime, 1, lambda: model(model(FIRST)), visit=2)
        session.io_wait()
        session.state["modules.layers.2.last"] *= 2
        session.resume()
        assert torch.equal(session.result(30), wanted)


def test_a_view_that_a_frame_holds_stays_a_view_of_what_is_written():
    """A local variable that aliases a buffer sees what the call writes into it after a park, and what it wrote."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
            self.register_buffer("total", torch.zeros(1, 8))

        def forward(self, x):
            alias = self.total[:]
            for layer in self.layers:
                self.total.add_(x)
                x = layer(x + alias)
            return x

    model = Model()
    wanted = [copy.deepcopy(model)(x) for x in (FIRST, SECOND)]
    with managed(model) as runtime:
        sessions = [parked(runtime, 1, model, x) for x in (FIRST, SECOND)]
        assert torch.equal(model.total, torch.zeros(1, 8))
        for session in sessions:
            session.io_wait()
        for session, expected in zip(sessions, wanted, strict=True):
            session.resume()
            assert torch.equal(session.result(30), expected)


@pytest.mark.parametrize("kind", [Writing, WritingOwn, Storing])
def test_a_tensor_that_is_written_stays_the_object_that_it_was(kind):
    """When the calls have ended, the modules hold the tensors that they held before, with what the last call wrote."""
    model = stack(kind)
    before = [layer.last for layer in model.layers]
    with managed(model) as runtime:
        first, second = (parked(runtime, 2, steps, model, x) for x in (SECOND, FIRST))
        second.resume()
        second.result(30)
        first.resume()
        first.result(30)
        assert all(layer.last is tensor for layer, tensor in zip(model.layers, before, strict=True))
        third = parked(runtime, 2, steps, model, FIRST)
        assert all(layer.last is tensor for layer, tensor in zip(model.layers, before, strict=True))
        third.resume()
        third.result(30)
    assert all(layer.last is tensor for layer, tensor in zip(model.layers, before, strict=True))
    assert same(kept(model), alone(stack(kind), SECOND, FIRST)[1])


def test_what_others_change_meanwhile_stands():
    """Weights, saved buffers, hooks, new modules and attributes that others set during a park stay, for all."""
    model, other, calls = stack(Writing), stack(Writing), []
    for layer in other.layers:
        layer.linear.weight.mul_(2)
        layer.last.fill_(3)
    with managed(model) as runtime:
        session = parked(runtime, 1, steps, model, FIRST)
        model.load_state_dict(other.state_dict())
        model.layers[2].adapter = nn.Linear(8, 8)
        model.layers[2].linear.register_forward_hook(lambda *args: calls.append(1))
        model.layers[2].scale = torch.ones(2)
        session.break_at(1).resume()
        assert session.wait(30) is djinn.Phase.PAUSED
        assert all(torch.equal(layer.last, torch.full((1, 8), 3.0)) for layer in model.layers)
        assert torch.equal(model.layers[2].scale, torch.ones(2))
        session.resume()
        session.result(30)
    assert len(calls) == 4
    assert torch.equal(model.layers[2].scale, torch.ones(2))
    assert isinstance(model.layers[2].adapter, nn.Linear)
    assert torch.equal(model.layers[0].linear.weight, other.layers[0].linear.weight)


def test_a_plain_call_meanwhile_is_nobody_s_state():
    """A plain call during a park leaves its values for other plain calls, not for the session that is parked."""
    model = stack(Replacing)
    (wanted,), _ = alone(model, FIRST)
    with managed(model) as runtime:
        session = parked(runtime, 1, steps, model, FIRST, visit=2)
        steps(model, SECOND)
        left = kept(model)
        session.break_at(1).resume()
        assert session.wait(30) is djinn.Phase.PAUSED
        assert same(kept(model), left)
        session.resume()
        assert equal(session.result(30), wanted)


@pytest.mark.parametrize("value", [len, nn.ReLU().forward, nn.Parameter(torch.ones(1)), object()])
def test_code_weights_and_other_objects_never_change_with_the_turn(value):
    """What is no tensor, cache or container of them is the outside's at once, also where state was before."""
    model = stack(Replacing)

    def program():
        model(FIRST)
        del model.layers[0].last
        model.layers[0].last = model.layers[1].setting = value
        model.layers[1](FIRST)
        return model.layers[0].last is value

    with managed(model) as runtime:
        session = parked(runtime, 2, program, visit=2)
        assert model.layers[0].last is value
        assert model.layers[1].setting is value
        session.resume()
        assert session.result(30)


def test_a_call_that_fails_leaves_what_a_plain_call_leaves():
    """A program that is cancelled or raises leaves its last values on the modules."""
    model = stack(Replacing)
    fresh = stack(Replacing)
    fresh(FIRST)
    with managed(model) as runtime:
        session = parked(runtime, 3, lambda: [model(FIRST), 1 // 0])
        session.io_wait()
        session.resume()
        with pytest.raises(ZeroDivisionError):
            session.result(30)
        assert same(kept(model), kept(fresh))
        session = parked(runtime, 3, model, SECOND)
        session.io_wait()
        session.close(30)
        assert torch.equal(model.layers[0].last, stack_state(FIRST, SECOND))


def stack_state(*xs):
    """What the first layer keeps after passes of ``xs``."""
    model = stack(Replacing)
    for x in xs:
        model(x)
    return model.layers[0].last


def test_no_room_for_a_copy_leaves_the_program_alone(monkeypatch):
    """If the device has no room for the outside's copy, the call goes on with what it wrote."""

    def refuse(*args):
        raise torch.OutOfMemoryError("no room")

    model = stack(WritingOwn)
    (wanted,), left = alone(model, FIRST)
    monkeypatch.setattr("djinn.state.module_values.Copies.of", refuse)
    with managed(model) as runtime:
        session = parked(runtime, 2, steps, model, FIRST)
        session.io_wait()
        session.resume()
        assert equal(session.result(30), wanted)
    assert same(kept(model), left)


def test_a_resume_copies_nothing_and_looks_at_nothing(monkeypatch):
    """Where nobody else has changed anything, taking the turn neither looks at all modules nor copies a tensor."""
    model = stack(Registering)
    with managed(model) as runtime:
        session = parked(runtime, 2, steps, model, FIRST)
        state = session._program._module_state
        with monkeypatch.context() as patched:
            patched.setattr("djinn.state.module_attributes.ModelAttributes.look", None)
            patched.setattr("djinn.state.module_values.Copies.of", None)
            state.put_on()
        assert not torch.equal(model.layers[0].last, torch.ones(1, 8))
        state.take_off()
        assert torch.equal(model.layers[0].last, torch.ones(1, 8))
        session.resume()
        assert equal(session.result(30), alone(stack(Registering), FIRST)[0][0])


@pytest.mark.parametrize("order", ORDERS)
def test_a_number_alone_is_the_session_s(monkeypatch, order):
    """A number that a call sets on modules without any tensor changes with the turn; the last to end leaves its own."""
    without_climb(monkeypatch)
    model, by_name = stack(Counting), {"a": FIRST, "b": SECOND}
    with managed(model) as runtime:
        for name, result in turns(runtime, model, order, by_name, layer=3):
            assert result is None or equal(result, alone(stack(Counting), by_name[name])[0][0])
    assert same(kept(model), alone(stack(Counting), by_name[order[-1]])[1])


class Rescaling(Replacing):
    """Divides its weights once, and notes that in a flag, as RWKV does."""

    def __init__(self):
        super().__init__()
        self.last = False

    def forward(self, x):
        if not self.last:
            with torch.no_grad():
                self.linear.weight.div_(2)
            self.last = True
        return torch.tanh(self.linear(x))


def test_a_flag_that_tells_of_weights_stands(monkeypatch):
    """The weights are everybody's, and so is the flag: a later session does not divide them again."""
    without_climb(monkeypatch)
    model = stack(Rescaling)
    model.forward = lambda x: model.layers[2](model.layers[1](model.layers[0](x)))
    wanted = alone(stack(Rescaling), FIRST)[0][0][:1]
    with managed(model) as runtime:
        session = parked(runtime, 3, steps, model, FIRST, 1)
        session.io_wait()
        assert equal(runtime.open().start(steps, model, FIRST, 1).result(30), wanted)
        session.resume()
        assert equal(session.result(30), wanted)
    assert all(layer.last for layer in model.layers)
    assert equal(steps(model, FIRST, 1), wanted)


@pytest.mark.parametrize("kind", [Replacing, Counting])
def test_a_number_that_somebody_sets_during_a_park_stands(kind):
    """It is on the module during the session's later turns, in between, and at the end."""
    model = stack(kind)
    model.scale = 1.0
    with managed(model) as runtime:
        session = parked(runtime, 2, steps, model, FIRST, visit=2)
        for scale in (7.5, 8.5):
            model.scale = scale
            session.step(30)
            assert model.scale == scale
        session.resume()
        session.result(30)
        assert model.scale == 8.5


def test_what_two_calls_leave_fits_together(monkeypatch):
    """A short call that ends after a longer one leaves the tensor and the number of its own rope, as plain calls do."""
    without_climb(monkeypatch)
    torch.manual_seed(0)
    model = dynamic_llama().eval()
    long, short = inputs(24, 0, seed=1)[0], inputs(9, 0, seed=2)[0]
    wanted = copy.deepcopy(model)(short).logits
    with djinn.Runtime(model, host_memory_bytes=16 << 20) as runtime:
        sessions = [parked(runtime, 1, model, one) for one in (short, long)]
        for session in sessions[::-1]:
            session.resume()
            session.result(30)
        assert torch.equal(model(short).logits, wanted)
