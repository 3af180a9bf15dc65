"""Phases and their legal moves."""

import itertools

import pytest

from djinn.core import IllegalMove, Phase, move


def test_only_the_listed_moves_are_legal():
    """Every pair of phases either moves or raises with the phases' names; closed is final."""
    legal = set()
    for current, target in itertools.product(Phase, Phase):
        try:
            assert move(current, target) is target
            legal.add((current, target))
        except IllegalMove as error:
            assert current.value in str(error)
            assert target.value in str(error)
    assert (Phase.PAUSED, Phase.IO_WAIT) in legal
    assert (Phase.RUNNING, Phase.IO_WAIT) not in legal
    assert not any(current is Phase.CLOSED for current, _ in legal)
    with pytest.raises(IllegalMove, match="only: nothing"):
        move(Phase.CLOSED, Phase.RUNNING)
