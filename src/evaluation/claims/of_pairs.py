"""Decides C4, Djinn beside copies by hand, from pairs.

Where either side keeps the frontier on the device the difference decides, elsewhere the ratio. The rules stand in
:mod:`evaluation.claims.rules`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from evaluation.analysis.margins import AS_FAST_UP_TO, NARROW, NARROW_MS, SLOWER_BY_MS
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.pairs import Pairing, Policy, alike, difference_of, ratio_of
from evaluation.analysis.resampling import Groups
from evaluation.analysis.statistics import Interval
from evaluation.claims.claim import Deciding, Figure, Judgement, Place, Undecided, Verdict, at, too_few, verdict_of
from evaluation.claims.measurements import Measurements


@dataclass(frozen=True, kw_only=True)
class Scale:
    """By what is decided: as fast up to ``margin``, faster below ``level``; an interval is ``narrow`` below that."""

    what: str
    unit: str
    level: float
    margin: float
    narrow: float


_RATIO = Scale(what="ratio", unit="ratio", level=1, margin=AS_FAST_UP_TO, narrow=NARROW)
_DIFFERENCE = Scale(what="difference", unit="ms", level=0, margin=SLOWER_BY_MS, narrow=NARROW_MS)


def as_fast(measured: Measurements, place: Place) -> Judgement:
    """C4 in one workload, by one clock, with one policy."""
    pairings = _strongest(measured, place)
    leading = measured.leading(pairings)
    ratios = {layer: ratio_of([pairing], measured.resamples) for layer, pairing in pairings.items()}
    differences = {layer: difference_of([pairing], measured.resamples) for layer, pairing in pairings.items()}
    figures = {
        **_pooled(list(pairings.values()), measured.resamples),
        **_each("ratio", ratios, "ratio"),
        **_each("difference", differences, "ms"),
        **{f"strongest_layer_{layer}": Figure(value=one.by_hand.variant, unit="") for layer, one in pairings.items()},
    }
    processes = pairings[leading].differences
    if place.keeps:
        return _judged(differences, _DIFFERENCE, leading, processes, figures)
    known = {layer: ratio for layer, ratio in ratios.items() if ratio is not None}
    if lacking := sorted(ratios.keys() - known.keys()):
        raise Undecided(f"A hand-written form at layer {lacking[0]} took 0 ms, to which there is no ratio.")
    return _judged(known, _RATIO, leading, processes, figures)


def _strongest(measured: Measurements, place: Place) -> dict[int, Pairing]:
    """Djinn beside the strongest form of its policy at every layer; raises :class:`Undecided` for a gap."""
    assert place.clock is not None
    policy = Policy(keeps=place.keeps) if place.keeps else Policy()
    found = {}
    for layer, cell in measured.paired_cells(place).items():
        measured.had_room(cell)
        pairings = cell.pairings(policy, CLOCK[place.clock])
        if not pairings:
            kept = f"the {place.keeps}" if place.keeps else policy.keeps
            raise Undecided(f"No two forms, of Djinn and by hand, that keep {kept} have this clock at layer {layer}.")
        measured.in_every_round(pairings[0].rounds, layer)
        found[layer] = pairings[0]
    return found


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
    scale: Scale,
    leading: int,
    processes: Groups,
    figures: Mapping[str, Figure],
) -> Judgement:
    """Every layer must hold. Layer ``leading`` stands for all where it says the same, and else the worst."""
    slower = [layer for layer, one in layers.items() if one.low > scale.margin]
    faster = [layer for layer, one in layers.items() if one.high < scale.level]
    fast = [layer for layer, one in layers.items() if one.high <= scale.margin and layer not in faster]
    unclear = [layer for layer in layers if layer not in (*slower, *faster, *fast)]
    # The end of an interval that decides: the lower ones may refute, or else the upper ones must hold.
    worst = max(layers, key=lambda layer: layers[layer].low if slower else layers[layer].high)
    verdict = verdict_of(supported=not slower and not unclear, refuted=bool(slower))
    found = {"Faster": faster, "As fast": fast, "Slower": slower, "Undecided": unclear}
    remark = f"{'; '.join(at(word, where) for word, where in found.items() if where)}."
    alike = next(where for where in (slower, unclear, [*fast, *faster]) if where)
    if any(one.is_range for one in layers.values()):
        verdict, alike, remark = Verdict.UNDECIDED, [leading], too_few(processes)
    elif verdict is Verdict.UNDECIDED:
        remark += _why_unclear({layer: layers[layer] for layer in unclear}, scale)
    shown = leading if leading in alike else worst
    deciding = Deciding(figure=Figure.of(layers[shown], scale.unit), margin=scale.margin)
    return Judgement(
        verdict=verdict,
        figures={
            f"leading_{scale.what}": Figure.of(layers[leading], scale.unit),
            "leading_layer": Figure(value=leading, unit=""),
            f"worst_{scale.what}": Figure.of(layers[worst], scale.unit),
            "worst_layer": Figure(value=worst, unit=""),
            **figures,
        },
        lead=f"{deciding} at L{shown}",
        remark=remark,
        deciding=deciding,
    )


def _why_unclear(layers: Mapping[int, Interval], scale: Scale) -> str:
    """Where more processes would tell, and where the margin is as near as it can be told."""
    narrow = [layer for layer, one in layers.items() if one.high - one.low < scale.narrow]
    wide = [layer for layer in layers if layer not in narrow]
    width = f"{scale.narrow * 100:g} %" if scale.unit == "ratio" else f"{scale.narrow:g} {scale.unit}"
    said = f" {at('Fairly undecided', narrow)}: the interval is narrower than {width}." if narrow else ""
    return said + (f" {at('More processes are needed', wide)}: it is wider than {width}." if wide else "")
