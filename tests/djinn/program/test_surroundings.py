"""What a process has one of: each program finds its own at every turn, and everybody else finds theirs."""

import random
import threading
import warnings

import numpy as np
import pytest
import torch
from tests.programs import prefill
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import djinn
from djinn.program.device_lock import lock_of
from djinn.program.generators import NumpyGenerator, PythonGenerator
from djinn.program.settings import Flags
from djinn.program.surroundings import Surroundings

pytestmark = pytest.mark.usefixtures("without_climb")

CPU = torch.device("cpu")
# One setting of each kind: how it is changed, and read.
SETTINGS = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "kernels": (lambda: torch.backends.cuda.enable_flash_sdp(False), torch.backends.cuda.flash_sdp_enabled),
    "order of kernels": (
        lambda: torch._C._set_sdp_priority_order(torch._C._get_sdp_priority_order()[::-1]),
        torch._C._get_sdp_priority_order,
    ),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.get_deterministic_debug_mode,
    ),
    "cudnn": (lambda: setattr(torch.backends.cudnn, "benchmark", True), lambda: torch.backends.cudnn.benchmark),
    "half sums": (
        lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
        lambda: torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
    ),
    "products": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "older TF32": (
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda: torch.backends.cuda.matmul.allow_tf32,
    ),
    "convolutions": (
        lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
        lambda: torch.backends.cudnn.allow_tf32,
    ),
    "newer TF32": (
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        lambda: torch.backends.cuda.matmul.fp32_precision,
    ),
    "newer, all": (
        lambda: setattr(torch.backends, "fp32_precision", "tf32"),
        lambda: torch.backends.mkldnn.conv.fp32_precision,
    ),
}


@pytest.fixture(autouse=True)
def _as_before():
    """Whatever a test does to the process, the next one finds it as it was."""
    before = [(kept, *kept._shared.read()) for kept in Surroundings(CPU)._of_process]
    yield
    for kept, _, value in before:
        kept._shared.put(value, None)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_belongs_to_the_program(runtime, llama, input_ids, name):
    """Of its caller at START, or its own; at every turn it finds what it had, and the caller finds the caller's."""
    change, read = SETTINGS[name]
    before = Flags().mark(), read()

    def program(itself):
        if itself:
            change()
        seen = [read()]
        prefill(llama, input_ids)
        return [*seen, read()]

    own = runtime.open(breakpoint=2).start(program, True)
    own.wait(30)
    assert (Flags().mark(), read()) == before
    change()
    changed = read()
    theirs = runtime.open(breakpoint=2).start(program, False)
    theirs.wait(30)
    assert read() == changed
    for session in (own, theirs):
        session.io_wait()
        session.resume()
        assert session.result(30) == [changed, changed] != [before[1]] * 2
    assert read() == changed


def test_precisions_that_follow_another_still_do(runtime, llama, input_ids):
    """A program that sets the parent of all precisions pins none of its children for its caller."""

    def program():
        torch.backends.fp32_precision = "tf32"
        return prefill(llama, input_ids)

    runtime.open().start(program).result(30)
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.mkldnn.conv.fp32_precision == "ieee"


def test_kernels_around_a_start_are_the_program_s(runtime, llama):
    """`with sdpa_kernel` around START and its wait counts for the whole call."""
    ids = torch.randint(2, 64, (1, 48), generator=torch.Generator().manual_seed(1))
    with sdpa_kernel(SDPBackend.MATH):
        expected = prefill(llama, ids)
        session = runtime.open(breakpoint=2).start(prefill, llama, ids)
        session.wait(30)
    session.io_wait()
    session.resume()
    assert torch.equal(session.result(30), expected)


DRAWS = {
    "torch": (torch.manual_seed, lambda: torch.rand(3).tolist()),
    "python": (random.seed, lambda: [random.random(), random.gauss(), random.getrandbits(40)]),
    "numpy": (np.random.seed, lambda: np.random.random(3).tolist()),
    "numpy's pairs": (np.random.seed, lambda: np.random.standard_normal(3).tolist()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_the_program_s(runtime, llama, input_ids, name):
    """Two programs that take turns, and their caller, draw what each would draw alone."""
    seed, draw = DRAWS[name]

    def program():
        drawn = [draw()]
        for _ in range(3):
            prefill(llama, input_ids)
            drawn.append(draw())
        return drawn

    def alone(start):
        seed(start)
        return [draw() for _ in range(4)]

    expected = {start: alone(start) for start in (1, 2, 3)}
    sessions = {}
    for start in (1, 2):
        seed(start)
        sessions[start] = runtime.open(breakpoint=1).start(program)
        sessions[start].wait(30)
    seed(3)
    drawn = []
    for visit in (1, 2, 3):
        drawn.append(draw())
        for session in sessions.values():
            if visit < 3:
                session.break_at(1)
            session.resume()
            session.wait(30)
    assert {start: session.result(30) for start, session in sessions.items()} == {1: expected[1], 2: expected[2]}
    assert [*drawn, draw()] == expected[3]


def test_another_generator_of_numpy_s_belongs_to_the_program(runtime, llama, input_ids):
    """One that it has put in the place of the default is gone when its turn ends, and back at the next."""

    def program():
        np.random.set_bit_generator(np.random.PCG64(7))
        drawn = [np.random.random()]
        prefill(llama, input_ids)
        return [*drawn, np.random.random()]

    before = np.random.get_bit_generator()
    session = runtime.open(breakpoint=1).start(program)
    session.wait(30)
    assert np.random.get_bit_generator() is before
    session.resume()
    assert session.result(30) == np.random.Generator(np.random.PCG64(7)).random(2).tolist()
    assert np.random.get_bit_generator() is before


@pytest.mark.parametrize("draw", [random.random, random.gauss, lambda: random.getrandbits(1), lambda: random.seed(1)])
def test_a_draw_changes_the_mark_of_python_s_generator(draw):
    """Of each kind, and a seed: on every version of Python, for the mark is the interpreter's own memory."""
    generator = PythonGenerator()
    for _ in range(700):
        before = generator.mark()
        assert generator.mark() == before
        draw()
        if draw() != draw():  # a seed twice is no change
            assert generator.mark() != before


def test_a_mark_of_numpy_s_generator_is_all_of_its_state():
    """Or there is none: while the second of a pair of normal numbers waits."""
    generator = NumpyGenerator()
    np.random.seed(1)
    mark, state = generator.read()
    assert mark == generator.mark()
    drawn = np.random.random(5).tolist()
    assert generator.mark() != mark
    generator.put(state, generator.read()[1])  # by its bytes
    assert np.random.random(5).tolist() == drawn
    np.random.standard_normal()
    assert generator.read()[0] is None
    generator.put(state, generator.read()[1])  # by NumPy's own call
    assert np.random.random(5).tolist() == drawn


def test_a_start_beside_a_program_that_computes_has_the_caller_s(runtime):
    """Its settings and generators, not those of the program that computes at this moment."""
    begun, go = threading.Event(), threading.Event()

    def busy():
        torch.manual_seed(99)
        random.seed(99)
        torch.set_default_dtype(torch.float64)
        begun.set()
        go.wait(30)

    def look():
        return torch.get_default_dtype(), random.random(), torch.rand(2, dtype=torch.float32).tolist()

    torch.manual_seed(5)
    random.seed(5)
    first = runtime.open().start(busy)
    begun.wait(30)
    with pytest.warns(match="seeded while another program computed"):
        second = runtime.open().start(look)
    go.set()
    first.result(30)
    assert second.result(30) == look()


def test_a_device_has_one_turn_in_a_process(llama, input_ids):
    """Programs of two runtimes on it compute one after the other, each with its own random numbers."""
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    computing, most = [], []

    def program(model, x):
        drawn = []
        for _ in range(20):
            computing.append(model)
            most.append(len(computing))
            drawn += torch.rand(3).tolist()
            model(x)
            computing.pop()
        return drawn

    with (
        djinn.Runtime(llama, host_memory_bytes=1 << 20) as first,
        djinn.Runtime(other, host_memory_bytes=1 << 20, layers=list(other)) as second,
    ):
        assert first._device_lock is second._device_lock is lock_of(CPU)
        state = torch.get_rng_state()
        expected = torch.rand(60).reshape(20, 3).flatten().tolist()
        torch.set_rng_state(state)
        sessions = [
            runtime.open().start(program, model, x)
            for _ in range(3)
            for runtime, model, x in ((first, llama, input_ids), (second, other, torch.ones(2, 8)))
        ]
        assert [session.result(30) for session in sessions] == [expected] * 6
    assert max(most) == 1


def test_programs_on_two_devices_leave_their_caller_what_it_had(monkeypatch):
    """They compute at once and share what is on; whichever ends its turn first, the caller's is back with the last."""
    monkeypatch.setattr("djinn.program.surroundings.generators_of", lambda device: [])
    random.seed(1)
    torch.manual_seed(1)
    first = Surroundings(CPU)
    random.seed(2)
    torch.set_default_dtype(torch.float64)
    second = Surroundings(torch.device("cuda", 1))
    torch.set_default_dtype(torch.float32)
    random.seed(3)
    before = random.getstate(), torch.get_rng_state().tolist()
    for one, other in ((first, second), (second, first)):
        one.put_on()
        other.put_on()
        random.random()
        one.take_off()
        random.random()
        other.take_off()
        assert (random.getstate(), torch.get_rng_state().tolist()) == before
        assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("seeding", ["nobody", "the caller", "the program before"])
def test_a_seed_while_a_program_computes_is_told(llama, seeding):
    """START warns, for that program has the seed. What a program seeds in an earlier turn is its own."""
    begun, end = threading.Event(), threading.Event()

    def program():
        begun.set()
        end.wait(30)

    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if seeding == "the program before":
            runtime.open().start(torch.manual_seed, 3).result(30)
        torch.manual_seed(7)
        runtime.open().start(program)
        begun.wait(30)
        if seeding == "the caller":
            torch.manual_seed(8)
        session = runtime.open().start(int)
        end.set()
        assert session.result(30) == 0
    assert ["session 2 begins" in str(one.message) for one in told] == [True] * (seeding == "the caller")
