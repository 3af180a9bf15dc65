"""Reads the JSON files of a run, and refuses what JSON does not say clearly.

Refused by the name of the file: another encoding than UTF-8, keys that stand twice, NaN, infinity, and numbers beyond
2^63. So are halves of characters, and nesting that no record has. Does not ask what a file means.
"""

import json
from pathlib import Path
from typing import Any

from evaluation.command import Refusal

Json = dict[str, Any]

_LARGEST = 2**63  # more bytes than any machine has, and more milliseconds than any job takes


class RunError(Refusal):
    """A run cannot be used; the message names the file and what is wrong with it."""


def read_json(path: Path) -> object:
    """The JSON value in the file at ``path``; raises :class:`RunError` for what this module refuses."""
    try:
        value: object = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_refuse_constant,
            parse_float=lambda text: _bounded(float(text), text),
            parse_int=lambda text: _bounded(int(text) if len(text) < 40 else float(text), text),
            object_pairs_hook=_unique,
        )
        json.dumps(value, ensure_ascii=False).encode()  # an escape may stand for half a character
    except FileNotFoundError as error:
        raise RunError(f"{path}: missing") from error
    except OSError as error:
        raise RunError(f"{path}: not readable: {error.strerror}") from error
    except RecursionError as error:
        raise RunError(f"{path}: not readable as JSON: nested too deeply") from error
    except ValueError as error:  # broken UTF-8 is one, broken JSON another
        raise RunError(f"{path}: not readable as JSON: {error}") from error
    return value


def read_object(path: Path) -> Json:
    """The JSON object in the file at ``path``; raises as :func:`read_json` does."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise RunError(f"{path}: not a JSON object")
    return value


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _bounded(value: float, text: str) -> float:
    if abs(value) > _LARGEST:
        raise ValueError(f"the number {text[:20]} is beyond 2^63")
    return value


def _unique(pairs: list[tuple[str, object]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return found
