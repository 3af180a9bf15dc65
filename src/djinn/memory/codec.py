"""The codec of bfloat16 state: lossless, some 0.7 of the bytes. This is its form, and a reference in plain torch.

A bfloat16 number has a sign, 8 bits of exponent and 7 of mantissa. Sign and mantissa look random, and are kept. The
exponents of a tensor do not: nearly all lie in a window of seven. So a number becomes a byte of sign and mantissa, and
a code of 3 bits: its place in the window, or 7 for an escape. The exponents of the escapes stand in full, in their
order.

A storage is coded in chunks, each with a window of its own. A chunk is coded in blocks of 2048 numbers, which know
where their escapes begin. So blocks are decoded side by side. Its bytes, each part padded to a multiple of 16:

- ``signs``: a byte a number, the sign in its highest bit;
- ``codes``: for each block and each bit of the code, from the lowest on, 64 words of 32 bits (little-endian). Bit i of
  word w is that of number 32 w + i;
- ``begins``: for each block a word of 32 bits, the escapes before it;
- ``escapes``: a byte each.

Memory is named by addresses, as in ``copying``: a tensor over a session's storage would count as somebody who has got
hold of it. The reference works on host memory. The kernels of ``codec_kernels`` do the same on a GPU.
"""

import ctypes
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from djinn.state.tensors import plain_torch

BLOCK = 2048  # numbers
WINDOW = 7  # exponents that have a code of their own
BITS = 3
WORDS = BLOCK // 32  # of each bit of the codes of a block
_CHUNK = 21 << 19  # numbers, at most: the keys of 2150 tokens of a 13B model, so that a decode step's are one chunk
_SLOT = 31 << 19  # bytes of the largest coded chunk: 15.5 MiB
_STEP = 32 * BLOCK  # numbers that the reference works on at a time
_ALIGNMENT = 16  # bytes, of the parts of a chunk
_WORTH = 0.95  # of the bytes; a storage that stays larger is not coded

Part = tuple[int, int]  # offset and bytes within a chunk


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """``count`` numbers of a storage from number ``first`` on, as they are coded.

    Their window of exponents begins at ``base``; ``escapes`` of them lie outside. Where the parts are is computed once,
    at the pause: a RESUME has no time for it.
    """

    first: int
    count: int
    base: int
    escapes: int

    @functools.cached_property
    def blocks(self) -> int:
        """The number of blocks; the last one may be short."""
        return -(-self.count // BLOCK)

    @functools.cached_property
    def signs(self) -> Part:
        """Where signs and mantissas are."""
        return 0, self.count

    @functools.cached_property
    def codes(self) -> Part:
        """Where the codes are."""
        return _behind(self.signs), self.blocks * BITS * WORDS * 4

    @functools.cached_property
    def begins(self) -> Part:
        """Where each block's place among the escapes is."""
        return _behind(self.codes), self.blocks * 4

    @functools.cached_property
    def outside(self) -> Part:
        """Where the exponents of the escapes are."""
        return _behind(self.begins), self.escapes

    @functools.cached_property
    def offsets(self) -> tuple[int, int, int, int]:
        """Where the parts begin."""
        return self.signs[0], self.codes[0], self.begins[0], self.outside[0]

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of the coded chunk."""
        return _behind(self.outside)


@dataclass(frozen=True, kw_only=True)
class Coded:
    """How a storage is coded: its ``chunks``, whose bytes follow one another."""

    chunks: tuple[Chunk, ...]

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of the coded storage."""
        return sum(chunk.nbytes for chunk in self.chunks)

    @functools.cached_property
    def places(self) -> tuple[tuple[Chunk, int], ...]:
        """Each chunk, and where its bytes begin."""
        offsets = itertools.accumulate((chunk.nbytes for chunk in self.chunks), initial=0)
        return tuple(zip(self.chunks, offsets, strict=False))


def _behind(part: Part) -> int:
    return -(-sum(part) // _ALIGNMENT) * _ALIGNMENT


def ranges_of(nbytes: int) -> list[tuple[int, int]]:
    """Divide a storage of ``nbytes`` into as few chunks as may be, of like size: first number and count of each."""
    count = nbytes // 2
    blocks = -(-count // BLOCK)
    parts = max(-(-count // _CHUNK), 1)
    borders = [min(blocks * part // parts * BLOCK, count) for part in range(parts + 1)]
    return [(start, end - start) for start, end in itertools.pairwise(borders)]


def slot_bytes() -> int:
    """Return the bytes of the largest coded chunk."""
    return _SLOT


def largest_chunk() -> int:
    """Return how many numbers the largest chunk has."""
    return _CHUNK


def windows(ranges: Sequence[tuple[int, int]], histograms: torch.Tensor) -> list[Chunk]:
    """Choose a window for each of ``ranges`` from their exponents' ``histograms`` (int, shape [ranges, 256])."""
    within = histograms.unfold(1, WINDOW, 1).sum(-1)  # by the window's first exponent
    most, bases = within.max(dim=1)
    return [
        Chunk(first=first, count=count, base=base, escapes=count - inside)
        for (first, count), base, inside in zip(ranges, bases.tolist(), most.tolist(), strict=True)
    ]


def is_worth_it(coded: Coded) -> bool:
    """Whether a storage becomes smaller to speak of, and each chunk has room in a slot."""
    fits = all(chunk.nbytes <= slot_bytes() for chunk in coded.chunks)
    return fits and coded.nbytes <= _WORTH * 2 * sum(chunk.count for chunk in coded.chunks)


class Coder(Protocol):
    """Codes and decodes chunks at addresses of one device, in the order of ``lane``, its handle there."""

    def histograms(self, ranges: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Count the exponents of ranges of bfloat16 numbers, each an address and a count, in the current lane's order.

        int64, shape [ranges, 256], in host memory.
        """

    def encode(self, numbers: int, chunk: Chunk, target: int, scratch: int, lane: int) -> None:
        """Code the numbers from address ``numbers`` on, the chunk's first, into ``chunk.nbytes`` at ``target``.

        It may write 4 bytes for each block from address ``scratch`` on.
        """

    def decode(self, source: int, chunk: Chunk, numbers: int, lane: int) -> None:
        """Decode the ``chunk.nbytes`` at ``source`` to address ``numbers``, where the chunk's first number goes."""


_PLANES = torch.arange(BITS, dtype=torch.int32, device="cpu").view(1, BITS, 1, 1)
_LANES = torch.arange(32, dtype=torch.int32, device="cpu")


class Reference:
    """The coder of host memory, in plain torch. Slow: some 0.25 GB a second on a core."""

    def histograms(self, ranges: Sequence[tuple[int, int]]) -> torch.Tensor:
        """See :class:`Coder`."""
        counts = torch.zeros(len(ranges), 256, dtype=torch.int64, device="cpu")
        for index, (numbers, count) in enumerate(ranges):
            for first in range(0, count, _STEP):
                bits = _numbers_at(numbers + 2 * first, min(_STEP, count - first))
                counts[index] += _exponents(bits).bincount(minlength=256)
        return counts

    def encode(self, numbers: int, chunk: Chunk, target: int, scratch: int, lane: int = 0) -> None:
        """See :class:`Coder`."""
        signs, codes, begins, outside = _parts_at(target, chunk)
        met = 0
        for first, count, blocks in _steps(chunk):
            bits = _numbers_at(numbers + 2 * first, count)
            exponents = _exponents(bits)
            found = exponents - chunk.base
            escaped = (found < 0) | (found >= WINDOW)
            found[escaped] = WINDOW
            signs[first : first + count] = (bits >> 8) & 0x80 | bits & 0x7F
            codes[blocks] = _packed(found)
            per_block = _in_blocks(escaped.int()).sum(1)
            begins[blocks] = met + per_block.cumsum(0) - per_block
            others = exponents[escaped]
            outside[met : met + len(others)] = others
            met += len(others)

    @plain_torch()  # it may be on a program's thread, or on a caller's
    def decode(self, source: int, chunk: Chunk, numbers: int, lane: int = 0) -> None:
        """See :class:`Coder`."""
        signs, codes, _, outside = _parts_at(source, chunk)
        met = 0
        for first, count, blocks in _steps(chunk):
            found = _unpacked(codes[blocks])[:count]
            escaped = found == WINDOW
            exponents = found + chunk.base
            others = int(escaped.sum())
            exponents[escaped] = outside[met : met + others].int()
            met += others
            rest = signs[first : first + count].int()
            bits = (rest & 0x80) << 8 | exponents << 7 | rest & 0x7F
            _words_at(numbers, (2 * first, 2 * count), torch.int16).copy_(bits)


def _steps(chunk: Chunk) -> Iterator[tuple[int, int, slice]]:
    """Divide a chunk so that what is computed fits a core's cache: first number, count, blocks."""
    for first in range(0, chunk.count, _STEP):
        count = min(_STEP, chunk.count - first)
        yield first, count, slice(first // BLOCK, first // BLOCK + -(-count // BLOCK))


def _parts_at(address: int, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the parts of a coded chunk: signs, codes (a row for each block), begins, and the escapes' exponents."""
    codes = _words_at(address, chunk.codes).view(chunk.blocks, BITS, WORDS)
    signs, outside = (_words_at(address, part, torch.uint8) for part in (chunk.signs, chunk.outside))
    return signs, codes, _words_at(address, chunk.begins), outside


def _words_at(address: int, part: Part, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """Return host memory as a tensor; ``part`` is an offset in it and bytes."""
    offset, nbytes = part
    if not nbytes:
        return torch.empty(0, dtype=dtype, device="cpu")
    return torch.frombuffer((ctypes.c_char * nbytes).from_address(address + offset), dtype=dtype)


def _numbers_at(address: int, count: int) -> torch.Tensor:
    """Return the bits of bfloat16 numbers in host memory, as int32."""
    return _words_at(address, (0, count * 2), torch.int16).int()


def _exponents(bits: torch.Tensor) -> torch.Tensor:
    return (bits >> 7) & 0xFF


def _in_blocks(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes into words, a bit of theirs at a time: int32, shape [blocks, BITS, WORDS]."""
    bits = (_in_blocks(codes).view(-1, 1, WORDS, 32) >> _PLANES) & 1
    return (bits << _LANES).sum(-1, dtype=torch.int32)


def _unpacked(words: torch.Tensor) -> torch.Tensor:
    """Return the codes that :func:`_packed` has packed, and those of the padding."""
    bits = (words.unsqueeze(-1) >> _LANES) & 1
    return (bits << _PLANES).sum(1, dtype=torch.int32).view(-1)


def decode_all(raw: torch.Tensor, coded: Coded, target: int) -> None:
    """Decode ``raw``, the bytes of a storage in host memory (uint8), to the address ``target`` there."""
    reference = Reference()
    for chunk, offset in coded.places:
        reference.decode(raw.data_ptr() + offset, chunk, target + 2 * chunk.first)


def plain(raw: torch.Tensor, coded: Coded) -> torch.Tensor:
    """Return what ``raw`` (uint8, in host memory) is decoded: uint8, in memory of its own."""
    decoded = torch.empty(2 * sum(chunk.count for chunk in coded.chunks), dtype=torch.uint8, device="cpu")
    decode_all(raw, coded, decoded.data_ptr())
    return decoded
