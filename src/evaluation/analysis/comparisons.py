"""Djinn over every hand-written form that is like it: ``pairs.csv``, a row per workload, clock, layer and two forms.

What :mod:`evaluation.analysis.pairs` has compared, as a table. Behind the rows of the layers stands one that pools the
strongest form of each.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from evaluation.analysis.pairs import Compared, Pairing, compared, difference_of, ratio_of
from evaluation.analysis.statistics import ENOUGH, RESAMPLES
from evaluation.records.runs import Run

STRONGEST = "strongest"  # the form in a row that pools the strongest of each layer


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Djinn's ``variant`` over the form ``by_hand`` of the same policy but for the codec, by one clock.

    ``layer`` is None where all layers are pooled. ``strongest``: no other form is quicker there. Ratio and difference
    are medians of ``blocks`` blocks in ``processes`` processes. Their ends are those of an interval of 95 %; below six
    processes there is none, and they are the extremes. Times are in ms. ``floor_ms`` is a raw copy of the frontier, in
    rows of the clock ready. While a session is paused device bytes are in use there, kept bytes of them are meant to
    stay, and host bytes are in host memory. Those of a buffer, on the device, are shared by all sessions.
    """

    run: str
    workload: str
    clock: str
    layer: int | None
    variant: str
    keeps: str
    link: str
    codec: str
    by_hand: str
    strongest: bool
    djinn_ms: float
    by_hand_ms: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    difference_ms: float
    difference_low: float
    difference_high: float
    floor_ms: float | None
    djinn_device_bytes: int | None
    by_hand_device_bytes: int | None
    djinn_kept_bytes: int
    by_hand_kept_bytes: int
    djinn_host_bytes: int
    by_hand_host_bytes: int
    djinn_buffer_bytes: int
    processes: int
    blocks: int

    @property
    def is_range(self) -> bool:
        """Whether the ends are the extremes, of too few processes for an interval."""
        return self.processes < ENOUGH


def comparisons(run: Run, resamples: int = RESAMPLES) -> list[Comparison]:
    """The rows of ``run``; none without pairs."""
    return [row for one in compared(run) for row in _rows(partial(_row, run.name, one.workload, resamples), one)]


def _rows(row: Callable[..., Comparison], one: Compared) -> Iterator[Comparison]:
    for cell, pairings in one.layers:
        for pairing in pairings:
            floors = [floor for of_process in cell.floors.values() for floor in of_process]
            yield row([pairing], strongest=pairing is pairings[0], floors=floors)
    if one.pooled:
        yield row(one.pooled, strongest=True)


def _row(
    run: str,
    workload: str,
    resamples: int,
    pairings: Sequence[Pairing],
    *,
    strongest: bool,
    floors: Sequence[float] = (),
) -> Comparison:
    """Of one layer, or pooled over several."""
    first, several = pairings[0], len(pairings) > 1
    djinn, by_hand = ([getattr(pairing, side) for pairing in pairings] for side in ("djinn", "by_hand"))
    ratio, difference = ratio_of(pairings, resamples), difference_of(pairings, resamples)
    return Comparison(
        run=run,
        workload=workload,
        clock=first.clock.name,
        layer=None if several else first.layer,
        variant=first.djinn.variant,
        keeps=first.djinn.policy.keeps,
        link=first.djinn.policy.link,
        codec=first.djinn.policy.codec,
        by_hand=STRONGEST if several else first.by_hand.variant,
        strongest=strongest,
        djinn_ms=median(value for form in djinn for value in form.values(first.clock)),
        by_hand_ms=median(value for form in by_hand for value in form.values(first.clock)),
        ratio=ratio.median if ratio else None,
        ratio_low=ratio.low if ratio else None,
        ratio_high=ratio.high if ratio else None,
        difference_ms=difference.median,
        difference_low=difference.low,
        difference_high=difference.high,
        floor_ms=median(floors) if floors and first.clock.name == "ready" else None,
        djinn_device_bytes=_most(form.device_bytes for form in djinn),
        by_hand_device_bytes=_most(form.device_bytes for form in by_hand),
        djinn_kept_bytes=max(form.kept_bytes for form in djinn),
        by_hand_kept_bytes=max(form.kept_bytes for form in by_hand),
        djinn_host_bytes=max(form.host_bytes for form in djinn),
        by_hand_host_bytes=max(form.host_bytes for form in by_hand),
        djinn_buffer_bytes=max(form.buffer_bytes for form in djinn),
        processes=len(first.rounds),
        blocks=difference.n,
    )


def _most(sizes: Iterable[int | None]) -> int | None:
    """The largest; None if one is not known."""
    known = list(sizes)
    return None if None in known else max(size for size in known if size is not None)
