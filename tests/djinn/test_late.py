"""Copies that arrive when they are waited for, and not before: every read that nobody has ordered is seen."""

import contextvars
import copy
import ctypes
import dataclasses
import io
import pickle
import sys
import threading
import time

import numpy as np
import pytest
import torch
from tests.djinn.late_link import SECONDS, LateLane
from tests.djinn.test_models import LAYERS, MODELS, equal, forward, mask, model, sample, tokens  # noqa: F401 - fixtures
from tests.programs import parked
from torch import nn
from torch.overrides import BaseTorchFunctionMode

import djinn
from djinn.memory.restore import Restore

pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.mark.parametrize(("layer", "visit"), [(1, 1), (LAYERS, 1), (LAYERS // 2, 2)])
@pytest.mark.parametrize("keep", ["nothing", "frontier"])
def test_sampling(model, tokens, mask, link, layer, visit, keep):  # noqa: F811
    """Tokens and scores of ``generate`` are those of a plain call, though nothing arrives before it waits for it."""
    expected = sample(model, tokens, mask)
    with djinn.Runtime(model, host_memory_bytes=8 << 20, keep=keep) as runtime:
        session = runtime.open(breakpoint=layer, visit=visit).start(sample, model, tokens, mask)
        assert session.wait(60) is djinn.Phase.PAUSED
        session.io_wait()
        session.resume()
        assert equal(session.result(60), expected)
        link.arrive()


def resumed(runtime, llama, program, *args, layer=3, keep="nothing", visit=1):
    """A session of ``program`` that was swapped out, and goes on."""
    session = parked(runtime, layer, program, llama, *args, visit=visit)
    session.io_wait(keep=keep)
    session.resume()
    return session


def with_cache(llama, input_ids):
    """What a forward pass returns, its cache included."""
    return llama(input_ids, use_cache=True)


def the_cache_of(output):
    return [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]


def raising(llama, input_ids):
    output = llama(input_ids, use_cache=True)
    raise ValueError(len(output.past_key_values.layers))


HELD = []


def holding(llama, input_ids):
    """Leaves the cache where the caller finds it, and returns something else."""
    HELD[:] = the_cache_of(llama(input_ids, use_cache=True))
    return len(HELD)


@pytest.mark.parametrize("how", ["returned", "raised", "held"])
def test_what_a_program_leads_to_is_whole(late_runtime, llama, input_ids, link, how):
    """Its value, the frames of its error, and what it left elsewhere: all is there when it has ended."""
    with torch.no_grad():
        expected = the_cache_of(with_cache(llama, input_ids))
        program = {"returned": with_cache, "raised": raising, "held": holding}[how]
        session = resumed(late_runtime, llama, program, input_ids)
        if how == "returned":
            found = the_cache_of(session.result(30))
        elif how == "held":
            assert session.wait(30) is djinn.Phase.FINISHED
            found = list(HELD)
            HELD.clear()
        else:
            with pytest.raises(ValueError, match="6") as caught:
                session.result(30)
            trace = caught.value.__traceback__
            while trace.tb_next is not None:
                trace = trace.tb_next
            found = the_cache_of(trace.tb_frame.f_locals["output"])
        assert equal(found, expected)
        link.arrive()


def last_logits(llama, input_ids):
    return llama(input_ids, use_cache=True).logits[:, -1:]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("keep", ["nothing", "frontier"])
def test_an_answer_waits_for_nothing_else(late_runtime, llama, input_ids, link, keep, mode):
    """Behind the last layer the answer is there though no KV has arrived; what nobody can read any more never does."""
    with mode():
        expected = last_logits(llama, input_ids)
        session = resumed(late_runtime, llama, last_logits, input_ids, layer=llama.config.num_hidden_layers, keep=keep)
        assert torch.equal(session.result(30), expected)
    behind = link.lanes["behind"]
    assert not session.wait_resident(0)
    session._engine.drain(0.1)
    assert behind.done == 0
    link.arrive()


def test_what_the_engine_submits_is_not_read(late_runtime, llama, input_ids, link, monkeypatch):
    """The engine's thread holds a storage while it submits its copy. The program's end waits for no such reader."""
    fill, wait_reachable = LateLane.fill, Restore.wait_reachable
    submitting, ended = threading.Event(), threading.Event()

    def slow_fill(lane, storage, *args, **options):
        if threading.current_thread().name == "djinn-transfer":
            submitting.set()
            assert ended.wait(SECONDS)
            time.sleep(0.05)  # the program's thread looks who holds what
        fill(lane, storage, *args, **options)

    def program(llama, input_ids):
        logits = last_logits(llama, input_ids)
        assert submitting.wait(SECONDS)
        return logits

    monkeypatch.setattr(LateLane, "fill", slow_fill)
    monkeypatch.setattr(Restore, "wait_reachable", lambda restore: (ended.set(), wait_reachable(restore)))
    resumed(late_runtime, llama, program, input_ids, layer=llama.config.num_hidden_layers).result(30)
    assert link.lanes["behind"].done == 0
    link.arrive()


def saved(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    return torch.load(io.BytesIO(file.getvalue()))


def in_inference_mode(tensor):
    with torch.inference_mode():
        return tensor * 2


def compiled(tensor):
    return torch.compile(lambda one: one * 2, backend="eager")(tensor)


def under_a_mode(tensor):
    with BaseTorchFunctionMode():
        return tensor.tolist()


def with_gradients(tensor):
    with torch.enable_grad():
        weight = torch.ones_like(tensor, requires_grad=True)
        (weight * tensor).sum().backward()
    return weight.grad


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    return bool(np.array_equal(left, right))


READS = {
    "numpy": lambda tensor: tensor.numpy().copy(),
    "tolist": lambda tensor: tensor.tolist(),
    "asarray": lambda tensor: np.asarray(tensor).copy(),
    "dlpack": lambda tensor: np.from_dlpack(tensor).copy(),
    "data_ptr": lambda tensor: ctypes.string_at(tensor.data_ptr(), tensor.nbytes),
    "storage": lambda tensor: tensor.untyped_storage()[:64].tolist(),
    "item": lambda tensor: tensor[-1, -1, -1, -1].item(),
    "pickle": lambda tensor: pickle.loads(pickle.dumps(tensor)),
    "save": saved,
    "inference mode": in_inference_mode,
    "compiled": compiled,
    "another mode": under_a_mode,
    "autograd": with_gradients,
    "repr": repr,
    "format": "{}".format,
    "apply": lambda tensor: tensor.clone().copy_(tensor.apply_(lambda one: one + 1)),
    "deepcopy": copy.deepcopy,
    "vmap": torch.vmap(lambda one: one * 2),
    "grad of torch.func": lambda tensor: torch.func.grad(lambda one: (one * tensor).sum())(torch.ones_like(tensor)),
    "after inference mode": lambda tensor: in_inference_mode(tensor).sum() + torch.ones(2),
}


@pytest.mark.parametrize("part", ["model", "decoder"])
@pytest.mark.parametrize("how", READS)
def test_a_read_behind_the_model(late_runtime, llama, input_ids, link, how, part):
    """The user's own code may read state in any way that torch offers; it finds what a plain call finds."""

    def program(llama, input_ids):
        output = (llama if part == "model" else llama.model)(input_ids, use_cache=True)
        return [READS[how](tensor) for tensor in the_cache_of(output)]

    with torch.no_grad():
        expected = program(llama, input_ids)
        found = resumed(late_runtime, llama, program, input_ids).result(30)
    assert all(map(same, found, expected))
    link.arrive()


@pytest.mark.parametrize("how", ["repr", "data_ptr", "tolist", "inference mode"])
def test_a_read_in_a_hook_between_two_layers(late_runtime, llama, input_ids, link, how):
    """A hook on a layer finds what a plain call finds, though only the program's frame leads to what it reads."""

    def program(llama, input_ids):
        kept, found = the_cache_of(llama(input_ids, use_cache=True)), []

        def hook(*args):
            frame = sys._getframe()
            while frame.f_code is not program.__code__:
                frame = frame.f_back
            found.extend(READS[how](tensor) for tensor in frame.f_locals["kept"])

        handle = llama.model.layers[3].register_forward_hook(hook)
        try:
            llama(input_ids, use_cache=False)
        finally:
            handle.remove()
        return kept and found

    with torch.no_grad():
        expected = program(llama, input_ids)
        found = resumed(late_runtime, llama, program, input_ids, visit=2).result(30)
    assert all(map(same, found, expected))
    link.arrive()


def with_two_caches(llama, input_ids):
    """Two generations side by side, as guidance without a classifier makes them."""
    one = llama(input_ids, use_cache=True).past_key_values
    other = llama(input_ids[:, :5], use_cache=True).past_key_values
    return [llama(input_ids[:, :1], past_key_values=cache, use_cache=True).logits for cache in (one, other)]


def with_a_snapshot(llama, input_ids):
    """Puts earlier KV back into the cache without an operator."""
    cache = llama(input_ids, use_cache=True).past_key_values
    saved = [(layer.keys, layer.values) for layer in cache.layers]
    first = llama(input_ids[:, :1], past_key_values=cache, use_cache=True).logits
    for layer, (keys, values) in zip(cache.layers, saved, strict=True):
        layer.keys, layer.values = keys, values
    return [first, llama(input_ids[:, 2:3], past_key_values=cache, use_cache=True).logits]


def with_a_copied_cache(llama, input_ids):
    """Two caches that share their first tensors."""
    cache = llama(input_ids, use_cache=True).past_key_values
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return [llama(input_ids[:, :1], past_key_values=one, use_cache=True).logits for one in (cache, other)]


SHIFT = contextvars.ContextVar("SHIFT")


def with_a_context_variable(llama, input_ids):
    """A hook inside a layer reads a context variable of the program's."""
    before = SHIFT.set(llama(input_ids, use_cache=False).logits[..., :1].clone())
    handle = llama.model.layers[4].mlp.register_forward_hook(lambda module, args, output: output + SHIFT.get())
    try:
        return [llama(input_ids, use_cache=False).logits]
    finally:
        handle.remove()
        SHIFT.reset(before)


class Pair(torch.Tensor):
    """A tensor that is the sum of two: operators on these two are seen by nobody."""

    @staticmethod
    def __new__(cls, one, other):
        return torch.Tensor._make_wrapper_subclass(cls, one.shape, dtype=one.dtype, device=one.device)

    def __init__(self, one, other):
        self.one, self.other = one, other

    @classmethod
    def __torch_dispatch__(cls, func, types, args, kwargs=None):
        return func(*[arg.one + arg.other if isinstance(arg, cls) else arg for arg in args], **(kwargs or {}))


def with_a_subclass(llama, input_ids):
    logits = llama(input_ids, use_cache=False).logits
    pair = Pair(logits.clone(), logits * 2)
    llama(input_ids, use_cache=False)
    return [pair + 1]


@pytest.mark.parametrize("keep", ["nothing", "frontier"])
@pytest.mark.parametrize(
    "program", [with_two_caches, with_a_snapshot, with_a_copied_cache, with_a_context_variable, with_a_subclass]
)
def test_what_a_later_pass_reads_past_its_arguments(late_runtime, llama, input_ids, link, program, keep):
    """A pass finds what a plain call finds, however its layers come to what they read."""
    with torch.no_grad():
        expected = program(llama, input_ids)
        found = resumed(late_runtime, llama, program, input_ids, visit=2, keep=keep).result(30)
    assert equal(found, expected)
    link.arrive()


@dataclasses.dataclass
class Memory:
    value: torch.Tensor | None


class Remembering(nn.Module):
    """Layers that each get another object, by which they come to a tensor of the program's."""

    def __init__(self, how):
        super().__init__()
        self.layers = nn.ModuleList(Reader(nn.Linear(32, 32), how) for _ in range(5))
        self.how = how

    def forward(self, x):
        values = [x.sin() * index for index in range(5)]
        shared = Memory(None)
        made = [self._made(value) for value in values]
        for index, layer in enumerate(self.layers):
            if self.how == "one object":
                shared.value = values[index]
            x = layer(x, shared if self.how == "one object" else made[index])
        return x

    def _made(self, value):
        return (lambda: value) if self.how == "closure" else Memory(value)


class Reader(nn.Module):
    def __init__(self, block, how):
        super().__init__()
        self.block = block
        self.how = how

    def forward(self, x, memory):
        return self.block(x).tanh() + (memory() if self.how == "closure" else memory.value)


@pytest.mark.parametrize("how", ["objects", "one object", "closure"])
def test_what_a_layer_reads_by_an_object(link, how):
    """What an argument leads to is there when a layer asks for it."""
    torch.manual_seed(0)
    stack, x = Remembering(how).eval(), torch.randn(8, 32)
    with torch.no_grad(), djinn.Runtime(stack, host_memory_bytes=1 << 20, layers=stack.layers) as runtime:
        expected = stack(x)
        session = parked(runtime, 2, stack, x)
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), expected)
        link.arrive()


def test_nothing_of_the_barrier_outlasts_it(late_runtime, llama, input_ids, link):
    """When all state is back, the next pass runs without a mode, also behind a mode of the program's own."""
    found = []

    def program(llama, input_ids):
        output = llama(input_ids, use_cache=True)
        with BaseTorchFunctionMode():
            llama(input_ids, use_cache=False)
        [tensor.sum() for tensor in the_cache_of(output)]
        llama(input_ids, use_cache=False)
        found.append(len(torch.overrides._get_current_function_mode_stack()))
        found.append(len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()))

    with torch.no_grad():
        session = resumed(late_runtime, llama, program, input_ids)
        session.result(30)
    assert found == [0, 0]
    link.arrive()
