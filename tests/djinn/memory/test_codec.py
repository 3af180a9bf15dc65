"""The codec gives back every bit, whatever the bits are, and its sizes are what it says."""

import ctypes
from dataclasses import replace

import pytest
import torch

from djinn.memory import codec
from djinn.memory.codec import BLOCK, Chunk, Coded, Reference, is_worth_it, ranges_of, windows

ALL = torch.arange(65536, dtype=torch.int32).to(torch.int16)


def bits_of(values):
    return values.to(torch.bfloat16).view(torch.int16)


def address_of(tensor):
    return tensor.untyped_storage().data_ptr()


def planned(bits):
    """How a storage is coded, whether or not it is worth it."""
    ranges = ranges_of(bits.numel() * 2)
    addresses = [(address_of(bits) + 2 * first, count) for first, count in ranges]
    return Coded(chunks=tuple(windows(ranges, Reference().histograms(addresses))))


def there_and_back(bits, coded):
    """Code and decode ``bits``; return what comes back, and the coded bytes. Nothing else is written."""
    coder, around = Reference(), 64
    packed = torch.full((coded.nbytes + around,), 0xA5, dtype=torch.uint8)
    back = torch.full((bits.numel() + around,), 0x5A5A, dtype=torch.int16)
    for chunk, offset in coded.places:
        coder.encode(address_of(bits) + 2 * chunk.first, chunk, address_of(packed) + offset, 0)
        coder.decode(address_of(packed) + offset, chunk, address_of(back) + 2 * chunk.first)
    assert (packed[coded.nbytes :] == 0xA5).all()
    assert (back[bits.numel() :] == 0x5A5A).all()
    return back[: bits.numel()], packed[: coded.nbytes]


NORMAL = bits_of(torch.randn(3 * BLOCK, generator=torch.Generator().manual_seed(1)))
KINDS = {
    "every pattern": ALL,
    "every pattern, shuffled": ALL[torch.randperm(65536, generator=torch.Generator().manual_seed(2))],
    "one constant": torch.full((BLOCK + 5,), 0x3F80, dtype=torch.int16),
    "zeros": torch.zeros(2 * BLOCK, dtype=torch.int16),
    "normal": NORMAL,
    "more than the reference takes at a time": bits_of(torch.randn(codec._STEP + BLOCK + 16)),
    "normal, odd length": NORMAL[: BLOCK + 777].clone(),
    "one number": NORMAL[:1].clone(),
    "escapes only in the last block": torch.cat([NORMAL[:BLOCK], bits_of(torch.full((100,), 1e30))]),
    "infinities, NaN with a payload, denormal": torch.tensor([0x7F80, -128, 0x7FC1, -1, 1, -32767], dtype=torch.int16),
    "each exponent as often": ALL[torch.arange(65536) % 128 == 5].clone(),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("most", [codec._CHUNK, 2 * BLOCK, BLOCK])
def test_every_bit_comes_back(name, most, monkeypatch):
    """Of storages in one chunk and in several."""
    monkeypatch.setattr(codec, "_CHUNK", most)
    bits = KINDS[name]
    coded = planned(bits)
    back, _ = there_and_back(bits, coded)
    assert torch.equal(back, bits)
    assert sum(chunk.count for chunk in coded.chunks) == bits.numel()


@pytest.mark.parametrize("base", [0, 1, 120, 249])
def test_the_window_may_lie_anywhere(base):
    """A window that fits badly costs bytes only; here nearly all are escapes."""
    window = ((ALL.int() >> 7) & 0xFF) - base
    escapes = int(((window < 0) | (window >= codec.WINDOW)).sum())
    coded = Coded(chunks=(Chunk(first=0, count=65536, base=base, escapes=escapes),))
    back, _ = there_and_back(ALL, coded)
    assert torch.equal(back, ALL)


def test_the_form_is_what_the_page_says():
    """Decoded number by number, by the words of the module alone."""
    bits = torch.cat([NORMAL[: BLOCK + 40], bits_of(torch.tensor([1e-30, 1e30, 0.0]))])
    coded = planned(bits)
    (chunk,) = coded.chunks
    packed = bytes(there_and_back(bits, coded)[1].tolist())
    assert len(packed) == chunk.nbytes
    signs, codes, begins, outside = (
        packed[a : a + n] for a, n in (chunk.signs, chunk.codes, chunk.begins, chunk.outside)
    )
    words = memoryview(codes).cast("I")
    starts = memoryview(begins).cast("I")
    escapes_met = [0] * chunk.blocks
    for number in range(chunk.count):
        block, place = divmod(number, BLOCK)
        code = 0
        for bit in range(3):
            word = words[block * 3 * 64 + bit * 64 + place // 32]
            code |= (word >> place % 32 & 1) << bit
        exponent = chunk.base + code
        if code == 7:
            exponent = outside[starts[block] + escapes_met[block]]
            escapes_met[block] += 1
        found = (signs[number] & 0x80) << 8 | exponent << 7 | signs[number] & 0x7F
        assert found == int(bits[number]) & 0xFFFF
    assert sum(escapes_met) == chunk.escapes


def test_what_does_not_become_smaller_is_not_coded():
    """Normally distributed numbers do; those that have each exponent as often do not, nor a part of such."""
    normal = planned(NORMAL)
    assert normal.nbytes < 0.72 * 2 * NORMAL.numel()
    assert is_worth_it(normal)
    assert not is_worth_it(planned(KINDS["each exponent as often"]))
    large = Chunk(first=0, count=codec._CHUNK, base=0, escapes=codec._CHUNK * 4 // 100)
    assert is_worth_it(Coded(chunks=(large,)))
    spoiled = replace(large, escapes=codec._CHUNK * 13 // 100)
    assert spoiled.nbytes > codec.slot_bytes()
    assert not is_worth_it(Coded(chunks=(*[large] * 9, spoiled)))


@pytest.mark.parametrize("nbytes", [2, 4096, 16 << 20, (16 << 20) + 2, 21 << 20, 100_000_002])
def test_chunks_are_of_like_size_and_cover_the_storage(nbytes):
    """They begin at a block's border, and none is larger than there is room for."""
    ranges = ranges_of(nbytes)
    ends = [first + count for first, count in ranges]
    assert [first for first, _ in ranges] == [0, *ends[:-1]]
    assert ends[-1] * 2 == nbytes
    assert all(first % BLOCK == 0 for first, _ in ranges)
    counts = [count for _, count in ranges]
    assert max(counts) <= codec._CHUNK
    assert max(counts) - min(counts) < 2 * BLOCK


def test_the_window_holds_the_most_exponents():
    """Against a search through all windows."""
    counts = _exponents_of(NORMAL)
    best = max(sum(counts[base : base + codec.WINDOW]) for base in range(256 - codec.WINDOW + 1))
    (chunk,) = planned(NORMAL).chunks
    assert NORMAL.numel() - chunk.escapes == best


def _exponents_of(bits):
    counts = [0] * 256
    for value in bits.tolist():
        counts[value >> 7 & 0xFF] += 1
    return counts


def test_memory_that_ends_at_a_page_is_not_left():
    """Coded bytes and numbers that end where the memory ends."""
    bits = NORMAL[: BLOCK + 3].clone()
    coded = planned(bits)
    buffer = ctypes.create_string_buffer(coded.nbytes)
    Reference().encode(address_of(bits), coded.chunks[0], ctypes.addressof(buffer), 0)
    back = torch.empty(bits.numel(), dtype=torch.int16)
    Reference().decode(ctypes.addressof(buffer), coded.chunks[0], address_of(back))
    assert torch.equal(back, bits)
