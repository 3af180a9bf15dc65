"""One parked session's state in host memory, in the order in which the program will need it.

A value: which storages, where their bytes are, and what is copied together. Made at the pause, when there is time.
``restore`` is the way back.
"""

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from djinn.memory.codec import Coded
from djinn.memory.extents import Extent
from djinn.memory.lanes import Mark
from djinn.state.storages import REST, StateStorage


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """One storage, and how its bytes off the device are ``coded``: None for as they are."""

    item: StateStorage
    coded: Coded | None = None

    @property
    def nbytes(self) -> int:
        """Bytes off the device."""
        return self.item.nbytes if self.coded is None else self.coded.nbytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored(Packed):
    """What is in ``extent``, from address ``source`` on; ``copied`` marks the end of that copy."""

    extent: Extent
    source: int
    copied: Mark


class Batch:
    """Storages that are copied back together; ``mark`` is for the end of these copies.

    They have ``nbytes`` on the device, of which ``moved_bytes`` go over the link.
    """

    def __init__(self, entries: Sequence[Stored], mark: Mark) -> None:
        self.entries = entries
        self.mark = mark
        self.addresses = [entry.item.storage._cdata for entry in entries]
        self.nbytes = sum(entry.item.nbytes for entry in entries)
        self.moved_bytes = sum(entry.nbytes for entry in entries)


@dataclass(frozen=True, kw_only=True)
class HostCopy:
    """The storages of one session in host memory, in the order of need."""

    entries: tuple[Stored, ...]

    @classmethod
    def of(cls, entries: Iterable[Stored]) -> "HostCopy":
        """Put ``entries`` into the order of need."""
        return cls(entries=tuple(sorted(entries, key=lambda entry: entry.item.rank)))

    @functools.cached_property  # asked for twice a second, by who shows many sessions
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def state_bytes(self) -> int:
        """Bytes that it takes on the device."""
        return sum(entry.item.nbytes for entry in self.entries)

    @property
    def coded(self) -> bool:
        """Whether some of it has to be decoded."""
        return any(entry.coded is not None for entry in self.entries)

    @property
    def frontier(self) -> list[Stored]:
        """What layer L+1 reads, one by one: the first is copied while the next is allocated."""
        return [entry for entry in self.entries if entry.item.in_frontier]

    @property
    def history(self) -> list[list[Stored]]:
        """The rest, each part copied together: a layer reads all of its KV together, and other storages one by one."""
        behind = [entry for entry in self.entries if not entry.item.in_frontier]
        kv = [entry for entry in behind if entry.item.rank != REST]
        parts = [list(part) for _, part in itertools.groupby(kv, key=lambda entry: entry.item.rank)]
        return parts + [[entry] for entry in behind[len(kv) :]]
