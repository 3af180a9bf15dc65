"""The state of a parked session as HTML: a line for each tensor, and one for each token of the hidden states.

Numbers are read only from what is in host memory. Nothing is moved, read from a disk or asked of the device.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from djinn.core import IllegalMove
from djinn.html import Side, line, table
from djinn.state.storages import LeftBehind
from djinn.state.tensors import plain_torch
from djinn.wording import counted

MOST_TENSORS, FIRST_TENSORS, LAST_TENSORS = 24, 14, 6
MOST_TOKENS, FIRST_TOKENS, LAST_TOKENS = 12, 3, 6
MOST_READ_BYTES = 128 << 20  # for the norms of a page: a second on one core. Its session waits for each tensor.

_REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_TENSORS: dict[str, Side] = {
    "name": "left",
    "layer": "right",
    "shape": "left",
    "dtype": "left",
    "where": "left",
    "bytes": "right",
    "norm": "right",
}
_NOT_READ = "norms are shown of what is in host memory, as after io_wait(); to look moves nothing"

T = TypeVar("T")
Numbers = tuple[float, float]
Read = Callable[[], torch.Tensor]  # it may have to be decoded first


@dataclass(frozen=True, kw_only=True)
class StateEntry:
    """One tensor of the state; ``layer`` is the decoder layer (1 .. N) whose KV or module state it is, else None.

    ``nbytes`` are the bytes of its elements; None for a sparse or nested tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int | None
    nbytes: int | None


class Peek(Protocol):
    """Shows one tensor where it is."""

    def __call__(self, name: str, look: Callable[[str, Read | None], T], /) -> T:
        """Return ``look(tier, read)``, where ``read()`` is the tensor, or None unless its tier is host memory.

        Raises :class:`IllegalMove` if the session has gone on.
        """


def page(entries: Sequence[StateEntry], peek: Peek, left: Sequence[LeftBehind], *, storage_sizes: Sequence[int]) -> str:
    """Return the page of a state with these ``entries``; its storages have ``storage_sizes`` bytes."""
    shown = _Shown(peek)
    storages = counted(len(storage_sizes), "storage")
    total = f"{counted(len(entries), 'tensor')} in {storages} of {sum(storage_sizes):,} bytes"
    parts = [line(total), table(_TENSORS, shown.rows(entries))]
    hidden = [entry for entry in entries if entry.name == "hidden_states"]
    tokens = shown.tokens_of(hidden[0]) if hidden else []
    if tokens:
        parts.append(line("hidden_states by token: norm and spread (standard deviation) of its vector"))
        parts.append(table({"hidden_states": "left", "norm": "right", "spread": "right"}, tokens))
    if left:
        parts.append(line(f"left on the device: {sum(one.nbytes for one in left):,} bytes"))
        why = [(one.name, f"{one.nbytes:,}", one.said) for one in left]
        parts.append(table({"name": "left", "bytes": "right", "why": "left"}, why))
    if shown.notice:
        parts.append(line(shown.notice))
    return "".join(parts)


class _Shown:
    """What ``peek`` shows, as text; ``notice`` says why a number is missing."""

    def __init__(self, peek: Peek) -> None:
        self._peek = peek
        self._to_read = MOST_READ_BYTES
        self.notice = ""

    def rows(self, entries: Sequence[StateEntry]) -> Iterator[Sequence[str] | str]:
        first, between, last = _ends(entries, MOST_TENSORS, FIRST_TENSORS, LAST_TENSORS)
        yield from map(self._row, first)
        if between:
            nbytes = sum(entry.nbytes or 0 for entry in between)
            yield f"… {len(between)} more tensors of {nbytes:,} bytes: print() this, and it lists all"
        yield from map(self._row, last)

    def _row(self, entry: StateEntry) -> Sequence[str]:
        tier, norm = self._numbers(entry, functools.partial(self._norm, entry)) or ("-", None)
        if tier in ("device", "disk"):
            self.notice = self.notice or _NOT_READ
        return (
            entry.name,
            "-" if entry.layer is None else str(entry.layer),
            str(list(entry.shape)),
            str(entry.dtype).removeprefix("torch."),
            tier,
            "-" if entry.nbytes is None else f"{entry.nbytes:,}",
            "-" if norm is None else f"{norm:.4g}",
        )

    def tokens_of(self, entry: StateEntry) -> list[Sequence[str] | str]:
        *rows, features = entry.shape or (0,)
        count = torch.Size(rows).numel() if rows and features else 0
        first, between, last = _ends(range(count), MOST_TOKENS, FIRST_TOKENS, LAST_TOKENS)
        places = [_place(flat, rows) for flat in (*first, *last)]
        _, numbers = self._numbers(entry, lambda read: _of_tokens(read(), places)) or ("", None)
        lines: list[Sequence[str] | str] = [
            (str(list(place)), f"{norm:.4g}", f"{spread:.4g}")
            for place, (norm, spread) in zip(places, numbers or (), strict=False)
        ]
        if lines and between:
            lines.insert(len(first), f"… {len(between)} more tokens")
        return lines

    def _norm(self, entry: StateEntry, read: Read) -> float | None:
        """The norm of a tensor; None if it is larger than what may still be read."""
        if entry.nbytes is None or entry.nbytes > self._to_read:
            return None
        self._to_read -= entry.nbytes
        return _norm(read())

    def _numbers(self, entry: StateEntry, measure: Callable[[Read], T | None]) -> tuple[str, T | None] | None:
        """The tier of a tensor, and what is measured of it in host memory; None if the session has gone on."""

        def look(tier: str, read: Read | None) -> tuple[str, T | None]:
            if read is None or entry.dtype not in _REAL:
                return tier, None
            with plain_torch(), torch.no_grad():
                return tier, measure(read)

        try:
            return self._peek(entry.name, look)
        except IllegalMove as gone:
            self.notice = str(gone)
            return None


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _of_tokens(tensor: torch.Tensor, places: Sequence[tuple[int, ...]]) -> list[Numbers]:
    vectors = (tensor[place].double() for place in places)
    return [(_norm(one), float(one.std(correction=0))) for one in vectors]


def _ends(items: Sequence[T], most: int, first: int, last: int) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
    """Split ``items`` into the first, those between, and the last; nothing is between if there are at most ``most``."""
    if len(items) <= most:
        return items, (), ()
    return items[:first], items[first:-last], items[-last:]


def _place(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index that has position ``flat`` in a tensor of this ``shape``."""
    place: list[int] = []
    for size in reversed(shape):
        flat, index = divmod(flat, size)
        place.insert(0, index)
    return tuple(place)
