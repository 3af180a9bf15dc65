"""Checks what a caller passes in, before any work starts.

Each message names the argument, what came, and what to pass instead. A wrong type is a ``TypeError``, a wrong value a
``ValueError``. Integers may be of any type that Python takes for an index, numpy's for one; booleans are none. Nothing
here looks into the model: ``layers`` finds its layers.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from torch import nn

Keep = Literal["nothing", "frontier"]  # what IO_WAIT leaves on the device
KEEPS: tuple[Keep, ...] = ("nothing", "frontier")
Codec = Literal["raw", "auto"]  # whether state is coded in host memory
CODECS: tuple[Codec, ...] = ("raw", "auto")

# Between beats: a shorter time costs much of a core, a longer one lets the link fall asleep.
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.001, 1.0


def check_bytes(name: str, value: object, *, least: int) -> int:
    """Return ``value`` as an int. Raises ``TypeError`` unless it is a whole number, ``ValueError`` below ``least``."""
    number = _index(value)
    if number is None:
        hint = f"int({name})" if isinstance(value, float) else "an int, such as 4 << 30"
        raise TypeError(f"{name}={value!r} is not a whole number of bytes: pass {hint}")
    if number < least:
        raise ValueError(f"{name}={number} is too small: pass at least {least}")
    return number


def check_most_bytes(name: str, value: object, *, least: int) -> int | None:
    """Do what :func:`check_bytes` does, unless ``value`` is None, which is no limit."""
    return None if value is None else check_bytes(name, value, least=least)


def check_breakpoint(layer: object, visit: object, depth: int) -> tuple[int, int]:
    """Return ``layer`` (1 .. ``depth``) and the hit count ``visit`` (>= 1) as ints; else a type or value error."""
    number = _index(layer)
    if number is None:
        raise TypeError(f"breakpoint {layer!r} is not a whole number: pass a layer as an int, 1 to {depth}")
    if not 1 <= number <= depth:
        raise ValueError(f"breakpoint {number} is not a layer of this model: 1 to {depth}")
    return number, check_visit(visit)


def check_visit(visit: object) -> int:
    """Return the hit count ``visit`` (>= 1) as an int; else a type or value error."""
    number = _index(visit)
    if number is None:
        raise TypeError(f"visit {visit!r} is not a whole number: pass a hit count as an int, 1 for the first time")
    if number < 1:
        raise ValueError(f"visit {number} is not a hit count: the first time is visit 1")
    return number


def check_disk(folder: Any, nbytes: object) -> "tuple[Path, int | None] | None":
    """Return ``disk_folder`` and ``disk_bytes``; None without a folder.

    Raises ``TypeError`` unless they are a path and a whole number, ``NotADirectoryError`` if there is no such folder,
    and ``ValueError`` for bytes below 1 or without a folder.
    """
    most = check_most_bytes("disk_bytes", nbytes, least=1)
    if folder is None:
        if most is not None:
            raise ValueError(f"disk_bytes={most} without disk_folder: pass the folder on the disk too")
        return None
    try:
        path = Path(folder).absolute()  # now: the folder of the process may change
    except TypeError:
        raise TypeError(f"disk_folder={folder!r} is no path: pass a str or a pathlib.Path") from None
    if not path.is_dir():
        raise NotADirectoryError(f"there is no folder {path} for disk_folder: make it first")
    return path, most


def check_keep(keep: object) -> Keep:
    """Return ``keep``, which names what IO_WAIT leaves on the device. Raises ``ValueError`` for anything else."""
    for known in KEEPS:
        if isinstance(keep, str) and keep == known:
            return known
    raise ValueError(f'keep={keep!r} is nothing that IO_WAIT can keep on the device: pass "frontier" or "nothing"')


def check_codec(codec: object) -> Codec:
    """Return ``codec``, which says whether state is coded. Raises ``ValueError`` for anything else."""
    for known in CODECS:
        if isinstance(codec, str) and codec == known:
            return known
    raise ValueError(f'codec={codec!r} is no form of state in host memory: pass "auto" or "raw"')


def check_timeout(timeout: Any) -> None:
    """Raise ``TypeError`` unless ``timeout`` is None or a number of seconds; below zero is like zero."""
    if timeout is None:
        return
    try:
        if not math.isnan(timeout):
            return
    except (TypeError, OverflowError):
        pass
    raise TypeError(f"timeout {timeout!r} is not a number of seconds: pass a float, or None to wait for ever")


def check_attentive(attentive: Any) -> float | None:
    """Return the seconds ``attentive``, or None. Raises ``TypeError`` for no number, ``ValueError`` if out of range."""
    if attentive is None:
        return None
    try:
        if isinstance(attentive, bool) or math.isnan(attentive):
            raise TypeError
    except (TypeError, OverflowError):
        message = f"attentive={attentive!r} is not a number of seconds: pass a float, such as 0.005, or None"
        raise TypeError(message) from None
    if not _SHORTEST_SECONDS <= attentive <= _LONGEST_SECONDS:
        raise ValueError(
            f"attentive={attentive!r} is no useful time between two beats: pass {_SHORTEST_SECONDS} to "
            f"{_LONGEST_SECONDS:.0f} second, such as 0.005, or None for no beat"
        )
    return float(attentive)


def _index(value: Any) -> int | None:
    """Return ``value`` as an int, or None if it is no whole number; True and False are none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def check_model(model: object) -> None:
    """Raise ``TypeError`` unless ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, not {_described(model)}: load it first, then pass it")


def check_layers(layers: object) -> list[nn.Module] | None:
    """Return ``layers=`` as a list. Raises ``TypeError`` unless it is None or a sequence of modules."""
    if layers is None:
        return None
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers= must be a sequence of modules, not {_described(layers)}: pass layers=[first, ...]")
    named: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, nn.Module):
            raise TypeError(f"layers= must hold modules, not {_described(layer)}: pass layers=list(model.model.layers)")
        named.append(layer)
    return named


def check_program(program: object) -> None:
    """Raise ``TypeError`` unless a call of ``program`` runs it: it is callable, and neither async nor a generator."""
    if inspect.iscoroutine(program) or inspect.isasyncgen(program) or inspect.isgenerator(program):
        raise TypeError(f"start() takes a function and its arguments, not {_described(program)}: {_way_out(program)}")
    if not callable(program):
        raise TypeError(
            f"start() takes a function and its arguments, not {_described(program)}: start(model.generate, input_ids)"
        )
    for function in _functions_of(program):
        if inspect.iscoroutinefunction(function):
            kind = "an async function, whose call only makes a coroutine"
        elif inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            kind = "a generator function, whose call runs nothing of it yet"
        else:
            continue
        raise TypeError(f"start() was given {name_of_program(program)}, {kind}: {_way_out(function)}")


def name_of_program(program: Any) -> str:
    """Return how ``program`` is called in messages."""
    return str(getattr(program, "__qualname__", type(program).__qualname__))


def check_around_turn(around_turn: object) -> None:
    """Raise ``TypeError`` unless ``around_turn`` is None or can be called."""
    if around_turn is not None and not callable(around_turn):
        raise TypeError(
            f"around_turn= must be a function that takes a session and returns a context manager, not "
            f"{_described(around_turn)}"
        )


def _functions_of(program: Callable[..., object]) -> list[object]:
    """Return what a call of ``program`` runs: the function of a partial, or the ``__call__`` of an object."""
    inner: object = program
    while isinstance(inner, functools.partial):
        inner = inner.func
    return [inner, getattr(type(inner), "__call__", None)]  # noqa: B004 - its kind is asked, not whether it is there


def _way_out(program: object) -> str:
    """Say how to start what ``program`` would only prepare."""
    if inspect.iscoroutinefunction(program) or inspect.iscoroutine(program):
        return "start(lambda: asyncio.run(function(...)))"
    if inspect.isasyncgenfunction(program) or inspect.isasyncgen(program):
        return "start a function that iterates over it, by asyncio.run"
    return "start(lambda: list(function(...)))"


def _described(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
