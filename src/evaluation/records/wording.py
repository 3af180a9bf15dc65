"""Text that may stand in a record: on one line, and without the folders of the machine that wrote it."""

import re
from collections.abc import Iterator
from typing import Any

_END = r"""\s'"(),:;\[\]"""
# An absolute path at the beginning or after a mark; "https://" and "GB/s" are none.
_FOLDERS = re.compile(
    rf"""(?:^|(?<=[\s'"=(,:;\[])|(?<=//))(?:[A-Za-z]:[\\/]|/)(?=[\w.])(?:[^{_END}\\/]+[\\/]+)*"""
    rf"""|[^{_END}]*/home/(?:[^{_END}/]+/)*"""
)


def one_line(message: str, length: int = 200) -> str:
    """``message`` without control characters and without its middle: it may quote a whole record."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in message).split())
    return plain if len(plain) <= length else f"{plain[: length // 2]} ... {plain[-length // 2 :]}"


def without_folders(value: Any) -> Any:
    """The JSON ``value`` with the last name alone of each absolute path in its text; keys stay."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    return [without_folders(inner) for inner in value] if isinstance(value, list) else value


def folders_in(value: Any, where: str = "") -> Iterator[str]:
    """The places in the JSON ``value``, as dotted keys, of text that names an absolute path."""
    if isinstance(value, str) and _FOLDERS.search(value):
        yield where
    elif isinstance(value, dict):
        for key, inner in value.items():
            inside = f"{where}.{one_line(key)}".lstrip(".")
            yield from folders_in(key, inside)
            yield from folders_in(inner, inside)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from folders_in(inner, f"{where}.{index}".lstrip("."))
