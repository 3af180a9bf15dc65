"""Eviction policy: chooses what leaves the device when memory is needed, by pure functions of sizes and times.

Histories leave before frontiers, for a session that has lost only its history is resumed at once. Among either, the
session that was parked longest ago leaves first. Within a session the storages that are needed last leave first.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvictionCandidate:
    """A parked session with state on the device: its park time (any clock) and its storages' bytes, soonest first.

    The first ``frontier`` of them are what it needs to be resumed at once.
    """

    session: int
    parked_at: float
    sizes: tuple[int, ...]
    frontier: int = 0


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """An order to swap out the storages of ``session`` from index ``keep`` on."""

    session: int
    keep: int


def evictions(candidates: Sequence[EvictionCandidate], wanted_bytes: int) -> list[Eviction]:
    """Choose the fewest evictions, in the order above, that free ``wanted_bytes``; all if that is not enough."""
    waiting = sorted(candidates, key=lambda one: (one.parked_at, one.session))
    keeps = {one.session: len(one.sizes) for one in waiting}
    freed = 0
    for spared in (lambda one: one.frontier, lambda one: 0):
        for one in waiting:
            while keeps[one.session] > spared(one) and freed < wanted_bytes:
                keeps[one.session] -= 1
                freed += one.sizes[keeps[one.session]]
    return [
        Eviction(session=one.session, keep=keeps[one.session]) for one in waiting if keeps[one.session] < len(one.sizes)
    ]


def over_budget(candidates: Sequence[EvictionCandidate], budget_bytes: int) -> list[Eviction]:
    """Choose the evictions after which the rest is within ``budget_bytes``."""
    return evictions(candidates, sum(sum(one.sizes) for one in candidates) - budget_bytes)
