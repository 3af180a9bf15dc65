"""Edits of the hidden states, as functions of a copy in host memory: written is only a whole result.

An expression is Python, and is executed: it can do whatever the process can.
"""

import builtins
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from djinn.debugger.words import error_line

Edit = Callable[[torch.Tensor], torch.Tensor]
# Without what closes the standard input, which the debugger reads.
_BUILTINS = {name: value for name, value in vars(builtins).items() if name not in ("exit", "quit")}


class Refused(Exception):
    """A command that cannot be done; the message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """An edit, and what it does in words."""

    apply: Edit
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
    vector = _real(_read(path), str(path))

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


def _read(path: Path) -> torch.Tensor:
    """Return the one tensor in a file; nothing in it is run. Raises :class:`Refused`."""
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt, ".pth": _read_pt}
    if path.suffix not in readers:
        raise Refused(f"{path} is no .pt, .npy or .safetensors file")
    try:
        found = readers[path.suffix](path)
    except FileNotFoundError:
        raise Refused(f"there is no file {path}") from None
    except (pickle.UnpicklingError, ImportError, OSError, RuntimeError, ValueError, TypeError, EOFError) as error:
        line = str(error).partition("\n")[0] or type(error).__name__
        raise Refused(f"{path} cannot be read as a tensor: {line}") from None
    if isinstance(found, dict) and len(found) == 1:
        found = next(iter(found.values()))
    if not isinstance(found, torch.Tensor):
        what = f"{len(found)} tensors" if isinstance(found, dict) else type(found).__name__
        raise Refused(f"{path} has {what} in place of one tensor")
    return found


def _read_npy(path: Path) -> Any:
    import numpy as np  # noqa: PLC0415 - torch can do without

    return torch.from_numpy(np.load(path, allow_pickle=False))


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError  # noqa: PLC0415 - it comes with transformers
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(error) from None


def _read_pt(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def expression(argument: str) -> Change:
    """Execute a Python expression of ``h``, a copy of the hidden states, and ``torch``; its value replaces them."""
    try:
        code = compile(argument, "<edit expr>", "eval")
    except (SyntaxError, ValueError) as error:
        raise Refused(f"{argument!r} is no Python expression: {error}") from None
    except (RecursionError, MemoryError) as error:  # not of Python's stack or memory, but of its compiler's
        raise Refused(f"the expression is too deep for Python's compiler: {type(error).__name__}") from None

    def apply(h: torch.Tensor) -> torch.Tensor:
        shape, dtype = h.shape, h.dtype
        try:
            value = eval(code, {"h": h, "torch": torch, "__builtins__": _BUILTINS})
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            raise Refused(f"the expression raised {error_line(error)}") from None
        if isinstance(value, torch.Tensor):
            value = _real(value, "what the expression gave")
        if not isinstance(value, torch.Tensor) or value.shape != shape:
            what = f"shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise Refused(f"the expression gave {what}; it must give the shape of h, {list(shape)}")
        return value.detach().to("cpu", dtype)

    return Change(apply=apply, said=f"replaced by {argument}, which was executed as Python")
