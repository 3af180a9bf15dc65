"""Eviction policy: chooses what leaves the device when memory is needed, by pure functions of sizes and times.

The session that was parked longest ago leaves first. Within a session, the storages that are needed last leave first,
and its frontier leaves last. A session that has lost only its history can still be resumed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvictionCandidate:
    """A parked session with state on the device: its park time (any clock) and its storages' bytes, soonest first."""

    session: int
    parked_at: float
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """An order to swap out the storages of ``session`` from index ``keep`` on."""

    session: int
    keep: int


def evictions(candidates: Sequence[EvictionCandidate], wanted_bytes: int) -> list[Eviction]:
    """Choose the fewest evictions, in the order above, that free ``wanted_bytes``; all if that is not enough."""
    chosen: list[Eviction] = []
    freed = 0
    for candidate in sorted(candidates, key=lambda one: (one.parked_at, one.session)):
        keep = len(candidate.sizes)
        while keep and freed < wanted_bytes:
            keep -= 1
            freed += candidate.sizes[keep]
        if keep < len(candidate.sizes):
            chosen.append(Eviction(session=candidate.session, keep=keep))
    return chosen


def over_budget(candidates: Sequence[EvictionCandidate], budget_bytes: int) -> list[Eviction]:
    """Choose the evictions after which the rest is within ``budget_bytes``."""
    return evictions(candidates, sum(sum(one.sizes) for one in candidates) - budget_bytes)
