"""Runs whose claims are known, and what was decided of them, for the tests of all that decides or tells of claims."""

from dataclasses import replace

from evaluation.claims.decide import PLAN, decide
from evaluation.records.runs import load_run
from evaluation.study.program_lines import example, state_lines
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.paired import ready_ms as ready_in_pairs
from tests.evaluation.synthetic import Synthetic, probe, ready_ms, wall

FEW = 500  # resamples, where no end of an interval is looked at
LINES = state_lines(example("djinn").read_text(), example("vanilla").read_text())
BESIDE = {
    "capacity/vanilla.json": [
        wall("own_process", 2, "device_oom", headline=False),
        wall("default", 25, "device_oom", headline=True),
    ],
    "capacity/djinn.json": [wall("default", 64, "cap", headline=True)],
    "capabilities/vanilla.json": [probe("default", True, True, 0, [0.1], headline=True)],
    "capabilities/recompute.json": [
        probe("default", False, False, 6, [58], headline=True),
        probe("replay", True, True, 10, [58], headline=False),
    ],
    "capabilities/manual_offload.json": [probe("pinned", True, True, 33, [16], headline=True)],
    "capabilities/djinn.json": [probe("default", True, True, LINES, [0.6], headline=True)],
}


def level(which):
    """Every form as quick as any other of its policy by all clocks, also where it waits for nothing; not recompute."""
    if which.method == "recompute":
        return {}
    base = ready_in_pairs(replace(which, variant="any"))
    return {"first_kernel_ms": base + 0.5, "usable_ms": base + 2, "resident_ms": base + 28}


def ready_at_once(which):
    """What is left of a rerun of 40 layers does not matter: it takes a second."""
    return 1000.0 if which.method == "recompute" else ready_in_pairs(which)


PAIRS = SyntheticPairs(rounds=6, layers=(1, 39, 40), ready=ready_at_once, times=level)
GOOD = Synthetic(samples=6, beside=BESIDE, pairs=PAIRS)
SMALL = replace(GOOD, layers=(1, 20, 40), samples=2, pairs=SyntheticPairs())
ALONE = replace(GOOD, pairs=None)  # a study that does not ask for them


def entries(*names):
    """The entries of the plan with these numbers."""
    return [entry for entry in PLAN if entry.statement.id in names]


def decided(folder, recipe=GOOD, change=None, plan=PLAN):
    """The claims of a run by id, workload and clock, and what is kept if so, after ``change`` to its folder."""
    recipe.write(folder)
    if change is not None:
        change(folder)
    claims = decide(load_run(folder), plan, resamples=FEW)
    found = {}
    for claim in claims:
        kept = [claim.place.keeps] if claim.place.keeps else []
        found[claim.id, claim.workload, claim.clock, *kept] = claim
    assert len(found) == len(claims)
    return found


def verdicts(found, *names):
    """The verdicts of one claim, or of several, without what they are about."""
    return {str(claim.verdict) for key, claim in found.items() if key[0] in names}


def others_stand(found, *names):
    """Whether all other claims are supported."""
    return verdicts(found, *({key[0] for key in found} - set(names))) == {"supported"}


def with_ready(change, good=GOOD):
    """A recipe in which ``change(method, variant, workload, layer)`` is the median where it is not None."""

    def ready(method, variant, workload, layer, functional):
        value = change(method, variant, workload, layer)
        return ready_ms(method, variant, workload, layer, functional) if value is None else value

    return replace(good, ready=ready)


def taking(method, line, good=GOOD):
    """A recipe in which ``method`` takes ``line(layer)`` ms until ready."""
    return with_ready(lambda name, variant, workload, layer: line(layer) if name == method else None, good)


def paired(change, **about):
    """A recipe with pairs in which ``change(which)`` is the clock ready of a form where it is not None."""

    def ready(which):
        value = change(which)
        return ready_at_once(which) if value is None else value

    return replace(GOOD, pairs=replace(PAIRS, ready=ready, **about))


def beside(**changes):
    """A small recipe with other cells, for what no clock decides: ``capacity_djinn=[...]``, None for no record."""
    cells = {**BESIDE, **{f"{name.replace('_', '/', 1)}.json": value or [] for name, value in changes.items()}}
    return replace(GOOD, layers=(1,), samples=1, beside=cells)
