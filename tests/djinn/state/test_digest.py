"""The digest tells bytes apart: each bit, each place, each length; the same in any chunks."""

import pytest
import torch

from djinn.state import digest
from djinn.state.digest import digest_of


def raw(*values):
    return torch.tensor(values, dtype=torch.uint8)


def test_each_bit_counts():
    base = torch.arange(41, dtype=torch.uint8)
    seen = {digest_of(base)}
    for place in range(41):
        for bit in range(8):
            changed = base.clone()
            changed[place] ^= 1 << bit
            seen.add(digest_of(changed))
    assert len(seen) == 1 + 41 * 8


def test_the_length_counts():
    """Zeros at the end are bytes too."""
    assert len({digest_of(torch.zeros(size, dtype=torch.uint8)) for size in range(40)}) == 40


def test_the_order_counts():
    words = torch.randint(256, (64, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    swaps = set()
    for one in range(64):
        for other in range(one):
            order = list(range(64))
            order[one], order[other] = order[other], order[one]
            swaps.add(digest_of(words[order].reshape(-1)))
    assert len(swaps) == 64 * 63 // 2


@pytest.mark.parametrize("nbytes", [0, 7, 4096, 4099])
def test_chunks_make_no_difference(monkeypatch, nbytes):
    content = torch.randint(256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = digest_of(content)
    monkeypatch.setattr(digest, "_CHUNK_BYTES", 64)
    assert digest_of(content) == whole


def test_it_lies_anywhere():
    """Bytes that begin at an odd place have the digest of a copy; the bytes are left as they are."""
    content = torch.arange(100, dtype=torch.uint8)
    before = content.clone()
    assert digest_of(content[3:90]) == digest_of(content[3:90].clone())
    assert torch.equal(content, before)


def test_a_known_value():
    """A file that one version has written is read by the next."""
    assert digest_of(torch.arange(20, dtype=torch.uint8)) == "d4eeafeadc8561f2b2432ed70645f499"
