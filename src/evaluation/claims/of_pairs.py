"""Decides C4, Djinn beside copies by hand: from pairs, or for a run of the old protocol from its partners.

Where either side keeps the frontier on the device the difference decides, elsewhere the ratio. The rules stand in
:mod:`evaluation.claims.decide`.
"""

from collections.abc import Mapping

from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.pairs import Pairing, Policy, alike, difference_of, ratio_of
from evaluation.analysis.partners import beside_partner
from evaluation.analysis.statistics import CONFIDENCE, Interval, ratio_interval, stratified_median
from evaluation.claims.claim import (
    AS_FAST_UP_TO,
    SLOWER_BY_MS,
    Figure,
    Judgement,
    Place,
    Undecided,
    printed,
    verdict_of,
)
from evaluation.claims.measurements import Measurements


def as_fast(measured: Measurements, place: Place) -> Judgement:
    """C4 in one workload, by one clock, with one policy."""
    if measured.old_protocol:
        return _by_partners(measured, place)
    pairings = _strongest(measured, place)
    ratios = {layer: ratio_of([pairing], measured.resamples) for layer, pairing in pairings.items()}
    differences = {layer: difference_of([pairing], measured.resamples) for layer, pairing in pairings.items()}
    if any(difference.coverage < CONFIDENCE for difference in differences.values()):
        raise Undecided(f"{measured.run.study['pairs']['rounds']} processes give a range and no interval of 95 %.")
    figures = {
        **_pooled(list(pairings.values()), measured.resamples),
        **_each("ratio", ratios, "ratio"),
        **_each("difference", differences, "ms"),
        **{f"strongest_layer_{layer}": Figure(value=one.by_hand.variant, unit="") for layer, one in pairings.items()},
    }
    if place.keeps:
        return _judged(differences, SLOWER_BY_MS, 0, "ms", figures)
    known = {layer: ratio for layer, ratio in ratios.items() if ratio is not None}
    if lacking := sorted(ratios.keys() - known.keys()):
        raise Undecided(f"A hand-written form at layer {lacking[0]} took 0 ms, to which there is no ratio.")
    return _judged(known, AS_FAST_UP_TO, 1, "ratio", figures)


def _strongest(measured: Measurements, place: Place) -> dict[int, Pairing]:
    """Djinn beside the strongest form of its policy at every layer; raises :class:`Undecided` for a gap."""
    assert place.workload is not None
    assert place.clock is not None
    asked = measured.run.study["pairs"]
    there = {record["round"] for record in measured.run.pairs}
    if missing := sorted(set(range(1, asked["rounds"] + 1)) - there):
        raise Undecided(f"No record of the pairs of round {missing[0]}.")
    policy = Policy(keeps=place.keeps) if place.keeps else Policy()
    found = {}
    for layer in sorted(asked["layers"]):
        cell = measured.pair_cell(place.workload, layer)
        pairings = cell.pairings(policy, CLOCK[place.clock]) if cell is not None else []
        if not pairings:
            raise Undecided(f"No form of Djinn and by hand that keep {policy.keeps} have this clock at layer {layer}.")
        if len(pairings[0].rounds) < asked["rounds"]:
            raise Undecided(f"The device had no room for the pairs of every round at layer {layer}.")
        found[layer] = pairings[0]
    return found


def _by_partners(measured: Measurements, place: Place) -> Judgement:
    """By the samples beside which a hand-written offload ran in alternating order."""
    assert place.workload is not None
    assert place.clock is not None
    clock = CLOCK[place.clock]
    if not clock.partners:
        raise Undecided(f"By the old protocol the clock {clock.words} was not measured.")
    ratios: dict[int, Interval] = {}
    strata = []
    for layer in measured.layers:
        pairs = beside_partner(measured.cells("djinn", place.workload, layer), clock)
        if not pairs:
            partners = " or ".join(clock.partners)
            raise Undecided(f"Djinn at layer {layer}, {place.workload}, was not paired with {partners}.")
        if not all(partner for _, partner, _ in pairs):
            raise Undecided(f"A hand-written offload at layer {layer} took 0 ms, to which there is no ratio.")
        groups = [number for _, _, number in pairs]
        ratios[layer] = ratio_interval([pair[:2] for pair in pairs], groups, resamples=measured.resamples)
        rounds = sorted(set(groups))
        strata.append([[own / other for own, other, found in pairs if found == number] for number in rounds])
    pooled = {"pooled_ratio": Figure.of(stratified_median(strata, resamples=measured.resamples), "ratio")}
    return _judged(ratios, AS_FAST_UP_TO, 1, "ratio", {**pooled, **_each("ratio", ratios, "ratio")}, old_protocol=True)


def _each(what: str, intervals: Mapping[int, Interval | None], unit: str) -> dict[str, Figure]:
    return {f"{what}_layer_{layer}": Figure.of(one, unit) for layer, one in intervals.items() if one is not None}


def _pooled(pairings: list[Pairing], resamples: int) -> dict[str, Figure]:
    """The ratio and the difference over all layers, which decide nothing."""
    if not alike(pairings):
        return {}
    ratio = ratio_of(pairings, resamples)
    figures = {"pooled_ratio": Figure.of(ratio, "ratio")} if ratio is not None else {}
    return {**figures, "pooled_difference": Figure.of(difference_of(pairings, resamples), "ms")}


def _judged(
    layers: Mapping[int, Interval],
    margin: float,
    level: float,
    unit: str,
    figures: Mapping[str, Figure],
    *,
    old_protocol: bool = False,
) -> Judgement:
    """As fast at a layer up to ``margin``, faster below ``level``; every layer must hold."""
    slower = [layer for layer, one in layers.items() if one.low > margin]
    faster = [layer for layer, one in layers.items() if one.high < level]
    fast = [layer for layer, one in layers.items() if one.high <= margin and layer not in faster]
    unclear = [layer for layer in layers if layer not in (*slower, *faster, *fast)]
    # The end of an interval that decides: the lower ones may refute, or else the upper ones must hold.
    worst = max(layers, key=lambda layer: layers[layer].low if slower else layers[layer].high)
    decisive = Figure.of(layers[worst], unit)
    found = {"Faster": faster, "As fast": fast, "Slower": slower, "Undecided": unclear}
    what = "ratio" if unit == "ratio" else "difference"
    return Judgement(
        verdict=verdict_of(supported=not slower and not unclear, refuted=bool(slower)),
        figures={f"worst_{what}": decisive, "worst_layer": Figure(value=worst, unit=""), **figures},
        lead=f"{printed(decisive)} at L{worst}",
        remark=f"{'; '.join(_at(word, where) for word, where in found.items() if where)}.",
        old_protocol=old_protocol,
    )


def _at(word: str, layers: list[int]) -> str:
    return f"{word} at layer{'s' if len(layers) > 1 else ''} {', '.join(str(layer) for layer in layers)}"
