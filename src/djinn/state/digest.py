"""The 128-bit digest of a tensor's bytes, computed where they are: 26 GB in a fraction of a second on a GPU.

It tells different bytes apart, also the same bytes in another order. It is no defence against bytes that were made to
have a given digest. The same bytes have the same digest on every device.
"""

import torch

_CHUNK_BYTES = 16 << 20  # the intermediate results are twice as large
_FIRST, _SECOND, _THIRD = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB  # odd, below 2**63
_WORD = (1 << 64) - 1


def digest_of(raw: torch.Tensor) -> str:
    """Return the digest of ``raw`` (uint8, shape [nbytes], contiguous) as 32 hexadecimal digits."""
    nbytes = raw.numel()
    whole = nbytes // 8 * 8
    sums = torch.zeros(2, dtype=torch.int64, device=raw.device)
    for start in range(0, whole, _CHUNK_BYTES):
        _add(sums, raw[start : min(start + _CHUNK_BYTES, whole)], start // 8)
    if nbytes > whole:
        rest = torch.zeros(8, dtype=torch.uint8, device=raw.device)
        rest[: nbytes - whole] = raw[whole:]
        _add(sums, rest, whole // 8)
    one, other = sums.tolist()
    return f"{(one + nbytes) & _WORD:016x}{(other ^ nbytes) & _WORD:016x}"


def _add(sums: torch.Tensor, raw: torch.Tensor, start: int) -> None:
    """Add to the two ``sums`` what the 8-byte words in ``raw`` come to, of which the first is number ``start``."""
    words = raw.view(torch.int64) if raw.storage_offset() % 8 == 0 else raw.clone().view(torch.int64)
    places = torch.arange(start, start + words.numel(), device=raw.device).mul_(_FIRST)
    mixed = _mix(places.bitwise_xor_(words))
    sums[0] += mixed.sum()
    sums[1] += _mix(mixed.mul_(_SECOND)).sum()


def _mix(words: torch.Tensor) -> torch.Tensor:
    """Spread each bit of each word over all its bits, in place; products wrap."""
    words.bitwise_xor_(words >> 32).mul_(_SECOND)
    words.bitwise_xor_(words >> 29).mul_(_THIRD)
    return words.bitwise_xor_(words >> 32)
