"""torch.compile and the runtime: a compiled program parks as any other, and what could not park is refused."""

import importlib.machinery
import sys
import types
from contextlib import nullcontext

import pytest
import torch
from tests.programs import equal
from torch import nn
from torch._dynamo.convert_frame import input_codes
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

import djinn
from djinn.program.gates import ReadBarrier

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Layer(nn.Module):
    """Code of its own, which the compiler compiles; torch's modules alone it leaves as they are."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.linear(x)) * 2


class Stack(nn.Module):
    """Two layers, an embedding before them and a head behind."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(8, 8)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


@pytest.fixture
def stack():
    torch.manual_seed(0)
    return Stack().eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def runtime_of(stack):
    return djinn.Runtime(stack, host_memory_bytes=1 << 20, layers=list(stack.layers))


def through_io_wait(session):
    """The result of a session that parks, and the names of what left the device."""
    assert session.wait(120) is djinn.Phase.PAUSED
    session.io_wait()
    names = sorted(session.state)
    for size in session.storage_sizes:
        torch.full((size,), 0xFF, dtype=torch.uint8)
    session.resume()
    result = session.result(120)
    session.close()
    return result, names


def whole_model(stack):
    return torch.compile(stack, backend="eager")


def layer_by_layer(stack):
    for layer in stack.layers:
        layer.compile(backend="eager")
    return stack


def program_around(stack):
    return torch.compile(lambda x: stack(x * 1).sin(), backend="eager")


@pytest.mark.parametrize("compiled", [whole_model, layer_by_layer, program_around])
def test_a_compiled_program_parks_wherever_it_is_compiled(stack, x, compiled):
    """The first call parks as later ones do, takes the same state, and is equal to the call without a pause."""
    with runtime_of(stack) as runtime:
        program = compiled(stack)
        first, names = through_io_wait(runtime.open(breakpoint=1).start(program, x))
        again, same_names = through_io_wait(runtime.open(breakpoint=1).start(program, x))
        assert "hidden_states" in names
        assert names == same_names
        assert torch.equal(first, program(x))
        assert torch.equal(again, program(x))


def test_no_code_of_the_runtime_is_traced(stack, x):
    """The compiler looks at the program's functions alone."""
    with runtime_of(stack) as runtime:
        through_io_wait(runtime.open(breakpoint=1).start(whole_model(stack), x))
        files = {code.co_filename for seen in input_codes.seen if (code := seen()) is not None}
    assert any(file == __file__ for file in files)
    assert not [file for file in files if "/djinn/" in file and "/tests/" not in file]


def test_a_pause_imports_no_compiler(interpreters):
    """Its import takes seconds. None waits for it who resumes or closes a session, where nothing is compiled."""
    ended = interpreters.run("""
        import sys

        import torch

        import djinn

        class Stack(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))

            def forward(self, x):
                for layer in self.layers:
                    x = x + layer(torch.tanh(x))
                return x

        torch.set_grad_enabled(False)
        model, x = Stack(), torch.ones(4, 8)
        with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=model.layers) as runtime:
            for ends in (True, False):
                session = runtime.open(breakpoint=1).start(lambda: model(x * 1))
                session.wait(60)
                session.io_wait()
                assert session.host_bytes > 0
                if ends:
                    session.resume()
                    session.result(60)
                session.close(60)
        print("torch._dynamo" in sys.modules)
    """)
    assert ended.stdout == "False\n", ended.stderr


def test_layers_are_still_compiled(stack, x):
    """A graph ends at a layer, and a new one begins in it, which holds the layer's own operators."""
    graphs = []

    def backend(module, inputs):
        graphs.append({node.target for node in module.graph.nodes})
        return module.forward

    with runtime_of(stack) as runtime:
        program = torch.compile(stack, backend=backend)
        through_io_wait(runtime.open(breakpoint=1).start(program, x))
    assert any(torch.tanh in graph for graph in graphs)


def test_a_program_compiled_and_called_before_the_runtime_parks(stack, x):
    """Its code is compiled anew, for the model has changed: and anew when the runtime has closed."""
    program = whole_model(stack)
    expected = program(x)
    with runtime_of(stack) as runtime:
        result, _ = through_io_wait(runtime.open(breakpoint=1).start(program, x))
    assert torch.equal(result, expected)
    assert torch.equal(program(x), expected)


def test_generate_with_a_static_cache_parks_in_every_step(input_ids):
    """It compiles itself at the first decode step; the first compiled pause takes the KV cache as later ones do."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=128
    )
    model = LlamaForCausalLM(config).eval()
    compile_config = CompileConfig(backend="eager", mode=None)
    compile_config._compile_all_devices = True

    def program():
        found = model.generate(
            input_ids[:1],
            max_new_tokens=3,
            do_sample=False,
            cache_implementation="static",
            compile_config=compile_config,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=0,
        )
        return [found.sequences, *found.scores]

    with torch.no_grad(), djinn.Runtime(model, host_memory_bytes=1 << 20) as runtime:
        ends = []
        for visit in (2, 1):
            end, names = through_io_wait(runtime.open(breakpoint=1, visit=visit).start(program))
            ends.append(end)
            assert {"kv.1.keys", "kv.1.values"} <= set(names)
        expected = runtime.open().start(program).result(120)
    assert all(equal(end, expected) for end in ends)


def compiled_forward(module):
    module.forward = torch.compile(module.forward, backend="eager")


def compiled_class(module):
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"forward": torch.compile(kind.forward, backend="eager")})


@pytest.mark.parametrize("of", ["model", "layer"])
@pytest.mark.parametrize("replace", [compiled_forward, compiled_class])
def test_a_forward_that_was_compiled_before_is_refused(stack, of, replace):
    """The message is that for a compiled model: it names the module and the order. The model stays as it was."""
    replace(stack if of == "model" else stack.layers[1])
    with pytest.raises(djinn.DjinnError, match=r"forward of .* is compiled.*make the runtime first"):
        runtime_of(stack)
    assert all("forward" not in vars(part) for part in (stack.embed, stack.layers[0], stack.head))


def test_what_is_compiled_inside_of_a_layer_is_no_obstacle(stack, x):
    """Nor is a forward that the compiler was told to leave alone: the program parks around them."""
    compiled_forward(stack.layers[0].linear)
    compiled_forward(stack.head)
    stack.layers[1].forward = torch.compiler.disable(stack.layers[1].forward)
    expected = stack(x)
    with runtime_of(stack) as runtime:
        result, _ = through_io_wait(runtime.open(breakpoint=1).start(stack, x))
    assert torch.equal(result, expected)


def test_a_graph_that_may_not_end_says_what_to_type(stack, x):
    """With fullgraph=True the session fails with one error of the runtime's; outside of sessions torch's says why."""
    with runtime_of(stack) as runtime:
        program = torch.compile(stack, backend="eager", fullgraph=True)
        session = runtime.open(breakpoint=1).start(program, x)
        assert session.wait(120) is djinn.Phase.FAILED
        with pytest.raises(djinn.DjinnError, match="Compile without fullgraph=True") as raised:
            session.result(1)
        assert isinstance(raised.value.__cause__, torch._dynamo.exc.Unsupported)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="djinn ends a graph"):
            program(x)


def test_an_error_of_the_compiler_that_is_not_the_runtime_s_comes_through(stack, x):
    """A graph break of the program's own stays the compiler's error."""

    def program(x):
        torch._dynamo.graph_break()
        return x

    with runtime_of(stack) as runtime:
        session = runtime.open().start(torch.compile(program, backend="eager", fullgraph=True), x)
        session.wait(120)
        with pytest.raises(torch._dynamo.exc.Unsupported):
            session.result(1)


def test_no_read_barrier_where_compiled_code_may_run(monkeypatch):
    """A mode sees no compiled kernel, and the compiler must not see a mode: all state is awaited."""
    barrier = ReadBarrier(lambda tensors: None)
    assert barrier.enter()
    frames = types.SimpleNamespace(input_codes=types.SimpleNamespace(seen=[object()]))
    monkeypatch.setitem(sys.modules, "torch._dynamo.convert_frame", frames)
    assert not barrier.enter()
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("ends", ["result", "error"])
def test_a_pause_while_another_thread_imports_the_compiler(monkeypatch, ends):
    """Modules of the compiler that are only half there are not asked yet."""
    for name in ("convert_frame", "exc", "utils"):
        half = types.ModuleType(f"torch._dynamo.{name}")
        half.__spec__ = importlib.machinery.ModuleSpec(half.__name__, None)
        half.__spec__._initializing = True
        monkeypatch.setitem(sys.modules, half.__name__, half)
    model = Stack().eval()
    with djinn.Runtime(model, host_memory_bytes=1 << 20) as runtime:
        session = runtime.open(breakpoint=1).start(
            model if ends == "result" else lambda x: model(x) / {}, torch.ones(2, 8)
        )
        assert session.wait(10) is djinn.Phase.PAUSED
        session.io_wait()
        session.resume()
        with nullcontext() if ends == "result" else pytest.raises(TypeError, match="dict"):
            session.result(10)
