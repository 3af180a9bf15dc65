"""Decides C5, recompute beside Djinn, from pairs.

The rules stand in :mod:`evaluation.claims.rules`. From which depth on Djinn is ahead is read from the samples of both,
and decides nothing.
"""

from collections.abc import Mapping

import numpy as np

from evaluation.analysis.margins import TIMES_FASTER
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.pairs import Pairing, Policy
from evaluation.analysis.resampling import Groups
from evaluation.analysis.statistics import Interval, process_median
from evaluation.analysis.trends import crossover
from evaluation.claims.claim import Deciding, Figure, Judgement, Place, Undecided, Verdict, at, too_few, verdict_of
from evaluation.claims.measurements import Measurements


def faster(measured: Measurements, place: Place) -> Judgement:
    """C5 in one workload, by one clock: beside recompute's quickest form, at the last layer and the one before it.

    The one that decides leads. Where both say the same it is the last layer that has a next one, as everywhere.
    """
    found = _at_the_last_layers(measured, place)
    ratios = {layer: _times_faster(pairings[0], measured.resamples) for layer, pairings in found.items()}
    leading = measured.leading(found)
    first = found[leading][0]
    crossing, remark = _crossing(measured, place)
    others = {one.by_hand.variant: _times_faster(one, measured.resamples) for one in found[leading][1:]}
    figures = {
        "ratio": Figure.of(ratios[leading], "times"),
        "recompute": Figure(value=float(np.median(first.by_hand.values(first.clock))), unit="ms"),
        "djinn": Figure(value=float(np.median(first.djinn.values(first.clock))), unit="ms"),
        "layer": Figure(value=leading, unit=""),
        **{f"ratio_layer_{layer}": Figure.of(one, "times") for layer, one in ratios.items()},
        **{f"quickest_layer_{layer}": Figure(value=one[0].by_hand.variant, unit="") for layer, one in found.items()},
        **crossing,
        **{f"ratio_{variant}": Figure.of(one, "times") for variant, one in others.items()},
    }
    below = [layer for layer, one in ratios.items() if one.high < TIMES_FASTER]
    unclear = [layer for layer, one in ratios.items() if one.low < TIMES_FASTER <= one.high]
    verdict = verdict_of(supported=not below and not unclear, refuted=bool(below))
    deciding = below or unclear or list(ratios)
    said = [at(word, where) for word, where in ((f"Below {TIMES_FASTER}", below), ("Undecided", unclear)) if where]
    why = f"{'; '.join(said)}." if said else ""
    if any(one.is_range for one in ratios.values()):
        verdict, deciding, why = Verdict.UNDECIDED, [leading], too_few(first.ratios)
    shown = leading if leading in deciding else deciding[0]
    ratio = Deciding(figure=Figure.of(ratios[shown], "times"), margin=TIMES_FASTER)
    return Judgement(
        verdict=verdict,
        figures=figures,
        lead=f"{ratio} at L{shown}",
        remark=f"{why} {remark}".strip(),
        deciding=ratio,
    )


def _at_the_last_layers(measured: Measurements, place: Place) -> dict[int, list[Pairing]]:
    """Djinn beside recompute's forms, the quickest first, by layer; raises :class:`Undecided` for a gap."""
    assert place.clock is not None
    cells = measured.paired_cells(place)
    found = {}
    for layer in (measured.depth - 1, measured.depth):
        if layer not in cells:
            raise Undecided(f"No pairs at layer {layer}.")
        measured.had_room(cells[layer])
        pairings = cells[layer].pairings(Policy(), CLOCK[place.clock], method="recompute")
        if not pairings:
            raise Undecided(f"No pairs of Djinn and recompute have this clock at layer {layer}.")
        measured.in_every_round(pairings[0].rounds, layer)
        forms = [form for one in pairings for form in (one.djinn, one.by_hand)]
        if any(value == 0 for form in forms for value in form.values(CLOCK[place.clock])):
            raise Undecided(f"A time at layer {layer} is 0 ms, to which there is no ratio.")
        found[layer] = pairings
    return found


def _times_faster(pairing: Pairing, resamples: int) -> Interval:
    """Recompute's time over Djinn's, block by block."""
    inverse = [[1 / ratio for ratio in process] for process in pairing.ratios]
    return process_median([inverse], pairing.sittings, resamples=resamples)


def _crossing(measured: Measurements, place: Place) -> tuple[dict[str, Figure], str]:
    """Where the lines of recompute and Djinn cross, as a figure or as the sentence that they do not."""
    try:
        series = {name: measured.samples_over_depth(name, place) for name in ("recompute", "djinn")}
    except Undecided:
        return {}, ""
    return _of_lines(series, measured.resamples) if len(measured.layers) > 1 else ({}, "")


def _of_lines(series: Mapping[str, dict[int, Groups]], resamples: int) -> tuple[dict[str, Figure], str]:
    layers = sorted(series["djinn"])
    found = crossover(("recompute", series["recompute"]), ("Djinn", series["djinn"]), resamples=resamples)
    if found.depth is not None:
        doubt = " By its interval it may lie beyond the layers that were measured." if found.certain is False else ""
        return {"crossover_layer": Figure.of(found.depth, "layer")}, f"Their lines cross: see crossover_layer.{doubt}"
    if found.lower is None:
        return {}, "No crossover: their lines are one."
    sure = ", though not in 95 % of the resamples" if found.certain is False else ""
    winner = "recompute" if found.lower == "recompute" else "Djinn"
    return {}, f"No crossover: by their lines {winner} is faster from layer {layers[0]} to {layers[-1]}{sure}."
