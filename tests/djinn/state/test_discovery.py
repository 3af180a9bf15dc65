"""What is found in a parked program, what is taken and what is left, and that looking never hurts the program.

Most cases need no model: a program calls ``park`` where a session would stop it.
"""

import asyncio
import contextvars
import gc
import sys
import threading
import types
import weakref

import pytest
import torch
from tests.programs import prefill
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import djinn
from djinn.state.discovery import StateScanner
from djinn.state.layers import KvLayers
from djinn.state.ownership import Ownership

CPU = torch.device("cpu")
SEEN = contextvars.ContextVar("SEEN", default=None)
WORLD = types.SimpleNamespace(held=None)


def _run(program, park):
    return program(park)


def discover(program, *, model=(), context=None, discovery=None):
    """The states found at each ``park(output, **kwargs)`` of ``program``, and what it returned."""
    context = context or contextvars.Context()
    discovery = discovery or StateScanner(CPU, KvLayers([]), frozenset(one.untyped_storage()._cdata for one in model))
    found = []

    def park(output, **kwargs):
        state = discovery.state_at(
            1, args=(), kwargs=kwargs, output=output, outermost=_run.__code__, caller=program, context=context
        )
        found.append(state)

    value = context.run(_run, program, park)
    return found, value


def names(state):
    return {view.name.rpartition(".<locals>.")[2] for item in state.storages for view in item.views}


def reasons(state):
    return {entry.name.rpartition(".<locals>.")[2]: entry.reason for entry in state.left}


def activations():
    return torch.rand(2, 8, 16)


@pytest.fixture(autouse=True)
def _world():
    yield
    WORLD.held = None


@pytest.fixture(scope="module")
def runtime(llama):
    with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
        yield runtime


# -- nothing of the program's runs, and nothing kills it ---------------------------------------------------------------

RAN = []


def ran(*args, **kwargs):
    RAN.append(sys._getframe(1).f_code.co_name)
    raise RuntimeError("code of the program's has run")


class Everything:
    """Answers every question by code that fails."""

    def __init__(self, value):
        object.__setattr__(self, "value", value)

    __getattribute__ = __setattr__ = __eq__ = __len__ = __iter__ = __bool__ = __hash__ = __repr__ = __str__ = ran
    __class__ = property(ran)


class DictProperty:
    __slots__ = ("value",)
    __dict__ = property(ran)

    def __init__(self, value):
        self.value = value


class DictPropertyOnTop(types.SimpleNamespace):
    __dict__ = property(ran)


class Meta(type):
    __module__ = __mro__ = __name__ = __dictoffset__ = __dict__ = property(ran)
    __getattribute__ = __instancecheck__ = __subclasscheck__ = __eq__ = __hash__ = ran


def of_odd_class(value):
    namespace = {"__slots__": ("value",), "__module__": property(ran)}
    odd = type.__call__(Meta, "Odd", (), namespace)
    one = object.__new__(odd)
    type.__dict__["__dict__"].__get__(odd)["value"].__set__(one, value)
    return one


class Key:
    def __hash__(self):
        return 1

    __eq__ = __str__ = __repr__ = __format__ = ran


class Text(str):
    __slots__ = ()
    __str__ = __format__ = __repr__ = __eq__ = ran
    __hash__ = str.__hash__


class Number(int):
    __str__ = __format__ = __repr__ = __eq__ = ran
    __hash__ = int.__hash__


class List(list):
    __iter__ = __len__ = __getitem__ = __reversed__ = ran


class Tuple(tuple):
    __slots__ = ()
    __iter__ = __len__ = __getitem__ = ran


class Dict(dict):
    items = keys = values = copy = __iter__ = __len__ = __getitem__ = get = ran


def with_odd_dict(value):
    box = type("Box", (), {})()
    box.__dict__ = Dict(value=value)
    return box


def task(value):
    loop = asyncio.new_event_loop()

    async def hold(value):
        return value

    return loop.create_task(hold(value)), loop


# How a program keeps a tensor; each kind of object has code of its own that must not run, or lacks what others have.
ODD = {
    "everything": Everything,
    "__dict__ as a property": DictProperty,
    "__dict__ as a property, with a dict": lambda t: DictPropertyOnTop(value=t),
    "metaclass": of_odd_class,
    "key": lambda t: {Key(): t},
    "text as a key": lambda t: {Text("key"): t},
    "number as a key": lambda t: {Number(3): t},
    "list": lambda t: List([t]),
    "tuple": lambda t: Tuple([t]),
    "dict": lambda t: Dict(key=t),
    "attributes in an odd dict": with_odd_dict,
    "asyncio task": task,
}


@pytest.mark.parametrize("kind", ODD)
def test_no_code_of_the_program_s_runs(kind):
    """An object is entered without asking it anything, and what it holds is taken."""

    def program(park):
        RAN.clear()
        kept = ODD[kind](torch.rand(3, 5))
        RAN.clear()
        park(activations(), kept=kept)
        if kind == "asyncio task":
            kept[1].run_until_complete(kept[0])
            kept[1].close()

    (state,), _ = discover(program)
    assert RAN == []
    assert "hidden_states" in names(state)
    assert any(view.shape == (3, 5) for item in state.storages for view in item.views)
    assert state.left == ()


@pytest.mark.parametrize("make", [List, Tuple, lambda items: Dict(enumerate(items)), lambda items: [[], ({}, items)]])
def test_hidden_states_are_the_first_tensor_of_what_the_layer_returned(make):
    """Depth first, in whatever tuples, lists and dicts it is."""

    def program(park):
        first = activations()
        RAN.clear()
        park(make([first, torch.rand(3)]))
        return first.data_ptr()

    (state,), address = discover(program)
    assert RAN == []
    assert state.hidden_states is None
    named = {view.name: item.storage.data_ptr() for item in state.storages for view in item.views}
    assert named["hidden_states"] == address


class Watching(TorchFunctionMode):
    def __init__(self):
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class WatchingDispatch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Plain(torch.Tensor):
    """A subclass whose overrides fail."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return ran()

    _base = device = layout = is_nested = property(ran)
    untyped_storage = stride = size = ran


class Wrapper(torch.Tensor):
    """A subclass without bytes of its own, which is asked by torch for all that it is."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, (3, 5), dtype=inner.dtype, dispatch_sizes_strides_policy="sizes", dispatch_device=True
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return ran()


@pytest.mark.parametrize("mode", [Watching, WatchingDispatch])
def test_modes_of_the_program_see_nothing(mode):
    """Operators and attributes that are asked for while looking pass by modes that the program has entered."""

    def program(park):
        views = torch.rand(4, 6)[:, 1:], torch.rand(4, 6).to_sparse(), torch.rand(3, requires_grad=True)
        hidden_states = activations()
        with mode() as entered:
            before = list(entered.seen)
            park(hidden_states, views=views)
            assert entered.seen == before
            hidden_states.sin()
            assert len(entered.seen) == len(before) + 1

    (state,), _ = discover(program)
    assert "hidden_states" in names(state)


@pytest.mark.parametrize("mode", [Watching, WatchingDispatch])
def test_modes_of_the_program_see_nothing_of_a_pause(runtime, llama, input_ids, mode):
    """Nor do they see a park, an IO_WAIT and a RESUME, whichever part of the runtime asks torch."""

    def program():
        with mode() as entered:
            llama(input_ids)
        return list(map(str, entered.seen))

    session = runtime.open(breakpoint=3).start(program)
    assert session.wait(30) is djinn.Phase.PAUSED
    session.io_wait()
    session.resume()
    assert session.result(30) == program()


def nested():
    return torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(4, 3)])


def compressed():
    return torch.sparse_csr_tensor(torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.rand(2))


def fake():
    with FakeTensorMode():
        return torch.empty(3, 5)


# Tensors that cannot be swapped through their storage: how they are made, why they are left, how many bytes they hold.
TENSORS = {
    "nested": (nested, "it is a nested tensor", 72),
    "sparse": (lambda: torch.eye(4).to_sparse(), "it is sparse", 4 * 4 + 2 * 4 * 8),
    "compressed": (compressed, "it is sparse", 3 * 8 + 2 * 8 + 2 * 4),
    "quantized": (lambda: torch.quantize_per_tensor(torch.rand(3, 5), 0.1, 0, torch.quint8), "it is quantized", 15),
    "other layout": (lambda: torch.rand(3, 5).to_mkldnn(), "its layout is torch._mkldnn", 60),
    "subclass": (lambda: torch.rand(3, 5).as_subclass(Plain), "it is a tensor of the subclass Plain", 60),
    "parameter": (lambda: nn.Parameter(torch.rand(3, 5)), "it is a tensor of the subclass Parameter", 60),
    "wrapper": (lambda: Wrapper(torch.rand(3, 5)), "it is a tensor of the subclass Wrapper", 0),
    "fake": (fake, "it is a tensor of the subclass FakeTensor", 0),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("where", ["local", "hidden states"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse", "ignore:.*quantize")
def test_tensors_of_other_kinds_are_left_and_named(kind, where):
    """The session parks, the rest is taken, and what stays is there with its bytes and the reason."""
    make, reason, nbytes = TENSORS[kind]

    def program(park):
        tensor, other = make(), activations()
        RAN.clear()
        if where == "local":
            park(other, position=tensor)
        else:
            park((tensor, other))
        return tensor, other

    (state,), (tensor, _) = discover(program)
    assert RAN == []
    name = "position" if where == "local" else "hidden_states"
    entry = next(entry for entry in state.left if entry.name == name)
    assert (entry.reason, entry.nbytes) == (reason, nbytes)
    assert sum(view.shape == (2, 8, 16) for item in state.storages for view in item.views) >= 1
    if where != "local":
        assert state.hidden_states is tensor
    if kind == "wrapper":
        assert any(view.shape == (3, 5) for item in state.storages for view in item.views)


def test_what_is_no_state_is_not_listed():
    """Parameters of the model, tensors on other devices and empty ones are neither taken nor left behind."""
    weight = torch.rand(4, 4)

    def program(park):
        mine, elsewhere, empty = weights.pop(), torch.empty(3, device="meta"), torch.empty(0)
        park(activations())
        return mine, elsewhere, empty

    weights = [weight]
    (state,), _ = discover(program, model=[weight])
    assert state.left == ()
    assert names(state) == {"hidden_states"}


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(4), "the model holds it"),
        (torch.empty(3, device="meta"), "it is on another device"),
        (torch.empty(0), "it is empty"),
    ],
)
def test_hidden_states_are_always_named(tensor, reason):
    """Also where they are none of the session's bytes."""
    (state,), _ = discover(lambda park: park(tensor), model=[tensor] if tensor.numel() == 4 else [])
    assert reasons(state) == {"hidden_states": reason}
    assert state.hidden_states is tensor
    assert state.storages == ()


@pytest.mark.parametrize(
    ("lazy", "dtype", "edit"), [(torch.conj, torch.complex64, 1 + 2j), (torch._neg_view, torch.float32, 5.0)]
)
def test_names_show_conjugates_and_negatives(lazy, dtype, edit):
    """A view that only says it is conjugated, or negated, reads and takes edits as the program sees it.

    In inference mode: in any other autograd keeps such a view's base more than once, and it stays on the device.
    """

    def program(park):
        plain = torch.rand(3, 4, dtype=dtype)
        view = lazy(plain)
        park(activations(), view=view[1:])
        return view

    with torch.inference_mode():
        (state,), view = discover(program)
    assert state.left == ()
    (item, named) = next((item, named) for item in state.storages for named in item.views if named.name == "view")
    with torch.inference_mode():
        shown = named.over(torch.empty(0, dtype=torch.uint8).set_(item.storage))
        assert torch.equal(shown, view[1:])
        shown.copy_(torch.full((2, 4), edit, dtype=dtype))
    assert torch.equal(view[1:], torch.full((2, 4), edit, dtype=dtype))


@pytest.mark.parametrize("error", [ValueError, MemoryError, RecursionError])
def test_a_failure_while_looking_leaves_everything_and_lets_the_program_park(
    runtime, llama, input_ids, monkeypatch, error
):
    """The one entry names the error; the hidden states can still be read; the result is bit-equal."""

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(Ownership, "externally_referenced", fail)
    session = runtime.open(breakpoint=3).start(prefill, llama, input_ids)
    assert session.wait(30) is djinn.Phase.PAUSED
    state = session._residency.state
    assert state.storages == ()
    (entry,) = state.left
    assert entry.name == "hidden_states"
    assert error.__name__ in entry.reason
    assert "nothing was taken" in entry.reason
    assert state.hidden_states.shape == (2, 24, 64)
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))
    session.close()


def transformed_by_vmap(model, embedded):
    weights = dict(model.named_parameters())

    def one(row):
        arguments = {"inputs_embeds": row[None], "use_cache": False}
        return torch.func.functional_call(model, weights, (), arguments).logits

    return torch.func.vmap(one)(embedded)


def transformed_by_jvp(model, embedded):
    def logits(embedded):
        return model(inputs_embeds=embedded, use_cache=False).logits

    return torch.func.jvp(logits, (embedded,), (torch.ones_like(embedded),))[1]


def transformed_by_grad(model, embedded):
    def loss(embedded):
        return model(inputs_embeds=embedded, use_cache=False).logits.square().mean()

    return torch.func.grad(loss)(embedded)


@pytest.mark.parametrize("transform", [transformed_by_vmap, transformed_by_jvp, transformed_by_grad])
def test_a_transform_of_torch_func_parks(input_ids, transform):
    """Tensors of torch's own type, but without a storage: they are left, and the result is bit-equal."""
    model = small_llama(attn_implementation="eager")
    embedded = model.model.embed_tokens(input_ids)
    expected = transform(model, embedded)
    with djinn.Runtime(model, host_memory_bytes=32 << 20) as runtime:
        session = runtime.open(breakpoint=2).start(transform, model, embedded)
        assert session.wait(30) is djinn.Phase.PAUSED
        state = session._residency.state
        assert reasons(state)["hidden_states"] == "it belongs to a transform of torch.func (vmap, grad, jvp)"
        assert state.hidden_states is not None
        assert torch._C._functorch.is_functorch_wrapped_tensor(state.hidden_states)
        del state
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_makes_nested_tensors_parks():
    """``nn.TransformerEncoder`` with a padding mask: its nested tensors stay, and the result is bit-equal."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 3).eval()
    tokens, padding = torch.rand(2, 6, 16), torch.tensor([[False] * 4 + [True] * 2, [False] * 6])
    expected = model(tokens, src_key_padding_mask=padding)
    with djinn.Runtime(model, host_memory_bytes=32 << 20) as runtime:
        session = runtime.open(breakpoint=2).start(model, tokens, src_key_padding_mask=padding)
        assert session.wait(30) is djinn.Phase.PAUSED
        state = session._residency.state
        assert reasons(state)["hidden_states"] == "it is a nested tensor"
        assert state.hidden_states.is_nested
        del state
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), expected)


def test_a_server_with_a_task_and_a_program_in_a_loop_park(runtime, llama, input_ids):
    """asyncio's objects have attributes that cannot be had: on the caller's side and on the session's."""

    class Server:
        def answer(self):
            return prefill(llama, input_ids)

        async def asked(self):
            await asyncio.sleep(0)
            return self.answer()

        async def run(self, program):
            self.beat = asyncio.create_task(asyncio.sleep(60))
            session = runtime.open(breakpoint=3).start(program)
            assert await asyncio.to_thread(session.wait, 30) is djinn.Phase.PAUSED
            assert "hidden_states" in session.state
            session.io_wait()
            session.resume()
            result = await asyncio.to_thread(session.result, 30)
            self.beat.cancel()
            return result

    server = Server()
    expected = prefill(llama, input_ids)
    assert torch.equal(asyncio.run(server.run(server.answer)), expected)
    assert torch.equal(asyncio.run(server.run(lambda: asyncio.run(server.asked()))), expected)


def test_looking_keeps_nothing_alive():
    """What the program drops is gone at once, without the garbage collector: frames and tensors hang on no cycle."""

    def program(park):
        hidden_states = activations()
        kept.append(weakref.ref(hidden_states))
        park(hidden_states)
        del hidden_states
        kept.append(kept[0]() is None)
        local = activations()
        kept.append(weakref.ref(local))

    kept = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        states, _ = discover(program)
        assert kept[1]
        assert kept[2]() is None
        frames = [one for one in gc.get_objects() if type(one) is types.FrameType and one.f_code is program.__code__]
        assert frames == []
        assert len(states) == 1
    finally:
        if collecting:
            gc.enable()


# -- why it is left ----------------------------------------------------------------------------------------------------


def keep(value):
    WORLD.held = value


def as_numpy(tensor):
    keep(tensor.numpy())


def as_detached(tensor):
    keep(tensor.detach())


def as_storage(tensor):
    keep(tensor.untyped_storage())


def as_capsule(tensor):
    keep(torch.utils.dlpack.to_dlpack(tensor))


def in_a_list(tensor):
    keep([tensor])


REASONS = {
    as_numpy: {"numpy, DLPack or shared memory holds its bytes"},
    as_capsule: {"numpy, DLPack or shared memory holds its bytes", "C or C++ code holds it"},
    as_detached: {"a tensor outside the session, or C or C++ code, uses its storage"},
    as_storage: {"somebody outside the session holds its storage"},
    in_a_list: {"somebody outside the session holds it"},
}


@pytest.mark.parametrize("hold", REASONS, ids=lambda hold: hold.__name__)
def test_every_holder_is_a_reason(hold):
    """What somebody else holds is named with its bytes and why it stays; nothing else is."""

    def program(park):
        mine = torch.rand(3, 5)
        hold(mine)
        park(activations())
        return mine

    (state,), _ = discover(program)
    (entry,) = state.left
    assert entry.name.endswith("program.mine")
    assert entry.nbytes == 60
    assert entry.reason in REASONS[hold]
    assert state.hidden_states is None
    assert "hidden_states" in names(state)


def test_what_the_caller_holds_is_named(runtime, llama, input_ids):
    """The call's own arguments stay, by the name of the variable, and the model's weights are no entries."""
    session = runtime.open(breakpoint=3).start(prefill, llama, input_ids)
    assert session.wait(30) is djinn.Phase.PAUSED
    state = session._residency.state
    assert {(entry.reason, entry.nbytes) for entry in state.left} == {("the caller holds it", 2 * 24 * 8)}
    del state
    session.close()


def test_hidden_states_of_a_call_with_gradients_are_found(runtime, llama, input_ids):
    """In grad mode they stay on the device; the tensor itself is what the layer returned."""
    with torch.enable_grad():
        session = runtime.open(breakpoint=3).start(prefill, llama, input_ids)
        assert session.wait(30) is djinn.Phase.PAUSED
    state = session._residency.state
    assert reasons(state)["hidden_states"] == "gradients are on: autograd may need it"
    assert state.hidden_states.requires_grad
    assert state.left[0].name == "hidden_states"
    assert state.left[0].nbytes == 2 * 24 * 64 * 4
    del state
    session.close()


@pytest.mark.parametrize("hold", [in_a_list, as_detached])
def test_hidden_states_that_somebody_keeps_are_found(hold):
    """A user's code that collects activations keeps them on the device; they are given by name all the same."""

    def program(park):
        hidden_states = activations()
        hold(hidden_states)
        park((hidden_states, None))
        return hidden_states

    (state,), hidden_states = discover(program)
    assert state.hidden_states is hidden_states
    assert reasons(state)["hidden_states"] in REASONS[hold]
    assert state.storages == ()


def test_a_hook_that_collects_activations(runtime, llama, input_ids):
    """The hidden states of the layer behind which the session parks are there, taken or left."""
    kept = {}
    hook = llama.model.layers[2].register_forward_hook(lambda layer, args, output: kept.update(here=output))

    def twice(model, tokens):
        return prefill(model, tokens), prefill(model, tokens)

    session = runtime.open(breakpoint=3, visit=2).start(twice, llama, input_ids)
    assert session.wait(30) is djinn.Phase.PAUSED
    hook.remove()
    state = session._residency.state
    assert state.hidden_states is None
    assert "hidden_states" in names(state)
    del state
    session.close()


# -- other threads -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="local variables of a traced thread can be read")
def test_while_a_thread_is_traced_what_it_may_hold_is_left():
    """And the answer is not kept: at the same call site everything is taken as soon as nobody is traced."""
    holding, go_on = threading.Event(), threading.Event()

    def tracer(frame, event, arg):
        if frame.f_code is step.__code__:
            holding.set()
            go_on.wait(30)
        return tracer

    def step(one):
        two = one
        return one, two

    def traced():
        sys.settrace(tracer)
        values.append(step("mine"))
        sys.settrace(None)

    def program(park):
        for attempt in range(2):
            if attempt:
                go_on.set()
                thread.join(30)
            hidden_states = activations()
            park(hidden_states)
        return hidden_states

    values = []
    thread = threading.Thread(target=traced)
    thread.start()
    assert holding.wait(30)
    (during, after), _ = discover(program)
    assert values == [("mine", "mine")]
    assert during.storages == ()
    assert reasons(during)["hidden_states"] == "a thread that is being traced may hold it"
    assert during.hidden_states is not None
    assert after.left == ()
    assert "hidden_states" in names(after)


# -- the session's own context -----------------------------------------------------------------------------------------


def test_what_the_session_sets_in_its_context_is_taken():
    """A context variable that the program sets is its own; its name tells the variable."""

    def program(park):
        SEEN.set({"kept": [torch.rand(3, 5)]})
        park(activations())
        return SEEN.get()

    (state,), _ = discover(program, context=contextvars.copy_context())
    assert state.left == ()
    assert "context.SEEN.kept.0" in names(state)


@pytest.mark.parametrize("variables", [1, 40])
@pytest.mark.parametrize("changed", [False, True])
def test_what_it_inherited_stays(variables, changed):
    """A value that the caller's context has too is shared, and stays; so is one of which the caller has a copy."""
    others = [contextvars.ContextVar(f"OTHER{number}") for number in range(variables)]

    def caller():
        SEEN.set([torch.rand(3, 5)])
        for other in others:
            other.set(0)
        return contextvars.copy_context()

    def program(park):
        if changed:
            others[0].set(torch.rand(7))
        park(activations())

    callers = contextvars.Context()
    context = callers.run(caller)
    (state,), _ = discover(program, context=context)
    assert reasons(state) == {"context.SEEN.0": "somebody outside the session holds it"}
    assert ("context.OTHER0" in names(state)) == changed
    del callers
    (state,), _ = discover(program, context=context)  # nobody else has it any more
    assert state.left == ()
    assert "context.SEEN.0" in names(state)


def test_another_context_is_outside():
    """A context that the program copies, for a task of its own perhaps, may be anybody's."""

    def program(park):
        SEEN.set(torch.rand(3, 5))
        copied = contextvars.copy_context()
        park(activations())
        return copied

    (state,), _ = discover(program)
    assert reasons(state) == {"context.SEEN": "somebody outside the session holds it"}


def test_collected_hidden_states_are_swapped_out(runtime, llama, input_ids):
    """transformers collects them in a context variable: all of them leave, and come back bit-equal."""

    def collect(model, tokens):
        return model(tokens, output_hidden_states=True, use_cache=False)

    session = runtime.open(breakpoint=5).start(collect, llama, input_ids)
    assert session.wait(30) is djinn.Phase.PAUSED
    state = session._residency.state
    assert {entry.reason for entry in state.left} == {"the caller holds it"}
    assert session.device_bytes >= 6 * 2 * 24 * 64 * 4
    del state
    session.io_wait()
    assert session.device_bytes == 0
    session.resume()
    found, expected = session.result(30), collect(llama, input_ids)
    assert torch.equal(found.logits, expected.logits)
    assert len(found.hidden_states) == len(expected.hidden_states) == 7
    assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
    session.close()


# -- names of caches ---------------------------------------------------------------------------------------------------


def small_llama(**options):
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        **options,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


def kv_names(session):
    return {entry.name: entry.layer for entry in session.state.entries if entry.name.startswith("kv.")}


def kv_of(*layers, part=""):
    return {f"kv.{layer}{part}.{what}": layer for layer in layers for what in ("keys", "values")}


def test_of_two_caches_the_layer_s_own_is_the_kv():
    """In assisted generation the assistant's cache keeps the name of the place where it was found."""
    target, assistant = small_llama(), small_llama()
    tokens = torch.randint(2, 128, (1, 12), generator=torch.Generator().manual_seed(1))

    def generate():
        return target.generate(tokens, assistant_model=assistant, max_new_tokens=8, do_sample=False)

    expected = generate()
    with djinn.Runtime(target, host_memory_bytes=32 << 20) as runtime:
        session = runtime.open(breakpoint=2, visit=2).start(generate)
        assert session.wait(60) is djinn.Phase.PAUSED
        assert kv_names(session) == kv_of(1, 2, 3)
        others = [entry.name for entry in session.state.entries if "assistant" in entry.name and "layers" in entry.name]
        assert len(others) >= 6
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(60), expected)


def test_both_caches_of_an_encoder_decoder_are_kv():
    """``kv.J`` is self attention, ``kv.J.cross`` what the decoder reads of the encoder, in the same order of need."""
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=96,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=3,
        num_heads=2,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    model = T5ForConditionalGeneration(config).eval()
    tokens = torch.randint(2, 96, (2, 12), generator=torch.Generator().manual_seed(1))

    def generate():
        return model.generate(tokens, max_new_tokens=4, do_sample=False)

    expected = generate()
    with djinn.Runtime(model, host_memory_bytes=32 << 20) as runtime:
        session = runtime.open(breakpoint=2, visit=2).start(generate)
        assert session.wait(60) is djinn.Phase.PAUSED
        assert kv_names(session) == kv_of(1, 2, 3) | kv_of(1, 2, 3, part=".cross")
        ranks = {view.name: item.rank for item in session._residency.state.storages for view in item.views}
        assert ranks["kv.3.cross.keys"] == ranks["kv.3.keys"] == (0, 1)
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(60), expected)


def test_the_first_cache_is_the_kv_where_the_layer_was_given_none():
    """A layer that finds its cache elsewhere: the first one in reach counts."""

    def program(park):
        cache, other = DynamicCache(), DynamicCache()
        cache.update(torch.rand(1, 1, 4, 8), torch.rand(1, 1, 4, 8), 0)
        other.update(torch.rand(1, 1, 4, 8), torch.rand(1, 1, 4, 8), 0)
        park(activations())

    discovery = StateScanner(CPU, KvLayers([nn.Linear(1, 1)]), frozenset())
    (state,), _ = discover(program, discovery=discovery)
    found = [name for name in names(state) if name.endswith((".keys", ".values"))]
    assert {"kv.1.keys", "kv.1.values"} < set(found)
    assert len(found) == 4


def test_what_the_layer_was_given_is_named_for_that():
    """A local variable that holds a part of an argument does not take its name or its rank away."""

    def program(park):
        cosine, sine = torch.rand(3, 5), torch.rand(3, 5)
        park(activations(), position_embeddings=(cosine, [sine]))

    (state,), _ = discover(program)
    ranks = {item.views[0].name: item.in_frontier for item in state.storages}
    assert ranks == {"hidden_states": True, "position_embeddings.0": True, "position_embeddings.1.0": True}


@pytest.mark.parametrize("use_cache", [False, True])
def test_what_no_layer_is_given_is_named_and_comes_back_last(runtime, llama, input_ids, use_cache):
    """Dead locals too: a frame still holds them, and nobody can tell that it never reads them again."""

    def program():
        return llama(input_ids, use_cache=use_cache).logits

    dead = {"LlamaModel.forward.inputs_embeds", "LlamaModel.forward.hidden_states"}  # and what the layer was given
    session = runtime.open(breakpoint=3).start(program)
    assert session.wait(30) is djinn.Phase.PAUSED
    assert dead < set(session.state)
    assert dead.isdisjoint(session.frontier)
    assert torch.equal(session.state["LlamaModel.forward.inputs_embeds"], llama.model.embed_tokens(input_ids))
    session.io_wait()
    order = [view.name for batch in session._residency.restore.history for view in batch.entries[0].item.views]
    assert set(order[-2:]) == dead
    assert all(name.startswith("kv.") for name in order[:-2])
    assert bool(order[:-2]) is use_cache
    session.resume()
    assert torch.equal(session.result(30), program())


# -- odd things on the way, after the pause and around it --------------------------------------------------------------


class Passes(nn.Module):
    """A layer that takes what it does not read."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, extra):
        return self.linear(x)


class Carries(nn.Module):
    """Gives ``extra()`` to each of its layers while much state is on its way back."""

    def __init__(self, extra):
        super().__init__()
        self.layers = nn.ModuleList(Passes() for _ in range(3))
        self.extra = extra

    def forward(self, x):
        big = [torch.rand(1 << 16) for _ in range(30)]
        extra = self.extra()
        for layer in self.layers:
            x = layer(x, extra=extra)
        return x + big[0].sum() * 0


def in_a_circle():
    circle = []
    circle.append(circle)
    return circle


def very_deep():
    value = []
    for _ in range(5000):
        value = [value]
    return value


class OddDict(dict):
    def values(self):
        ran()


class OddList(list):
    def __iter__(self):
        ran()


@pytest.mark.parametrize(
    "extra", [in_a_circle, very_deep, lambda: OddDict(a=1), lambda: OddList([1]), lambda: Everything(1)]
)
def test_what_a_layer_is_given_is_looked_at_without_running_it(extra):
    """After RESUME too, while layers wait for what they read: nothing of the program's runs, nothing ends it."""
    torch.manual_seed(0)
    model = Carries(extra).eval()
    x = torch.rand(4, 8)
    RAN.clear()
    with djinn.Runtime(model, host_memory_bytes=32 << 20) as runtime:
        session = runtime.open(breakpoint=1).start(model, x)
        assert session.wait(30) is djinn.Phase.PAUSED
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), model(x))
    assert not RAN


@pytest.mark.parametrize(
    "buffer", [lambda: torch.eye(8).to_sparse(), lambda: torch.eye(8).to_sparse_csr(), lambda: torch.eye(8).to_mkldnn()]
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_model_may_keep_tensors_without_a_storage(buffer):
    """Sparse and other buffers do not keep a runtime from being made."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    model.odd = buffer()
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as runtime:
        session = runtime.open(breakpoint=1).start(model, torch.ones(2, 8))
        assert session.wait(30) is djinn.Phase.PAUSED


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_view_of_a_state_with_nested_hidden_states():
    """They have no shape: the entry has none, and the name gives the program's own tensor."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 3).eval()
    tokens, padding = torch.rand(2, 6, 16), torch.tensor([[False] * 4 + [True] * 2, [False] * 6])
    with djinn.Runtime(model, host_memory_bytes=1 << 20) as runtime:
        session = runtime.open(breakpoint=2).start(model, tokens, src_key_padding_mask=padding)
        session.wait(30)
        assert session.state.entries[0].name == "hidden_states"
        assert session.state["hidden_states"].is_nested
        assert "nested tensor" in repr(session.state)
        session.resume()
        assert torch.equal(session.result(30), model(tokens, src_key_padding_mask=padding))


class Shares(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        kept = x.sin().share_memory_()  # as torch.multiprocessing does with what it sends
        for layer in self.layers:
            x = layer(x)
        return x + kept


def test_shared_memory_stays():
    """A storage whose bytes are not the allocator's cannot go and come back; it says so."""
    model, x = Shares().eval(), torch.rand(4, 8)
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=model.layers) as runtime:
        session = runtime.open(breakpoint=2).start(model, x)
        session.wait(30)
        session.io_wait()
        assert "numpy, DLPack or shared memory holds its bytes" in [line.reason for line in session.left_behind]
        session.resume()
        assert torch.equal(session.result(30), model(x))
