"""The claims over depth: what refutes each, what leaves it open, and what is said beside the verdict."""

from dataclasses import replace

import pytest

from evaluation.claims.claim import Verdict
from tests.evaluation.claims.decided import GOOD, PAIRS, decided, entries, level, others_stand, paired, with_ready

ALL_LAYERS = (1, 10, 20, 30, 39, 40)


def bent(method, variant, workload, layer):
    """A recompute whose time is the square of the depth."""
    return layer**2.0 if method == "recompute" else None


def as_long(method, variant, workload, layer):
    """A recompute that takes as long from every layer."""
    return 150.0 if method == "recompute" else None


@pytest.mark.parametrize("change", [bent, as_long])
def test_c1_is_refuted_by_what_is_no_rising_line(tmp_path, change):
    """And all others stand as they were."""
    found = decided(tmp_path / "local", with_ready(change))
    assert {str(found[key].verdict) for key in found if key[0] == "C1" and key[2] == "ready"} == {"refuted"}
    assert others_stand(found, "C1")


@pytest.mark.parametrize(
    ("recipe", "remark"),
    [
        (replace(GOOD, samples=5), "5 samples of one process give a range and no interval of 95 %: 6 are needed."),
        (replace(GOOD, rounds=2), "2 processes give a range and no interval of 95 %: 6 are needed."),
    ],
)
def test_c1_needs_samples_or_processes(tmp_path, recipe, remark):
    """Else the line is shown, and decides nothing."""
    claim = decided(tmp_path / "local", recipe, plan=entries("C1"))["C1", "session", "ready"]
    assert (claim.verdict, claim.judgement.remark) == (Verdict.UNDECIDED, remark)
    assert claim.judgement.figures["slope"].value == pytest.approx(3)


def over_depth(line, **about):
    """A recipe whose forms of Djinn and by hand are ready after ``line(layer)`` ms where all of it is swapped."""

    def ready(which):
        return line(which.layer) if which.method != "recompute" and which.keeps == "nothing" else None

    return paired(ready, layers=ALL_LAYERS, **about)


def rising(layer):
    """By 0.4 ms over 40 layers, of some 0.8."""
    return 0.6 + layer / 100


def falling(layer):
    """As much the other way."""
    return 1 - layer / 100


@pytest.mark.parametrize(("line", "verdict"), [(rising, "refuted"), (falling, "supported")])
def test_c2_and_c3_a_line_that_rises_is_refuted_and_one_that_falls_is_flat(tmp_path, line, verdict):
    """By the share of the median, with the milliseconds from the first layer to the last beside it."""
    found = decided(tmp_path / "local", over_depth(line, times=lambda which: {}), plan=entries("C2", "C3"))
    for name in ("C2", "C3"):
        claim = found[name, "activation", "ready"]
        assert str(claim.verdict) == verdict
        figures = claim.judgement.figures
        rise = line(40) - line(1)
        assert (figures["rise"].value, figures["layer_1"].value) == pytest.approx((rise, line(1)))
        assert figures["layer_40"].value == pytest.approx(line(40))
        assert f"{rise:+.3f} ms" in claim.judgement.lead


def test_c3_resident_is_by_the_byte(tmp_path):
    """Two ms and 20 per GB: more time with depth and no more for each byte, or less. As long again per byte refutes."""

    def by_layer(slope):
        def times(which):
            gigabytes = (22e6 + 40e6 * which.layer) / 1e9
            return {} if which.method == "recompute" else {"resident_ms": gigabytes * (20 + slope * which.layer)}

        return replace(GOOD, pairs=replace(PAIRS, layers=ALL_LAYERS, times=times, ready=lambda which: 0.05))

    for slope, verdict in ((0, "supported"), (-0.1, "supported"), (0.5, "refuted")):
        found = decided(tmp_path / str(slope) / "local", by_layer(slope), plan=entries("C3"))
        claim = found["C3", "session", "resident"]
        assert str(claim.verdict) == verdict
        assert claim.judgement.figures["slope"].value == pytest.approx(slope, abs=1e-9)
        assert claim.judgement.figures["slope"].unit == "ms/GB per layer"
        assert "62.0 MB at layer 1, 1622 MB at layer 40" in claim.judgement.remark
        assert ("C3", "activation", "resident") not in found


def test_c2_and_c3_straddle_the_margin(tmp_path):
    """Half of the processes rise by more than the margin and half do not: a process is drawn with all of its layers."""

    def ready(which):
        steep = which.round % 2 and which.method != "recompute" and which.keeps == "nothing"
        return 0.6 + which.layer / 300 if steep else None

    found = decided(tmp_path / "local", paired(ready, layers=ALL_LAYERS), plan=entries("C2", "C3"))
    for name in ("C2", "C3"):
        claim = found[name, "activation", "ready"]
        assert claim.verdict is Verdict.UNDECIDED
        share = claim.judgement.figures["rise_of_median"]
        assert share.low < 10 < share.high


def test_c2_and_c3_of_five_processes_are_undecided(tmp_path):
    """With the numbers, and why."""
    found = decided(tmp_path / "local", replace(GOOD, pairs=replace(PAIRS, rounds=5)), plan=entries("C2", "C3"))
    for claim in found.values():
        assert claim.verdict is Verdict.UNDECIDED
        assert "5 processes give a range" in claim.judgement.remark
        assert claim.judgement.figures["layer_1"].range


def test_c2_and_c3_do_not_hide_a_bump(tmp_path):
    """A hill in the middle leaves the line flat; that a single layer takes longer is said."""
    hill = over_depth(lambda layer: 0.8 if layer == 20 else 0.6, times=level)
    claim = decided(tmp_path / "local", hill, plan=entries("C3"))["C3", "activation", "ready"]
    assert claim.verdict is Verdict.SUPPORTED
    assert claim.judgement.figures["layers_apart"].value == pytest.approx(0.2)
    assert "a single layer takes longer" in claim.judgement.remark
