"""C5: recompute's quickest form beside Djinn."""

from dataclasses import replace

import pytest

from evaluation.claims.claim import Verdict
from tests.evaluation.claims.decided import GOOD, PAIRS, decided, entries, others_stand, paired, taking
from tests.evaluation.synthetic import edit

C5 = entries("C5")


def c5(folder, recipe, change=None, clock="ready"):
    """What was decided of C5 without history."""
    return decided(folder / "local", recipe, change, C5)["C5", "activation", clock]


def rerun(ms, **about):
    """A recipe in which recompute's ``graphed`` form takes ``ms(layer)``, and its other half as long again."""

    def ready(which):
        if which.method != "recompute":
            return 0.5
        return ms(which.layer) * (1 if which.variant == "graphed" else 1.5)

    return paired(ready, **about)


@pytest.mark.parametrize(
    ("ms", "verdict"),
    [
        (lambda layer: 10.1, "supported"),
        (lambda layer: 9.9, "refuted"),
        (lambda layer: 9.9 if layer == 40 else 12.0, "refuted"),
        (lambda layer: 9.9 if layer == 39 else 12.0, "refuted"),
    ],
)
def test_the_quickest_form_at_both_layers_decides(tmp_path, ms, verdict):
    """20 times 0.5 ms is 10; layer 39 leads, and a form that takes half as long again decides nothing."""
    claim = c5(tmp_path, rerun(ms))
    assert str(claim.verdict) == verdict
    figures = claim.judgement.figures
    assert [figures[f"ratio_layer_{layer}"].value for layer in (39, 40)] == pytest.approx([ms(39) / 0.5, ms(40) / 0.5])
    assert figures["ratio"].value == pytest.approx(ms(39) / 0.5)
    assert (figures["layer"].value, figures["quickest_layer_40"].value) == (39, "graphed")
    assert figures["ratio_compiled"].value == pytest.approx(1.5 * ms(39) / 0.5)


@pytest.mark.parametrize(
    ("ms", "layer", "remark"),
    [
        (lambda layer: 12.0, 39, ""),
        (lambda layer: 9.9 if layer == 40 else 12.0, 40, "Below 20 at layer 40."),
        (lambda layer: 9.9 if layer == 39 else 12.0, 39, "Below 20 at layer 39."),
        (lambda layer: 9.9, 39, "Below 20 at layers 39, 40."),
    ],
)
def test_the_layer_that_decides_leads(tmp_path, ms, layer, remark):
    """By its name. What is refuted by one layer never shows the ratio of the other; its number says where it was."""
    judgement = c5(tmp_path, rerun(ms)).judgement
    ratio = f"{ms(layer) / 0.5:.1f}"
    assert judgement.lead == f"{ratio} times ({ratio} to {ratio}) at L{layer}"
    assert judgement.remark.startswith(remark)
    assert ("Below" in judgement.remark) == bool(remark)


def test_an_undecided_layer_leads_and_is_named(tmp_path):
    """Processes at 18 and 22 times at layer 40 alone, while layer 39 is at 24."""

    def ready(which):
        if which.method != "recompute":
            return 0.5
        return 12.0 if which.layer == 39 else 9.0 if which.round % 2 else 11.0

    judgement = c5(tmp_path, paired(ready)).judgement
    assert judgement.lead.endswith("(18.0 to 22.0) at L40")
    assert judgement.remark.startswith("Undecided at layer 40.")


def test_what_is_below_the_margin_is_not_printed_as_the_margin(tmp_path):
    """9.99 ms is 19.98 times 0.5, which three digits would make 20.0."""
    claim = c5(tmp_path, rerun(lambda layer: 9.99))
    assert claim.verdict is Verdict.REFUTED
    assert claim.judgement.lead == "19.98 times (19.98 to 19.98) at L39"


def test_it_is_decided_clock_by_clock(tmp_path):
    """12 ms is 24 times 0.5; the logits, 2 ms later on either side, are 5.6 times as late."""
    found = decided(tmp_path / "local", rerun(lambda layer: 12.0))
    assert str(found["C5", "activation", "ready"].verdict) == "supported"
    assert str(found["C5", "activation", "usable"].verdict) == "refuted"
    assert others_stand(found, "C3", "C4", "C5")


def test_processes_on_both_sides_decide_nothing(tmp_path):
    """Half at 18 times and half at 22; of five there is no interval at all."""

    def ready(which):
        return 0.5 if which.method != "recompute" else 9.0 if which.round % 2 else 11.0

    assert c5(tmp_path / "six", paired(ready)).verdict is Verdict.UNDECIDED
    few = c5(tmp_path / "five", rerun(lambda layer: 100.0, rounds=5))
    assert few.verdict is Verdict.UNDECIDED
    assert few.judgement.remark.startswith("5 processes give a range and no interval of 95 %: 6 are needed.")


@pytest.mark.parametrize(
    ("recipe", "remark"),
    [
        (replace(GOOD, pairs=replace(PAIRS, layers=(1, 40))), "No pairs at layer 39."),
        (rerun(lambda layer: 0.0), "A time at layer 39 is 0 ms, to which there is no ratio."),
    ],
)
def test_a_gap_decides_nothing(tmp_path, recipe, remark):
    """With the reason."""
    claim = c5(tmp_path, recipe)
    assert (claim.verdict, claim.judgement.remark) == (Verdict.UNDECIDED, remark)


def test_pairs_without_recompute_decide_nothing(tmp_path):
    """Not even where the samples of the layers have it."""

    def drop(folder):
        for number in range(1, PAIRS.rounds + 1):
            edit(
                folder / "raw" / "pairs" / f"round_{number}.json", lambda record: [_without(c) for c in record["cells"]]
            )

    def _without(cell):
        kept = [at for at, form in enumerate(cell["forms"]) if form["method"] != "recompute"]
        cell["forms"] = [cell["forms"][at] for at in kept]
        for block in cell["blocks"]:
            block["samples"] = [
                {**sample, "form": kept.index(sample["form"])} for sample in block["samples"] if sample["form"] in kept
            ]

    claim = c5(tmp_path, GOOD, drop)
    assert (claim.verdict, claim.judgement.remark) == (
        Verdict.UNDECIDED,
        "No pairs of Djinn and recompute have this clock at layer 39.",
    )


def test_the_crossover_is_stated(tmp_path):
    """0.1 + 0.1 L reaches 0.63 at layer 5.3; recompute that stays below is said to win throughout."""
    crossing = c5(tmp_path / "one", taking("recompute", lambda layer: 0.1 + 0.1 * layer)).judgement
    assert crossing.figures["crossover_layer"].value == pytest.approx(5.3)
    below = c5(tmp_path / "other", taking("recompute", lambda layer: 0.001 * layer)).judgement
    assert below.remark == "No crossover: by their lines recompute is faster from layer 1 to 40."
