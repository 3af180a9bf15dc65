"""Which time of a form leads, and what the form holds of the device."""

from dataclasses import replace

import pytest

from evaluation.analysis.leading import Leading
from tests.evaluation.paired import FRONTIER_BYTES, HISTORY_BYTES_PER_LAYER, SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, edit, record_path

RECIPE = Synthetic(layers=(1, 39, 40), samples=6, scatter=0)


def leading(folder, recipe):
    return leading_of(Results.make(folder, recipe))


def leading_of(results):
    return Leading(results.findings(), results.run())


def test_the_last_layer_with_a_next_one_leads(tmp_path):
    """Of 40 layers the 39th, where the run has it; else the deepest."""
    assert leading(tmp_path / "with", RECIPE).layer == 39
    assert leading(tmp_path / "without", replace(RECIPE, layers=(1, 40))).layer == 40
    pairs = SyntheticPairs(layers=(39,))
    assert leading(tmp_path / "pairs", replace(RECIPE, layers=(1, 40), pairs=pairs)).layer == 39


def ready(which):
    """Of recompute's forms the second is the quicker."""
    if which.method == "recompute":
        return 90.0 if which.variant == "graphed" else 110.0
    return None if which.variant.startswith("async") else 0.7 + which.round / 100


def test_pairs_come_first_with_their_processes(tmp_path):
    """In them the quickest of recompute leads; vanilla is not in them, and has its samples."""
    found = leading(tmp_path, replace(RECIPE, pairs=SyntheticPairs(rounds=6, layers=(39,), ready=ready)))
    djinn = found.of("session", "djinn", "default")
    assert (djinn.layer, djinn.n, djinn.processes, djinn.is_range) == (39, 6, 6, False)
    assert djinn.median == pytest.approx(0.735)
    assert djinn.low < djinn.median < djinn.high
    assert found.of("session", "recompute").median == 90
    vanilla = found.of("session", "vanilla")
    assert (vanilla.median, vanilla.n, vanilla.processes) == (0.01, 6, None)
    assert found.of("session", "manual_offload", "nobody", "ordered").processes == 6
    assert found.of("session", "manual_offload", "nobody") is None


def test_without_pairs_recompute_leads_in_its_quickest_form(tmp_path):
    """Of its own jobs; a form that is named is taken as it is."""
    results = Results.make(tmp_path, RECIPE)
    plain = leading_of(results).of("session", "recompute")
    assert plain.variant == "default"
    results.add_quicker_rerun(*RECIPE.layers)
    found = leading_of(results)
    quickest = found.of("session", "recompute")
    assert (quickest.variant, quickest.median) == ("compiled", plain.median / 2)
    assert found.of("session", "recompute", "default") == plain


def test_two_processes_have_no_interval(tmp_path):
    """Whatever many blocks each has."""
    found = leading(tmp_path, replace(RECIPE, pairs=SyntheticPairs(blocks=4, layers=(39,), ready=ready)))
    djinn = found.of("session", "djinn", "default")
    assert (djinn.n, djinn.is_range) == (8, True)
    assert (djinn.low, djinn.high) == (pytest.approx(0.71), pytest.approx(0.72))


def test_held_is_what_the_device_counted(tmp_path):
    """In pairs the most of any process, in a job the median; what is kept is held, what is swapped is not."""
    results = Results.make(tmp_path, replace(RECIPE, pairs=SyntheticPairs(layers=(39,))))

    def hold(record):
        for cell in record["cells"]:
            for sample in cell["samples"]:
                sample["device_bytes_paused"] = 1_700_000_000

    edit(record_path(results.folder, "vanilla", 39, 1), hold)
    results.aggregate()
    found = Leading(results.findings(), results.run())
    assert found.of("session", "vanilla").held_bytes == 1_700_000_000
    assert found.of("session", "djinn", "default").held_bytes == 0
    assert found.of("session", "djinn", "kept").held_bytes == FRONTIER_BYTES


def test_without_a_device_it_is_what_is_meant_to_stay(tmp_path):
    """On a CPU, where nothing counts."""
    found = leading(tmp_path, replace(RECIPE, functional=True, pairs=SyntheticPairs(layers=(1,))))
    assert found.of("session", "vanilla").held_bytes == FRONTIER_BYTES + 39 * HISTORY_BYTES_PER_LAYER
    assert found.of("session", "djinn", "kept").held_bytes == FRONTIER_BYTES
    assert found.of("session", "manual_offload", "pinned").held_bytes == 0
