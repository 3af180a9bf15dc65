"""Decides the claims over depth and against recompute, C1 to C3 and C5, from raw samples to a judgement.

The rules stand in :mod:`evaluation.claims.decide`. Every interval is a bootstrap from a fixed seed, so that the same
records give the same verdicts. No verdict corrects for the number of claims: each stands for itself.
"""

from collections.abc import Mapping

import numpy as np

from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.numerals import significant
from evaluation.analysis.statistics import ratio_of_medians
from evaluation.analysis.trends import crossover, trend
from evaluation.claims.claim import (
    FLAT_WITHIN,
    LAYERS_FOR_A_LINE,
    R2_AT_LEAST,
    TIMES_FASTER,
    Figure,
    Judgement,
    Undecided,
    printed,
    verdict_of,
)
from evaluation.claims.measurements import Measurements


def _line_needs_layers(measured: Measurements) -> None:
    if len(measured.layers) < LAYERS_FOR_A_LINE:
        raise Undecided(f"A line through {len(measured.layers)} layers says nothing; {LAYERS_FOR_A_LINE} are needed.")


def linear(measured: Measurements, workload: str, clock: str) -> Judgement:
    """C1: recompute over depth."""
    _line_needs_layers(measured)
    fit = trend(measured.series("recompute", workload, clock), resamples=measured.resamples)
    return Judgement(
        verdict=verdict_of(
            supported=fit.slope.low > 0 and fit.r2.low >= R2_AT_LEAST,
            # Resampling lowers R2: its upper end alone would refute too soon.
            refuted=fit.slope.high <= 0 or max(fit.r2.value, fit.r2.high) < R2_AT_LEAST,
        ),
        figures={
            "slope": Figure.of(fit.slope, "ms per layer"),
            "intercept": Figure.of(fit.intercept, "ms"),
            "r2": Figure.of(fit.r2, ""),
        },
        lead=f"R2 {printed(Figure.of(fit.r2, ''))}",
    )


def flat(method: str, measured: Measurements, workload: str, clock: str) -> Judgement:
    """C2 and C3: ``method`` over depth."""
    _line_needs_layers(measured)
    series = measured.series(method, workload, clock)
    fit = trend(series, resamples=measured.resamples)
    rise = fit.rise(measured.run.records[0]["model"]["layers"] - 1)
    medians = {layer: float(np.median(np.concatenate(groups))) for layer, groups in series.items()}
    median = float(np.median(np.concatenate([group for groups in series.values() for group in groups])))
    if median == 0:
        raise Undecided(f"The median of {method} is 0 ms, of which there is no share.")
    allowed = FLAT_WITHIN * median
    share = Figure.of(rise.times(100 / median), "%")
    apart = max(medians.values()) - min(medians.values())
    # Only a clock of the method's own is held to be level. What a pass ends is the sooner, the fewer layers are left.
    falling = CLOCK[clock].waits_for is None
    supported = (falling or -allowed <= rise.low) and rise.high <= allowed
    remarks = []
    state, frontier = (_moved(measured, method, workload, part) for part in ("state", "frontier"))
    if CLOCK[clock].waits_for == "state_bytes":
        remarks.append(f"The state that is back by then: {_ends(state)}.")
    elif method == "djinn" and min(frontier.values()) < (1 - FLAT_WITHIN) * max(frontier.values()):
        remarks.append(f"The frontier that this clock waits for: {_ends(frontier)}.")
    if supported and apart > allowed and not falling:
        remarks.append("The line is flat, but single layers differ by more than the margin: see layers_apart.")
    return Judgement(
        verdict=verdict_of(supported=supported, refuted=rise.low > allowed or (not falling and rise.high < -allowed)),
        figures={
            "slope": Figure.of(fit.slope, "ms per layer"),
            "rise": Figure.of(rise, "ms"),
            "median": Figure(value=median, unit="ms"),
            "rise_of_median": share,
            "layers_apart": Figure(value=apart, unit="ms"),
        },
        lead=printed(share),
        remark=" ".join(remarks),
    )


def _moved(measured: Measurements, method: str, workload: str, part: str) -> dict[int, float]:
    """Megabytes of the state or of its frontier, at the shallowest and the deepest layer."""
    return {
        layer: max(cell[f"{part}_bytes"] for cell in measured.cells(method, workload, layer)) / 1e6
        for layer in (measured.layers[0], measured.layers[-1])
    }


def _ends(megabytes: dict[int, float]) -> str:
    return ", ".join(f"{significant(size)} MB at layer {layer}" for layer, size in megabytes.items())


def faster(measured: Measurements, workload: str, clock: str) -> Judgement:
    """C5: recompute over Djinn, and from which depth on Djinn is ahead."""
    series = {method: measured.series(method, workload, clock) for method in ("recompute", "djinn")}
    deepest = measured.layers[-1]
    recompute, djinn = series["recompute"][deepest], series["djinn"][deepest]
    if min(min(group) for group in djinn) <= 0:
        raise Undecided("Djinn took 0 ms, to which there is no ratio.")
    ratio = ratio_of_medians(recompute, djinn, resamples=measured.resamples)
    crossing, remark = _crossing(series, measured.resamples)
    variants = measured.other_variants("recompute", workload, clock, deepest)
    beside = {
        variant: ratio_of_medians(groups, djinn, resamples=measured.resamples) for variant, groups in variants.items()
    }
    slower = [variant for variant, other in beside.items() if other.low < TIMES_FASTER <= ratio.low]
    if slower:
        remark += f" It would not be supported over recompute's variant {' or '.join(slower)}: see there."
    return Judgement(
        verdict=verdict_of(supported=ratio.low >= TIMES_FASTER, refuted=ratio.high < TIMES_FASTER),
        figures={
            "ratio": Figure.of(ratio, "times"),
            "recompute": Figure(value=float(np.median(np.concatenate(recompute))), unit="ms"),
            "djinn": Figure(value=float(np.median(np.concatenate(djinn))), unit="ms"),
            "layer": Figure(value=deepest, unit=""),
            **crossing,
            **{f"ratio_{variant}": Figure.of(other, "times") for variant, other in beside.items()},
        },
        lead=printed(Figure.of(ratio, "times")),
        remark=remark,
    )


def _crossing(series: Mapping[str, dict[int, list[list[float]]]], resamples: int) -> tuple[dict[str, Figure], str]:
    """Where the lines of recompute and Djinn cross, as a figure or as the sentence that they do not."""
    recompute, djinn = series["recompute"], series["djinn"]
    first, last = min(djinn), max(djinn)
    if first == last:
        return {}, ""
    found = crossover(("recompute", recompute), ("Djinn", djinn), resamples=resamples)
    if found.depth is not None:
        doubt = "" if found.certain else " By its interval it may lie beyond the layers that were measured."
        return {"crossover_layer": Figure.of(found.depth, "layer")}, f"Their lines cross: see crossover_layer.{doubt}"
    if found.lower is None:
        return {}, "No crossover: their lines are one."
    sure = "" if found.certain else ", though not in 95 % of the resamples"
    winner = "recompute" if found.lower == "recompute" else "Djinn"
    return {}, f"No crossover: by their lines {winner} is faster from layer {first} to {last}{sure}."
