"""Who else holds a storage: what somebody outside a parked session can reach stays, and the rest goes.

The program is a function of this module and holders hang on a module global, so that nothing here is found by looking
at what the caller passed in: each case is one for the reference counts and the chains of referrers.

Known limits: holders that the garbage collector does not know, pinned below, and the value stack of another thread,
which Python does not show.
"""

import asyncio
import collections
import concurrent.futures
import contextvars
import functools
import gc
import logging
import operator
import queue
import sys
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from tests.programs import prefill
from torch import nn

import djinn
import djinn.state.ownership

MODULE = sys.modules[__name__]
SEEN = contextvars.ContextVar("SEEN", default=None)
THREAD_LOCAL = threading.local()


class World:
    """What lies outside the session, but for what a holder kept: ``undo`` is what a test calls at its end."""

    def __init__(self):
        self.address = 0
        self.undo = []


WORLD = World()
HELD = None  # what a holder kept: a global, so that no chain is longer than the holder makes it


def keep(value):
    global HELD  # noqa: PLW0603 - see above
    HELD = value


class Box:
    """Holds one thing in its dict; hashable by identity, and can be referred to weakly."""

    kept = None

    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value

    @functools.cached_property
    def doubled(self):
        return [self.value, 2]


class Mapping(torch.nn.Module):
    """Another module, no part of the model."""

    def __init__(self, value=None):
        super().__init__()
        self.value = value


class Remember(torch.autograd.Function):
    """Keeps a tensor as a plain attribute of its context."""

    @staticmethod
    def forward(ctx, weight, tensor):
        ctx.tensor = tensor
        return weight * 1

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def keep_closure(tensor):
    keep(lambda: tensor)


def keep_deep(tensor, depth):
    for _ in range(depth):
        tensor = [tensor]
    keep(tensor)


def deepest(held):
    while isinstance(held, list):
        held = held[0]
    return held


def keep_generator(tensor):
    def generate(local):
        while True:
            yield 0
            yield local

    generator = generate(tensor)
    next(generator)
    keep(generator)


async def hold_across(local, future):
    await future
    return local


def keep_coroutine(tensor):
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    coroutine = hold_across(tensor, future)
    coroutine.send(None)
    WORLD.undo += [coroutine.close, loop.close]
    keep(coroutine)


def keep_async_generator(tensor):
    async def generate(local):
        yield 0
        yield local

    generator = generate(tensor)
    with pytest.raises(StopIteration):
        generator.asend(None).send(None)
    keep(generator)


def await_next(generator):
    with pytest.raises(StopIteration) as stopped:
        generator.asend(None).send(None)
    return stopped.value.value


def keep_in_thread(tensor, hold):
    """``hold`` keeps the tensor in a thread that lives until the test ends and gives it out when it is asked to."""
    handed, asked, answers = [tensor], queue.Queue(), queue.Queue()
    thread = threading.Thread(target=hold, args=(handed, asked, answers), daemon=True)
    thread.start()
    assert answers.get(timeout=30) == "held"
    WORLD.undo += [functools.partial(asked.put, None), thread.join]
    keep((asked, answers))


def in_a_local(handed, asked, answers):
    local = handed.pop()
    answers.put("held")
    while asked.get() is not None:
        answers.put(local)


def in_a_list_of_a_local(handed, asked, answers):
    local = {"list": [handed.pop()]}
    answers.put("held")
    while asked.get() is not None:
        answers.put(local["list"][0])


def in_an_outer_frame(handed, asked, answers):
    local = handed.pop()
    in_an_inner_frame(asked, answers, lambda: local)


def in_an_inner_frame(asked, answers, get):
    answers.put("held")
    while asked.get() is not None:
        answers.put(get())


def in_its_thread_local(handed, asked, answers):
    THREAD_LOCAL.value = handed.pop()
    answers.put("held")
    while asked.get() is not None:
        answers.put(THREAD_LOCAL.value)


def in_its_context(handed, asked, answers):
    SEEN.set(handed.pop())
    answers.put("held")
    while asked.get() is not None:
        answers.put(SEEN.get())


def ask():
    asked, answers = HELD
    asked.put("show")
    return answers.get(timeout=30)


def keep_context(tensor):
    context = contextvars.Context()
    context.run(SEEN.set, tensor)
    keep(context)


def keep_raised(tensor):
    def fail():
        local = tensor * 1
        local = tensor
        raise ValueError(local.dim())

    try:
        fail()
    except ValueError as error:
        keep(error.with_traceback(error.__traceback__.tb_next))  # without this frame, which holds it by a cell


def of_traceback(error):
    return error.__traceback__.tb_frame.f_locals["local"]


def keep_context_of_error(tensor):
    try:
        try:
            raise KeyError(tensor)
        except KeyError:
            raise ValueError("of another") from None
    except ValueError as error:
        keep(error)


def keep_class_attribute(tensor):
    Box.kept = tensor
    WORLD.undo.append(lambda: setattr(Box, "kept", None))


def keep_module_global(tensor):
    MODULE.GLOBAL = tensor
    WORLD.undo.append(lambda: delattr(MODULE, "GLOBAL"))


def keep_buffer(tensor):
    module = Mapping()
    module.register_buffer("buffer", tensor)
    keep(module)


def keep_hook(tensor):
    module = Mapping()
    module.register_forward_hook(functools.partial(print, tensor))
    keep(module)


def keep_lru(tensor):
    @functools.lru_cache(maxsize=4)
    def cached(key):
        return handed.pop()

    handed = [tensor]
    cached("key")
    keep(cached)


def keep_weak_values(tensor):
    box = Box(tensor)
    keep((weakref.WeakValueDictionary({"box": box}), collections.deque([box])))


def keep_finalizer(tensor):
    box = Box(None)
    keep((box, weakref.finalize(box, print, tensor)))
    WORLD.undo.append(HELD[1].detach)


def keep_callback(tensor):
    box = Box(None)
    keep((box, weakref.ref(box, lambda _: tensor)))


def keep_future(tensor):
    future = concurrent.futures.Future()
    future.set_result(tensor)
    keep(future)


def keep_torch_future(tensor):
    future = torch.futures.Future()
    future.set_result(tensor)
    keep(future)


def keep_queue(tensor, made):
    made.put(tensor)
    keep(made)


def keep_saved_input(tensor):
    with torch.enable_grad():
        keep(torch.ones(64, requires_grad=True) * tensor)


def keep_saved_by_function(tensor):
    with torch.enable_grad():
        keep(Remember.apply(torch.ones(64, requires_grad=True), tensor))


def keep_tensor_attribute(tensor):
    other = torch.empty(1)
    other.note = tensor
    keep(other)


def keep_tensor_hook(tensor):
    other = torch.empty(1, requires_grad=True)
    other.register_hook(lambda grad: tensor)
    keep(other)


def keep_unequally_far(tensor):
    """Reached at once and by a longer way; what holds both must be found for both."""
    keep([tensor, [[tensor.detach()]]])


def keep_frozen(tensor):
    keep([tensor])
    gc.freeze()
    WORLD.undo.append(gc.unfreeze)


def keep_doubled(tensor):
    box = Box(tensor)
    box.doubled  # noqa: B018 - fills the cache
    del box.value
    keep(box)


def keep_log_record(tensor):
    keep(logging.LogRecord("name", logging.INFO, "path", 1, "%s", (tensor,), None))


def first():
    return HELD[0]


def value():
    return HELD.value


def itself():
    return HELD


def called():
    return HELD()


def method(name):
    return lambda: operator.methodcaller(name)(HELD)


# How a holder keeps the tensor, and how a test finds it there again. More of those that need no torch are cases of
# ``referrers_cases``.
HOLDERS = {
    "global list": (lambda t: keep([t]), first),
    "module global": (keep_module_global, lambda: MODULE.GLOBAL),
    "plain attribute": (keep, itself),
    "dict value": (lambda t: keep({"key": t}), lambda: HELD["key"]),
    "set of wrappers": (lambda t: keep({Box(t)}), lambda: next(iter(HELD)).value),
    "object attribute": (lambda t: keep(Box(t)), value),
    "class attribute": (keep_class_attribute, lambda: Box.kept),
    "nested 4 deep": (lambda t: keep_deep(t, 4), lambda: deepest(HELD)),
    "nested 12 deep": (lambda t: keep_deep(t, 12), lambda: deepest(HELD)),
    "at two depths": (keep_unequally_far, first),
    "frozen by gc": (keep_frozen, first),
    "closure": (keep_closure, called),
    "cell": (lambda t: keep(types.CellType(t)), lambda: HELD.cell_contents),
    "bound method": (lambda t: keep(Box(t).get), called),
    "method of the tensor": (lambda t: keep(t.numel), lambda: HELD.__self__),
    "method wrapper": (lambda t: keep(t.__init__), lambda: HELD.__self__),
    "cached property": (keep_doubled, lambda: HELD.doubled[0]),
    "lru cache": (keep_lru, lambda: HELD("key")),
    "suspended generator": (keep_generator, lambda: next(HELD)),
    "suspended coroutine": (keep_coroutine, lambda: HELD.cr_frame.f_locals["local"]),
    "suspended async generator": (keep_async_generator, lambda: await_next(HELD)),
    "local of another thread": (lambda t: keep_in_thread(t, in_a_local), ask),
    "container of another thread": (lambda t: keep_in_thread(t, in_a_list_of_a_local), ask),
    "captured local of another thread": (lambda t: keep_in_thread(t, in_an_outer_frame), ask),
    "thread local of another thread": (lambda t: keep_in_thread(t, in_its_thread_local), ask),
    "context of another thread": (lambda t: keep_in_thread(t, in_its_context), ask),
    "context variable": (keep_context, lambda: HELD[SEEN]),
    "queue": (lambda t: keep_queue(t, queue.Queue()), lambda: HELD.get(timeout=30)),
    "future": (keep_future, method("result")),
    "exception": (lambda t: keep(ValueError(t)), lambda: HELD.args[0]),
    "context of an exception": (keep_context_of_error, lambda: HELD.__context__.args[0]),
    "frame of a traceback": (keep_raised, lambda: of_traceback(HELD)),
    "log record": (keep_log_record, lambda: HELD.args[0]),
    "weak values, strong elsewhere": (keep_weak_values, lambda: HELD[0]["box"].value),
    "argument of a finalizer": (keep_finalizer, lambda: HELD[1].peek()[2][0]),
    "callback of a weak reference": (keep_callback, lambda: HELD[1].__callback__(None)),
    "view": (lambda t: keep(t[:, 1:]), itself),
    "view of a view": (lambda t: keep(t[:, 1:].transpose(0, 1)), itself),
    "detached alias": (lambda t: keep(t.detach()), itself),
    "data": (lambda t: keep(t.data), itself),
    "parameter": (lambda t: keep(torch.nn.Parameter(t, requires_grad=False)), itself),
    "numpy array": (lambda t: keep(t.numpy()), lambda: torch.from_numpy(HELD)),
    "memoryview": (lambda t: keep(memoryview(t.numpy())), lambda: torch.from_numpy(np.asarray(HELD))),
    "storage": (lambda t: keep(t.untyped_storage()), itself),
    "typed storage": (lambda t: keep(t.storage()), method("untyped")),
    "DLPack capsule": (lambda t: keep(torch.utils.dlpack.to_dlpack(t)), lambda: torch.from_dlpack(HELD)),
    "DLPack consumer": (lambda t: keep(torch.from_dlpack(t)), itself),
    "DLPack consumer in numpy": (lambda t: keep(np.from_dlpack(t)), lambda: torch.from_dlpack(HELD)),
    "saved for backward": (keep_saved_input, lambda: HELD.grad_fn._saved_other),
    "context of an autograd function": (keep_saved_by_function, lambda: HELD.grad_fn.tensor),
    "attribute of a tensor": (keep_tensor_attribute, lambda: HELD.note),
    "hook of a tensor": (keep_tensor_hook, lambda: next(iter(HELD._backward_hooks.values()))(None)),
    "attribute of a module": (lambda t: keep(Mapping(t)), value),
    "buffer of a module": (keep_buffer, lambda: HELD.buffer),
    "hook of a module": (keep_hook, lambda: next(iter(HELD._forward_hooks.values())).args[0]),
}


def keep_garbage(tensor):
    box = [tensor]
    box.append(box)


# What the program does with its tensor without letting anybody else reach it; what it returns it holds in a local.
FREE = {
    "nobody": lambda t: None,
    "weak reference": lambda t: keep(weakref.ref(t)),
    "weak values": lambda t: keep(weakref.WeakValueDictionary(key=t)),
    "cyclic garbage": keep_garbage,
    "local": lambda t: t,
    "view in a local": lambda t: t[:, 1:],
    "list in a local": lambda t: [t, [t]],
    "object in a local": lambda t: Box([t]),
    "closure in a local": lambda t: lambda: t,
    "partial in a local": lambda t: functools.partial(print, t, key=t),
    "generator in a local": lambda t: (part for part in [t]),
    "exception in a local": ValueError,
}


def program(model, tokens, hold):
    """Logits of a prefill from embeddings that it computes by itself and shows to ``hold``."""
    embedded = model.model.embed_tokens(tokens)
    WORLD.address = embedded.data_ptr()
    local = hold(embedded)  # noqa: F841 - held by this frame
    return model(inputs_embeds=embedded).logits


def nothing(tensor):
    return None


@pytest.fixture(autouse=True)
def world():
    yield
    for undo in WORLD.undo:
        undo()
    WORLD.__init__()
    keep(None)


@pytest.fixture(scope="module")
def runtime(llama):
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def answers(runtime):
    """The answers that the runtime keeps by call site: none at the beginning of a test."""
    answers = runtime._scanner._ownership._held_at
    answers.clear()
    return answers


@pytest.fixture
def no_collection():
    """What is garbage stays."""
    collecting = gc.isenabled()
    gc.disable()
    yield
    if collecting:
        gc.enable()


def parked(runtime, *call):
    """A session of ``call`` after layer 3, and the addresses of the storages that it would swap out."""
    session = runtime.open(breakpoint=3).start(*call)
    assert session.wait(30) is djinn.Phase.PAUSED
    return session, {item.storage.data_ptr() for item in session._residency.state.storages}


def storage_of(held):
    return held.untyped_storage() if isinstance(held, torch.Tensor) else held


def bytes_of(held):
    return torch.empty(0, dtype=torch.uint8).set_(storage_of(held))


def check_left(session, taken, find, expected, result):
    """What ``find`` gives is not swapped out and keeps its content, hidden states are, and the run is bit-equal."""
    assert WORLD.address not in taken
    assert "hidden_states" in session.state
    assert sum(session.storage_sizes) > 0
    session.io_wait()
    held = find()
    assert storage_of(held).data_ptr() == WORLD.address
    assert torch.equal(bytes_of(held), bytes_of(expected))
    session.resume()
    assert torch.equal(session.result(30), result)
    assert torch.equal(bytes_of(held), bytes_of(expected))
    session.close()


def run(runtime, llama, input_ids, hold):
    """A session from its start to its end; whether the program's tensor would have been swapped out."""
    session, taken = parked(runtime, program, llama, input_ids, hold)
    session.resume()
    session.result(30)
    session.close()
    return WORLD.address in taken


@pytest.fixture(scope="module")
def cleared(runtime, llama, input_ids):
    """The answers that are kept when the program has run with nobody holding its tensor."""
    collecting = gc.isenabled()
    gc.disable()
    answers = runtime._scanner._ownership._held_at
    answers.clear()
    with torch.no_grad():
        assert run(runtime, llama, input_ids, FREE["nobody"])
    if collecting:
        gc.enable()
    assert [answer.held for answer in answers.values()] == [frozenset()]  # of all suspects none was held
    return dict(answers)


@pytest.mark.parametrize("name", HOLDERS)
def test_what_somebody_else_holds_stays(runtime, llama, input_ids, answers, cleared, no_collection, name):
    """A tensor that is reachable from outside keeps its bytes while the rest of the session is swapped out.

    Also at a call site where an earlier session had the same tensor for itself: no answer is kept that one holder more
    breaks. Whatever that answer is, it is the only one that is there.
    """
    answers.update(cleared)
    hold, find = HOLDERS[name]
    session, taken = parked(runtime, program, llama, input_ids, hold)
    check_left(session, taken, find, llama.model.embed_tokens(input_ids), prefill(llama, input_ids))


@pytest.mark.parametrize("name", ["global list", "local of another thread", "view"])
def test_a_holder_is_seen_at_a_call_site_of_which_nothing_is_known(runtime, llama, input_ids, name):
    """The first session at a call site finds holders too."""
    hold, find = HOLDERS[name]
    session, taken = parked(runtime, program, llama, input_ids, hold)
    check_left(session, taken, find, llama.model.embed_tokens(input_ids), prefill(llama, input_ids))


def test_an_answer_is_kept(runtime, llama, input_ids, answers, cleared, no_collection, monkeypatch):
    """The same program at the same place with nobody else there is not looked at twice: it is what costs time."""
    answers.update(cleared)
    monkeypatch.setattr(djinn.state.ownership, "Chains", None)
    assert run(runtime, llama, input_ids, FREE["nobody"])
    assert answers == cleared


def test_an_answer_is_good_for_every_layer_of_a_loop(runtime, llama, input_ids, no_collection, monkeypatch):
    """The frames stand at the same place in each round: who steps through a model waits for the search once."""
    session, taken = parked(runtime, program, llama, input_ids, FREE["nobody"])
    assert WORLD.address in taken
    monkeypatch.setattr(djinn.state.ownership, "Chains", None)
    for layer in range(4, llama.config.num_hidden_layers + 1):
        assert session.step(30) is djinn.Phase.PAUSED
        assert session.layer == layer
        assert WORLD.address in {item.storage.data_ptr() for item in session._residency.state.storages}
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))
    session.close()


def lasting(model, rounds):
    """A call whose named arguments the value stack holds alone, as ``generate`` calls its loop."""

    def loop(**named):
        for _ in range(rounds):
            model(named["given"])
        return named["given"].sum()

    def called(**named):
        return loop(**{**named, "more": 1})

    return called(given=torch.ones(4, 8))


def test_an_answer_is_good_for_a_call_that_lasts(monkeypatch):
    """Its temporaries have grown old, and are known again. One reference more to them, and there is another search."""
    model, searches = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval(), []
    search = djinn.state.ownership.Chains
    monkeypatch.setattr(djinn.state.ownership, "Chains", lambda *a, **k: searches.append(1) or search(*a, **k))
    with torch.no_grad(), djinn.Runtime(model, layers=list(model), host_memory_bytes=1 << 20) as runtime:
        session = runtime.open(breakpoint=1).start(lasting, model, 8)
        counts = []
        for visit in range(8):
            assert session.wait(30) is djinn.Phase.PAUSED
            counts.append(len(searches))
            if visit == 1:
                gc.collect()  # what is young by now is old at the next stop
            if visit == 4:
                (kept,) = [obj for obj in gc.get_objects() if type(obj) is dict and "given" in obj and "more" in obj][
                    :1
                ]
            session.break_at(1)
            session.resume()
        assert float(session.result(30)) == 32
        session.close()
    assert counts[3] == counts[2] == counts[4]
    assert counts[5] > counts[4]
    assert kept


@pytest.mark.parametrize("first", [None, tuple])
def test_what_a_half_made_tuple_held_another_list_may_hold(first):
    """A tuple that the program is just making is no holder; the answer for it is not that for a list of somebody's."""
    model, held = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval(), []

    def each(kept):
        for _ in range(3):
            model(torch.ones(4, 8))
            kept.append(torch.ones(4, 8))
            yield kept[-1]

    def program(kind):
        kept = []
        kind(each(kept))

    with torch.no_grad(), djinn.Runtime(model, layers=list(model), host_memory_bytes=1 << 20) as runtime:
        for kind in filter(None, (first, held.extend)):
            session = runtime.open(breakpoint=1, visit=3).start(program, kind)
            assert session.wait(30) is djinn.Phase.PAUSED
            session.io_wait()
            found = [one.untyped_storage().nbytes() for one in held]
            session.close(10)
    assert found == [128, 128]


@pytest.mark.parametrize("name", ["global list", "closure", "local of another thread", "view"])
def test_a_holder_that_came_in_a_later_round_is_seen(runtime, llama, input_ids, no_collection, name):
    """The answer of an earlier layer does not hide somebody who has got hold of state since."""
    session, taken = parked(runtime, program, llama, input_ids, FREE["nobody"])
    assert WORLD.address in taken
    hold, find = HOLDERS[name]
    (embedded,) = [obj for obj in gc.get_objects() if is_the_embedding(obj)]
    hold(embedded)
    del embedded
    assert session.step(30) is djinn.Phase.PAUSED
    taken = {item.storage.data_ptr() for item in session._residency.state.storages}
    check_left(session, taken, find, llama.model.embed_tokens(input_ids), prefill(llama, input_ids))


def is_the_embedding(obj):
    return type(obj) is torch.Tensor and obj.dim() == 3 and obj.data_ptr() == WORLD.address


@pytest.mark.parametrize("name", FREE)
def test_what_nobody_else_holds_is_taken(runtime, llama, input_ids, name):
    """A tensor that only the program's own frames lead to is swapped out with the rest."""
    session, taken = parked(runtime, program, llama, input_ids, FREE[name])
    assert WORLD.address in taken
    assert "hidden_states" in session.state
    assert {f"kv.{layer}.keys" for layer in (1, 2, 3)} <= set(session.state)
    session.io_wait()
    assert not any(item.storage.nbytes() for item in session._residency.state.storages)
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))
    session.close()


@pytest.mark.parametrize("name", ["global list", "closure", "local of another thread", "view", "queue"])
def test_a_holder_is_seen_where_garbage_was(runtime, llama, input_ids, no_collection, name):
    """What an earlier session left to the garbage collector is no temporary: the answer that counts it is not kept."""
    assert run(runtime, llama, input_ids, FREE["cyclic garbage"])
    hold, find = HOLDERS[name]
    session, taken = parked(runtime, program, llama, input_ids, hold)
    check_left(session, taken, find, llama.model.embed_tokens(input_ids), prefill(llama, input_ids))


def keep_in_object_array(tensor):
    array = np.empty(1, dtype=object)
    array[0] = tensor
    keep(array)


@pytest.mark.parametrize("hold", [keep_in_object_array, keep_torch_future])
def test_what_the_garbage_collector_does_not_know_is_not_seen(runtime, llama, input_ids, hold):
    """A known limit: such a holder finds the tensor emptied until the session is resumed, and then as it was."""
    session, taken = parked(runtime, program, llama, input_ids, hold)
    assert WORLD.address in taken
    session.io_wait()
    session.resume()
    session.result(30)
    held = HELD[0] if isinstance(HELD, np.ndarray) else HELD.value()
    assert torch.equal(held, llama.model.embed_tokens(input_ids))


def test_what_two_sessions_hold_is_left(runtime, llama, input_ids):
    """A tensor that two programs share belongs to neither of them alone."""

    def share(model, box):
        embedded = box.pop()
        return model(inputs_embeds=embedded).logits

    shared = llama.model.embed_tokens(input_ids)
    WORLD.address = shared.data_ptr()
    boxes = [[shared], [shared]]
    del shared
    first_one, _ = parked(runtime, share, llama, boxes[0])
    second_one, taken = parked(runtime, share, llama, boxes[1])
    assert WORLD.address not in taken
    first_one.close()
    second_one.close()


def test_autograd_s_tensors_stay(runtime, llama, input_ids):
    """In grad mode what the graph may have saved is left, and gradients are equal to the plain call's."""

    def loss(model, leaf):
        return model(inputs_embeds=leaf * 1, use_cache=False).logits.sum()

    embedded = llama.model.embed_tokens(input_ids).detach()
    with torch.enable_grad():
        plain = embedded.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(llama, plain), plain)
        leaf = embedded.clone().requires_grad_()
        session, _ = parked(runtime, loss, llama, leaf)
        session.io_wait()
        session.resume()
        (found,) = torch.autograd.grad(session.result(30), leaf)
    assert torch.equal(found, expected)


def test_an_emptied_tensor_says_so_where_torch_can(runtime, llama, input_ids):
    """Printing or listing a tensor whose storage is swapped out raises; its shape is still known."""
    session, taken = parked(runtime, program, llama, input_ids, FREE["weak reference"])
    assert WORLD.address in taken
    session.io_wait()
    tensor = HELD()
    assert tensor.shape == (2, 24, 64)
    for touch in (tensor.tolist, tensor.__repr__):
        with pytest.raises(RuntimeError, match="storage"):
            touch()
    del tensor
    session.resume()
    session.result(30)


# -- holders at the end of a chain that is known already, or behind what is not entered ------------------------------


class Log:
    def __init__(self):
        self.kept = []


class Server:
    """Embeds by functions that remember; its method is the program."""

    def __init__(self, model, tokens):
        self.model = model
        self.tokens = tokens
        self.log = Log()
        self.embed = functools.lru_cache(maxsize=None)(
            lambda factor: self.model.model.embed_tokens(self.tokens) * factor
        )

    def cached(self):
        return self.model(inputs_embeds=self.embed(1)).logits

    def logged(self):
        embedded = self.model.model.embed_tokens(self.tokens) * 1
        self.log.kept.append(embedded)
        return self.model(inputs_embeds=embedded).logits

    def memoised(self):
        self.embed_into.memo["here"] = self.model.model.embed_tokens(self.tokens) * 1
        return self.model(inputs_embeds=self.embed_into.memo["here"]).logits

    def proxied(self):
        self.proxy = types.MappingProxyType({"here": self.model.model.embed_tokens(self.tokens) * 1})
        return self.model(inputs_embeds=self.proxy["here"]).logits

    def embed_into(self):
        """Remembers in an attribute of its own."""

    embed_into.memo = {}  # noqa: RUF012 - an attribute of the function


KEPT_BY = {
    "cached": lambda server: server.embed(1),
    "logged": lambda server: server.log.kept[0],
    "memoised": lambda server: server.embed_into.memo["here"],
    "proxied": lambda server: server.proxy["here"],
}
SERVERS = []


@pytest.mark.parametrize("in_module", [False, True], ids=["local", "module global"])
@pytest.mark.parametrize("name", KEPT_BY)
def test_what_the_caller_s_objects_keep_stays(runtime, llama, input_ids, name, in_module):
    """Also behind a cache, a function's attributes or a proxy, and where another of their tensors is met first."""
    server = Server(llama, input_ids)
    SERVERS[:] = [server] if in_module else []
    gc.collect(1)  # the server is no longer young
    session, taken = parked(runtime, getattr(server, name))
    assert KEPT_BY[name](server).data_ptr() not in taken
    session.io_wait()
    assert torch.equal(KEPT_BY[name](server), llama.model.embed_tokens(input_ids))
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))
    session.close()
    SERVERS.clear()


def batch(model, tokens, last):
    pair = (model.model.embed_tokens(tokens) * 1, 0)
    if last is not None:
        last.append(pair)
    return pair


def unpacked(model, tokens, last):
    return prefill_of(model, *batch(model, tokens, last))


def prefill_of(model, embedded, rest):
    return model(inputs_embeds=embedded).logits


def test_a_temporary_that_somebody_keeps_is_no_temporary(runtime, llama, input_ids, answers, no_collection):
    """The tuple that an earlier session held on its stack alone: now somebody has it, and the tensor in it stays."""
    keep([])
    for last in (None, HELD):
        session, taken = parked(runtime, unpacked, llama, input_ids, last)
        if last is not None:
            assert last[0][0].data_ptr() not in taken
        session.resume()
        session.result(30)
        session.close()
