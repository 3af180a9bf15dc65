"""Compiled code runs without CUDA graphs while a session computes; what lies in their pools stays. No GPU needed."""

import ast
import importlib
import sys
import threading
import types
from pathlib import Path

import pytest
import torch

import djinn
from djinn.state import cuda_graphs
from djinn.state.cuda_graphs import GraphMemory, WithoutGraphs

FAKE = """
import threading
local = threading.local()
local.tree_manager_containers, local.tree_manager_locks = {}, {}
def cudagraphify(model, inputs, *args, **kwargs):
    return (lambda inputs: ("replayed", *model(inputs))), ("recorded", *model(inputs))
class CUDAGraphTreeManager:
    def _run(self, inputs, function_id):
        return "replayed"
"""


class Session:
    """Stands for the lock of a device, which a session holds while it computes."""

    computes = False

    def __call__(self):
        return self.computes


@pytest.fixture
def session():
    return Session()


@pytest.fixture
def trees(tmp_path, monkeypatch):
    """Import a module that has the shape of torch's own for graphs."""
    (tmp_path / "trees_of_a_test.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cuda_graphs, "_TREES", "trees_of_a_test")
    yield lambda: importlib.import_module("trees_of_a_test")
    sys.modules.pop("trees_of_a_test", None)


def doubled(inputs):
    return [2 * value for value in inputs]


@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_session_records_nothing_and_others_record_later(trees, session, imported):
    """The function that a session was first to run is recorded by the first call from outside, and replayed then."""
    if imported == "before":
        trees()
    switch = WithoutGraphs(session)
    switch.put_on()
    session.computes = True
    run, outputs = trees().cudagraphify(doubled, [1])
    assert outputs == run([1]) == [2]
    session.computes = False
    assert run([1]) == ("recorded", 2)
    assert run([1]) == ("replayed", 2)
    session.computes = True
    assert run([1]) == [2]
    switch.take_off()


def test_a_session_replays_nothing_that_others_recorded(trees, session):
    """Torch's manager is asked by every run of a recorded function."""
    switch = WithoutGraphs(session)
    switch.put_on()
    manager = trees().CUDAGraphTreeManager()
    manager.ids_to_funcs = {7: types.SimpleNamespace(model=doubled)}
    assert manager._run([1], 7) == "replayed"
    session.computes = True
    assert manager._run([1], 7) == [2]
    switch.take_off()


def test_torch_is_as_before_when_the_last_runtime_has_closed(trees):
    """Two runtimes may close in any order."""
    module = trees()
    before = module.cudagraphify, module.CUDAGraphTreeManager._run
    first, second = WithoutGraphs(Session()), WithoutGraphs(Session())
    for one in (first, second):
        one.put_on()
    for one in (first, second):
        assert module.cudagraphify != before[0]
        one.take_off()
    assert (module.cudagraphify, module.CUDAGraphTreeManager._run) == before
    assert not {first, second} & set(sys.meta_path)


def test_who_never_compiles_pays_nothing(trees, session):
    """The module is waited for, not imported; nothing is left where imports are looked for."""
    switch = WithoutGraphs(session)
    switch.put_on()
    assert "trees_of_a_test" not in sys.modules
    switch.take_off()
    assert switch not in sys.meta_path
    assert not hasattr(trees().cudagraphify, "__self__")


def test_graphs_do_not_belong_to_the_thread_of_a_session(trees, session):
    """A session that is the first to import the module leaves its containers to every thread."""
    switch = WithoutGraphs(session)
    switch.put_on()
    session.computes = True
    thread = threading.Thread(target=trees)
    thread.start()
    thread.join()
    assert trees().local.tree_manager_containers == {}
    assert sys.getrefcount(trees().local.tree_manager_containers) > sys.getrefcount({"a": 1}) + 1  # torch drops one
    switch.take_off()


def test_torch_has_what_is_replaced():
    """By its source, for the import takes seconds: its own code calls the two functions by name, at every run."""
    source = Path(torch.__file__).with_name("_inductor") / "cudagraph_trees.py"
    tree = ast.parse(source.read_text())
    parts = {part.name: part for part in tree.body if isinstance(part, (ast.FunctionDef, ast.ClassDef))}
    methods = {part.name: part for part in parts["CUDAGraphTreeManager"].body if isinstance(part, ast.FunctionDef)}
    assert "cudagraphify(" in ast.unparse(parts["cudagraphify_impl"])
    assert [argument.arg for argument in parts["cudagraphify"].args.args][:2] == ["model", "inputs"]
    assert "self._run(new_inputs, function_id)" in ast.unparse(methods["run"])
    assert "self.ids_to_funcs[function_id].model(new_inputs)" in ast.unparse(methods["_run"])
    for name in ("tree_manager_containers", "tree_manager_locks"):
        assert f"get_obj(local, '{name}')" in ast.unparse(parts["get_container"])


@pytest.mark.usefixtures("graph_type")
def test_on_the_cpu_torch_is_left_alone(llama):
    """There are no CUDA graphs: nothing is replaced."""
    before = list(sys.meta_path)
    with djinn.Runtime(llama, host_memory_bytes=1 << 20):
        assert sys.meta_path == before
    storage = torch.empty(8).untyped_storage()
    assert (
        GraphMemory(torch.device("cpu"), [torch.cuda.CUDAGraph.__new__(torch.cuda.CUDAGraph)]).why_stays(storage)
        is None
    )


class Graph:
    """Stands for a CUDA graph, of which torch has only the name where it knows no CUDA."""


@pytest.fixture
def graph_type(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)


class Overwritten:
    """As torch leaves a storage whose graph has run again."""

    def data_ptr(self):
        raise RuntimeError("accessing tensor output of CUDAGraphs that has been overwritten by a subsequent run")


@pytest.mark.usefixtures("graph_type")
@pytest.mark.parametrize("held", [False, True])
def test_what_a_graph_may_touch_is_named(monkeypatch, held):
    """By the address of its storage, if that is in a pool; all the rest, if the session holds a graph."""
    inside, outside = torch.empty(8).untyped_storage(), torch.empty(8).untyped_storage()
    segments = [
        {"address": outside.data_ptr(), "total_size": 32, "segment_pool_id": (0, 0)},
        {"address": inside.data_ptr(), "total_size": 32, "segment_pool_id": (0, 1)},
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", object())
    memory = GraphMemory(torch.device("cuda"), [Graph()] if held else [object()])
    assert memory.why_stays(inside) == "it lies in the pool of a CUDA graph"
    assert memory.why_stays(outside) == ("a CUDA graph of the program may read it" if held else None)
    assert memory.why_stays(Overwritten()) == "a CUDA graph has overwritten it"


def test_who_never_records_pays_for_no_look_at_the_allocator(monkeypatch):
    """Its snapshot takes milliseconds."""
    monkeypatch.setattr(torch.cuda, "memory_snapshot", None)
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", None)
    monkeypatch.setattr(cuda_graphs, "_TREES", "a module that nobody has imported")
    assert GraphMemory(torch.device("cuda"), [object()]).why_stays(torch.empty(8).untyped_storage()) is None
