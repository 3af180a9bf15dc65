"""Who leaves the device when memory is wanted: pure functions of sizes, ranks and times.

The session that was parked longest ago leaves first, and of a session what is needed last. So its frontier is the last
to go: a session that has lost only its history is still resumed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Idle:
    """A parked session with state on the device: when it parked (any clock), bytes per storage, soonest need first."""

    session: int
    parked_at: float
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """Of ``session``, the storages from index ``keep`` on leave the device."""

    session: int
    keep: int


def evictions(idle: Sequence[Idle], wanted_bytes: int) -> list[Eviction]:
    """The fewest evictions in the order above that free ``wanted_bytes``, or all that is there if it is less."""
    chosen: list[Eviction] = []
    freed = 0
    for candidate in sorted(idle, key=lambda one: (one.parked_at, one.session)):
        keep = len(candidate.sizes)
        while keep and freed < wanted_bytes:
            keep -= 1
            freed += candidate.sizes[keep]
        if keep < len(candidate.sizes):
            chosen.append(Eviction(session=candidate.session, keep=keep))
    return chosen


def over_budget(idle: Sequence[Idle], budget_bytes: int) -> list[Eviction]:
    """What has to leave for the rest to stay within ``budget_bytes``."""
    return evictions(idle, sum(sum(one.sizes) for one in idle) - budget_bytes)
