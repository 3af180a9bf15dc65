"""Who else holds a storage: whatever somebody outside the session can reach keeps its bytes.

Each case hands a tensor that the program has made to a holder that neither the program's arguments nor its closure lead
to. Not seen, and documented as such: a NumPy array of *objects*, which the garbage collector does not track, and the
value stack of another thread.
"""

import collections
import concurrent.futures
import contextvars
import dataclasses
import functools
import gc
import itertools
import logging
import queue
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from tests.programs import prefill
from torch import nn

import djinn

LAYER = 3
KEEP = []  # what lies here is the module's, and no program's


@pytest.fixture(autouse=True)
def _empty():
    KEEP.clear()
    yield
    KEEP.clear()


@pytest.fixture
def runtime(llama):
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime


class Plain:
    def __init__(self, tensor):
        self.tensor = tensor

    def method(self):
        return self.tensor

    @functools.cached_property
    def cached(self):
        return [self.tensor]


class Slots:
    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor


@dataclasses.dataclass
class Data:
    tensor: torch.Tensor


Named = collections.namedtuple("Named", "tensor")


def class_attribute(tensor):
    return type("Holder", (), {"tensor": tensor})


def closure(tensor):
    return lambda: tensor


def default(tensor):
    def function(value=tensor):
        return value

    return function


def keyword_default(tensor):
    def function(*, value=tensor):
        return value

    return function


def generator(tensor):
    def numbers():
        held = tensor
        yield 1
        yield held

    running = numbers()
    next(running)
    return running


def coroutine(tensor):
    @types.coroutine
    def pause():
        yield

    async def work():
        held = tensor
        await pause()
        return held

    running = work()
    running.send(None)
    return running


def exception_traceback(tensor):
    def fail(held):
        raise ValueError("kept with its frames")

    try:
        fail(tensor)
    except ValueError as error:
        return error


class LivingThread:
    """A thread that waits with the tensor in a local variable."""

    def __init__(self, tensor):
        self.go, self.started = threading.Event(), threading.Event()
        box = [tensor]
        threading.Thread(target=self.work, args=(box,), daemon=True).start()
        self.started.wait(10)

    def work(self, box):
        local = box.pop()
        self.started.set()
        self.go.wait(60)
        del local

    def __del__(self):
        self.go.set()


def put(kind):
    def hold(tensor):
        held = kind()
        held.put(tensor)
        return held

    return hold


def future(tensor):
    done = concurrent.futures.Future()
    done.set_result(tensor)
    return done


def module_attribute(tensor):
    module = nn.Linear(1, 1)
    module.note = tensor
    return module


def module_buffer(tensor):
    module = nn.Linear(1, 1)
    module.register_buffer("note", tensor)
    return module


def module_hook(tensor):
    module = nn.Linear(1, 1)
    module.register_forward_hook(lambda *arguments: tensor)
    return module


def lru_cached(tensor):
    box = [tensor]

    @functools.lru_cache
    def answer():
        return box.pop()

    answer()
    return answer


def finalizer(tensor):
    target = Plain(None)
    weakref.finalize(target, print, tensor)
    return target


def weak_value(tensor):
    held = Plain(tensor)
    return weakref.WeakValueDictionary({1: held}), held


def cached_property(tensor):
    held = Plain(tensor)
    assert held.cached
    held.tensor = None
    return held


def context(tensor):
    variable = contextvars.ContextVar("held")
    mine = contextvars.Context()
    mine.run(variable.set, tensor)
    return mine


def record(tensor):
    return logging.LogRecord("name", logging.INFO, "path", 1, "%s %s", (tensor, 1), None)


HOLDERS = {
    "list": lambda tensor: [tensor],
    "tuple": lambda tensor: (tensor,),
    "dict": lambda tensor: {"key": tensor},
    "dict key": lambda tensor: {tensor: 1},
    "set": lambda tensor: {Plain(tensor)},
    "frozen set of tuples": lambda tensor: frozenset({(tensor,)}),
    "nested four deep": lambda tensor: {"a": ([{"b": tensor}],)},
    "deque": lambda tensor: collections.deque([tensor]),
    "ordered dict": lambda tensor: collections.OrderedDict(key=tensor),
    "chain map": lambda tensor: collections.ChainMap({"key": tensor}),
    "user dict": lambda tensor: collections.UserDict(key=tensor),
    "mapping proxy": lambda tensor: types.MappingProxyType({"key": tensor}),
    "namespace": lambda tensor: types.SimpleNamespace(tensor=tensor),
    "object attribute": Plain,
    "object with slots": Slots,
    "dataclass": Data,
    "named tuple": Named,
    "class attribute": class_attribute,
    "module of Python": lambda tensor: vars(types.ModuleType("held")).update(tensor=tensor) or [tensor],
    "closure": closure,
    "default": default,
    "keyword default": keyword_default,
    "partial": lambda tensor: functools.partial(print, tensor),
    "bound method": lambda tensor: Plain(tensor).method,
    "built-in method": lambda tensor: tensor.add_,
    "suspended generator": generator,
    "suspended coroutine": coroutine,
    "iterator": lambda tensor: iter([tensor]),
    "cycle": lambda tensor: itertools.cycle([tensor]),
    "chain": lambda tensor: itertools.chain([tensor], [1]),
    "zip": lambda tensor: zip([tensor], [1], strict=True),
    "exception": ValueError,
    "traceback": exception_traceback,
    "local of another thread": LivingThread,
    "queue": put(queue.Queue),
    "simple queue": put(queue.SimpleQueue),
    "future": future,
    "context": context,
    "log record": record,
    "attribute of another module": module_attribute,
    "buffer of another module": module_buffer,
    "hook of another module": module_hook,
    "lru cache": lru_cached,
    "cached property": cached_property,
    "finalizer": finalizer,
    "value of a weak dictionary": weak_value,
    "view": lambda tensor: tensor[:, 1:],
    "transposed view": lambda tensor: tensor.mT,
    "detached alias": lambda tensor: tensor.detach(),
    "data": lambda tensor: tensor.data,
    "storage handle": lambda tensor: tensor.untyped_storage(),
    "typed storage": lambda tensor: torch.storage.TypedStorage(
        wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
    ),
    "numpy array": lambda tensor: tensor.numpy(),
    "memory view": lambda tensor: memoryview(tensor.numpy()),
    "view of a numpy array": lambda tensor: tensor.numpy()[0],
    "dlpack": torch.from_dlpack,
    "dlpack of numpy": np.from_dlpack,
}


def program(model, tokens, hold, note):
    """Logits; ``hold`` is given the embeddings, ``note`` their address."""
    embedded = model.model.embed_tokens(tokens) * 1
    note.append(embedded.untyped_storage()._cdata)
    KEEP.append(hold(embedded))
    return model(inputs_embeds=embedded, use_cache=True).logits


def park(runtime, *call):
    session = runtime.open(breakpoint=LAYER).start(program, *call)
    assert session.wait(30) is djinn.Phase.PAUSED
    return session


def taken(session):
    return {item.storage._cdata for item in session._state.storages}


def hold_by_name(name):
    """A holder that the program's arguments do not lead to the kept object of."""
    return functools.partial(_hold, name)


def _hold(name, tensor):
    return HOLDERS[name](tensor)


@pytest.mark.parametrize("name", HOLDERS)
def test_what_somebody_else_holds_is_left(runtime, llama, input_ids, name):
    """The held storage keeps its bytes and content while the rest of the session is swapped out."""
    expected = prefill(llama, input_ids)
    note = []
    session = park(runtime, llama, input_ids, hold_by_name(name), note)
    assert note[0] not in taken(session)
    assert {"hidden_states", "kv.1.keys", f"kv.{LAYER}.values"} <= set(session.state)
    session.io_wait()
    assert runtime.arena.reserved_bytes > 0
    session.resume()
    assert torch.equal(session.result(30), expected)


FREE = {
    "nobody": lambda tensor: None,
    "weak reference": weakref.ref,
    "weak set": lambda tensor: weakref.WeakSet([tensor]),
    "number computed from it": lambda tensor: float(tensor.sum()),
    "copy": lambda tensor: tensor.clone(),
}


@pytest.mark.parametrize("name", FREE)
def test_what_nobody_else_holds_is_taken(runtime, llama, input_ids, name):
    """What does not keep a storage alive does not keep it on the device."""
    note = []
    session = park(runtime, llama, input_ids, FREE[name], note)
    assert note[0] in taken(session)
    session.io_wait()
    session.resume()
    session.result(30)


def test_what_lies_in_the_program_s_own_containers_is_taken(runtime, llama, input_ids):
    """Local lists, objects and closures, and cyclic garbage that still refers to the tensor, are the session's own."""

    def own(model, tokens, note):
        embedded = model.model.embed_tokens(tokens) * 1
        note.append(embedded.untyped_storage()._cdata)
        box = {"list": [embedded], "object": Plain(embedded)}
        call = closure(embedded)
        garbage = [embedded]
        garbage.append(garbage)
        del garbage
        logits = model(inputs_embeds=embedded, use_cache=True).logits
        return logits, box, call

    note = []
    gc.disable()
    try:
        session = runtime.open(breakpoint=LAYER).start(own, llama, input_ids, note)
        assert session.wait(30) is djinn.Phase.PAUSED
        assert note[0] in taken(session)
    finally:
        gc.enable()
    session.io_wait()
    session.resume()
    logits, box, call = session.result(30)
    assert torch.equal(logits, prefill(llama, input_ids))
    assert torch.equal(box["list"][0], call())


@pytest.mark.parametrize("name", ["list", "object attribute", "closure", "local of another thread", "view", "queue"])
def test_a_cleared_call_site_is_asked_again_when_something_changes(runtime, llama, input_ids, name):
    """The memory of who was cleared does not cover a later session, at the same place, with one more holder."""
    for hold, held in ((FREE["nobody"], False), (hold_by_name(name), True), (FREE["nobody"], False)):
        note = []
        session = park(runtime, llama, input_ids, hold, note)
        assert (note[0] not in taken(session)) is held
        session.close()
        KEEP.clear()


def test_what_another_session_holds_is_left(runtime, llama, input_ids):
    """A tensor that two programs share belongs to neither of them alone."""
    note = []
    shared = llama.model.embed_tokens(input_ids) * 1

    def share(model, box):
        embedded = box.pop()
        note.append(embedded.untyped_storage()._cdata)
        return model(inputs_embeds=embedded).logits

    boxes = [[shared], [shared]]
    del shared
    sessions = []
    for box in boxes:
        session = runtime.open(breakpoint=LAYER).start(share, llama, box)
        assert session.wait(30) is djinn.Phase.PAUSED
        sessions.append(session)
    assert note[1] not in taken(sessions[1])
    for session in sessions:
        session.close()


def test_autograd_s_tensors_stay(runtime, llama, input_ids):
    """In grad mode what the graph may have saved is left, and gradients are equal to the plain call's."""
    embedded = llama.model.embed_tokens(input_ids).detach()

    def loss(model, leaf):
        return model(inputs_embeds=leaf * 1, use_cache=False).logits.sum()

    with torch.enable_grad():
        plain = embedded.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(llama, plain), plain)
        leaf = embedded.clone().requires_grad_()
        session = runtime.open(breakpoint=LAYER).start(loss, llama, leaf)
        assert session.wait(30) is djinn.Phase.PAUSED
        session.io_wait()
        session.resume()
        (found,) = torch.autograd.grad(session.result(30), leaf)
    assert torch.equal(found, expected)


def test_an_emptied_tensor_says_so_where_torch_can(runtime, llama, input_ids):
    """Printing or listing a tensor whose storage is swapped out raises; its shape is still known."""
    held = []

    def program(model, tokens):
        embedded = model.model.embed_tokens(tokens) * 1
        held.append(weakref.ref(embedded))
        return model(inputs_embeds=embedded).logits

    session = runtime.open(breakpoint=LAYER).start(program, llama, input_ids)
    session.wait(30)
    session.io_wait()
    tensor = held[0]()
    assert tensor.shape == (2, 24, 64)
    for touch in (tensor.tolist, tensor.__repr__):
        with pytest.raises(RuntimeError, match="storage"):
            touch()
    del tensor
    session.resume()
    session.result(30)
