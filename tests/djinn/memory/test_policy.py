"""Who leaves the device, without one."""

import random

from djinn.memory.policy import Eviction, EvictionCandidate, evictions, over_budget

OLD = EvictionCandidate(session=1, parked_at=10.0, sizes=(5, 20, 30), frontier=1)
NEW = EvictionCandidate(session=2, parked_at=20.0, sizes=(7, 40), frontier=1)


def test_nothing_leaves_when_nothing_is_wanted():
    """No bytes wanted, no eviction; nobody there, none either."""
    assert evictions([OLD, NEW], 0) == []
    assert evictions([], 100) == []


def test_least_recently_used_leaves_first_and_its_frontier_last():
    """Histories leave from the end, who was parked first before the others; then frontiers; no more than is wanted."""
    assert evictions([NEW, OLD], 1) == [Eviction(session=1, keep=2)]
    assert evictions([NEW, OLD], 31) == [Eviction(session=1, keep=1)]
    assert evictions([NEW, OLD], 51) == [Eviction(session=1, keep=1), Eviction(session=2, keep=1)]
    assert evictions([NEW, OLD], 91) == [Eviction(session=1, keep=0), Eviction(session=2, keep=1)]
    assert evictions([NEW, OLD], 96) == [Eviction(session=1, keep=0), Eviction(session=2, keep=0)]


def test_all_leave_if_that_is_not_enough():
    """More than is there cannot be freed: everything that is there leaves."""
    assert evictions([NEW, OLD], 10_000) == [Eviction(session=1, keep=0), Eviction(session=2, keep=0)]


def test_budget_is_kept_and_not_undercut_by_more_than_one_storage():
    """For random sets: what stays fits the budget, and would not if the last evicted storage had stayed."""
    chance = random.Random(5)
    for _ in range(200):
        idle = [
            EvictionCandidate(
                session=index,
                parked_at=chance.random(),
                sizes=tuple(chance.randrange(1, 50) for _ in range(chance.randrange(5))),
            )
            for index in range(chance.randrange(6))
        ]
        budget = chance.randrange(300)
        keep = {eviction.session: eviction.keep for eviction in over_budget(idle, budget)}
        staying = sum(sum(one.sizes[: keep.get(one.session, len(one.sizes))]) for one in idle)
        assert staying <= budget
        if keep:
            youngest = max((one for one in idle if one.session in keep), key=lambda one: (one.parked_at, one.session))
            assert staying + youngest.sizes[keep[youngest.session]] > budget
