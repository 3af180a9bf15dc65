"""What the runtime and ``torch.compile`` have to do with each other.

A program may be compiled, as a whole or in parts. Four things follow:

- Code of the runtime is never traced. A traced interceptor would become a part of a graph, and park in the middle of
  tracing or not at all. Where a compiled program comes to one, its graph ends, and a new one begins behind it.
- A model that was compiled before the runtime was made is refused, if its graphs may enclose a layer.
- Tracing leaves garbage, cycles that hold what the traced frames held. It is collected before a session's state is
  looked for, or the state would count as held from outside.
- A graph that may not end (``fullgraph=True``) is an error that names what to type instead.

The marks on functions are those of ``torch.compiler.disable``, without its import of the compiler, which takes seconds.
CUDA graphs, into which the compiler may record its code, are the matter of ``cuda_graphs``.
"""

import gc
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from torch import nn
from torch._C._dynamo import eval_frame

from djinn.core import DjinnError
from djinn.state.static import imported

_P = ParamSpec("_P")
_R = TypeVar("_R")

_WHY = "djinn ends a graph where a layer begins and ends: there a program can be paused"
_Action = eval_frame._FrameAction


def ends_a_graph(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Mark ``function`` as never traced; what it calls may be compiled."""
    return _marked(function, calls=_Action.DEFAULT)


def never_traced(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Mark ``function`` as never traced, and whatever it calls."""
    return _marked(function, calls=_Action.SKIP)


def _marked(function: Callable[_P, _R], *, calls: Any) -> Callable[_P, _R]:
    marks: Any = function
    marks._torchdynamo_disable = True  # for the tracer of a function that calls this one
    marks._torchdynamo_disable_msg = _WHY
    strategy = eval_frame._FrameExecStrategy(_Action.SKIP, calls)  # for the call itself, under the compiler
    eval_frame.set_code_exec_strategy(marks.__code__, strategy)
    return function


def check_not_compiled(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Raise :class:`DjinnError` if ``model``, a module of it, or the ``forward`` around a layer is compiled."""
    decoder = set(layers)
    for name, module in model.named_modules():
        encloses_a_layer = not decoder.isdisjoint(module.modules())
        if _is_compiled(module) or module._compiled_call_impl is not None:
            what = ""
        elif encloses_a_layer and _is_compiled(inspect.getattr_static(module, "forward", None)):
            what = "the forward of "
        else:
            continue
        where = f"{type(module).__name__} {name}".rstrip()
        raise DjinnError(
            f"{what}{where} is compiled and would not stop: make the runtime first, and call torch.compile afterwards"
        )


def _is_compiled(obj: object) -> bool:
    # A disabled function has the first of these attributes too.
    return hasattr(obj, "_torchdynamo_orig_callable") and not hasattr(obj, "_torchdynamo_disable")


def explained(error: BaseException) -> BaseException:
    """Return the error that a program's caller gets for ``error``: clearer for a graph that could not end."""
    dynamo = imported("torch._dynamo.exc")
    if dynamo is None or not isinstance(error, dynamo.Unsupported) or _WHY not in str(error):
        return error
    clear = DjinnError(
        "torch.compile(fullgraph=True) forbids what a pause needs: a graph that ends at each layer. Compile without "
        "fullgraph=True, or compile modules inside the layers"
    )
    clear.__cause__ = error
    return clear


def compiles() -> bool:
    """Whether compiled code may run in this process: its kernels are no calls that a mode sees."""
    frames = imported("torch._dynamo.convert_frame")
    return frames is not None and bool(frames.input_codes.seen)


def _frames_looked_at() -> int:
    utils = imported("torch._dynamo.utils")
    return int(utils.counters["frames"]["total"]) if utils is not None else 0


class TracingGarbage:
    """The garbage of the compiler's tracing, of which there may be more whenever it has looked at another frame."""

    def __init__(self) -> None:
        self._frames = _frames_looked_at()  # when the garbage was collected; before, it was of no session's call

    def collect(self) -> None:
        """Collect it, if there may be any."""
        frames = _frames_looked_at()
        if frames != self._frames:
            self._frames = frames
            gc.collect()
