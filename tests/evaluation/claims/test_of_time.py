"""The claims of time: what refutes each, what leaves it open, and what is said beside the verdict."""

from dataclasses import replace

import pytest

from evaluation.claims.claim import Verdict
from tests.evaluation.claims.decided import GOOD, OLD, decided, entries, others_stand, taking, verdicts, with_ready
from tests.evaluation.synthetic import edit, record_path


def bent(method, variant, workload, layer):
    """A recompute whose time is the square of the depth."""
    return layer**2.0 if method == "recompute" else None


def level(method, variant, workload, layer):
    """A recompute that takes as long from every layer."""
    return 150.0 if method == "recompute" else None


def steep(method, variant, workload, layer):
    """A hand-written offload of the activation that grows with depth; not the one beside Djinn."""
    return 1 + layer / 10 if (method, variant, workload) == ("manual_offload", "pinned", "activation") else None


FLIPS = {"C1": [bent, level], "C2": [steep]}


@pytest.mark.parametrize(("claim", "change"), [(claim, change) for claim in FLIPS for change in FLIPS[claim]])
def test_one_change_refutes_one_claim(tmp_path, claim, change):
    """And leaves all others as they were."""
    found = decided(tmp_path / "local", with_ready(change))
    assert {str(found[key].verdict) for key in found if key[0] == claim and key[2] == "ready"} == {"refuted"}
    assert others_stand(found, claim)


def test_c3_a_djinn_that_grows_is_refuted(tmp_path):
    """On every clock that the growth dominates; it may still be as fast as copies that grow too."""
    grown = with_ready(lambda method, variant, workload, layer:
                       0.5 + layer / 50 if method == "djinn" else
                       0.5 + layer / 50 if variant in ("pinned_ordered", "pinned_identical") else
                       0.5 + layer / 50 if (variant, workload) == ("pinned", "activation") else None)  # fmt: skip
    found = decided(tmp_path / "local", grown)
    assert verdicts(found, "C3") == {"refuted"}
    assert others_stand(found, "C2", "C3")
    resident = found["C3", "session", "resident"].judgement
    assert resident.remark == "The state that is back by then: 62.0 MB at layer 1, 1622 MB at layer 40."


def test_c5_stands_beside_the_ratios_to_other_variants(tmp_path):
    """Over the strongest form of recompute too, which the rule does not ask for; said where it decides otherwise."""

    def with_variants(folder):
        for layer in GOOD.layers:
            edit(record_path(folder, "recompute", layer), lambda record: record["cells"].extend(
                {**record["cells"][0], "variant": variant, "headline": False,
                 "samples": [{**sample, "ready_ms": sample["ready_ms"] / by, "resident_ms": None}
                             for sample in record["cells"][0]["samples"]]}
                for variant, by in (("compiled", 2), ("tiny", 100))))  # fmt: skip

    found = decided(tmp_path / "local", GOOD, with_variants, entries("C5"))
    ready, resident = (found["C5", "activation", clock].judgement for clock in ("ready", "resident"))
    value = {name: figure.value for name, figure in ready.figures.items()}
    assert value["ratio_compiled"] == pytest.approx(value["ratio"] / 2)
    assert ready.verdict is Verdict.SUPPORTED
    assert ready.remark.endswith("It would not be supported over recompute's variant tiny: see there.")
    assert not [name for name in resident.figures if name.startswith("ratio_")]


def test_c3_tells_of_frontiers_that_differ(tmp_path):
    """In a decode step the deepest layer waits for no KV: what the clock ready waited for stands beside the verdict."""

    def no_kv(folder):
        edit(
            record_path(folder, "djinn", 40),
            lambda record: [
                cell.update(frontier_bytes=10_000) for cell in record["cells"] if cell["workload"] == "session"
            ],
        )

    for name, change, remark in (
        ("as it was", None, ""),
        ("no KV", no_kv, "The frontier that this clock waits for: 22.0 MB at layer 1, 0.0100 MB at layer 40."),
    ):
        found = decided(tmp_path / name / "local", GOOD, change, entries("C3"))
        assert found["C3", "session", "ready"].judgement.remark == remark


def test_c2_and_c3_straddle_the_margin(tmp_path):
    """Scatter as wide as the median: neither within 10 % nor wholly outside."""
    found = decided(tmp_path / "local", replace(GOOD, scatter=1.0))
    assert str(found["C2", "activation", "ready"].verdict) == "undecided"
    assert str(found["C3", "session", "ready"].verdict) == "undecided"
    assert str(found["C1", "session", "ready"].verdict) == "undecided"
    # pairs share their scatter, and a factor of 192 has room for it
    assert verdicts(found, "C4") == {"supported"}
    assert str(found["C5", "activation", "ready"].verdict) == "supported"


def test_c2_and_c3_do_not_hide_a_bump(tmp_path):
    """A hill in the middle leaves the line flat; the distance between the layers is said."""
    hill = with_ready(lambda method, variant, workload, layer:
                      0.8 if layer == 20 and (method == "djinn" or (workload == "activation" and variant == "pinned"))
                      else None)  # fmt: skip
    claim = decided(tmp_path / "local", hill, plan=entries("C3"))["C3", "activation", "ready"]
    assert claim.verdict is Verdict.SUPPORTED
    assert claim.judgement.figures["layers_apart"].value == pytest.approx(0.17)
    assert "single layers differ" in claim.judgement.remark


@pytest.mark.parametrize(("slope", "ready", "usable"), [(0.35, "supported", "refuted"), (0.2, "refuted", "refuted")])
def test_c5_is_decided_clock_by_clock(tmp_path, slope, ready, usable):
    """1 + 0.35 x 40 ms is 23.8 times 0.63 ms; its logits, 2 ms later, is not 20 times Djinn's."""
    found = decided(tmp_path / "local", taking("recompute", lambda layer: 1 + slope * layer))
    assert str(found["C5", "activation", "ready"].verdict) == ready
    assert str(found["C5", "activation", "usable"].verdict) == usable
    assert others_stand(found, "C5")


def usable_after(line):
    """A change to a run: Djinn's logits are there after ``line(layer)`` ms, the token after them later."""

    def change(folder):
        for layer in GOOD.layers:
            edit(
                record_path(folder, "djinn", layer),
                lambda record, layer=layer: [
                    sample.update(usable_ms=line(layer), next_token_ms=sample["next_token_ms"] and 60)
                    for cell in record["cells"]
                    for sample in cell["samples"]
                ],
            )

    return change


@pytest.mark.parametrize(
    ("line", "verdict"), [(lambda layer: 12 - layer / 10, "supported"), (lambda layer: 3 + layer, "refuted")]
)
def test_c3_usable_may_fall(tmp_path, line, verdict):
    """Logits that come the sooner the fewer layers are left are no cost of depth; those that come later are."""
    found = decided(tmp_path / "local", GOOD, usable_after(line), entries("C3"))
    assert str(found["C3", "activation", "usable"].verdict) == verdict
    assert str(found["C3", "activation", "ready"].verdict) == "supported"


def test_an_older_run_is_decided_by_its_last_clock_and_marked(tmp_path):
    """C5 by the end of the pass in place of usable; what has no counterpart is undecided and says so."""
    found = decided(tmp_path / "local", OLD)
    result = found["C5", "activation", "result"].judgement
    assert (result.verdict, result.old_protocol) == (Verdict.SUPPORTED, True)
    assert ("C5", "activation", "usable") not in found
    assert not found["C5", "activation", "ready"].judgement.old_protocol
    for key in (("C3", "activation", "usable"), ("C5", "session", "next_token")):
        assert str(found[key].verdict) == "undecided"
        assert found[key].judgement.remark == f"This run has no clock {key[2].replace('_', ' ')}."


def c5_ready(folder, recipe):
    """What was decided of C5 and the clock ready without history."""
    return decided(folder, recipe, plan=entries("C5"))["C5", "activation", "ready"]


def test_c5_straddles_its_margin(tmp_path):
    """12.6 is 20 times 0.63, give or take the scatter."""
    recipe = replace(taking("recompute", lambda layer: 0.315 * layer), scatter=0.3)
    assert c5_ready(tmp_path / "local", recipe).verdict is Verdict.UNDECIDED


def test_c5_states_the_crossover(tmp_path):
    """0.1 + 0.1 L reaches 0.63 at layer 5.3; recompute that stays below is said to win throughout."""
    crossing = c5_ready(tmp_path / "local", taking("recompute", lambda layer: 0.1 + 0.1 * layer)).judgement
    assert crossing.figures["crossover_layer"].value == pytest.approx(5.3)
    below = c5_ready(tmp_path / "other", taking("recompute", lambda layer: 0.001 * layer)).judgement
    assert below.remark == "No crossover: by their lines recompute is faster from layer 1 to 40."
