"""The tokens that a paused program has so far, read from its state by name; no hook on the model, nothing recorded.

``generate`` keeps them in its local variable ``input_ids``, and a loop of one's own in a variable of such a name. Of
several the longest is shown: a decode step is given the last token only. What the caller passed to the program counts
too, for it is the caller's and not in the state. Of a program that has ended they are its result.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from djinn.core import PARKED, Phase
from djinn.debugger.values import Refused, Token, Tokens
from djinn.debugger.words import error_line
from djinn.session import Session

_NAMES = frozenset({"input_ids", "inputs", "ids", "token_ids", "tokens", "sequences", "generated", "decoder_input_ids"})
_NAMES_OF_ENCODERS = frozenset({"input_ids", "inputs"})  # of what the caller passes to a model with a decoder behind


def ids_of(session: Session, *, has_encoder: bool = False) -> tuple[str, torch.Tensor] | None:
    """Return the ids of the tokens of ``session`` (whole numbers, shape [sequences, tokens]) and their tensor's name.

    The tensor may be one of the state, and on the device. None if there is none. In a model that ``has_encoder`` they
    are those of its decoder.
    """
    if session.phase is Phase.FINISHED:
        outcome = session._outcome  # not result(), which counts as having been told of its end
        value = None if outcome is None else outcome[0]
        found = getattr(value, "sequences", value)
        return ("the result", found) if isinstance(found, torch.Tensor) and _are_ids(found) else None
    if session.phase not in PARKED:
        return None
    state = session.state
    candidates = [(entry.name, entry.shape, entry.dtype) for entry in state.entries]
    named = [(name, shape) for name, shape, dtype in candidates if _is_name(name) and _fits(shape, dtype)]
    longest = max(named, key=lambda one: one[1][1], default=None)
    given = max(_given(session, has_encoder), key=lambda one: one[1].shape[1], default=None)
    if given is not None and (longest is None or given[1].shape[1] > longest[1][1]):
        return given
    return None if longest is None else (longest[0], state[longest[0]])


def _is_name(name: str) -> bool:
    return name.partition("~")[0].rpartition(".")[2] in _NAMES


def _fits(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return len(shape) == 2 and dtype in (torch.int64, torch.int32)


def _are_ids(value: object) -> bool:
    return isinstance(value, torch.Tensor) and _fits(tuple(value.shape), value.dtype)


def _given(session: Session, has_encoder: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what the caller passed to the program and may be its tokens: under their names, or without one."""
    program = session._program
    call = None if program is None else program._call
    if call is None:
        return
    _, args, kwargs = call
    first = next((value for value in args if _are_ids(value)), None)
    for name, value in {"inputs": first, **kwargs}.items():
        if name in _NAMES and not (has_encoder and name in _NAMES_OF_ENCODERS) and _are_ids(value):
            yield f"the program's argument {name}", value


def in_words(ids: torch.Tensor, source: str, tokenizer: Any) -> Tokens:
    """Return the tokens ``ids`` (in host memory, shape [sequences, tokens]) in the words of ``tokenizer``, or None.

    Where it fails they are their ids, and the note says why.
    """
    rows = ids.tolist()
    try:
        return Tokens(
            sequences=tuple(tuple(token_of(one, tokenizer) for one in row) for row in rows),
            texts=() if tokenizer is None else tuple(_decoded(row, tokenizer) for row in rows),
            source=source,
        )
    except Refused as why:
        return dataclasses.replace(in_words(ids, source, None), note=f"ids in place of words: {why}")


def token_of(one: int, tokenizer: Any) -> Token:
    """Return the token of this id; its text is the id itself without a ``tokenizer``. Raises :class:`Refused`."""
    return Token(id=one, text=str(one) if tokenizer is None else _decoded([one], tokenizer))


def _decoded(ids: list[int], tokenizer: Any) -> str:
    try:
        return str(tokenizer.decode(ids))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - of another's code; one in Rust has panics, which are no Exception
        raise Refused(f"the tokenizer's decode raised {error_line(error)}") from None
