"""What is left of an interceptor in copies, in files, and in other libraries' wrappers."""

import copy
import functools
import io
import itertools
import pickle

import pytest
import torch
from tests.programs import parked, prefill
from torch import nn

import djinn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.linear(x))


pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(Block(), Block(), Block()), nn.Linear(8, 8)).eval()


INPUT = torch.linspace(-1, 1, 32).reshape(4, 8)


def runtime_of(model):
    return djinn.Runtime(model, host_memory_bytes=1 << 20)


def attributes(model):
    return [set(vars(module)) for module in model.modules()]


def check_free(model, expected):
    """A new runtime has the model, pauses it and closes; nothing is left of this one or of an earlier one."""
    assert torch.equal(model(INPUT), expected)
    with runtime_of(model) as runtime:
        session = parked(runtime, 2, model, INPUT)
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), expected)
    for module in model.modules():
        assert not any(type(value).__module__.startswith("djinn") for value in vars(module).values())
    assert torch.equal(model(INPUT), expected)


# -- hooks of accelerate's kind: they keep the forward that they find, and put that back -----------------------------


def put_on(model):
    for module in model.modules():
        old = module._old_forward = module.forward
        module.forward = functools.update_wrapper(functools.partial(hooked, module), old)


def hooked(module, *args, **kwargs):
    return module._old_forward(*args, **kwargs)


def take_off(model):
    for module in model.modules():
        module.forward = module._old_forward
        del module._old_forward


ORDERS = [
    order
    for order in itertools.permutations(["hooks on", "hooks off", "made", "closed"])
    if order.index("hooks on") < order.index("hooks off") and order.index("made") < order.index("closed")
]


def in_order(order, model, put_on, take_off):
    runtimes = []
    for step in order:
        if step == "made":
            runtimes.append(runtime_of(model))
        elif step == "closed":
            runtimes[0].close()
        else:
            (put_on if step == "hooks on" else take_off)(model)


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_hooks_in_any_order(model, order):
    """Whichever comes and goes first, the model computes as before, and belongs to nobody."""
    expected = model(INPUT)
    in_order(order, model, put_on, take_off)
    check_free(model, expected)
    with pytest.raises(AttributeError):
        model._old_forward  # noqa: B018


@pytest.mark.trained
@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_hooks_of_accelerate_in_any_order(model, order):
    """The same with the library itself."""
    from accelerate import dispatch_model
    from accelerate.hooks import remove_hook_from_module

    expected = model(INPUT)
    on = functools.partial(dispatch_model, device_map={"": "cpu"}, force_hooks=True)
    in_order(order, model, on, functools.partial(remove_hook_from_module, recurse=True))
    check_free(model, expected)


def test_a_runtime_below_hooks_has_the_model(model):
    """Hooks that were put on later do not hide it from another runtime, and sessions pause below them."""
    expected = model(INPUT)
    with runtime_of(model) as runtime:
        put_on(model)
        with pytest.raises(djinn.DjinnError, match="belongs to another runtime"):
            runtime_of(model)
        session = parked(runtime, 1, model, INPUT)
        session.resume()
        assert torch.equal(session.result(30), expected)
    take_off(model)
    check_free(model, expected)


def test_hooks_taken_off_from_below_a_runtime(model):
    """They take the interceptors with them: the next session is refused, instead of running past its breakpoint."""
    put_on(model)
    with runtime_of(model) as runtime:
        take_off(model)
        with pytest.raises(djinn.DjinnError, match="layer 1 would not stop"):
            runtime.open(breakpoint=1)


def test_a_wrapper_that_outlives_its_runtime(model):
    """What nobody can see into passes calls through, and the next runtime pauses above it."""
    expected = model(INPUT)
    runtime = runtime_of(model)
    for module in model.modules():
        module.forward = functools.partial(lambda inner, *args: inner(*args), module.forward)
    runtime.close()
    runtime.close()
    assert torch.equal(model(INPUT), expected)
    with runtime_of(model) as runtime:
        assert torch.equal(parked(runtime, 1, model, INPUT).state["hidden_states"], model[0][0](INPUT))


def test_closing_again_leaves_the_next_runtime_alone(model):
    """A runtime that is closed twice takes off its own interceptors only."""
    first = runtime_of(model)
    first.close()
    with runtime_of(model) as second:
        first.close()
        before = attributes(model)
        assert parked(second, 1, model, INPUT).phase is djinn.Phase.PAUSED
        assert attributes(model) == before


# -- copies and files -------------------------------------------------------------------------------------------------


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    assert b"djinn" not in file.getvalue()
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(protocol):
    def of(model):
        data = pickle.dumps(model, protocol)
        assert b"djinn" not in data
        return pickle.loads(data)

    return of


COPIES = {"torch.save": saved, "deepcopy": copy.deepcopy, **{f"pickle {n}": pickled(n) for n in range(6)}}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_copy_is_plain(model, how, swapped):
    """Also while a session is parked: it has the attributes of before, its own modules, and may get a runtime."""
    plain, expected = attributes(model), model(INPUT)
    with runtime_of(model) as runtime:
        copies = [COPIES[how](model)]
        session = parked(runtime, 2, model, INPUT)
        if swapped:
            session.io_wait()
        copies.append(COPIES[how](model))
        session.resume()
        assert torch.equal(session.result(30), expected)
    for other in copies:
        assert attributes(other) == plain
        assert all(part.forward.__self__ is part for part in other.modules())
        check_free(other, expected)


def test_a_module_that_is_twice_a_part(model):
    """A layer that is run twice, and so has two interceptors, is as plain in a copy."""
    shared = model[0][0]
    twice = nn.Sequential(nn.Sequential(shared, shared), nn.Linear(8, 8))
    plain = attributes(twice)
    with runtime_of(twice):
        assert attributes(saved(twice)) == plain
        assert saved(twice)[0][0] is not shared
    assert attributes(twice) == plain


class Keeping(Block):
    """A module that says itself what is kept of it."""

    def __getstate__(self):
        return {"kept": vars(self)}

    def __setstate__(self, state):
        vars(self).update(state["kept"])


class Copying(Block):
    """A module that says itself how it is copied."""

    def __deepcopy__(self, memo):
        other = memo[id(self)] = type(self).__new__(type(self))
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other


@pytest.mark.parametrize(("kind", "how"), [(Keeping, saved), (Keeping, copy.deepcopy), (Copying, copy.deepcopy)])
def test_modules_that_decide_what_is_copied(kind, how):
    """Where the module itself packs its attributes, its copy still computes, by its own weights, and never pauses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(kind(), kind()), nn.Linear(8, 8)).eval()
    expected = model(INPUT)
    runtime = runtime_of(model)
    parked(runtime, 1, model, INPUT)
    other = how(model)
    session = runtime.open(breakpoint=1).start(other, INPUT)
    assert torch.equal(session.result(30), expected)
    runtime.close()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(other(INPUT), expected)
    with runtime_of(other) as again:
        parked(again, 1, other, INPUT)


def test_save_pretrained(llama, input_ids, tmp_path):
    """A model is saved as ever while a session is parked."""
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        parked(runtime, 2, prefill, llama, input_ids).io_wait()
        llama.save_pretrained(tmp_path)
    other = type(llama).from_pretrained(tmp_path).eval()
    assert torch.equal(prefill(other, input_ids), prefill(llama, input_ids))
