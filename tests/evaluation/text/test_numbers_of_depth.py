"""Plot 1's numbers are those of its lines at its layer."""

from evaluation.text.numbers_of_depth import numbers_of_depth
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic


def found_in(results):
    return {number.name: number.text for number in numbers_of_depth(results.depth(), "local", ["activation", "chat"])}


def test_each_line_has_its_time_and_recompute_its_ratio(tmp_path):
    """With the ends of its interval, of six processes; a workload that was not measured has none."""
    pairs = SyntheticPairs(rounds=6, layers=(1, 39))
    found = found_in(Results.make(tmp_path, Synthetic(layers=(1,), samples=1, pairs=pairs)))
    place = "ActivationAtDepth"
    assert found == {
        f"{place}Layer": "39",
        f"{place}Recompute": "fused, one graph",
        f"{place}RecomputeReadyMs": "79.0",
        f"{place}ReadyRatio": "132",
        f"{place}ReadyRatioLow": "132",
        f"{place}ReadyRatioHigh": "132",
        f"{place}StateMb": "22.0",
        f"{place}DjinnReadyMs": "0.600",
        f"{place}DjinnKeptReadyMs": "0.0800",
        f"{place}ByHandReadyMs": "0.600",
        f"{place}ByHandKeptReadyMs": "0.0800",
        f"{place}RawCopyReadyMs": "0.500",
        f"{place}DjinnResidentMs": "28.6",
    }


def test_a_run_without_pairs_has_them_from_its_jobs(tmp_path):
    """Of recompute in its plain form, at the deepest layer, without an interval or what is kept by hand."""
    found = found_in(Results.make(tmp_path, Synthetic(layers=(1, 40), samples=1)))
    assert (found["ActivationAtDepthRecompute"], found["ActivationAtDepthLayer"]) == ("plain", "40")
    assert found["ActivationAtDepthStateMb"] == "22.0"
    assert not any("ByHandKept" in name or "Low" in name for name in found)
