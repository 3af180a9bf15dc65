"""The cost without a pause: what leads is free of the place in the queue, and the places stand beside it."""

import pytest

from evaluation.analysis.overhead import Overhead
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic

QUEUE = [10.0, 14.0, 14.0, 14.0]  # ms of a session's first to fourth prefill, of a model that nobody watches
COST = 1.01  # of Djinn, at any place


def pair(*, djinn_begins):
    """Two passes of either model, D B B D or B D D B."""
    first = [djinn_begins, not djinn_begins]
    djinn = [COST * QUEUE[2 * number + (not mine)] for number, mine in enumerate(first)]
    bare = [QUEUE[2 * number + mine] for number, mine in enumerate(first)]
    return {"passes": {"djinn_ms": djinn, "bare_ms": bare, "djinn_first": first}, "bit_exact": True}


def cells(pairs):
    return [{"name": name, "pairs": pairs} for name in ("prefill", "decode")]


def rows(path, pairs):
    """The rows of prefills, by who began and the place."""
    recipe = Synthetic(layers=(1,), samples=2, beside={"overhead.json": cells(pairs)})
    found = Results.make(path, recipe).material().rows("overhead", Overhead)
    return {(row.began, row.place): row for row in found if row.name == "prefill"}


def test_the_place_in_the_queue_is_no_cost(tmp_path):
    """Blocks of two mirrored pairs give the true ratio and difference; each place alone does too, six of each."""
    found = rows(tmp_path, [pair(djinn_begins=number % 2 == 0) for number in range(12)])
    assert list(found) == [("", None), ("djinn", None), ("bare", None), *(("", place) for place in (1, 2, 3, 4))]
    assert {row.n for row in found.values()} == {6}
    for (began, place), row in found.items():
        if not began:
            cost = 14.0 if place is None else QUEUE[place - 1]
            assert row.ratio == row.ratio_low == row.ratio_high == pytest.approx(COST)
            assert row.difference_ms == row.difference_low == row.difference_high == pytest.approx(cost / 100, rel=1e-4)
            assert row.bare_ms == cost
    assert found["djinn", None].ratio == pytest.approx(COST * 12 / 14, rel=1e-5)  # it had the quick place
    assert found["bare", None].ratio == pytest.approx(COST * 14 / 12, rel=1e-5)
