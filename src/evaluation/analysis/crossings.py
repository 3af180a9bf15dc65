"""Where recompute and hand-written copies cross: ``sweep.csv``, one row per size of the prompt, variant and layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from evaluation.analysis.statistics import linear_fit, median_interval
from evaluation.records.runs import Json, Run


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The clock ready of one variant at one size and layer, in ms; no numbers where the device had no room.

    ``ci_low`` and ``ci_high`` are empty where fewer than six samples have a range and no interval.
    ``crossover_layer`` is the depth from which recompute takes longer than this variant does on average: where the line
    through the medians of recompute's quickest variant at each layer meets it. It may lie before layer 1. None for
    recompute itself.
    """

    run: str
    batch: int
    tokens: int
    method: str
    variant: str
    layer: int
    ready_ms: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    crossover_layer: float | None


def crossings(run: Run) -> list[Crossing]:
    """The rows of ``run``, in the order in which they were measured."""
    cells = run.beside.get("sweep.json", {"cells": []})["cells"]
    sizes = {(cell["batch"], cell["tokens"]): None for cell in cells}
    return [
        row
        for size in sizes
        for row in _of_size(run, [cell for cell in cells if (cell["batch"], cell["tokens"]) == size])
    ]


def _of_size(run: Run, cells: Sequence[Json]) -> list[Crossing]:
    ready = [
        median_interval([sample["ready_ms"] for sample in cell["samples"]]) if cell["samples"] else None
        for cell in cells
    ]
    points: dict[str, list[tuple[int, float]]] = {}
    line: dict[int, float] = {}  # recompute's least median by layer
    for cell, interval in zip(cells, ready, strict=True):
        if interval is not None:
            layer, median = cell["layer"], interval.median
            points.setdefault(cell["variant"], []).append((layer, median))
            if cell["method"] == "recompute":
                line[layer] = min(median, line.get(layer, median))
    return [
        Crossing(
            run=run.name,
            **{name: cell[name] for name in ("batch", "tokens", "method", "variant", "layer")},
            ready_ms=interval.median if interval else None,
            ci_low=interval.ends[0] if interval else None,
            ci_high=interval.ends[1] if interval else None,
            n=len(cell["samples"]),
            crossover_layer=None
            if cell["method"] == "recompute"
            else _meeting(list(line.items()), points.get(cell["variant"], [])),
        )
        for cell, interval in zip(cells, ready, strict=True)
    ]


def _meeting(line: Sequence[tuple[int, float]], level: Sequence[tuple[int, float]]) -> float | None:
    """Where the line through the points (layer, ms) of ``line`` reaches the mean ms of ``level``."""
    if len({layer for layer, _ in line}) < 2 or not level:
        return None
    fit = linear_fit([layer for layer, _ in line], [ms for _, ms in line])
    return (mean(ms for _, ms in level) - fit.intercept) / fit.slope if fit.slope else None


def quickest(rows: Sequence[Crossing]) -> list[Crossing]:
    """``rows``, all with numbers; of recompute's at one size and layer only that with the least median."""
    least: dict[tuple[int, int, int], Crossing] = {}
    for row in rows:
        if row.method == "recompute":
            place = (row.batch, row.tokens, row.layer)
            least[place] = min(least.get(place, row), row, key=lambda one: one.ready_ms or 0)
    return [row for row in rows if row.method != "recompute" or row in least.values()]


def orders(rows: Sequence[Crossing]) -> str:
    """Who wins at which size, in words: rows of one layer, all with numbers, as ``pinned < recompute at 128 tokens``.

    ``<`` is quicker, ``~`` as quick: the intervals of the two medians overlap, or there are none. Sizes of the same
    order come together. Recompute is its quickest variant.
    """
    rows = quickest(rows)
    sizes: dict[str, list[str]] = {}
    for batch, tokens in sorted({(row.batch, row.tokens) for row in rows}, key=lambda size: (size[0] * size[1], size)):
        mine = [row for row in rows if (row.batch, row.tokens) == (batch, tokens)]
        mine.sort(key=lambda row: row.ready_ms or 0)
        names = [row.method if row.method == "recompute" else row.variant for row in mine]
        order = names[0]
        for before, row, name in zip(mine, mine[1:], names[1:], strict=False):
            apart = None not in (before.ci_high, row.ci_low) and (before.ci_high or 0) < (row.ci_low or 0)
            order += f" {'<' if apart else '~'} {name}"
        sizes.setdefault(order, []).append(str(tokens) if batch == 1 else f"{batch} x {tokens}")
    if len(sizes) == 1:
        return f"{next(iter(sizes))} at every size"
    return "; ".join(f"{order} at {' and '.join(which)} tokens" for order, which in sizes.items())
