"""The codec on a GPU: kernels in Triton that do what ``codec.Reference`` does on the host, bit for bit.

They are built when a runtime is made, and nothing is built later. Triton builds a kernel anew for arguments that are
multiples of 16. So all addresses and counts are such multiples, and the window's base is not specialised. Each launch
keeps the interpreter: see ``launching``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from djinn.memory import codec
from djinn.memory.codec import Chunk
from djinn.memory.launching import Launch

_BLOCK = tl.constexpr(codec.BLOCK)
_BITS = tl.constexpr(codec.BITS)
_WINDOW = tl.constexpr(codec.WINDOW)
_WORDS = tl.constexpr(codec.WORDS)
_SHARES = 64  # programs that count the exponents of one range
_COUNTS = 1024  # blocks whose escapes are added at a time


@triton.jit
def _at(address, kind: tl.constexpr):
    """Return the pointer to values of ``kind`` at ``address``."""
    return tl.multiple_of(address.to(tl.int64).to(tl.pointer_type(kind)), 16)


@triton.jit
def _count_exponents(ranges, counts, shares: tl.constexpr):
    """Add the exponents of range ``program_id(0)`` to its 256 ``counts``; its numbers are divided among ``shares``."""
    which = tl.program_id(0)
    numbers = _at(tl.multiple_of(tl.load(_at(ranges, tl.int64) + 2 * which), 16), tl.uint16)
    count = tl.multiple_of(tl.load(_at(ranges, tl.int64) + 2 * which + 1), 16)
    found = tl.zeros([256], dtype=tl.int32)
    bins = tl.arange(0, 256)
    for first in range(tl.program_id(1) * _BLOCK, count, shares * _BLOCK):
        place = first + tl.arange(0, _BLOCK)
        inside = place < count
        exponents = (tl.load(numbers + place, mask=inside, other=0).to(tl.int32) >> 7) & 0xFF
        beyond = _BLOCK - tl.sum(inside.to(tl.int32), 0)  # these were counted as zeros
        found += tl.histogram(exponents, 256) - tl.where(bins == 0, beyond, 0)
    tl.atomic_add(_at(counts, tl.int32) + 256 * which + bins, found)


@triton.jit
def _codes_of(numbers, place, count, base):
    """Return the bits of numbers, and the codes of their exponents; beyond the end they are no escapes."""
    bits = tl.load(_at(numbers, tl.uint16) + place, mask=place < count, other=0).to(tl.int32)
    codes = ((bits >> 7) & 0xFF) - base
    codes = tl.where((codes < 0) | (codes >= _WINDOW), _WINDOW, codes)
    return bits, tl.where(place < count, codes, 0)


@triton.jit(do_not_specialize=["base"])
def _count_escapes(numbers, count, base, counts):
    """Write the number of escapes of block ``program_id(0)``."""
    block = tl.program_id(0)
    _, codes = _codes_of(numbers, block * _BLOCK + tl.arange(0, _BLOCK), count, base)
    tl.store(_at(counts, tl.int32) + block, tl.sum((codes == _WINDOW).to(tl.int32), 0))


@triton.jit(do_not_specialize=["base"])
def _encode(numbers, count, base, counts, signs, codes, begins, outside, step: tl.constexpr):
    """Code block ``program_id(0)``; ``counts`` are the escapes of each block."""
    block = tl.program_id(0)
    place = block * _BLOCK + tl.arange(0, _BLOCK)
    bits, found = _codes_of(numbers, place, count, base)
    tl.store(_at(signs, tl.uint8) + place, (((bits >> 8) & 0x80) | (bits & 0x7F)).to(tl.uint8), mask=place < count)
    groups = tl.reshape(found, [_WORDS, 32])
    lanes = tl.arange(0, 32)[None, :]
    for bit in tl.static_range(_BITS):
        words = tl.sum(((groups >> bit) & 1) << lanes, 1)
        tl.store(_at(codes, tl.int32) + (block * _BITS + bit) * _WORDS + tl.arange(0, _WORDS), words)
    before = 0
    for first in range(0, block, step):
        others = first + tl.arange(0, step)
        before += tl.sum(tl.load(_at(counts, tl.int32) + others, mask=others < block, other=0), 0)
    tl.store(_at(begins, tl.int32) + block, before)
    escaped = (found == _WINDOW).to(tl.int32)
    rank = before + tl.cumsum(escaped, 0) - escaped
    tl.store(_at(outside, tl.uint8) + rank, ((bits >> 7) & 0xFF).to(tl.uint8), mask=escaped == 1)


@triton.jit(do_not_specialize=["base"])
def _decode(numbers, count, base, signs, codes, begins, outside):
    """Decode block ``program_id(0)``."""
    block = tl.program_id(0)
    within = tl.arange(0, _BLOCK)
    place = block * _BLOCK + within
    found = tl.zeros([_BLOCK], dtype=tl.int32)
    for bit in tl.static_range(_BITS):
        words = tl.load(_at(codes, tl.int32) + (block * _BITS + bit) * _WORDS + within // 32)
        found |= ((words >> (within % 32)) & 1) << bit
    escaped = (found == _WINDOW).to(tl.int32)
    rank = tl.load(_at(begins, tl.int32) + block) + tl.cumsum(escaped, 0) - escaped
    others = tl.load(_at(outside, tl.uint8) + rank, mask=escaped == 1, other=0).to(tl.int32)
    exponents = tl.where(escaped == 1, others, found + base)
    rest = tl.load(_at(signs, tl.uint8) + place, mask=place < count, other=0).to(tl.int32)
    bits = ((rest & 0x80) << 8) | (exponents << 7) | (rest & 0x7F)
    tl.store(_at(numbers, tl.uint16) + place, bits.to(tl.uint16), mask=place < count)


class Kernels:
    """The coder of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._count_exponents = _Kernel(device, _count_exponents, shares=_SHARES)
        self._count_escapes = _Kernel(device, _count_escapes)
        self._encode = _Kernel(device, _encode, step=_COUNTS)
        self._decode = _Kernel(device, _decode)

    def histograms(self, ranges: Sequence[tuple[int, int]]) -> torch.Tensor:
        """See :class:`djinn.memory.codec.Coder`."""
        table = torch.tensor(ranges, dtype=torch.int64, device="cpu").view(-1, 2).to(self._device)
        counts = torch.zeros(len(ranges), 256, dtype=torch.int32, device=self._device)
        if ranges:
            lane = torch._C._cuda_getCurrentRawStream(self._device.index)
            self._count_exponents((len(ranges), _SHARES), lane, table.data_ptr(), counts.data_ptr())
        return counts.to("cpu", torch.int64)

    def encode(self, numbers: int, chunk: Chunk, target: int, scratch: int, lane: int) -> None:
        """See :class:`djinn.memory.codec.Coder`."""
        grid, shape = (chunk.blocks, 1), (numbers, chunk.count, chunk.base)
        self._count_escapes(grid, lane, *shape, scratch)
        self._encode(grid, lane, *shape, scratch, *_parts(chunk, target))

    def decode(self, source: int, chunk: Chunk, numbers: int, lane: int) -> None:
        """See :class:`djinn.memory.codec.Coder`."""
        self._decode((chunk.blocks, 1), lane, numbers, chunk.count, chunk.base, *_parts(chunk, source))


def _parts(chunk: Chunk, address: int) -> tuple[int, int, int, int]:
    signs, codes, begins, outside = chunk.offsets
    return address + signs, address + codes, address + begins, address + outside


class _Kernel:
    """A kernel with ``constants`` as its last parameters; it is built at its first call, and later calls launch it."""

    def __init__(self, device: torch.device, function: Any, **constants: int) -> None:
        self._device = device
        self._function = function
        self._constants = constants
        self._launch: Launch | None = None

    def __call__(self, grid: tuple[int, int], lane: int, *args: int) -> None:
        if self._launch is None:
            current = torch.cuda.current_stream(self._device)  # the default one has no handle that torch would take
            own = current if lane == current.cuda_stream else torch.cuda.ExternalStream(lane, self._device)
            with torch.cuda.stream(own):
                self._launch = Launch(self._function[grid](*args, **self._constants, num_warps=8), args)
        else:
            self._launch(grid, lane, *args)
