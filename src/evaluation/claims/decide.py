"""The claims C1 to C8, one entry each: where each holds and what decides it. A claim has one verdict for each clock and
workload. Words, rules and margins are in :mod:`evaluation.claims.rules`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from evaluation.analysis.metrics import CLOCKS
from evaluation.analysis.pairs import FRONTIER, PLAIN
from evaluation.analysis.statistics import RESAMPLES
from evaluation.claims import of_depth, of_pairs, of_recompute, of_use
from evaluation.claims.claim import Claim, Judgement, Place, Undecided, judged
from evaluation.claims.measurements import Measurements
from evaluation.claims.rules import STATEMENTS, Statement
from evaluation.records.runs import Run

_NEXT_LAYER = [clock.name for clock in CLOCKS if clock.waits_for == "frontier_bytes"]


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


def _of_run(decider: Callable[[Run], Judgement]) -> Callable[[Measurements, Place], Judgement]:
    return lambda measured, place: decider(measured.run)


def _each(clocks: list[str], **properties: bool) -> Callable[[Measurements], Iterable[Place]]:
    """``clocks`` of every workload that has ``properties``, as :meth:`Measurements.workloads` takes them."""
    return lambda measured: [
        Place(workload=name, clock=clock) for name in measured.workloads(**properties) for clock in clocks
    ]


def _own_clocks(measured: Measurements) -> Iterable[Place]:
    """Those of a prefill until its logits can be used, and when all state is back where there is history."""
    prefills, with_history = measured.workloads(prefill=True), measured.workloads(kv_cache=True)
    for name in measured.workloads():
        clocks = [*_NEXT_LAYER, "usable"] if name in prefills else []
        clocks += ["resident"] if name in with_history else []
        yield from (Place(workload=name, clock=clock) for clock in clocks)


def _against_copies(measured: Measurements) -> Iterable[Place]:
    """Every workload by every clock, then the same with the frontier kept on the device, if the study asks for that.

    Without history all of the state is the frontier, and when it is back is told by the clock ready.
    """
    kept = (None,) if measured.run.study.get("pairs", {}).get("forms") == PLAIN else (None, FRONTIER)
    for name in measured.workloads():
        clocks = _clocks_of(measured, name)
        if name not in measured.workloads(kv_cache=True):
            clocks.remove("resident")
        for keeps in kept:
            yield from (Place(workload=name, clock=clock, keeps=keeps) for clock in clocks)


def _against_recompute(measured: Measurements) -> Iterable[Place]:
    """Every workload by every clock."""
    return [Place(workload=name, clock=clock) for name in measured.workloads() for clock in _clocks_of(measured, name)]


def _clocks_of(measured: Measurements, workload: str) -> list[str]:
    history = workload in measured.workloads(kv_cache=True)
    return [clock.name for clock in CLOCKS if history or not clock.of_history]


def _with_history(measured: Measurements) -> Iterable[Place]:
    """The first workload with a KV cache, or the first: what the memory wall and the edits were measured with."""
    study = measured.run.study["workloads"]
    yield Place(workload=next((one["name"] for one in study if one["kv_cache"]), study[0]["name"]))


def _entry(
    name: str,
    places: Callable[[Measurements], Iterable[Place]],
    decider: Callable[[Measurements, Place], Judgement],
    *,
    once: bool = False,
) -> Entry:
    return Entry(statement=STATEMENTS[name], places=places, decider=decider, once=once)


PLAN = (
    _entry("C1", _each(_NEXT_LAYER, prefill=True), _timed(of_depth.linear)),
    _entry("C2", _each(_NEXT_LAYER, kv_cache=False), _timed(partial(of_depth.flat, "manual_offload"))),
    _entry("C3", _own_clocks, _timed(partial(of_depth.flat, "djinn"))),
    _entry("C4", _against_copies, _timed(of_pairs.as_fast)),
    _entry("C5", _against_recompute, _timed(of_recompute.faster)),
    _entry("C6", _with_history, _of_run(of_use.sessions), once=True),
    _entry("C7", _with_history, _of_run(of_use.edits), once=True),
    _entry("C8", lambda measured: [Place()], _of_run(of_use.lines), once=True),
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
