"""What a caller passes in is checked before any work starts, and the message says what to pass instead."""

import asyncio
import functools
import threading

import numpy as np
import pytest
import torch
from torch import nn

import djinn

NOT_WHOLE = [1.5, 2.0, True, "3", None, [1], torch.tensor(1.0)]


def refused(caught):
    """The message of an error: one line that says what to pass."""
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("layer", NOT_WHOLE)
def test_a_breakpoint_is_a_whole_number(runtime, layer):
    """Everything else is a TypeError, at ``open`` and at ``break_at``, and opens no session."""
    if layer is not None:
        with pytest.raises(TypeError, match=r"breakpoint .* pass a layer as an int, 1 to 6"):
            runtime.open(breakpoint=layer)
    assert len(runtime.status()) == 0
    with pytest.raises(TypeError, match=r"breakpoint .* pass a layer as an int"):
        runtime.open().break_at(layer)


@pytest.mark.parametrize("layer", [0, 7, -1])
def test_a_breakpoint_is_a_layer_of_the_model(runtime, layer):
    """A number that no layer has is a ValueError that names the layers there are."""
    with pytest.raises(ValueError, match=f"breakpoint {layer} is not a layer of this model: 1 to 6"):
        runtime.open(breakpoint=layer)


@pytest.mark.parametrize("breakpoint", [None, 3])
@pytest.mark.parametrize("visit", NOT_WHOLE)
def test_a_visit_is_a_whole_number(runtime, breakpoint, visit):
    """With a breakpoint and without one."""
    with pytest.raises(TypeError, match=r"visit .* 1 for the first time"):
        runtime.open(breakpoint=breakpoint, visit=visit)
    with pytest.raises(ValueError, match="visit 0 is not a hit count: the first time is visit 1"):
        runtime.open(breakpoint=breakpoint, visit=0)


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_other_libraries_are_taken(runtime, llama, input_ids, number):
    """A breakpoint and a visit may come from numpy or torch, and the session stops there."""
    session = runtime.open(breakpoint=number, visit=np.int32(1)).start(llama, input_ids)
    assert session.wait(30) is djinn.Phase.PAUSED
    assert session.layer == 3
    session.break_at(number)


@pytest.mark.parametrize("name", ["host_memory_bytes", "idle_device_bytes"])
@pytest.mark.parametrize("nbytes", ["2", "x", 1.5, 0.5 * (1 << 30), True, [1], float("nan")])
def test_bytes_are_whole_numbers(llama, name, nbytes):
    """Else the runtime is not made: no thread is started, and the model stays free."""
    threads = set(threading.enumerate())
    with pytest.raises(TypeError, match=f"{name}=.* is not a whole number of bytes: pass "):
        djinn.Runtime(llama, **{name: nbytes})
    assert set(threading.enumerate()) <= threads
    with djinn.Runtime(llama, host_memory_bytes=np.int64(1 << 20), idle_device_bytes=0):
        pass


@pytest.mark.parametrize(("name", "least"), [("host_memory_bytes", 1), ("idle_device_bytes", 0)])
def test_bytes_are_not_negative(llama, name, least):
    """Host memory must be positive, and no device memory may be kept at all."""
    with pytest.raises(ValueError, match=f"{name}={least - 1} is too small: pass at least {least}"):
        djinn.Runtime(llama, **{name: least - 1})


def test_room_is_asked_for_in_bytes(runtime):
    """``make_room`` takes a whole number that is not negative."""
    with pytest.raises(TypeError, match="nbytes='all' is not a whole number of bytes"):
        runtime.make_room("all")
    with pytest.raises(ValueError, match="nbytes=-1 is too small: pass at least 0"):
        runtime.make_room(-1)


@pytest.mark.parametrize("model", [None, "meta-llama/Llama-2-13b-hf", nn.Linear, [nn.Linear(1, 1)]])
def test_the_model_is_a_module(model):
    """A name, a class or a list is none."""
    with pytest.raises(TypeError, match="the model must be a torch.nn.Module, not .*: load it first"):
        djinn.Runtime(model, host_memory_bytes=1 << 20)


@pytest.mark.parametrize("layers", [5, "model.layers", ["model.layers.0"], [None], nn.Linear(1, 1), {"layers": 1}])
def test_layers_are_modules(llama, layers):
    """Names, numbers and a lone module are no sequence of modules."""
    with pytest.raises(TypeError, match=r"layers= must .*: pass layers="):
        djinn.Runtime(llama, host_memory_bytes=1 << 20, layers=layers)


async def coroutine_function():
    """Nothing."""


def generator_function():
    """Yields."""
    yield 1


async def async_generator_function():
    """Yields."""
    yield 1


class Callable:
    """An object with methods of each kind."""

    async def __call__(self):
        """Nothing."""

    async def coroutine(self):
        """Nothing."""

    def generator(self):
        """Yields."""
        yield 1


class Generator:
    """An object whose call makes a generator."""

    def __call__(self):
        """Yields."""
        yield 1


PREPARED = [
    coroutine_function,
    generator_function,
    async_generator_function,
    functools.partial(coroutine_function),
    functools.partial(functools.partial(generator_function), *()),
    Callable(),
    functools.partial(Callable()),
    Callable().coroutine,
    Callable().generator,
    Generator(),
    torch.no_grad()(generator_function),
]


@pytest.mark.parametrize("program", PREPARED, ids=lambda program: getattr(program, "__name__", type(program).__name__))
def test_a_program_is_run_by_its_call(runtime, program):
    """What a call only prepares is refused, with the way to run it; the session can still be started."""
    session = runtime.open()
    with pytest.raises(TypeError, match=r"start\(\) was given .* function, whose call .*: start") as caught:
        session.start(program)
    refused(caught)
    assert session.phase is djinn.Phase.CREATED
    assert session.start(lambda: 5).result(30) == 5


def test_what_was_called_already_is_no_program(runtime):
    """A coroutine and a generator are what a call made: the message says how to pass the call."""
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match=r"not coroutine: start\(lambda: asyncio.run"):
        runtime.open().start(coroutine)
    coroutine.close()
    with pytest.raises(TypeError, match=r"not generator: start\(lambda: list"):
        runtime.open().start(generator_function())
    with pytest.raises(TypeError, match=r"not async_generator: start a function that iterates"):
        runtime.open().start(async_generator_function())
    with pytest.raises(TypeError, match=r"not int: start\(model.generate, input_ids\)"):
        runtime.open().start(5)


def test_the_ways_out_run(runtime):
    """What the messages tell to type is a program; a value that a lambda returns is the session's result as it is."""
    assert runtime.open().start(lambda: list(generator_function())).result(30) == [1]
    assert runtime.open().start(lambda: asyncio.run(coroutine_function())).result(30) is None
    assert next(runtime.open().start(lambda *_: generator_function()).result(30)) == 1


@pytest.mark.parametrize("timeout", ["1", [1], float("nan"), 1j, pytest.param(10**400, id="huge")])
def test_a_timeout_is_a_number_of_seconds(runtime, llama, input_ids, timeout):
    """Anything else is refused before the session moves, wherever a timeout is taken."""
    session = runtime.open(breakpoint=3).start(llama, input_ids)
    session.wait(30)
    calls = [session.wait, session.step, session.result, session.close, session.wait_resident, runtime.close]
    calls.append(runtime.arena.wait_grown)
    for call in [*calls, lambda timeout: runtime.wait_any(None, timeout), lambda t: asyncio.run(session.wait_async(t))]:
        with pytest.raises(TypeError, match=r"timeout .* is not a number of seconds: pass a float, or None to wait"):
            call(timeout)
    assert session.layer == 3
    assert session.wait(np.float32(0.5)) is session.wait(float("inf")) is session.wait(-1) is djinn.Phase.PAUSED


def test_wait_any_takes_several(runtime):
    """One session alone is refused with what to pass."""
    session = runtime.open()
    with pytest.raises(TypeError, match=r"wait_any\(\) takes several sessions, not Session: pass them in a list"):
        runtime.wait_any(session)


@pytest.mark.parametrize("value", [3, [1.0], None])
def test_state_is_replaced_by_tensors(runtime, llama, input_ids, value):
    """Anything else is refused with the way to fill a tensor."""
    session = runtime.open(breakpoint=3).start(llama, input_ids)
    session.wait(30)
    with pytest.raises(TypeError, match=r"hidden_states cannot be replaced by .*: assign a tensor, or write into"):
        session.state["hidden_states"] = value


@pytest.mark.parametrize("name", ["layer", "number", "breakpoint"])
def test_where_a_session_stops_is_not_set_by_assignment(runtime, name):
    """An assignment that would be without effect is refused."""
    with pytest.raises(AttributeError):
        setattr(runtime.open(breakpoint=3), name, 2)


@pytest.mark.parametrize("attentive", ["0.005", True, False, float("nan"), [0.005], 5j, b"1"])
def test_the_time_between_beats_is_a_number(llama, attentive):
    """Else the runtime is not made, and the model stays free."""
    with pytest.raises(TypeError, match="attentive=.* is not a number of seconds: pass a float, such as 0.005"):
        djinn.Runtime(llama, attentive=attentive)
    with djinn.Runtime(llama, host_memory_bytes=1 << 20, attentive=np.float32(0.005)) as runtime:
        assert runtime.attentive == pytest.approx(0.005)


@pytest.mark.parametrize("attentive", [0, 0.0, -1, -0.005, 1e-9, 5, float("inf"), -float("inf")])
def test_the_time_between_beats_is_a_useful_one(llama, attentive):
    """Shorter ones would cost much of a core, longer ones would do nothing."""
    with pytest.raises(ValueError, match="attentive=.* is no useful time between two beats: pass 0.001 to 1 second"):
        djinn.Runtime(llama, attentive=attentive)
