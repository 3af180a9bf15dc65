"""Bootstrap samples of what was measured in groups: sittings first, then processes of each, then values within each.

Pure functions from numbers and a generator to rows of numbers, one row for each resample;
:mod:`evaluation.analysis.statistics` says what becomes of them, and how many groups an interval needs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.int64]  # processes by their number, a row for each resample
# The values of one thing that was measured in several processes, one sequence for each.
Groups = Sequence[Sequence[float] | Values]
# In which sitting each process ran; None where nobody asked, which is one.
Sittings = Sequence[str | None] | None
TAIL = 0.025  # beyond either end of an interval of 95 %


def percentiles(resampled: Values, tail: float = TAIL) -> tuple[float, float]:
    """The ends of the percentile interval of a bootstrap, with the share ``tail`` beyond either."""
    low, high = np.quantile(resampled, [tail, 1 - tail], method="linear")
    return float(low), float(high)


def resampled_medians(
    groups: Groups, resamples: int, generator: np.random.Generator, chosen: Chosen | None = None
) -> Values:
    """Medians of ``resamples`` bootstrap samples of ``groups``: processes, then values of each.

    ``chosen``: the processes of each, as :func:`draw_processes` gives them, where other groups are drawn with these.
    """
    if chosen is None:
        chosen = draw_processes(len(groups), None, resamples, generator)
    return row_medians(taken(groups, places([len(group) for group in groups], chosen, generator)))


def draw_processes(processes: int, sittings: Sittings, resamples: int, generator: np.random.Generator) -> Chosen:
    """A row of indices of processes for each resample: sittings with replacement, then as many processes as each has.

    -1 stands where a sitting was drawn that has fewer processes than another.
    """
    labels = np.array([str(label) for label in sittings] if sittings else [""] * processes)
    members = [np.flatnonzero(labels == label) for label in dict.fromkeys(labels)]
    if len(members) == 1:
        return generator.integers(processes, size=(resamples, processes))
    drawn = np.full((resamples, len(members), max(map(len, members))), -1)
    which = generator.integers(len(members), size=(resamples, len(members)))
    for number, mine in enumerate(members):
        row, place = np.nonzero(which == number)
        drawn[row, place, : len(mine)] = mine[generator.integers(len(mine), size=(len(row), len(mine)))]
    return drawn.reshape(resamples, -1)


def row_medians(drawn: Values) -> Values:
    """Of each row; NaN stands for nothing."""
    ordered = np.sort(drawn, axis=1)  # NaN last
    there = np.count_nonzero(~np.isnan(drawn), axis=1)
    rows = np.arange(len(drawn))
    return np.asarray((ordered[rows, (there - 1) // 2] + ordered[rows, there // 2]) / 2)


def places(sizes: Sequence[int], chosen: Chosen, generator: np.random.Generator) -> Chosen:
    """For :func:`taken`: which values of groups of such ``sizes`` are drawn, a row for each of ``chosen``.

    Nothing is drawn where a shorter group was chosen for a longer, or none.
    """
    counts = np.array([*sizes, 0])  # the last is what -1 chooses: it has nothing
    longest = int(counts.max())
    if longest == 1:  # nothing is left to draw within a group
        return np.asarray(chosen % len(counts))
    picks = generator.random((*chosen.shape, longest))
    picks *= counts[chosen][..., None]
    index = picks.astype(np.intp)
    index += (chosen % len(counts))[..., None] * longest
    if min(sizes) < longest:
        absent = np.arange(longest) >= counts[chosen][..., None]  # a short group gives no more than it has
        index[absent] = len(sizes) * longest
    return np.asarray(index.reshape(len(chosen), -1))


def taken(groups: Groups, places: Chosen) -> Values:
    """The values of ``groups`` at ``places``; NaN where nothing is drawn."""
    table = np.full((len(groups) + 1, max(map(len, groups))), np.nan)
    for row, group in zip(table, groups, strict=False):
        row[: len(group)] = group
    return np.asarray(table.take(places))
