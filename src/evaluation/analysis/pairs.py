"""Djinn's forms beside the hand-written ones, block by block, as the pairs of a run measured them.

A process runs every form of a workload and layer in a random order and then in the reverse one, which is a block. In it
a form's time is the mean of its two samples, so that what drifts falls on all alike. Djinn is compared with the
hand-written forms that keep the same on the device and whose link is in the same state. Nobody codes by hand, so coded
state is compared with the forms that plain state has. The strongest of these has the smallest median over the run at
that layer. Where a clock waits for all state, one that moves less has an easier task, and comes behind those that move
as much. Recompute's forms, at the last layers, are asked for by their method and never mixed into these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from statistics import fmean, median
from typing import Any

from evaluation.analysis.metrics import CLOCKS, Clock
from evaluation.analysis.statistics import RESAMPLES, Interval, process_median
from evaluation.records.runs import Json, Run

NOTHING, FRONTIER = "nothing", "frontier"
IDLE, ATTENDED = "idle", "attended"
RAW, CODED = "raw", "auto"
_AS_MUCH = 0.999  # of Djinn's bytes, which are whole storages: in a decode step some kilobytes more than the tensors
PLAIN = "plain"  # what a study calls forms that keep nothing and leave the link idle, if it asks for these alone


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a form leaves on the device while it is paused, whether the link is attended meanwhile, and its codec."""

    keeps: str = NOTHING
    link: str = IDLE
    codec: str = RAW

    @property
    def plain(self) -> "Policy":
        """The same without a codec."""
        return replace(self, codec=RAW)


@dataclass(frozen=True, kw_only=True)
class Form:
    """One variant of a method in one workload and layer. Bytes are the most of any process; None: not to be had.

    ``state_bytes`` are all that belongs to the session. While it is paused ``device_bytes`` are in use on the device,
    ``kept_bytes`` of them because they are meant to be; ``host_bytes`` are in host memory. ``buffer_bytes`` of the
    device are shared by all sessions. ``times`` in ms by clock and round, which is a process: a value of each block.
    Only of clocks that all samples have. ``sittings`` by round.
    """

    method: str
    variant: str
    policy: Policy
    state_bytes: int
    device_bytes: int | None
    kept_bytes: int
    host_bytes: int
    buffer_bytes: int
    times: dict[str, dict[int, list[float]]]
    sittings: dict[int, str | None]

    def values(self, clock: Clock) -> list[float]:
        """Of all blocks, in ms; none if it lacks the clock."""
        return [value for values in self.times.get(clock.name, {}).values() for value in values]


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Djinn's form and another method's, ``by_hand``, of the same workload and layer, by one clock."""

    layer: int
    clock: Clock
    djinn: Form
    by_hand: Form

    @property
    def rounds(self) -> list[int]:
        """Those in which both were measured; a process each."""
        mine, theirs = (form.times[self.clock.name] for form in (self.djinn, self.by_hand))
        return sorted(mine.keys() & theirs.keys())

    @property
    def sittings(self) -> list[str | None]:
        """Of each of these."""
        return [self.djinn.sittings[number] for number in self.rounds]

    @cached_property
    def ratios(self) -> list[list[float]]:
        """Djinn's time over the other's, of each block of each round; empty where a time is 0."""
        blocks = self._blocks()
        if any(other == 0 for block in blocks for _, other in block):
            return []
        return [[own / other for own, other in block] for block in blocks]

    @cached_property
    def differences(self) -> list[list[float]]:
        """The same in ms."""
        return [[own - other for own, other in block] for block in self._blocks()]

    def _blocks(self) -> list[list[tuple[float, float]]]:
        mine, theirs = (form.times[self.clock.name] for form in (self.djinn, self.by_hand))
        return [list(zip(mine[number], theirs[number], strict=True)) for number in self.rounds]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All forms of one workload and layer, and raw copies of the frontier's bytes beside them: ms by round."""

    workload: str
    layer: int
    forms: Sequence[Form]
    floors: dict[int, list[float]]

    @property
    def policies(self) -> list[Policy]:
        """Those of Djinn's forms."""
        return [form.policy for form in self.forms if form.method == "djinn"]

    def pairings(self, policy: Policy, clock: Clock, method: str = "manual_offload") -> list[Pairing]:
        """Djinn's form of ``policy`` with each of ``method``, the strongest first; empty without either.

        A hand-written offload has the same policy. Recompute has but one: it keeps nothing, and the link is idle.
        """
        forms = [form for form in self.forms if form.values(clock)]
        djinn = next((form for form in forms if (form.method, form.policy) == ("djinn", policy)), None)
        if djinn is None:
            return []
        same = policy.plain if method == "manual_offload" else Policy()
        rivals = [form for form in forms if (form.method, form.policy) == (method, same)]
        least = (djinn.state_bytes - djinn.kept_bytes) * _AS_MUCH if clock.waits_for == "state_bytes" else 0
        rivals.sort(key=lambda form: (form.host_bytes < least, median(form.values(clock))))
        found = [Pairing(layer=self.layer, clock=clock, djinn=djinn, by_hand=one) for one in rivals]
        return [pairing for pairing in found if pairing.rounds]


def ratio_of(pairings: Sequence[Pairing], resamples: int = RESAMPLES) -> Interval | None:
    """The median ratio, pooled where there are several layers; None if one has no ratios."""
    ratios = [pairing.ratios for pairing in pairings]
    return process_median(ratios, pairings[0].sittings, resamples=resamples) if all(ratios) else None


def difference_of(pairings: Sequence[Pairing], resamples: int = RESAMPLES) -> Interval:
    """The median difference in ms, pooled where there are several layers."""
    differences = [pairing.differences for pairing in pairings]
    return process_median(differences, pairings[0].sittings, resamples=resamples)


def cells(run: Run) -> list[Cell]:
    """What the pairs of ``run`` compared, in the order of its workloads and layers."""
    grouped: dict[tuple[str, int], dict[int, Json]] = {}
    for record in run.pairs:
        for cell in record["cells"]:
            grouped.setdefault((cell["workload"], cell["layer"]), {})[record["round"]] = cell
    names = [workload["name"] for workload in run.study["workloads"]]
    order = sorted(grouped, key=lambda place: (names.index(place[0]), place[1]))
    return [_cell(*place, grouped[place], run.pair_sittings) for place in order]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A form of Djinn in one workload, by one clock: for each layer its cell and the pairings, the strongest first."""

    workload: str
    policy: Policy
    clock: Clock
    layers: Sequence[tuple[Cell, list[Pairing]]]

    @property
    def strongest(self) -> list[Pairing]:
        """With the strongest form of each layer that has one."""
        return [pairings[0] for _, pairings in self.layers if pairings]

    @property
    def pooled(self) -> list[Pairing]:
        """The same to be pooled; empty where a layer is missing, or where other processes measured it."""
        found = self.strongest
        return found if len(found) == len(self.layers) and alike(found) else []


def alike(pairings: Sequence[Pairing]) -> bool:
    """Whether these, of several layers, were measured in the same processes, so that they can be pooled."""
    return len(pairings) > 1 and all(pairing.rounds == pairings[0].rounds for pairing in pairings)


def compared(run: Run) -> Iterator[Compared]:
    """All that the pairs of ``run`` compared."""
    for workload, group in groupby(cells(run), key=lambda cell: cell.workload):
        layers = list(group)
        for policy in dict.fromkeys(policy for cell in layers for policy in cell.policies):
            for clock in CLOCKS:
                pairings = [(cell, cell.pairings(policy, clock)) for cell in layers]
                yield Compared(workload=workload, policy=policy, clock=clock, layers=pairings)


def _cell(workload: str, layer: int, rounds: dict[int, Json], sittings: dict[int, str | None]) -> Cell:
    """``rounds``: the cell of each process; one for which the device had no room has no forms."""
    places: dict[tuple[str, str], dict[int, int]] = {}  # where a form stands in the list of each process
    for number, cell in rounds.items():
        for index, form in enumerate(cell["forms"]):
            places.setdefault((form["method"], form["variant"]), {})[number] = index
    return Cell(
        workload=workload,
        layer=layer,
        forms=[
            _form({number: (rounds[number], index) for number, index in at.items()}, sittings) for at in places.values()
        ],
        floors={
            number: [ms for block in cell["blocks"] for ms in block["floor_ms"]] for number, cell in rounds.items()
        },
    )


def _form(found: dict[int, tuple[Json, int]], sittings: dict[int, str | None]) -> Form:
    """Of each process its cell and the place of the form in it."""
    about = [cell["forms"][index] for cell, index in found.values()]
    used = [one["device_bytes_paused"] for one in about]
    times = {}
    for clock in CLOCKS:
        means = {number: list(_means(cell, index, clock.metric)) for number, (cell, index) in found.items()}
        if not any(None in values for values in means.values()):
            times[clock.name] = means
    return Form(
        **{name: about[0][name] for name in ("method", "variant")},
        policy=policy_of(about[0]),
        state_bytes=max(one["state_bytes"] for one in about),
        device_bytes=None if None in used else max(used),
        kept_bytes=max(one["kept_bytes"] for one in about),
        host_bytes=max(one["host_bytes_paused"] for one in about),
        buffer_bytes=max(one.get("buffer_bytes", 0) for one in about),
        times=times,
        sittings=sittings,
    )


def policy_of(form: Json) -> Policy:
    """That of a form, as a record describes it; older ones do not know coded state."""
    return Policy(keeps=form["keeps"], link=form["link"], codec=form.get("codec", RAW))


def _means(cell: Json, form: int, metric: str) -> Iterator[Any]:
    """The mean of both samples of ``form`` in each block; None where one lacks ``metric``."""
    for block in cell["blocks"]:
        taken = [sample.get(metric) for sample in block["samples"] if sample["form"] == form]
        yield None if None in taken else fmean(taken)
