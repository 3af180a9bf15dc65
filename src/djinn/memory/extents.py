"""The extents of the host arena, and the ranges of one moment: free, reserved and set aside. Values; nothing is pinned.

The arena consists of pieces, each of which is pinned by itself. CUDA refuses a copy that crosses from one into the next
("invalid argument", driver 580). So an extent lies within one piece, and free ranges are merged within one. Pieces that
are wholly free can be joined, for an extent that fits into none.

Each extent is a storage of its own, which ends where its bytes end. So no tensor over it reaches another extent. An
extent that is released while a numpy array or a capsule still refers to it is set aside. It is free when they are gone.
"""

import mmap
import sys
import weakref
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

_ALIGNMENT = 512  # bytes; good for the copy engines, and enough for every dtype

Gap = tuple[int, int]  # offset and bytes of a free range, or of a piece


class Extent:
    """A reserved range of the arena, from ``offset``; ``bytes`` is a uint8 tensor of exactly the size asked for.

    ``nbytes`` is rounded up to 512. After the release ``bytes`` is gone.
    """

    __slots__ = ("_held", "_tensor", "nbytes", "offset")

    def __init__(self, memory: mmap.mmap, offset: int, wanted: int) -> None:
        part = memoryview(memory)[offset : offset + wanted]
        self.offset = offset
        self.nbytes = round_up(wanted)
        # Only the storage keeps the memoryview, which therefore dies with the last tensor over these bytes.
        self._held = weakref.ref(part)
        self._tensor: torch.Tensor | None = torch.frombuffer(part, dtype=torch.uint8)

    @property
    def bytes(self) -> torch.Tensor:
        """The reserved bytes: uint8, shape [nbytes asked for]."""
        assert self._tensor is not None, "an extent that was given back was read"
        return self._tensor

    @property
    def memory(self) -> memoryview:
        """The same bytes as a buffer; while somebody has it, the range is not reused."""
        part = self._held()
        assert part is not None, "an extent that was given back was read"
        return part

    @property
    def shared(self) -> bool:
        """Whether somebody else has a tensor over these bytes, an array or the storage."""
        here, alone = _held_by(self.bytes), _held_by(torch.frombuffer(bytearray(1), dtype=torch.uint8))
        return here != alone

    @property
    def held(self) -> bool:
        """Whether a tensor over these bytes exists anywhere."""
        return self._held() is not None

    def drop(self) -> None:
        """Drop the reference to the bytes."""
        self._tensor = None


def _held_by(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata)), sys.getrefcount(storage)


def round_up(nbytes: int) -> int:
    """Return ``nbytes``, rounded up to what an extent takes."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The ranges that tile ``pieces``; those ``aside`` are released and still referenced."""

    pieces: tuple[Gap, ...] = ()
    free: tuple[Gap, ...] = ()
    reserved: frozenset[Extent] = frozenset()
    aside: frozenset[Extent] = frozenset()

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces."""
        return sum(self.pieces[-1]) if self.pieces else 0

    def grown(self, pieces: Iterable[Gap]) -> "Ranges":
        """Add those of ``pieces`` that lie behind these."""
        new = [piece for piece in pieces if piece[0] >= self.nbytes]
        return replace(self, pieces=(*self.pieces, *new), free=(*self.free, *new)) if new else self

    def collected(self) -> "Ranges":
        """Move the extents of ``aside`` that are no longer referenced to the free ranges."""
        let_go = [extent for extent in self.aside if not extent.held]
        return replace(self._freed(let_go), aside=self.aside.difference(let_go)) if let_go else self

    def placed(self, sizes: Sequence[int]) -> tuple[list[int], "Ranges"] | None:
        """Take ``sizes`` (bytes) out of the free ranges; return their offsets and the rest, or None without room."""
        fit = _first_fit(self.free, sizes)
        return (fit[0], replace(self, free=fit[1])) if fit is not None else None

    def hold(self, sizes: Sequence[int]) -> bool:
        """Whether ``sizes`` (bytes) find room, if need be after pieces are joined."""
        return self.placed(sizes) is not None or self.to_join(sizes) is not None

    def emptied(self) -> "Ranges":
        """Return what there would be if everything were free."""
        return replace(self._freed([*self.reserved, *self.aside]), reserved=frozenset(), aside=frozenset())

    def to_join(self, sizes: Sequence[int]) -> Gap | None:
        """Return the range of wholly free pieces to join for ``sizes``, which are not :meth:`placed` without it.

        None if no joining makes room for them.
        """
        free = set(self.free)
        pairs = zip(self.pieces, self.pieces[1:], strict=False)
        joined = merged(self.free, {after[0] for before, after in pairs if not {before, after} <= free})
        fit = _first_fit(joined, sizes)
        if fit is None:
            return None
        found = [(offset, offset + round_up(nbytes)) for offset, nbytes in zip(fit[0], sizes, strict=True)]
        first = next(start for start, end in found if any(start < border < end for border in self._borders))
        gap_end = next(sum(gap) for gap in joined if gap[0] <= first < sum(gap))
        last = max(end for start, end in found if first <= start and end <= gap_end)
        parts = [piece for piece in self.pieces if piece[0] < last and sum(piece) > first]
        return parts[0][0], sum(parts[-1]) - parts[0][0]

    def joined(self, claim: Extent) -> "Ranges | None":
        """Join the pieces under ``claim``, which reserves them; None if one of them is not free any more."""
        one = (claim.offset, claim.nbytes)
        parts = [piece for piece in self.pieces if one[0] <= piece[0] < sum(one)]
        if not set(parts) <= set(self.free):
            return None
        return replace(
            self,
            pieces=tuple(sorted([*(piece for piece in self.pieces if piece not in parts), one])),
            free=tuple(gap for gap in self.free if gap not in parts),
            reserved=self.reserved.union([claim]),
        )

    def _freed(self, extents: Iterable[Extent]) -> "Ranges":
        return replace(self, free=merged([*self.free, *((one.offset, one.nbytes) for one in extents)], self._borders))

    @property
    def _borders(self) -> set[int]:
        return {offset for offset, _ in self.pieces}

    def check_integrity(self) -> None:
        """Assert that the ranges tile the pieces, each within one, and that no two free ones of a piece touch."""
        used = [(extent.offset, extent.nbytes) for extent in (*self.reserved, *self.aside)]
        position = 0
        for offset, nbytes in sorted([*self.free, *used]):
            assert offset == position, f"hole or overlap at {position}: {nbytes} bytes at {offset}"
            assert not any(offset < border < offset + nbytes for border in self._borders), "a range in two pieces"
            position += nbytes
        assert position == self.nbytes
        assert self.free == merged(self.free, self._borders), "free ranges that touch were not merged"


def merged(gaps: Iterable[Gap], borders: Collection[int]) -> tuple[Gap, ...]:
    """Sort ``gaps`` and merge those that touch, except at ``borders``."""
    found: list[Gap] = []
    for offset, nbytes in sorted(gaps):
        if found and sum(found[-1]) == offset and offset not in borders:
            found[-1] = (found[-1][0], found[-1][1] + nbytes)
        else:
            found.append((offset, nbytes))
    return tuple(found)


def _first_fit(free: Sequence[Gap], sizes: Sequence[int]) -> tuple[list[int], tuple[Gap, ...]] | None:
    """Take ``sizes`` out of ``free``, each from the first gap that is large enough; None if one finds none.

    Returns their offsets and the gaps that are left.
    """
    left, offsets = list(free), []
    for wanted in map(round_up, sizes):
        index = next((index for index, (_, room) in enumerate(left) if room >= wanted), None)
        if index is None:
            return None
        offset, room = left[index]
        left[index : index + 1] = [(offset + wanted, room - wanted)] if room > wanted else []
        offsets.append(offset)
    return offsets, tuple(left)
