"""C4: what refutes it and what leaves it open."""

from dataclasses import replace

import pytest

from evaluation.analysis.margins import AS_FAST_UP_TO, SLOWER_BY_MS
from evaluation.claims.claim import Verdict
from tests.evaluation.claims.decided import GOOD, PAIRS, decided, entries, paired, verdicts
from tests.evaluation.paired import pairs_path, without_room
from tests.evaluation.synthetic import edit

C4 = entries("C4")


def djinn(which, variant="default"):
    """Whether ``which`` is this form of Djinn."""
    return (which.method, which.variant) == ("djinn", variant)


def decide_c4(folder, recipe, change=None):
    """What was decided of C4."""
    return decided(folder / "local", recipe, change, C4)


def test_the_ratio_is_to_the_strongest_form_of_the_clock_and_layer(tmp_path):
    """Known times give the known ratio: 0.63 over 0.6, and over 0.5 where another form is quicker."""

    def ready(which):
        if djinn(which):
            return 0.63
        return 0.5 if (which.variant, which.layer) == ("bulk", 40) else None

    found = decide_c4(tmp_path, paired(ready))
    figures = found["C4", "session", "ready"].judgement.figures
    assert [figures[f"ratio_layer_{layer}"].value for layer in (1, 39, 40)] == pytest.approx([1.05, 1.05, 1.26])
    assert [figures[f"strongest_layer_{layer}"].value for layer in (1, 39, 40)] == ["ordered", "ordered", "bulk"]
    assert (figures["worst_layer"].value, figures["worst_ratio"].value) == (40, pytest.approx(1.26))
    assert figures["pooled_ratio"].value == pytest.approx(1.05)
    assert figures["difference_layer_40"].value == pytest.approx(0.13)
    assert found["C4", "session", "ready"].verdict is Verdict.REFUTED


def test_a_form_that_waits_for_nothing_counts_for_the_clocks_that_it_has(tmp_path):
    """Copies that only the streams order have no time of readiness; their first kernel is the strongest there is."""

    def first(which):
        return {"first_kernel_ms": 0.9 if which.variant == "async" else 1.1}

    found = decide_c4(tmp_path, paired(lambda which: None, times=first))
    assert found["C4", "session", "ready"].verdict is Verdict.SUPPORTED
    kernel = found["C4", "session", "first_kernel"].judgement
    assert (kernel.verdict, kernel.figures["strongest_layer_39"].value) == (Verdict.REFUTED, "async")
    assert kernel.figures["worst_ratio"].value == pytest.approx(1.1 / 0.9)


def test_one_slow_layer_refutes(tmp_path):
    """Every layer must hold, also where the pooled ratio does."""
    slow = paired(lambda which: (0.7 if which.layer == 39 else 0.5) if djinn(which) else None)
    claim = decide_c4(tmp_path, slow)["C4", "activation", "ready"]
    assert claim.verdict is Verdict.REFUTED
    assert claim.judgement.figures["pooled_ratio"].value < 1
    assert claim.judgement.remark == "Faster at layers 1, 40; Slower at layer 39."
    assert claim.judgement.lead.endswith("at L39")


def test_the_last_layer_with_a_next_one_leads_where_it_says_what_is_decided(tmp_path):
    """Supported: layer 39. Refuted by layer 1 alone: that one, and layer 39 is a figure beside it."""
    for slow, layer in ((0.6, 39), (0.9, 1)):
        recipe = paired(lambda which, slow=slow: slow if djinn(which) and which.layer == 1 else None)
        judgement = decide_c4(tmp_path / str(slow), recipe)["C4", "session", "ready"].judgement
        assert judgement.lead.endswith(f"at L{layer}")
        assert judgement.figures["leading_layer"].value == 39
        assert judgement.figures["leading_ratio"].value == pytest.approx(1)


@pytest.mark.parametrize(("apart", "word"), [(0.02, "Fairly undecided"), (0.04, "More processes are needed")])
def test_undecided_says_whether_more_processes_would_tell(tmp_path, apart, word):
    """Processes at 1.05 less and more ``apart``: narrower than 6 % is fair, wider needs more."""

    def ready(which):
        return 0.6 * (1.05 + (apart if which.round % 2 else -apart)) if djinn(which) and which.layer == 39 else None

    claim = decide_c4(tmp_path, paired(ready))["C4", "activation", "ready"]
    assert claim.verdict is Verdict.UNDECIDED
    assert claim.judgement.remark.startswith(f"As fast at layers 1, 40; Undecided at layer 39. {word} at layer 39: ")


def test_processes_on_both_sides_of_the_margin_decide_nothing(tmp_path):
    """Half of the processes are faster and half slower; a process is drawn as a whole, so blocks do not outvote it."""

    def ready(which):
        return 0.6 * (1.12 if which.round % 2 else 0.98) if djinn(which) else None

    for blocks in (1, 20):
        claim = decide_c4(tmp_path / str(blocks), paired(ready, blocks=blocks))["C4", "activation", "ready"]
        assert claim.verdict is Verdict.UNDECIDED
        ratio = claim.judgement.figures["worst_ratio"]
        assert (ratio.low, ratio.high) == pytest.approx((0.98, 1.12))


def test_drift_within_a_block_falls_on_all_forms_alike(tmp_path):
    """Each sample takes longer than the one before it: in mirrored blocks no form gains by its place."""

    def drift(folder):
        for number in range(1, PAIRS.rounds + 1):
            edit(folder / "raw" / "pairs" / f"round_{number}.json", lambda record: [
                sample.update({name: value * (1 + place / 10) for name, value in sample.items()
                               if name.endswith("_ms") and value is not None})
                for cell in record["cells"] for block in cell["blocks"]
                for place, sample in enumerate(block["samples"])])  # fmt: skip

    figures = decide_c4(tmp_path, GOOD, drift)["C4", "session", "ready"].judgement.figures
    assert (figures["worst_ratio"].value, figures["worst_ratio"].high) == pytest.approx((1, 1))


@pytest.mark.parametrize(
    ("late", "verdict"), [(0.0, "supported"), (0.09, "supported"), (0.11, "refuted"), (-0.02, "supported")]
)
def test_with_the_frontier_kept_the_difference_decides(tmp_path, late, verdict):
    """0.09 ms beside 0.08 is twice as long and within the margin; it is compared with what keeps the frontier too."""
    recipe = paired(lambda which: 0.08 + late if djinn(which, "kept") else None)
    found = decide_c4(tmp_path, recipe)
    claim = found["C4", "activation", "ready", "frontier"]
    assert (SLOWER_BY_MS, AS_FAST_UP_TO) == (0.1, 1.05)
    assert str(claim.verdict) == verdict
    assert claim.judgement.figures["worst_difference"].value == pytest.approx(late)
    assert claim.judgement.figures["strongest_layer_1"].value == "pinned_kept"
    assert found["C4", "activation", "ready"].verdict is Verdict.SUPPORTED
    assert claim.judgement.lead.endswith("at L39")


def test_attended_forms_do_not_decide(tmp_path):
    """A link that is kept awake is another policy: neither side gains by it."""
    fast = paired(lambda which: 0.01 if which.link == "attended" and which.method != "djinn" else None)
    assert verdicts(decide_c4(tmp_path, fast), "C4") == {"supported"}


def test_a_study_of_plain_forms_decides_nothing_of_others(tmp_path):
    """What keeps the frontier was not asked for. As undecided it would be counted with what was measured."""

    def plain(folder):
        for path in folder.rglob("*.json"):
            if path.name != "machine.json":
                edit(path, without_policies)

    found = decide_c4(tmp_path, GOOD, plain)
    assert not [claim for claim in found.values() if claim.place.keeps]
    assert {str(claim.verdict) for claim in found.values()} == {"supported"}


def without_policies(record):
    """Ask for plain forms in a study or in a record of it, and leave the others out of one of pairs."""
    record.get("study", record)["pairs"]["forms"] = "plain"
    for cell in record["cells"] if record.get("kind") == "pairs" else ():
        wanted = ("nothing", "idle", "raw")
        plain = [form for form in cell["forms"] if (form["keeps"], form["link"], form["codec"]) == wanted]
        places = {cell["forms"].index(form): place for place, form in enumerate(plain)}
        cell["forms"] = plain
        for block in cell["blocks"]:
            kept = [sample for sample in block["samples"] if sample["form"] in places]
            block["samples"] = [{**sample, "form": places[sample["form"]]} for sample in kept]


def test_five_processes_have_a_range_and_decide_nothing(tmp_path):
    """An interval over processes needs six."""
    found = decide_c4(tmp_path, replace(GOOD, pairs=replace(PAIRS, rounds=5)))
    assert {(str(claim.verdict), claim.judgement.remark) for claim in found.values()} == {
        ("undecided", "5 processes give a range and no interval of 95 %: 6 are needed.")
    }
    assert all("(range " in claim.judgement.lead for claim in found.values())


def test_a_full_device_decides_nothing(tmp_path):
    """With the reason; the rest stands."""

    def full(folder):
        edit(pairs_path(folder, 2), lambda record: without_room(record, "session", 39))

    found = decide_c4(tmp_path, GOOD, full)
    assert verdicts(found, "C4") == {"supported", "undecided"}
    assert found["C4", "session", "ready"].judgement.remark == (
        "The device had no room for the pairs of every round at layer 39."
    )
    assert found["C4", "activation", "ready"].verdict is Verdict.SUPPORTED


def test_a_layer_for_which_no_process_had_room_is_told_as_such(tmp_path):
    """By every claim that pairs decide; it is not that no form has the clock."""

    def full(folder):
        for number in range(1, PAIRS.rounds + 1):
            edit(pairs_path(folder, number), lambda record: without_room(record, "activation", 39))

    found = decided(tmp_path / "local", GOOD, full, entries("C2", "C3", "C4", "C5"))
    told = {key[0]: claim.judgement.remark for key, claim in found.items() if key[1:3] == ("activation", "ready")}
    assert told == dict.fromkeys(
        ("C2", "C3", "C4", "C5"), "The device had no room for the pairs of any round at layer 39."
    )
