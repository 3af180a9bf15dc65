"""What a claim is: its statement, its figures and its verdict, and the margins that were fixed before measuring.

Also how the deciders read a run: every sample of one clock by layer and process. A gap raises :class:`Undecided`,
which :func:`judged` alone catches: whatever lacks data is undecided and says why, and never passes. Decides nothing
itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from evaluation.analysis.numerals import decimals, significant
from evaluation.analysis.statistics import RESAMPLES, Estimate, Interval
from evaluation.records.runs import Json, Run

# The margins, fixed before measuring.
R2_AT_LEAST = 0.99
FLAT_WITHIN = 0.10  # of the median, over the whole depth
AS_FAST_UP_TO = 1.05  # times the hand-written offload
TIMES_FASTER = 20  # than recompute, at the deepest layer
SESSIONS = 50
# Two points are always on a line.
LAYERS_FOR_A_LINE = 3


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A claim as it was fixed before measuring: its words, the rule that decides it, what the memo says of it.

    ``experiment`` is the one of :mod:`evaluation.text.experiments` whose records decide it.
    """

    id: str
    words: str
    rule: str
    memo: str
    experiment: str


class Verdict(StrEnum):
    """What the data say about a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


class Undecided(Exception):
    """What a verdict needs is not there; the message is the reason. Unwinds a decision, see :func:`judged`."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number, in ``unit`` ("" for a word or a bare count), and the ends of its 95 % interval where it has one.

    ``at_least``: nothing ended the count but a cap, so that the true number may be higher.
    """

    value: float | int | str
    unit: str
    low: float | None = None
    high: float | None = None
    at_least: bool = False

    @classmethod
    def of(cls, estimate: Estimate | Interval, unit: str) -> "Figure":
        """An estimate with its interval."""
        value = estimate.median if isinstance(estimate, Interval) else estimate.value
        return cls(value=value, unit=unit, low=estimate.low, high=estimate.high)


def numerals(figure: Figure) -> tuple[str, str, str]:
    """The value and the ends of the interval ("" where there is none), with as many decimals each.

    Three digits of the largest of them, or up to five if that tells the ends apart; four of a ratio.
    """
    if isinstance(figure.value, (int, str)):
        return str(figure.value), "", ""
    if figure.low is None or figure.high is None:
        return significant(figure.value), "", ""
    largest = max(abs(figure.value), abs(figure.low), abs(figure.high))
    width = figure.high - figure.low
    places = decimals(largest)
    if figure.unit == "ratio":
        places = decimals(largest, 4)
    elif width:
        places = max(places, min(decimals(width, 1), decimals(largest, 5)))
    value, low, high = (f"{number:.{places}f}" for number in (figure.value, figure.low, figure.high))
    return value, low, high


def printed(figure: Figure) -> str:
    """The figure as plain text: ``0.829 ms (0.790 to 0.860)``, ``>= 64 sessions``."""
    value, low, high = numerals(figure)
    unit = "" if figure.unit == "ratio" else figure.unit
    text = f"{'>= ' if figure.at_least else ''}{value} {unit}".strip()
    return f"{text} ({low} to {high})" if low else text


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with the figures behind it by name; ``lead`` is what a table prints of them, ``remark`` sentences."""

    verdict: Verdict
    figures: dict[str, Figure]
    lead: str
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A decided claim; ``clock`` and ``workload`` are None where it is of none."""

    statement: Statement
    clock: str | None
    workload: str | None
    judgement: Judgement

    @property
    def id(self) -> str:
        """Its number: C1."""
        return self.statement.id

    @property
    def verdict(self) -> Verdict:
        """Supported, refuted or undecided."""
        return self.judgement.verdict


def judged(decide: Callable[[], Judgement]) -> Judgement:
    """What ``decide`` finds, or undecided with the reason that it raises."""
    try:
        return decide()
    except Undecided as reason:
        return Judgement(verdict=Verdict.UNDECIDED, figures={}, lead="", remark=str(reason))


def verdict_of(*, supported: bool, refuted: bool) -> Verdict:
    """Neither is undecided. Both at once would be a rule that contradicts itself."""
    assert not (supported and refuted)
    return Verdict.SUPPORTED if supported else Verdict.REFUTED if refuted else Verdict.UNDECIDED


# Samples of one cell of a record, and all of them at a layer: one for each process.
Cells = list[Json]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The raw samples of a run, by layer and process; every interval is of ``resamples`` bootstrap samples."""

    run: Run
    resamples: int = RESAMPLES

    @property
    def layers(self) -> list[int]:
        """Breakpoints of the study, the deepest last."""
        return sorted(self.run.study["layers"])

    def workloads(self, *, prefill: bool = False, kv_cache: bool | None = None) -> list[str]:
        """Names of the study's workloads: those that break in the prefill, or that have a KV cache or have none."""
        return [
            one["name"]
            for one in self.run.study["workloads"]
            if not (prefill and one.get("decode_step")) and kv_cache in (None, one["kv_cache"])
        ]

    def cells(self, method: str, workload: str, layer: int) -> Cells:
        """The headline cells of all rounds; raises :class:`Undecided` if one was not measured, or had no room."""
        found = []
        for number in range(1, self.run.study["rounds"] + 1):
            where = f"{method}, layer {layer}, round {number}"
            place = (method, layer, number)
            record = next((r for r in self.run.records if (r["method"], r["layer"], r["round"]) == place), None)
            if record is None:
                raise Undecided(f"No record of {where}.")
            cell = next((c for c in record["cells"] if c["workload"] == workload and c["headline"]), None)
            if cell is None:
                raise Undecided(f"The record of {where}, lacks the workload {workload}.")
            if not cell["samples"]:
                raise Undecided(f"The device had no room for {where}, workload {workload}.")
            found.append(cell)
        return found

    def samples(self, method: str, workload: str, clock: str, layer: int) -> list[list[float]]:
        """Milliseconds of ``clock``, one list for each process; raises as :meth:`cells` does."""
        cells = self.cells(method, workload, layer)
        return [[sample[f"{clock}_ms"] for sample in cell["samples"]] for cell in cells]

    def series(self, method: str, workload: str, clock: str) -> dict[int, list[list[float]]]:
        """The samples of every layer; raises as :meth:`cells` does."""
        return {layer: self.samples(method, workload, clock, layer) for layer in self.layers}

    def other_variants(self, method: str, workload: str, clock: str, layer: int) -> dict[str, list[list[float]]]:
        """The same of the variants that the paper does not lead with, by name; none that lacks the clock."""
        found: dict[str, list[list[float]]] = {}
        for record in self.run.records:
            if (record["method"], record["layer"]) != (method, layer):
                continue
            for cell in record["cells"]:
                times = [sample[f"{clock}_ms"] for sample in cell["samples"]]
                if cell["workload"] == workload and not cell["headline"] and times and None not in times:
                    found.setdefault(cell["variant"], []).append(times)
        return found
