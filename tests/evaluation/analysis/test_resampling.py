"""Bootstrap samples of groups against a draw that is written out, value by value."""

import numpy as np
import pytest

from evaluation.analysis.resampling import draw_processes, places, row_medians, taken

GROUPS = [[1.0, 2.0, 3.0], [10.0, 20.0], [100.0]]


def written_out(groups, chosen, generator):
    """For each resample the values of each chosen group, as many as it has, with replacement."""
    longest = max(map(len, groups))
    picks = generator.random((*chosen.shape, longest))
    rows = []
    for row, of_row in zip(chosen, picks, strict=True):
        drawn = []
        for group, of_group in zip(row, of_row, strict=True):
            values = groups[group] if group >= 0 else []
            drawn += [values[int(pick * len(values))] for pick in of_group[: len(values)]]
            drawn += [float("nan")] * (longest - len(values))
        rows.append(drawn)
    return np.array(rows)


@pytest.mark.parametrize(
    ("groups", "sittings"),
    [
        (GROUPS, None),
        (GROUPS, ["one", "one", "two"]),
        ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], None),
        ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], ["one", "two", "two"]),
    ],
)
def test_groups_of_any_sizes(groups, sittings):
    """A short group gives no more than it has, and a sitting with fewer processes no more than those."""
    chosen = draw_processes(len(groups), sittings, 50, np.random.default_rng(1))
    drawn = taken(groups, places([len(group) for group in groups], chosen, np.random.default_rng(2)))
    assert np.array_equal(drawn, written_out(groups, chosen, np.random.default_rng(2)), equal_nan=True)
    assert np.array_equal(row_medians(drawn), np.nanmedian(drawn, axis=1))


def test_single_values_are_drawn_with_their_groups():
    """Nothing is drawn within a group of one: the generator stays as it is."""
    generator = np.random.default_rng(3)
    chosen = np.array([[0, 2], [-1, 1]])
    drawn = taken([[1.0], [2.0], [3.0]], places([1, 1, 1], chosen, generator))
    assert np.array_equal(drawn, [[1.0, 3.0], [float("nan"), 2.0]], equal_nan=True)
    assert generator.random() == np.random.default_rng(3).random()
