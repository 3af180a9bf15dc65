"""The clock ready over depth is of the pairs where they have it, and recompute counts in its quickest form."""

import pytest

from tests.evaluation.paired import SyntheticPairs, without_room
from tests.evaluation.paired import pairs_path as pairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, edit


def made(folder, **more):
    recipe = {"layers": (1, 40), "samples": 6, "pairs": SyntheticPairs(rounds=6, layers=(1, 39, 40)), **more}
    return Results.make(folder, Synthetic(**recipe))


@pytest.fixture(scope="module")
def depth(tmp_path_factory):
    """Of a run whose pairs have a layer more than its jobs."""
    return made(tmp_path_factory.mktemp("depth")).depth()


def test_a_line_is_of_one_source(depth):
    """Of the pairs if they have all its layers, as an interval over processes; recompute's, of two layers, is not."""
    djinn = depth.of("activation", "djinn", "default")
    assert [(time.layer, time.median, time.is_range) for time in djinn] == [
        (layer, pytest.approx(0.6), False) for layer in (1, 39, 40)
    ]
    recompute = depth.of("activation", "recompute", "default")
    assert [(time.layer, time.median) for time in recompute] == [(1, pytest.approx(4)), (40, pytest.approx(121))]
    assert [time.median for time in depth.floors("activation")] == pytest.approx([0.5] * 3)


def test_what_only_pairs_have_is_there(depth):
    """By hand with the frontier kept; of two names the first that there is."""
    kept = depth.of("session", "manual_offload", "pinned_kept", "ordered_kept")
    assert [time.median for time in kept] == pytest.approx([0.08] * 3)
    assert depth.of("session", "manual_offload", "nobody") == []


def test_recompute_over_djinn_is_of_its_quickest_form_at_the_last_layer_that_has_a_next(depth):
    """From pairs, with an interval over processes."""
    times = depth.times("activation")
    assert (times.layer, times.variant, times.paired) == (39, "graphed", True)
    assert (times.recompute_ms, times.djinn_ms) == (pytest.approx(79), pytest.approx(0.6))
    assert times.times == pytest.approx(79 / 0.6) == pytest.approx(times.low) == pytest.approx(times.high)


def test_pairs_with_the_layers_of_the_jobs_are_enough(tmp_path):
    """They need no more."""
    depth = made(tmp_path, layers=(1, 39, 40)).depth()
    assert [time.median for time in depth.of("activation", "djinn", "default")] == pytest.approx([0.6] * 3)
    assert [time.is_range for time in depth.floors("activation")] == [False] * 3


def test_without_pairs_the_jobs_say_it(tmp_path):
    """At the deepest layer, by the medians of either; without an interval."""
    times = made(tmp_path, pairs=None).depth().times("session")
    assert (times.layer, times.variant, times.paired, times.low) == (40, "default", False, None)
    assert times.times == pytest.approx(121 / 0.63, rel=1e-3)


def test_a_cell_without_room_leaves_the_jobs(tmp_path):
    """At layer 40 no process had room: the pairs lack a layer of the jobs, whose line is whole."""
    results = made(tmp_path, pairs=SyntheticPairs(layers=(1, 39, 40)))
    for number in (1, 2):
        edit(pairs(results.folder, number), lambda record: without_room(record, "activation", 40))
    results.aggregate()
    depth = results.depth()
    assert [time.median for time in depth.of("activation", "djinn", "default")] == pytest.approx([0.63] * 2, rel=1e-3)
    assert [time.layer for time in depth.floors("activation")] == [1, 40]
    assert depth.times("activation").layer == 39
