"""Edits of the hidden states, and conditions, as functions of a copy in host memory: written is only a whole result.

An expression is Python, and is executed: it can do whatever the process can.
"""

import builtins
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import torch

from djinn.debugger import files
from djinn.debugger.values import Refused
from djinn.debugger.words import error_line

_SHOWN = 60  # characters of an expression that is none
Edit = Callable[[torch.Tensor], torch.Tensor]
# Without what closes the standard input, which the debugger reads.
_BUILTINS = {name: value for name, value in vars(builtins).items() if name not in ("exit", "quit")}


@dataclass(frozen=True, kw_only=True)
class Change:
    """An edit, and what it does in words."""

    apply: Edit
    said: str


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What must hold of the hidden states, and what it is in words."""

    holds: Callable[[torch.Tensor], bool]
    said: str


def scale(argument: str) -> Change:
    """Multiply by a number."""
    try:
        factor = float(argument)
    except ValueError:
        raise Refused(f"edit scale takes a number, not {argument!r}: for example edit scale 1.5") from None
    if not math.isfinite(factor):
        raise Refused(f"edit scale takes a finite number, not {argument}")
    return Change(apply=lambda h: h * factor, said=f"scaled by {factor:g}")


def zero(argument: str) -> Change:
    """Set one position to zero, in every sequence; a negative one counts from the end."""
    try:
        position = int(argument)
    except ValueError:
        raise Refused(f"edit zero takes a position, not {argument!r}: for example edit zero -1 for the last") from None

    def apply(h: torch.Tensor) -> torch.Tensor:
        positions = h.shape[-2]
        if not -positions <= position < positions:
            raise Refused(f"there is no position {position}: the hidden states have {positions}, 0 to {positions - 1}")
        h[..., position, :] = 0
        return h

    return Change(apply=apply, said=f"position {position} set to zero")


def add(argument: str) -> Change:
    """Add the tensor in a file: a vector to every position, or what else broadcasts to the hidden states."""
    path = Path(argument).expanduser()
    vector = _real(files.read(path), str(path))

    def apply(h: torch.Tensor) -> torch.Tensor:
        try:
            return h + vector.to(h.dtype).expand(h.shape)
        except RuntimeError:
            raise Refused(f"{path} has shape {list(vector.shape)}, which is not added to {list(h.shape)}") from None

    return Change(apply=apply, said=f"{path}, shape {list(vector.shape)}, added")


def _real(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """Return ``tensor``, if it holds real numbers, each in its place. Raises :class:`Refused` with ``what`` it is."""
    odd = tensor.is_complex() or tensor.is_quantized or tensor.is_nested or tensor.is_meta
    if odd or tensor.layout is not torch.strided:
        raise Refused(f"{what} is no plain tensor of real numbers, but {_kind(tensor)}")
    return tensor


def _kind(tensor: torch.Tensor) -> str:
    named = {"nested": tensor.is_nested, "meta": tensor.is_meta, "quantized": tensor.is_quantized}
    return next((name for name, it_is in named.items() if it_is), f"{tensor.dtype} in {tensor.layout}")


def expression(argument: str) -> Change:
    """Execute a Python expression of ``h``, a copy of the hidden states, and ``torch``; its value replaces them."""
    code = _compiled(argument)

    def apply(h: torch.Tensor) -> torch.Tensor:
        shape, dtype = h.shape, h.dtype
        value = _value(code, h)
        if isinstance(value, torch.Tensor):
            value = _real(value, "what the expression gave")
        if not isinstance(value, torch.Tensor) or value.shape != shape:
            what = f"shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise Refused(f"the expression gave {what}; it must give the shape of h, {list(shape)}")
        return value.detach().to("cpu", dtype)

    return Change(apply=apply, said=f"replaced by {argument}, which was executed as Python")


KINDS: Mapping[str, Callable[[str], Change]] = {"scale": scale, "zero": zero, "add": add, "expr": expression}


def condition(argument: str) -> Condition:
    """Execute a Python expression likewise; whether its value is true is what counts."""
    code = _compiled(argument)
    return Condition(holds=lambda h: bool(_value(code, h, into=bool)), said=argument)


def _compiled(argument: str) -> CodeType:
    try:
        return compile(argument, "<expression>", "eval")
    except (SyntaxError, ValueError) as error:
        shown = repr(argument) if len(argument) <= _SHOWN else f"{argument[:_SHOWN]!r}..."
        raise Refused(f"{shown} is no Python expression: {error}") from None
    except (RecursionError, MemoryError) as error:  # not of Python's stack or memory, but of its compiler's
        raise Refused(f"the expression is too deep for Python's compiler: {type(error).__name__}") from None


def _value(code: CodeType, h: torch.Tensor, into: Callable[[Any], Any] = lambda value: value) -> Any:
    try:
        return into(eval(code, {"h": h, "torch": torch, "__builtins__": _BUILTINS}))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
        raise Refused(f"the expression raised {error_line(error)}") from None
