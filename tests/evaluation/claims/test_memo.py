"""The memo's values beside the measured ones, and a sentence where they differ."""

from dataclasses import replace

import pytest

from evaluation.claims.decide import decide
from evaluation.claims.memo import expectations
from evaluation.records.runs import load_run
from tests.evaluation.claims.decided import ALONE, BESIDE, FEW, GOOD, entries, paired, with_ready
from tests.evaluation.synthetic import Synthetic, wall

ENDS = replace(ALONE, layers=(1, 40))


def compared(folder, recipe):
    """The expectations by quantity and workload; of the claims only C5 has one."""
    run = load_run(recipe.write(folder))
    return {(one.quantity, one.workload): one for one in expectations(run, decide(run, entries("C5"), resamples=FEW))}


def test_what_the_memo_expected_is_met(tmp_path):
    """5 and 800 ms, 30 to 50, about 40, 20 times, 3 and 50+: where all are measured, no sentence."""
    times = {"vanilla": lambda _: 0.1, "recompute": lambda layer: 5 + (layer - 1) * 795 / 39}
    good = paired(lambda which: 800.0 if which.method == "recompute" else 40.0, times=lambda which: {})
    recipe = with_ready(lambda method, variant, workload, layer: times.get(method, lambda _: 40.0)(layer), good)
    cells = {
        "capacity/vanilla.json": [wall("default", 3, "device_oom", headline=True)],
        "capacity/recompute.json": [wall("default", 64, "cap", headline=True)],
        "capacity/manual_offload.json": [wall("pinned", 50, "host_full", headline=True)],
    }
    found = compared(tmp_path / "local", replace(recipe, layers=ENDS.layers, beside={**BESIDE, **cells}))
    by_replay = ("Recompute: supports state editing", None)
    assert {one.differs for key, one in found.items() if key != by_replay} == {False}
    assert {one.sentence for key, one in found.items() if key != by_replay} == {""}
    assert found[by_replay].differs
    assert "replays it" in found[by_replay].sentence


@pytest.mark.parametrize(("off", "differ"), [(0.79, True), (0.81, False), (1.19, False), (1.21, True)])
def test_about_is_within_a_fifth(tmp_path, off, differ):
    """Of 5, 800 and 40 ms and of 20 times, on either side."""
    times = {"recompute": lambda layer: (5 if layer == 1 else 800) * off, "djinn": lambda _: 40 * off}
    recipe = with_ready(lambda method, variant, workload, layer: times.get(method, lambda _: None)(layer), ENDS)
    found = compared(tmp_path / "times" / "local", replace(recipe, samples=2))
    of_times = ("Recompute, ready at layer 1", "Recompute, ready at layer 40", "Djinn, ready at layer 40")
    assert [found[quantity, "activation"].differs for quantity in of_times] == [differ] * 3
    ratio = paired(lambda which: 20 * off if which.method == "recompute" else 1.0, layers=(39, 40))
    found = compared(tmp_path / "ratio" / "local", replace(ratio, layers=(40,), samples=2))
    assert found["Recompute over Djinn, ready at layer 39", "activation"].differs == differ


@pytest.mark.parametrize(
    ("method", "ms", "differ"),
    [
        *(("vanilla", 0.49, False), ("vanilla", 0.51, True)),
        *(("manual_offload", 29.0, True), ("manual_offload", 31.0, False)),
        *(("manual_offload", 49.0, False), ("manual_offload", 51.0, True)),
    ],
)
def test_a_range_is_met_between_its_ends(tmp_path, method, ms, differ):
    """0 ms is what rounds to it; 30 to 50 ms is neither less nor more."""
    recipe = with_ready(lambda name, variant, workload, layer: ms if name == method else None, ALONE)
    found = compared(tmp_path / "local", replace(recipe, layers=(40,), samples=2))
    quantity = {"vanilla": "Vanilla", "manual_offload": "Manual offload"}[method]
    assert found[f"{quantity}, ready at layer 40", "activation"].differs == differ


def test_what_differs_is_said_with_what_bounds_it(tmp_path):
    """Each sentence holds the memo's value, the measured one and the floor that the run measured."""
    found = compared(tmp_path / "local", replace(ENDS, samples=10))
    recompute = found["Recompute, ready at layer 40", "activation"]
    # 40 x 1e12 operations at 500 Tflop/s
    assert recompute.sentence == (
        "The memo expects 800 ms; measured: 121.0 ms (120.5 to 121.5), 0.15 times that. "
        "Its operations take 80.0 ms at the matrix rate that the probe measured."
    )
    manual = found["Manual offload, ready at layer 40", "activation"]
    assert "The memo expects 30 to 50 ms" in manual.sentence
    assert "0.021 times the nearer end of that" in manual.sentence
    assert "raw pinned copy of the bytes that it waits for took 0.500 ms" in manual.sentence
    assert found["Manual offload, ready at layer 40", "session"].differs is False
    vanilla = found["Vanilla: paused sessions", None]
    assert (vanilla.differs, vanilla.measured.value) == (True, 25)
    assert "refused with 79.0 GiB in use; the weights of the model are 24.2 GiB" in vanilla.sentence
    own = found["Vanilla, weights of its own per session: paused sessions", None]
    assert (own.differs, own.measured.value) == (True, 2)


def test_the_ratio_of_pairs_is_at_the_layer_that_leads(tmp_path):
    """The last one that has a next layer: a second over 0.6 ms."""
    one = compared(tmp_path / "local", GOOD)["Recompute over Djinn, ready at layer 39", "activation"]
    assert one.measured.value == pytest.approx(1000 / 0.6)
    assert "1667 times" in one.sentence
    assert one.sentence.endswith("Recompute took 1000 ms, Djinn 0.600 ms.")


def test_what_was_not_measured_is_not_compared(tmp_path):
    """No record, no room, no speed: each says so, and none counts as met or as different."""
    found = compared(tmp_path / "local", replace(ENDS, beside={}, methods=("vanilla", "djinn")))
    for key in (
        ("Recompute, ready at layer 40", "session"),
        ("Recompute over Djinn, ready at layer 40", "session"),
        ("Djinn: paused sessions", None),
        ("Vanilla: supports state editing", None),
    ):
        assert (found[key].measured, found[key].differs, found[key].sentence) == (None, None, "Not measured.")


def test_a_functional_run_is_compared_by_edits_only(tmp_path):
    """Its times and its memory say nothing."""
    found = compared(tmp_path / "local", replace(ENDS, functional=True))
    timed = [one for key, one in found.items() if "editing" not in key[0]]
    assert {one.differs for one in timed} == {None}
    assert {one.sentence for one in timed} == {"Not compared: a functional run says nothing about speed."}
    assert found["Djinn: supports state editing", None].differs is False


@pytest.mark.parametrize(("layers", "there"), [((1, 20, 40), True), ((10, 20, 40), False)])
def test_layer_1_is_no_other_layer(tmp_path, layers, there):
    """A study that starts deeper has no value to compare with the memo's first."""
    found = compared(tmp_path / "local", Synthetic(layers=layers, samples=6))
    assert (("Recompute, ready at layer 1", "activation") in found) == there
