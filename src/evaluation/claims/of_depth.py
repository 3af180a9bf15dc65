"""Decides the claims over depth, C1 to C3, from raw values to a judgement.

The rules stand in :mod:`evaluation.claims.rules`. C1 has the samples of one job for each layer. C2 and C3 have the
pairs, in which a process measures all layers. Every interval is a bootstrap from a fixed seed, so that the same records
give the same verdicts. No verdict corrects for the number of claims: each stands for itself.
"""

import numpy as np

from evaluation.analysis.margins import FLAT_WITHIN, LAYERS_FOR_A_LINE, R2_AT_LEAST
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.numerals import significant
from evaluation.analysis.resampling import Groups
from evaluation.analysis.statistics import Estimate, enough, process_median
from evaluation.analysis.trends import Series, trend
from evaluation.claims.claim import Deciding, Figure, Judgement, Place, Undecided, Verdict, printed, too_few, verdict_of
from evaluation.claims.measurements import Measurements


def _check_layers(series: Series) -> None:
    if len(series) < LAYERS_FOR_A_LINE:
        raise Undecided(f"A line through {len(series)} layers says nothing; {LAYERS_FOR_A_LINE} are needed.")


def _shortage(series: Series) -> str:
    """Why its line has no interval."""
    return too_few(next(groups for groups in series.values() if not enough(groups)))


def linear(measured: Measurements, place: Place) -> Judgement:
    """C1: recompute over depth."""
    series = measured.samples_over_depth("recompute", place)
    _check_layers(series)
    fit = trend(series, resamples=measured.resamples)
    figures = {
        "slope": Figure.of(fit.slope, "ms per layer"),
        "intercept": Figure.of(fit.intercept, "ms"),
        "r2": Figure.of(fit.r2, ""),
    }
    deciding = Deciding(figure=figures["r2"], name="R2")
    if fit.slope.ends is None:
        return Judgement(
            verdict=Verdict.UNDECIDED, figures=figures, lead=str(deciding), remark=_shortage(series), deciding=deciding
        )
    return Judgement(
        verdict=verdict_of(
            supported=fit.slope.low > 0 and fit.r2.low >= R2_AT_LEAST,
            # Resampling lowers R2: its upper end alone would refute too soon.
            refuted=fit.slope.high <= 0 or max(fit.r2.value, fit.r2.high) < R2_AT_LEAST,
        ),
        figures=figures,
        lead=str(deciding),
        deciding=deciding,
    )


def flat(method: str, measured: Measurements, place: Place) -> Judgement:
    """C2 and C3: ``method`` over depth; per GB by a clock that waits for all of the state."""
    found = measured.over_depth(method, place)
    assert place.clock is not None
    per_gb = CLOCK[place.clock].waits_for == "state_bytes"
    unit = "ms/GB" if per_gb else "ms"
    if per_gb:
        found = found.per_gigabyte()
    _check_layers(found.series)
    fit = trend(found.series, found.sittings, together=True, resamples=measured.resamples)
    layers = sorted(found.series)
    rise = fit.rise(measured.depth - 1)
    median = _median([group for groups in found.series.values() for group in groups])
    if median == 0:
        raise Undecided(f"The median of {method} is 0 ms, of which there is no share.")
    share = Figure.of(rise.times(100 / median), "%")
    medians = [_median(groups) for groups in found.series.values()]
    apart = max(medians) - min(medians)
    allowed = FLAT_WITHIN * median
    supported = rise.ends is not None and rise.high <= allowed
    remarks = []
    if rise.ends is None:
        remarks.append(_shortage(found.series))
    if per_gb:
        moved = [f"{significant(found.host_bytes[layer] / 1e6)} MB at layer {layer}" for layer in _ends(layers)]
        remarks.append(f"What it copies back: {', '.join(moved)}.")
    elif supported and _rises_somewhere(medians, allowed):
        remarks.append("The line is flat, but a single layer takes longer than one before it by more than the margin.")
    return Judgement(
        verdict=verdict_of(supported=supported, refuted=rise.ends is not None and rise.low > allowed),
        figures={
            "slope": Figure.of(fit.slope, f"{unit} per layer"),
            "rise": Figure.of(rise, unit),
            "median": Figure(value=median, unit=unit),
            "rise_of_median": share,
            "layers_apart": Figure(value=apart, unit=unit),
            **{
                f"layer_{layer}": Figure.of(process_median([found.series[layer]], found.sittings), unit)
                for layer in _ends(layers)
            },
        },
        lead=f"{printed(share)}, {_signed(rise)} {unit}",
        remark=" ".join(remarks),
        deciding=Deciding(figure=share),
    )


def _median(groups: Groups) -> float:
    return float(np.median(np.concatenate([np.asarray(group) for group in groups])))


def _ends(layers: list[int]) -> tuple[int, int]:
    return layers[0], layers[-1]


def _rises_somewhere(medians: list[float], allowed: float) -> bool:
    """Whether some layer takes longer than an earlier one by more than ``allowed``; ``medians`` by depth."""
    return any(later - min(medians[: at + 1]) > allowed for at, later in enumerate(medians))


def _signed(rise: Estimate) -> str:
    """The rise itself, beside its share of the median."""
    return f"{'+' if rise.value > 0 else ''}{significant(rise.value)}"
