"""Every claim is decided by the records: one set supports all of them, and what is missing decides nothing."""

from dataclasses import replace

import pytest

from evaluation.analysis.margins import AS_FAST_UP_TO, FLAT_WITHIN, R2_AT_LEAST, SESSIONS, TIMES_FASTER
from evaluation.analysis.statistics import RESAMPLES
from evaluation.claims.claim import Verdict
from tests.evaluation.claims.decided import ALONE, GOOD, LINES, PAIRS, decided, entries, others_stand, verdicts
from tests.evaluation.synthetic import edit, record_path, refused


@pytest.fixture(scope="module")
def supported(tmp_path_factory):
    """The claims of the set that supports all of them."""
    return decided(tmp_path_factory.mktemp("supported") / "local")


def test_one_set_supports_every_claim(supported):
    """One verdict for each workload and clock that the claim is about."""
    assert {claim.verdict for claim in supported.values()} == {Verdict.SUPPORTED}
    assert {name: sum(key[0] == name for key in supported) for name in sorted({key[0] for key in supported})} == {
        **{"C1": 4, "C2": 2, "C3": 7, "C4": 16, "C5": 9},
        **{"C6": 1, "C7": 1, "C8": 1},
    }
    assert all(
        claim.statement.words and claim.statement.rule and claim.statement.memo and claim.judgement.lead
        for claim in supported.values()
    )


def test_the_margins_are_those_of_the_design():
    """They were fixed before anything was measured."""
    assert (R2_AT_LEAST, FLAT_WITHIN, AS_FAST_UP_TO, TIMES_FASTER, SESSIONS) == (0.99, 0.10, 1.05, 20, 50)
    assert RESAMPLES == 10_000


def test_figures_by_hand(supported):
    """1 + 3 L ms of recompute over the layers; in pairs a second, and 0.6 ms of Djinn and by hand."""
    value = {
        (name, figure): shown.value
        for (name, *place), claim in supported.items()
        if place in (["activation", "ready"], ["session", None], [None, None])
        for figure, shown in claim.judgement.figures.items()
    }
    assert value["C1", "slope"] == pytest.approx(3)
    assert value["C1", "intercept"] == pytest.approx(1)
    assert value["C2", "median"] == value["C2", "layer_1"] == value["C2", "layer_40"] == pytest.approx(0.6)
    assert value["C3", "rise"] == pytest.approx(0, abs=1e-9)
    assert value["C4", "worst_ratio"] == value["C4", "pooled_ratio"] == 1
    assert (value["C4", "pooled_difference"], value["C4", "strongest_layer_39"]) == (0, "pinned")
    assert (value["C4", "leading_layer"], value["C5", "layer"]) == (39, 39)
    assert value["C5", "ratio"] == value["C5", "ratio_layer_40"] == pytest.approx(1000 / 0.6)
    assert value["C5", "quickest_layer_39"] == "compiled"
    assert (value["C6", "djinn_sessions"], value["C6", "vanilla_sessions"]) == (64, 25)
    assert (value["C7", "probes"], value["C8", "lines_changed"]) == (5, LINES)
    assert supported["C6", "session", None].judgement.figures["djinn_sessions"].at_least
    assert supported["C4", "activation", "ready"].judgement.remark == "As fast at layers 1, 39, 40."
    assert "No crossover: by their lines Djinn" in supported["C5", "activation", "ready"].judgement.remark
    assert "crossover_layer" not in supported["C5", "session", "resident"].judgement.figures


def test_the_same_records_give_the_same_claims(tmp_path, supported):
    """Every figure of every claim, for the seed is fixed."""
    assert decided(tmp_path / "local") == supported


@pytest.mark.parametrize("method", ["vanilla", "recompute", "manual_offload", "djinn"])
def test_a_missing_record_leaves_undecided_what_needs_it(tmp_path, method):
    """With the reason, and nothing else is touched: only C1 needs the record of a layer."""
    found = decided(tmp_path / "local", GOOD, lambda folder: record_path(folder, method, 20).unlink())
    for key, claim in found.items():
        needed = (key[0], method) == ("C1", "recompute")
        assert (f"No record of {method}, layer 20, round 1." in claim.judgement.remark) == needed, key
        assert str(claim.verdict) == ("undecided" if needed else "supported"), key


def test_a_missing_round_is_a_missing_record(tmp_path):
    """Of six rounds."""
    found = decided(
        tmp_path / "local",
        replace(GOOD, rounds=6, samples=2),
        lambda folder: record_path(folder, "recompute", 40, 2).unlink(),
    )
    assert verdicts(found, "C1") == {"undecided"}
    assert others_stand(found, "C1")


def test_a_study_without_pairs_leaves_undecided_what_they_decide(tmp_path):
    """With the reason; C1 and what no clock decides stand."""
    found = decided(tmp_path / "local", ALONE)
    of_pairs = {claim.judgement.remark for key, claim in found.items() if key[0] in ("C2", "C3", "C4", "C5")}
    assert of_pairs == {"No record of the pairs of round 1."}
    assert others_stand(found, "C2", "C3", "C4", "C5")


def test_a_missing_round_of_the_pairs_leaves_undecided_what_they_decide(tmp_path):
    """With the reason; C1 and what no clock decides stand."""
    found = decided(tmp_path / "local", change=lambda at: (at / "raw" / "pairs" / "round_3.json").unlink())
    of_pairs = {claim.judgement.remark for key, claim in found.items() if key[0] in ("C2", "C3", "C4", "C5")}
    assert of_pairs == {"No record of the pairs of round 3."}
    assert others_stand(found, "C2", "C3", "C4", "C5")


def test_a_device_without_room_decides_nothing(tmp_path):
    """A cell without a sample is no speed."""

    def refuse(folder):
        edit(record_path(folder, "recompute", 10), lambda record: refused(record["cells"][0]))

    claim = decided(tmp_path / "local", ALONE, refuse, entries("C1"))["C1", "activation", "ready"]
    assert str(claim.verdict) == "undecided"
    assert claim.judgement.remark.startswith("The device had no room for recompute, layer 10, round 1")


def test_a_method_that_was_not_measured(tmp_path):
    """A study without recompute decides the rest, and has no edit that recompute loses."""
    found = decided(tmp_path / "local", replace(GOOD, methods=("vanilla", "manual_offload", "djinn")))
    assert verdicts(found, "C1", "C7") == {"undecided"}
    assert others_stand(found, "C1", "C7")


def test_two_layers_make_no_line(tmp_path):
    """Two points are always on one."""
    found = decided(tmp_path / "local", replace(GOOD, layers=(1, 40), pairs=replace(PAIRS, layers=(39, 40))))
    assert verdicts(found, "C1", "C2", "C3") == {"undecided"}
    assert others_stand(found, "C1", "C2", "C3")


def test_a_functional_run_decides_what_needs_no_speed(tmp_path):
    """C7 and C8; of all else it says why not."""
    found = decided(tmp_path / "local", replace(GOOD, functional=True))
    assert verdicts(found, "C7", "C8") == {"supported"}
    assert verdicts(found, "C1", "C2", "C3", "C4", "C5", "C6") == {"undecided"}
    assert {claim.judgement.remark for key, claim in found.items() if key[0] in ("C1", "C2", "C3", "C4", "C5")} == {
        "A functional run says nothing about speed."
    }
    assert not any(claim.judgement.figures for claim in found.values() if claim.verdict is Verdict.UNDECIDED)


def test_a_study_of_decode_steps_has_no_prefill_to_recompute(tmp_path):
    """C1 is about prefills and C2 about workloads without history: neither is there, and neither passes."""

    def decode_only(value):
        study = value.get("study", value)
        study["workloads"] = [{**study["workloads"][1], "decode_step": 1}]
        if "round" in value:
            value["cells"] = [cell for cell in value["cells"] if cell["workload"] == "session"]

    def change(folder):
        for path in folder.rglob("*.json"):
            if path.name != "machine.json":
                edit(path, decode_only)

    found = decided(tmp_path / "local", change=change)
    for name in ("C1", "C2"):
        claim = found[name, None, None]
        assert (str(claim.verdict), claim.judgement.remark) == (
            "undecided",
            "The study has no workload that this claim is about.",
        )
    assert others_stand(found, "C1", "C2")
