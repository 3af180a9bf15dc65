"""A saved session as one JSON document, and back. The bytes of its tensors lie beside it (``session_file``)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from djinn.core import NotRestored
from djinn.program.replay import Recording
from djinn.program.tape import Output, Parked, ParkedStorage, Pass, Ran, Shape, Tape, Words
from djinn.program.values import KeptStorage
from djinn.state.storages import NamedView

FORMAT = 1
_MOST_ENTRIES = 1 << 16  # of a cache
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SavedSession:
    """A session in a file: where its program was parked, on which machine, and the way there."""

    program: str
    layer: int
    machine: dict[str, str]
    recording: Recording


def recording_of(tape: Tape, state: dict[str, torch.Tensor]) -> Recording:
    """Return what ``tape`` has recorded up to where its program is parked with ``state`` (by name, uint8).

    It stays as it is when the program goes on.
    """
    assert tape.parked is not None
    return Recording(
        model=tape.model,
        arguments=tape.arguments,
        modes=tape.modes,
        random=tape.random,
        passes=tuple(replace(one, ran=list(one.ran)) for one in tape.passes),  # the last one may go on
        calls=dict(tape.calls),
        parked=tape.parked,
        state=state,
        only_by_computing=tape.only_by_computing,
        edited=tuple(tape.edited),
        edited_here=tuple(tape.edited_here),
    )


def written(saved: SavedSession) -> tuple[Json, dict[str, torch.Tensor]]:
    """Return the document of ``saved`` and its tensors by name (uint8)."""
    recording = saved.recording
    tensors = {f"state/{name}": raw for name, raw in recording.state.items()}
    ways: list[list[Json]] = []  # what the layers did: all decode steps do the same
    passes = []
    for number, one in enumerate(recording.passes, start=1):
        way = [_of_ran(ran) for ran in one.ran]
        if way not in ways:
            ways.append(way)
        for position, storage in enumerate(one.tensors or ()):
            tensors[f"pass/{number}/{position}"] = storage.raw
        passes.append(
            {
                "module": one.module,
                "inputs": one.inputs,
                "way": ways.index(way),
                "tensors": None if one.tensors is None else [[_of_view(v) for v in s.views] for s in one.tensors],
                "plain": one.plain,
                "random": one.random,
            }
        )
    document = {
        "format": FORMAT,
        "program": saved.program,
        "layer": saved.layer,
        "model": recording.model,
        "machine": saved.machine,
        "arguments": recording.arguments,
        "modes": recording.modes,
        "random": recording.random,
        "ways": ways,
        "passes": passes,
        "calls": {str(layer): count for layer, count in recording.calls.items()},
        "parked": {
            name: {"digest": storage.digest, "views": list(map(_of_view, storage.views))}
            for name, storage in recording.parked.storages.items()
        },
        "parked_random": recording.parked.random,
        "only_by_computing": recording.only_by_computing,
        "edited": recording.edited,
        "edited_here": recording.edited_here,
    }
    return document, tensors


def read(document: Json, tensors: Mapping[str, torch.Tensor]) -> SavedSession:
    """Return the session of a ``document`` with its ``tensors``. Raises :class:`NotRestored` if they are of no such."""
    version = document.get("format")
    if version != FORMAT:
        raise NotRestored(f"its format is {version}, and this version of djinn reads {FORMAT}")
    try:
        return _read(document, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise NotRestored(f"its document is not that of a session ({type(error).__name__}: {error})") from error


def _read(document: Json, tensors: Mapping[str, torch.Tensor]) -> SavedSession:
    ways = [[_ran(ran) for ran in way] for way in document["ways"]]
    passes = tuple(
        Pass(
            module=str(one["module"]),
            inputs=_words(one["inputs"]),
            ran=list(ways[one["way"]]),
            tensors=None
            if one["tensors"] is None
            else tuple(
                KeptStorage(raw=tensors[f"pass/{number}/{position}"], views=tuple(map(_view, views)))
                for position, views in enumerate(one["tensors"])
            ),
            plain=list(one["plain"]),
            random=None if one["random"] is None else dict(one["random"]),
        )
        for number, one in enumerate(document["passes"], start=1)
    )
    storages = {
        name: ParkedStorage(digest=storage["digest"], views=tuple(map(_view, storage["views"])))
        for name, storage in document["parked"].items()
    }
    state = {name: tensors[f"state/{name}"] for name in storages}
    layer = int(document["layer"])
    calls = {int(number): int(count) for number, count in document["calls"].items()}
    if calls[layer] < 1:
        raise ValueError("calls")
    return SavedSession(
        program=str(document["program"]),
        layer=layer,
        machine=_words(document["machine"]),
        recording=Recording(
            model=_words(document["model"]),
            arguments=_words(document["arguments"]),
            modes=_words(document["modes"]),
            random=dict(document["random"]),
            passes=passes,
            calls=calls,
            parked=Parked(storages=storages, random=dict(document["parked_random"])),
            state=state,
            only_by_computing=str(document["only_by_computing"]),
            edited=tuple(map(str, document["edited"])),
            edited_here=tuple(map(str, document["edited_here"])),
        ),
    )


def _of_ran(ran: Ran) -> Json:
    grown = [[index, _of_shape(keys), _of_shape(values)] for index, keys, values in ran.grown]
    return {"layer": ran.layer, "output": _of_output(ran.output), "grown": grown}


def _of_shape(shape: Shape) -> Json:
    return {"dtype": _word(shape.dtype), "sizes": list(shape.sizes), "strides": list(shape.strides)}


def _of_output(output: Output) -> Any:
    if output is None:
        return None
    return _of_shape(output) if isinstance(output, Shape) else list(map(_of_output, output))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ran(value: Json) -> Ran:
    grown = tuple((int(index), _shape(keys), _shape(values)) for index, keys, values in value["grown"])
    if not all(0 <= index < _MOST_ENTRIES for index, _, _ in grown):
        raise ValueError("grown")  # a cache would be filled up to there
    return Ran(layer=int(value["layer"]), output=_output(value["output"]), grown=grown)


def _shape(value: Any) -> Shape:
    sizes, strides = (tuple(map(int, value[name])) for name in ("sizes", "strides"))
    return Shape(_dtype(value["dtype"]), sizes, strides)


def _dtype(word: str) -> torch.dtype:
    dtype = vars(torch).get(word)  # by getattr torch may import a module of that name
    if not isinstance(dtype, torch.dtype):
        raise TypeError(word)
    return dtype


def _output(value: Any) -> Output:
    if value is None:
        return None
    return _shape(value) if isinstance(value, dict) else tuple(map(_output, value))


def _words(value: Json) -> Words:
    return {str(name): str(word) for name, word in value.items()}


def _of_view(view: NamedView) -> Json:
    return {**vars(view), "dtype": _word(view.dtype), "shape": list(view.shape)}


def _view(value: Json) -> NamedView:
    return NamedView(
        name=value["name"],
        dtype=_dtype(value["dtype"]),
        shape=torch.Size(value["shape"]),
        stride=tuple(map(int, value["stride"])),
        offset=int(value["offset"]),
        conj=bool(value["conj"]),
        neg=bool(value["neg"]),
    )
