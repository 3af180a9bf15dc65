"""Phases and their legal moves."""

import itertools

import pytest

from djinn.core import IllegalMove, Phase, move

# Written down a second time, so that a transition which changes in the runtime is a decision and no slip.
LEGAL = {
    "created": {"running", "closed"},
    "running": {"paused", "finished", "failed"},
    "paused": {"io_wait", "running", "failed"},
    "io_wait": {"running", "failed"},
    "finished": {"closed"},
    "failed": {"closed"},
    "closed": set(),
}


@pytest.mark.parametrize(("current", "target"), list(itertools.product(Phase, Phase)), ids=lambda phase: phase.value)
def test_only_the_listed_moves_are_legal(current, target):
    """Every pair of phases either moves, or raises with the names of both and of what is allowed."""
    if target.value in LEGAL[current.value]:
        assert move(current, target) is target
    else:
        allowed = ", ".join(sorted(LEGAL[current.value])) or "nothing"
        with pytest.raises(
            IllegalMove, match=f"^a session that is {current.value} cannot become {target.value}, only: {allowed}$"
        ):
            move(current, target)
