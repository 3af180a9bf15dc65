"""Keeps the state of sessions out of CUDA graphs.

A CUDA graph reads and writes the addresses at which it was recorded. Two kinds concern a session:

- Graphs of ``torch.compile`` (``mode="reduce-overhead"``; ``generate`` with a static cache). Their outputs lie in a
  pool, where the next run of the same code overwrites them, whoever asks for it. A session that is parked between two
  graphs would lose its state. So while a session computes, compiled code runs without them: the same kernels, submitted
  one by one. In all other calls it is recorded and replayed as ever. :class:`WithoutGraphs` does that.
- Graphs that the program records itself. Nothing is parked while one is recorded: :func:`is_recording`. What lies in
  their pools stays where it is, and so does all else, if the session holds a graph: :class:`GraphMemory`.

Knows nothing of sessions: it is told when one computes.
"""

import ctypes
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

_TREES = "torch._inductor.cudagraph_trees"  # where torch makes a graph of compiled code; imported when first needed


class WithoutGraphs:
    """Makes compiled code run without CUDA graphs while ``computes()``, from :meth:`put_on` to :meth:`take_off`."""

    def __init__(self, computes: Callable[[], bool]) -> None:
        self._computes = computes

    def put_on(self) -> None:
        """Begin: now, or when torch first imports its module for graphs."""
        if _TREES not in sys.modules:
            sys.meta_path.insert(0, self)
        else:
            self._attach(importlib.import_module(_TREES))  # waits for a thread that is just importing it

    def take_off(self) -> None:
        """End; torch's functions are as they were when the last one ends."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        trees = sys.modules.get(_TREES)
        switch = _switch_of(trees) if trees is not None else None
        if switch is not None:
            switch.detach(self._computes)

    def _attach(self, trees: types.ModuleType) -> None:
        switch = _switch_of(trees) or _Switch(trees)
        switch.attach(self._computes)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Let the other finders find torch's module, and attach to it as soon as it has been executed."""
        if name != _TREES:
            return None
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in behind)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._imported)
        return spec

    def _imported(self, trees: types.ModuleType) -> None:
        self._attach(trees)
        if self._computes():
            _give_to_all_threads(trees)


class _Loader(importlib.abc.Loader):
    """Does what ``loader`` does, and calls ``then`` with the module that was executed."""

    def __init__(self, loader: importlib.abc.Loader, then: Callable[[types.ModuleType], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self._loader.exec_module(module)
        self._then(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # a debugger asks it for the source


class _Switch:
    """Torch's functions that record and replay, replaced by ones that ask first whether a session computes."""

    def __init__(self, trees: Any) -> None:
        self._trees = trees
        self._computing: list[Callable[[], bool]] = []
        self._record = trees.cudagraphify
        self._replay = replay = trees.CUDAGraphTreeManager._run

        def run(manager: Any, inputs: list[Any], function_id: Any) -> Any:
            if self.plainly:
                return manager.ids_to_funcs[function_id].model(inputs)
            return replay(manager, inputs, function_id)

        trees.cudagraphify = self.record
        trees.CUDAGraphTreeManager._run = run

    def attach(self, computes: Callable[[], bool]) -> None:
        self._computing = [*self._computing, computes]

    def detach(self, computes: Callable[[], bool]) -> None:
        self._computing = [one for one in self._computing if one != computes]
        if not self._computing:
            self._trees.cudagraphify = self._record
            self._trees.CUDAGraphTreeManager._run = self._replay

    @property
    def plainly(self) -> bool:
        return any(computes() for computes in self._computing)

    def record(
        self, model: Callable[[list[Any]], Any], inputs: list[Any], *args: Any, **kwargs: Any
    ) -> tuple[Callable[[list[Any]], Any], Any]:
        """Stand for ``cudagraphify``: return what runs ``model`` from now on, and what it returned for ``inputs``."""
        if not self.plainly:
            recorded: tuple[Callable[[list[Any]], Any], Any] = self._record(model, inputs, *args, **kwargs)
            return recorded
        later: Callable[[list[Any]], Any] | None = None  # recorded by the first call outside the sessions

        def run(inputs: list[Any]) -> Any:
            nonlocal later
            if self.plainly:
                return model(inputs)
            if later is None:
                later, outputs = self._record(model, inputs, *args, **kwargs)
                return outputs
            return later(inputs)

        return run, model(inputs)


def _switch_of(trees: types.ModuleType) -> _Switch | None:
    switch = getattr(getattr(trees, "cudagraphify", None), "__self__", None)
    return switch if isinstance(switch, _Switch) else None


def _give_to_all_threads(trees: Any) -> None:
    """Let every thread use what the importing thread, which is a session's and will end, got for itself.

    Torch keeps its graphs per thread, and before 2.13 a thread that did not import this module has nowhere to keep any.
    """
    own = trees.local
    kept = own.tree_manager_containers, own.tree_manager_locks
    for one in kept:
        # Torch stashes them in the thread's storage without a reference of its own, and drops one when the thread ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
    trees.local = types.SimpleNamespace(tree_manager_containers=kept[0], tree_manager_locks=kept[1])


def is_recording(device: torch.device) -> bool:
    """Whether the current thread records a CUDA graph: whatever it computes, it only writes down."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class GraphMemory:
    """The memory that CUDA graphs may touch, for one look at a session on ``device`` that leads to ``objects``.

    Where nobody has recorded a graph this costs nothing.
    """

    def __init__(self, device: torch.device, objects: Iterable[object]) -> None:
        on_gpu = device.type == "cuda"
        self._graph_held = on_gpu and any(issubclass(type(obj), torch.cuda.CUDAGraph) for obj in objects)
        self._pools: list[range] = []
        if on_gpu and (
            self._graph_held or _TREES in sys.modules or torch.cuda.graph.default_capture_stream is not None
        ):
            self._pools = [
                range(segment["address"], segment["address"] + segment["total_size"])
                for segment in torch.cuda.memory_snapshot()
                if segment["segment_pool_id"] != (0, 0)
            ]

    def why_stays(self, storage: torch.UntypedStorage | None) -> str | None:
        """Return why ``storage`` must stay where it is, or None if no graph can touch it."""
        if storage is None or not (self._pools or self._graph_held):
            return None
        try:
            pointer = storage.data_ptr()
        except RuntimeError:  # torch's way to say that a later run has overwritten it
            return "a CUDA graph has overwritten it"
        if any(pointer in pool for pool in self._pools):
            return "it lies in the pool of a CUDA graph"
        return "a CUDA graph of the program may read it" if self._graph_held else None
