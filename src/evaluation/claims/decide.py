"""The claims C1 to C8, one entry each: the words, the rule, what the memo says, where it holds, and what decides it.

Rules and margins were fixed before measuring. A claim has one verdict for each clock and workload.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from evaluation.analysis.metrics import CLOCK, CLOCKS, CURRENT
from evaluation.analysis.pairs import FRONTIER
from evaluation.analysis.statistics import RESAMPLES
from evaluation.claims import of_pairs, of_time, of_use
from evaluation.claims.claim import (
    AS_FAST_UP_TO,
    FLAT_WITHIN,
    R2_AT_LEAST,
    SESSIONS,
    SLOWER_BY_MS,
    TIMES_FASTER,
    Claim,
    Judgement,
    Place,
    Statement,
    Undecided,
    judged,
)
from evaluation.claims.measurements import Measurements
from evaluation.records.runs import Run

_NEXT_LAYER = [clock.name for clock in CURRENT if clock.waits_for == "frontier_bytes"]
_RESUMED = [clock.name for clock in CURRENT if clock.waits_for]  # all else is the forward pass's business too
_REPLACED = {clock.successor: clock.name for clock in CLOCKS if clock.successor}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A claim of the paper: where it is decided, and by what.

    ``once``: of the published runs the leading one alone decides it.
    """

    statement: Statement
    places: Callable[[Measurements], Iterable[Place]]
    decider: Callable[[Measurements, Place], Judgement]
    once: bool = False


def _timed(decider: Callable[[Measurements, Place], Judgement]) -> Callable[[Measurements, Place], Judgement]:
    """``decider`` of a workload and a clock, which a functional run does not ask."""

    def decided(measured: Measurements, place: Place) -> Judgement:
        if measured.run.functional:
            raise Undecided("A functional run says nothing about speed.")
        return decider(measured, place)

    return decided


def _by_samples(decider: Callable[[Measurements, str, str], Judgement]) -> Callable[[Measurements, Place], Judgement]:
    """``decider`` of the samples of a workload by a clock; marked where a newer run has another clock in its place."""

    def decided(measured: Measurements, place: Place) -> Judgement:
        assert place.workload is not None
        assert place.clock is not None
        clock = CLOCK[place.clock]
        if not measured.has_clock(clock.name):
            raise Undecided(f"This run has no clock {clock.words}.")
        return replace(decider(measured, place.workload, clock.name), old_protocol=bool(clock.successor))

    return _timed(decided)


def _of_run(decider: Callable[[Run], Judgement]) -> Callable[[Measurements, Place], Judgement]:
    return lambda measured, place: decider(measured.run)


def _each(clocks: list[str], **properties: bool) -> Callable[[Measurements], Iterable[Place]]:
    """``clocks`` of every workload that has ``properties``, as :meth:`Measurements.workloads` takes them."""
    return lambda measured: [
        Place(workload=name, clock=clock) for name in measured.workloads(**properties) for clock in clocks
    ]


def _own_clocks(measured: Measurements) -> Iterable[Place]:
    """The clocks of what is resumed, of every workload; of a prefill also when its logits can be used."""
    prefills = measured.workloads(prefill=True)
    for name in measured.workloads():
        clocks = [clock.name for clock in CURRENT if clock.waits_for or (clock.name == "usable" and name in prefills)]
        yield from (Place(workload=name, clock=clock) for clock in clocks)


def _against_copies(measured: Measurements) -> Iterable[Place]:
    """Every workload by every clock, then the same with the frontier kept on the device, which only pairs compare.

    Without history all of the state is the frontier, and when it is back is told by the clock ready.
    """
    for name in measured.workloads():
        clocks = _clocks_of(measured, name)
        if name not in measured.workloads(kv_cache=True):
            clocks.remove("resident")
        for keeps in [None] if measured.old_protocol else [None, FRONTIER]:
            yield from (Place(workload=name, clock=clock, keeps=keeps) for clock in clocks)


def _against_recompute(measured: Measurements) -> Iterable[Place]:
    """Every workload by every clock; an older run's in the place of what it lacks."""
    for name in measured.workloads():
        for clock in _clocks_of(measured, name):
            old = _REPLACED.get(clock, clock)
            only_old = measured.has_clock(old) and not measured.has_clock(clock)
            yield Place(workload=name, clock=old if only_old else clock)


def _clocks_of(measured: Measurements, workload: str) -> list[str]:
    history = workload in measured.workloads(kv_cache=True)
    return [clock.name for clock in CURRENT if history or not clock.of_history]


def _with_history(measured: Measurements) -> Iterable[Place]:
    """The first workload with a KV cache, or the first: what the memory wall and the edits were measured with."""
    study = measured.run.study["workloads"]
    yield Place(workload=next((one["name"] for one in study if one["kv_cache"]), study[0]["name"]))


_FLAT = (
    f"flat if the 95 % interval of slope x (N - 1) lies within {FLAT_WITHIN * 100:g} % of the median over all layers; "
    "refuted if it lies wholly outside"
)
_FALLING = ". Usable ends a pass, which is the shorter the deeper it starts: there falling is flat"

PLAN = (
    Entry(
        statement=Statement(
            id="C1",
            words="Recompute grows linearly with depth",
            rule="a line goes through the medians of the layers. It counts as linear if the 95 % interval of its slope "
            f"is above 0 and that of R2 is not below {R2_AT_LEAST}. Refuted if the slope's interval is not above 0 at "
            f"all, or if R2 and its interval are below {R2_AT_LEAST}",
            memo="a diagonal line from 5 ms at layer 1 to 800 ms at layer 40",
            experiment="E1",
        ),
        places=_each(_NEXT_LAYER, prefill=True),
        decider=_by_samples(of_time.linear),
    ),
    Entry(
        statement=Statement(
            id="C2",
            words="Manual offload of the activation is flat in depth",
            rule=_FLAT,
            memo="a flat line at 30 to 50 ms",
            experiment="E1",
        ),
        places=_each(_NEXT_LAYER, kv_cache=False),
        decider=_by_samples(partial(of_time.flat, "manual_offload")),
    ),
    Entry(
        statement=Statement(
            id="C3",
            words="Djinn is O(1) in depth",
            rule=_FLAT + _FALLING,
            memo="a flat line at about 40 ms: O(1) resume latency",
            experiment="E1",
        ),
        places=_own_clocks,
        decider=_by_samples(partial(of_time.flat, "djinn")),
    ),
    Entry(
        statement=Statement(
            id="C4",
            words="Djinn is as fast as the strongest hand-written offload, or faster",
            rule="paired ratio to the form by hand that keeps the same and is the quickest by the clock, same process, "
            "mirrored order: as fast if the upper end of its 95 % interval is at most "
            f"{AS_FAST_UP_TO}, faster if below 1. Every layer must hold; refuted if at any layer the lower end is "
            f"above {AS_FAST_UP_TO}. Where the frontier is kept on the device the difference decides, in the same way: "
            f"at most {SLOWER_BY_MS} ms. The worst layer is the one whose interval decides; what is pooled over all "
            "layers is stated beside it, and decides nothing. By the old protocol the ratio is to one hand-written "
            "offload beside each sample, in alternating order",
            memo="overlapping (or slightly below) manual offload",
            experiment="E1",
        ),
        places=_against_copies,
        decider=_timed(of_pairs.as_fast),
    ),
    Entry(
        statement=Statement(
            id="C5",
            words=f"Djinn is at least {TIMES_FASTER} times faster than recompute at the deepest layer",
            rule=f"recompute's median over Djinn's: the lower end of its 95 % interval is at least {TIMES_FASTER}; "
            f"refuted if the upper end is below {TIMES_FASTER}",
            memo="20 times faster for deep-layer debugging",
            experiment="E1",
        ),
        places=_against_recompute,
        decider=_by_samples(of_time.faster),
    ),
    Entry(
        statement=Statement(
            id="C6",
            words=f"Djinn holds {SESSIONS} or more paused sessions where vanilla PyTorch, weights shared, stops at "
            "fewer",
            rule=f"Djinn paused {SESSIONS} sessions or more and resumed all of them in every bit; vanilla with shared "
            f"weights was refused by the device below {SESSIONS}",
            memo="Djinn 50+, vanilla 3 (crash)",
            experiment="E2",
        ),
        places=_with_history,
        decider=_of_run(of_use.sessions),
        once=True,
    ),
    Entry(
        statement=Statement(
            id="C7",
            words="Paused state can be edited; recompute loses the edit unless the program replays it",
            rule="an edit of the paused hidden states gives the logits of an independent oracle in every bit under "
            "vanilla, manual offload and Djinn. Under recompute it is lost, and is there in every bit if the program "
            "replays it",
            memo="vanilla, manual offload and Djinn: yes; recompute: no (impossible)",
            experiment="E3",
        ),
        places=_with_history,
        decider=_of_run(of_use.edits),
        once=True,
    ),
    Entry(
        statement=Statement(
            id="C8",
            words="No change to the user's model code",
            rule="every definition of vanilla's example program stands unchanged in Djinn's, save the one function "
            "that asks for the pause. The lines that differ are counted by the tool, Djinn's own calls included",
            memo="without the user writing code (transparent)",
            experiment="E3",
        ),
        places=lambda measured: [Place()],
        decider=_of_run(of_use.lines),
        once=True,
    ),
)


OF_EVERY_RUN = tuple(entry for entry in PLAN if not entry.once)


def decide(run: Run, plan: Sequence[Entry] = PLAN, *, resamples: int = RESAMPLES) -> list[Claim]:
    """Every claim of ``plan``, in its order, then by workload, then clock, in the order of the study."""
    measured = Measurements(run=run, resamples=resamples)
    claims = []
    for entry in plan:
        places = list(entry.places(measured))
        for place in places or [Place()]:
            decider = partial(entry.decider, measured, place) if places else _no_such_workload
            claims.append(Claim(statement=entry.statement, place=place, judgement=judged(decider)))
    return claims


def _no_such_workload() -> Judgement:
    raise Undecided("The study has no workload that this claim is about.")
