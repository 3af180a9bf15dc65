"""What a claim is: its statement, its figures and its verdict.

A gap in what was measured raises :class:`Undecided`, which :func:`judged` alone catches: whatever lacks data is
undecided and says why, and never passes. Decides nothing itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from evaluation.analysis.numerals import decimals, significant
from evaluation.analysis.resampling import Groups
from evaluation.analysis.statistics import ENOUGH, Estimate, Interval
from evaluation.claims.rules import Statement


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

    ``range``: the ends are the extremes of too few values for an interval. ``at_least``: a cap ended the count, so that
    the true number may be higher.
    """

    value: float | int | str
    unit: str
    low: float | None = None
    high: float | None = None
    range: bool = False
    at_least: bool = False

    @classmethod
    def of(cls, estimate: Estimate | Interval, unit: str) -> "Figure":
        """An estimate with its interval, or its range, or neither."""
        if isinstance(estimate, Interval):
            ranged = estimate.is_range
            return cls(value=estimate.median, unit=unit, low=estimate.low, high=estimate.high, range=ranged)
        low, high = estimate.ends or (None, None)
        return cls(value=estimate.value, unit=unit, low=low, high=high)


def numerals(figure: Figure, apart_from: float | None = None) -> tuple[str, str, str]:
    """The value and the ends of the interval ("" where there is none), with as many decimals each.

    Three digits of the largest of them, or up to five if that tells the ends apart; four of a ratio. Up to six if that
    tells them from the margin ``apart_from``.
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
    numbers = figure.value, figure.low, figure.high
    if apart_from is not None:
        most = decimals(largest, 6)
        while places < most and any(_looks_like(apart_from, number, places) for number in numbers):
            places += 1
    value, low, high = (f"{number:.{places}f}" for number in numbers)
    return value, low, high


def _looks_like(margin: float, number: float, places: int) -> bool:
    """Whether ``number`` is another one and is printed as the margin is, which would hide on which side it lies."""
    return number != margin and f"{number:.{places}f}" == f"{margin:.{places}f}"


def printed(figure: Figure, apart_from: float | None = None) -> str:
    """The figure as plain text: ``0.829 ms (0.790 to 0.860)``, ``>= 64 sessions``; see :func:`numerals`."""
    value, low, high = numerals(figure, apart_from)
    unit = "" if figure.unit == "ratio" else figure.unit
    text = f"{'>= ' if figure.at_least else ''}{value} {unit}".strip()
    return f"{text} ({'range ' if figure.range else ''}{low} to {high})" if low else text


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """The figure by which a clock's verdict falls; ``name`` stands before it, ``margin`` is what it is told from."""

    figure: Figure
    name: str = ""
    margin: float | None = None

    def __str__(self) -> str:
        """With its interval."""
        return f"{self.name} {printed(self.figure, self.margin)}".strip()

    @property
    def alone(self) -> str:
        """Without its interval, with as many digits."""
        return f"{self.name} {printed(self.figure, self.margin).partition(' (')[0]}".strip()


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with the figures behind it by name; ``lead`` is what a table prints of them, ``remark`` sentences.

    ``deciding`` is the one that decides, where a clock was measured.
    """

    verdict: Verdict
    figures: dict[str, Figure]
    lead: str
    remark: str = ""
    deciding: Deciding | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one verdict is about: a workload, a clock, and what is kept on the device while paused; None: of none."""

    workload: str | None = None
    clock: str | None = None
    keeps: str | None = None

    @property
    def clock_words(self) -> str:
        """The clock as tables print it: ``first kernel, frontier kept``."""
        words = (self.clock or "").replace("_", " ")
        return f"{words}, {self.keeps} kept" if self.keeps else words


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A decided claim."""

    statement: Statement
    place: Place
    judgement: Judgement

    @property
    def id(self) -> str:
        """Its number: C1."""
        return self.statement.id

    @property
    def workload(self) -> str | None:
        """The workload it is decided for."""
        return self.place.workload

    @property
    def clock(self) -> str | None:
        """The clock."""
        return self.place.clock

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


def too_few(groups: Groups) -> str:
    """Why the values of these processes have no interval."""
    if len(groups) > 1:
        return f"{len(groups)} processes give a range and no interval of 95 %: {ENOUGH} are needed."
    return f"{len(groups[0])} samples of one process give a range and no interval of 95 %: {ENOUGH} are needed."


def at(word: str, layers: Sequence[int]) -> str:
    """Where a remark's ``word`` holds: ``Slower at layers 1, 40``."""
    return f"{word} at layer{'s' if len(layers) > 1 else ''} {', '.join(str(layer) for layer in layers)}"


def verdict_of(*, supported: bool, refuted: bool) -> Verdict:
    """Neither is undecided. Both at once would be a rule that contradicts itself."""
    assert not (supported and refuted)
    return Verdict.SUPPORTED if supported else Verdict.REFUTED if refuted else Verdict.UNDECIDED
