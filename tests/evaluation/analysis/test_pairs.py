"""Pairs as they are compared: the mean of mirrored samples, like with like, the strongest form of each clock first."""

from dataclasses import replace

import pytest

from evaluation.analysis.comparisons import STRONGEST, comparisons
from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.pairs import ATTENDED, CODED, FRONTIER, Policy, cells, compared, ratio_of
from evaluation.records.runs import load_run
from tests.evaluation.paired import FRONTIER_BYTES, SyntheticPairs
from tests.evaluation.synthetic import Synthetic, edit

READY = CLOCK["ready"]
RECIPE = Synthetic(layers=(1, 40), samples=1, methods=("manual_offload", "djinn"), pairs=SyntheticPairs(rounds=6))


def run_with(folder, change=None, **about):
    """The run of a recipe whose pairs are made so; ``change`` edits the record of the first round."""
    at = replace(RECIPE, pairs=replace(RECIPE.pairs, **about)).write(folder / "local")
    if change is not None:
        edit(at / "raw" / "pairs" / "round_1.json", change)
    return load_run(at)


def one(run, workload="session", layer=40):
    """The forms of this cell."""
    return next(cell for cell in cells(run) if (cell.workload, cell.layer) == (workload, layer))


def test_a_form_s_time_in_a_block_is_the_mean_of_its_two_samples(tmp_path):
    """In whatever order they ran; each process has its own blocks."""

    def change(record):
        for cell in record["cells"]:
            for block in cell["blocks"]:
                halves = len(block["samples"]) // 2
                for place, sample in enumerate(block["samples"]):
                    if cell["forms"][sample["form"]]["method"] != "recompute":  # which is not ready before
                        sample["usable_ms"] = 10.0 + (place >= halves)

    run = run_with(tmp_path, change, blocks=2)
    for form in (form for form in one(run).forms if form.method != "recompute"):
        assert form.times["usable"][1] == [10.5, 10.5]
        assert len(form.times["usable"][2]) == 2
    assert [len(floors) for floors in one(run).floors.values()] == 6 * [2 * 2]


def test_like_is_compared_with_like(tmp_path):
    """What keeps the frontier with what keeps it, an attended link with an attended one; no form of Djinn's own.

    Coded state is compared with whom plain state is compared with.
    """
    cell = one(run_with(tmp_path))
    names = {policy: {pairing.by_hand.variant for pairing in cell.pairings(policy, CLOCK["usable"])}
             for policy in cell.policies}  # fmt: skip
    assert names == {
        Policy(): {"ordered", "async", "bulk"},
        Policy(link=ATTENDED): {"ordered_attended", "async_attended"},
        Policy(keeps=FRONTIER): {"ordered_kept", "async_kept"},
        Policy(keeps=FRONTIER, link=ATTENDED): {"ordered_kept_attended", "async_kept_attended"},
        Policy(codec=CODED): {"ordered", "async", "bulk"},
    }


def test_coded_state_is_compared_with_who_moves_all_of_it(tmp_path):
    """By the clock resident a quick form that moves more than the coded bytes, and less than the state, comes last."""

    def change(record):
        for form in (form for cell in record["cells"] for form in cell["forms"] if form["variant"] == "ordered"):
            form["host_bytes_paused"] = round(0.8 * form["state_bytes"])

    run = run_with(
        tmp_path, change, rounds=1, times=lambda which: {"resident_ms": 5.0} if which.variant == "ordered" else {}
    )
    found = one(run).pairings(Policy(codec=CODED), CLOCK["resident"])
    assert found[0].djinn.host_bytes < found[-1].by_hand.host_bytes < found[0].by_hand.host_bytes
    assert found[-1].by_hand.variant == "ordered"


def test_bytes_are_the_most_of_any_process(tmp_path):
    """In host memory, where what is coded has other bytes in each process, and of the coder's buffer."""
    least = {form.variant: (form.host_bytes, form.buffer_bytes) for form in one(run_with(tmp_path / "as it is")).forms}
    assert least["coded"][1] > 0

    def change(record):
        for form in (form for cell in record["cells"] for form in cell["forms"] if form["variant"] == "coded"):
            form["host_bytes_paused"] += 1
            form["buffer_bytes"] += 2

    found = {form.variant: (form.host_bytes, form.buffer_bytes) for form in one(run_with(tmp_path, change)).forms}
    assert found == {**least, "coded": (least["coded"][0] + 1, least["coded"][1] + 2)}


def test_recompute_is_asked_for_by_name_and_never_among_the_offloads(tmp_path):
    """Its quickest form first, at the last layers alone, and beside whatever Djinn keeps."""
    run = run_with(tmp_path)
    for policy in (Policy(), Policy(keeps=FRONTIER)):
        found = one(run).pairings(policy, READY, method="recompute")
        assert [(pairing.by_hand.variant, pairing.djinn.policy) for pairing in found] == [
            ("graphed", policy),
            ("compiled", policy),
        ]
        assert len(found[0].rounds) == 6
        assert {pairing.by_hand.method for pairing in one(run).pairings(policy, READY)} == {"manual_offload"}
    assert not one(run, layer=1).pairings(Policy(), READY, method="recompute")
    assert not {row.by_hand for row in comparisons(run, resamples=100)} & {"graphed", "compiled"}


def test_a_form_without_a_clock_is_not_compared_by_it(tmp_path):
    """Copies that nobody waits for have no time of readiness; a workload without history no next token."""
    run = run_with(tmp_path)
    assert "async" not in {pairing.by_hand.variant for pairing in one(run).pairings(Policy(), READY)}
    assert not one(run, "activation").pairings(Policy(), CLOCK["next_token"])


def test_the_strongest_has_the_smallest_median_of_the_run(tmp_path):
    """Not the smallest time: one quick process makes no form the strongest."""

    def ready(which):
        if which.variant == "bulk":
            return 0.1 if which.round == 1 else 0.9
        return 0.6

    pairings = one(run_with(tmp_path, ready=ready)).pairings(Policy(), READY)
    assert [pairing.by_hand.variant for pairing in pairings] == ["ordered", "async", "bulk"]


def test_until_all_state_is_back_one_that_moves_less_is_behind_those_that_move_as_much(tmp_path):
    """By that clock alone: before it, nobody waits for what one of them moves besides."""
    quick = {"first_kernel_ms": 1.2, "resident_ms": 11.0}
    cell = one(run_with(tmp_path, times=lambda which: quick if which.variant == "async" else {}))

    def order(cell, clock):
        return [pairing.by_hand.variant for pairing in cell.pairings(Policy(), CLOCK[clock])]

    assert order(cell, "resident")[0] == "async"
    forms = [replace(form, host_bytes=form.host_bytes // 2) if form.variant == "async" else form for form in cell.forms]
    less = replace(cell, forms=forms)
    assert order(less, "resident")[-1] == "async"
    assert order(less, "first_kernel") == order(cell, "first_kernel")


def test_processes_are_resampled_with_all_their_layers(tmp_path):
    """A process that is slow is slow at every layer: pooling layers does not make it rarer."""

    def ready(which):
        return (1.2 if which.round <= 2 else 0.6) if which.method == "djinn" else 0.6

    (found,) = (
        each for each in compared(run_with(tmp_path, ready=ready))
        if (each.workload, each.policy, each.clock) == ("session", Policy(), READY)
    )  # fmt: skip
    single, both = ratio_of(found.strongest[:1]), ratio_of(found.pooled)
    assert (single.median, single.high) == (both.median, both.high) == pytest.approx((1, 2))
    assert (single.n, both.n) == (6, 12)


def test_processes_are_drawn_by_sitting(tmp_path):
    """Three slow processes of another sitting are drawn or left out as a whole, so that the interval is the wider."""

    def ready(which):
        return 0.6 + which.round / 100 + (0.3 if which.round > 5 else 0) if which.method == "djinn" else 0.6

    ends = {}
    for other in ("a", "b"):
        at = replace(RECIPE, pairs=replace(RECIPE.pairs, rounds=8, ready=ready)).write(tmp_path / other / "local")
        for number in range(1, 9):
            sitting = 12 * ("a" if number < 6 else other)
            edit(
                at / "raw" / "pairs" / f"round_{number}.json",
                lambda record, sitting=sitting: record["provenance"].update(sitting=sitting),
            )
        ratio = ratio_of(one(load_run(at)).pairings(Policy(), READY)[:1])
        ends[other] = ratio.low, ratio.high
    assert ends["b"][0] <= ends["a"][0]
    assert ends["b"][1] >= ends["a"][1]
    assert ends["b"] != ends["a"]


def test_a_time_of_zero_has_a_difference_and_no_ratio(tmp_path):
    """What is there at once may be there at the very request."""
    run = run_with(tmp_path, ready=lambda which: 0.0 if which.method != "djinn" else 0.1)
    pairing = one(run).pairings(Policy(), READY)[0]
    assert ratio_of([pairing]) is None
    assert [set(process) for process in pairing.differences] == [{0.1}] * 6
    rows = [row for row in comparisons(run, resamples=100) if (row.clock, row.variant) == ("ready", "default")]
    assert {(row.ratio, row.ratio_low, row.difference_ms) for row in rows} == {(None, None, 0.1)}


def test_the_table_has_every_form_and_marks_the_strongest(tmp_path):
    """Each at each layer, then the strongest pooled; with what is kept on the device, and the floor beside ready."""

    def ready(which):
        return {"djinn": 0.66}.get(which.method, 0.5 if (which.variant, which.layer) == ("bulk", 40) else 0.6)

    run = run_with(tmp_path, ready=ready)
    rows = [row for row in comparisons(run, resamples=100) if (row.workload, row.clock) == ("session", "ready")]
    idle = [row for row in rows if row.variant == "default" and row.by_hand != "async"]
    assert [(row.layer, row.by_hand, row.strongest, round(row.ratio, 6)) for row in idle] == [
        (1, "ordered", True, 1.1),
        (1, "bulk", False, 1.1),
        (40, "bulk", True, 1.32),
        (40, "ordered", False, 1.1),
        (None, STRONGEST, True, 1.21),
    ]
    assert {row.floor_ms for row in idle} == {0.5, None}
    kept = next(row for row in rows if row.keeps == FRONTIER and row.strongest)
    assert (kept.djinn_kept_bytes, kept.by_hand_kept_bytes, kept.djinn_device_bytes) == (FRONTIER_BYTES,) * 3
    assert (kept.processes, kept.blocks) == (6, 6)


def test_fewer_than_six_processes_have_a_range(tmp_path):
    """The extremes of the blocks, and a coverage that says so."""

    def ready(which):
        return 0.6 + which.round / 10 if which.method == "djinn" else 0.6

    run = run_with(tmp_path, ready=ready, rounds=5)
    ratio = ratio_of(one(run).pairings(Policy(), READY)[:1])
    assert (ratio.low, ratio.high) == pytest.approx((0.7 / 0.6, 1.1 / 0.6))
    assert ratio.coverage < 0.95


def test_a_run_without_pairs_has_none(tmp_path):
    """Its study asks for none."""
    run = load_run(replace(RECIPE, pairs=None).write(tmp_path / "local"))
    assert (list(compared(run)), comparisons(run, resamples=100)) == ([], [])
