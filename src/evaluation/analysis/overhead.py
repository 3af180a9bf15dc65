"""What Djinn costs where nothing is paused: ``overhead.csv``, ratios and differences to the bare model.

Two neighbouring pairs of a record are mirror images and make a block, in which each model has each place in the queue
once. What leads is of blocks. Beside it stand, as a check of the order, the pairs that either model began, and each
place by itself. Intervals are rank intervals over the pairs or blocks of one process; of fewer than six they are the
range.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from evaluation.analysis.statistics import median_interval
from evaluation.records.runs import Json, Run

Sides = tuple[Sequence[float], Sequence[float]]  # milliseconds under Djinn and of the bare model, to be compared


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """One program, ``prefill`` or ``decode``, under Djinn over the bare model, and less that in ms.

    Medians of ``n`` with their 95 % intervals. ``began`` and ``place`` are empty for all passes; ``began`` is the model
    that began, djinn or bare, ``place`` a place in a session's queue, from 1.
    """

    run: str
    name: str
    began: str
    place: int | None
    ratio: float
    ratio_low: float
    ratio_high: float
    difference_ms: float
    difference_low: float
    difference_high: float
    bare_ms: float
    n: int


def overheads(run: Run) -> list[Overhead]:
    """The rows of ``run``, of the raw passes."""
    return [
        row
        for cell in run.beside.get("overhead.json", {"cells": []})["cells"]
        for row in _of_cell({"run": run.name, "name": cell["name"]}, [pair["passes"] for pair in cell["pairs"]])
    ]


def _of_cell(about: Json, pairs: Sequence[Json]) -> Iterator[Overhead]:
    sides: list[Sides] = [(pair["djinn_ms"], pair["bare_ms"]) for pair in pairs]
    blocks = list(zip(pairs[::2], pairs[1::2], strict=True))
    yield _row(about, "", None, [(a["djinn_ms"] + b["djinn_ms"], a["bare_ms"] + b["bare_ms"]) for a, b in blocks])
    for began, first in (("djinn", True), ("bare", False)):
        mine = [side for side, pair in zip(sides, pairs, strict=True) if pair["djinn_first"][0] is first]
        yield _row(about, began, None, mine)
    for place in range(2 * len(pairs[0]["djinn_first"])):
        yield _row(about, "", place + 1, [_at(place, block) for block in blocks])


def _at(place: int, block: Sequence[Json]) -> Sides:
    """The pass of either model that had ``place`` in the queue, from 0: one is of either pair."""
    number, second = divmod(place, 2)
    djinn, bare = sorted(block, key=lambda pair: pair["djinn_first"][number] is bool(second))
    return [djinn["djinn_ms"][number]], [bare["bare_ms"][number]]


def _row(about: Json, began: str, place: int | None, sides: Sequence[Sides]) -> Overhead:
    medians = [(median(djinn), median(bare)) for djinn, bare in sides]
    ratio = median_interval([djinn / bare for djinn, bare in medians])
    difference = median_interval([djinn - bare for djinn, bare in medians])
    more: dict[str, Any] = {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
    more |= {"difference_ms": difference.median, "difference_low": difference.low, "difference_high": difference.high}
    bare_ms = median(bare for _, bare in medians)
    return Overhead(**about, began=began, place=place, **more, bare_ms=bare_ms, n=len(medians))
