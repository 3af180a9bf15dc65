"""The old protocol: Djinn's samples and the hand-written offloads that ran beside each of them, in alternating order.

Older published runs have these partners where newer ones have pairs, :mod:`evaluation.analysis.pairs`. A partner was
chosen for a clock before it was measured, and need not be the strongest form that there is.
"""

from collections.abc import Sequence

from evaluation.analysis.metrics import Clock
from evaluation.records.runs import Json


def partner_ratios(rounds: Sequence[Json], clock: Clock) -> list[list[float]]:
    """Djinn's ``clock`` over its partner's, of each sample of each round; empty lists without a partner.

    ``rounds`` are the cells of one workload, variant and layer. The partner is the first of the clock's that was run.
    Raises ZeroDivisionError if a partner took no time.
    """
    ran = {variant for cell in rounds for sample in cell["samples"] for variant in sample.get("paired") or {}}
    best = next((variant for variant in clock.partners if variant in ran), None)
    return [
        [
            sample[clock.metric] / sample["paired"][best][clock.metric]
            for sample in cell["samples"]
            if sample.get("paired") and clock.metric in sample["paired"].get(best, ())
        ]
        for cell in rounds
    ]
