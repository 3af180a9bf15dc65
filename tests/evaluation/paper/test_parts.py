"""Studies that leave something out: what was not asked for is absent, and never a crash."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.analysis.durability import Durability, Kill
from evaluation.analysis.neighbours import Disturbance
from evaluation.analysis.outcomes import Capacity
from evaluation.analysis.round_trips import FIRST, RoundTrip
from evaluation.analysis.spills import Spilling
from evaluation.paper import section
from evaluation.paper.plan import Plan
from evaluation.paper.verdicts import lines
from evaluation.records.publish import publish as put_among_the_published
from evaluation.records.runs import load_run, side_records
from evaluation.text.numbers_of_use import Tables, numbers_of_use
from evaluation.text.verdicts import verdicts
from evaluation.text.words import Words
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results, publish
from tests.evaluation.synthetic import EVERY, Synthetic
from tests.evaluation.text.test_verdicts import claim

FIGURES = Path(__file__).parents[3] / "paper_figures"
# As configs/ten_minutes.yaml asks for it.
TEN = Synthetic(
    layers=(1, 20, 39),
    samples=8,
    pairs=SyntheticPairs(rounds=6, layers=(1, 20, 39)),
    beside={place: cells for place, cells in EVERY.items() if place.startswith("capabilities/")},
    asks={"latency_methods": ["recompute"], "experiments": ["pairs", "capabilities"]},
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Such a run of a GPU, drawn."""
    results = Results.make(tmp_path_factory.mktemp("ten"), TEN)
    assert results.draw() == 0
    return results


def test_a_part_of_the_study_is_drawn_and_decided(results):
    """What needs the rest has no output; a claim that the rest would decide is undecided and says why."""
    drawn = {path.name for path in (results.root / "figures" / "local").iterdir()}
    assert {"claims.json", "crossover.pdf", "ratios.pdf", "pairs.tex", "setup.tex", "numbers.tex"} <= drawn
    assert not {"memory_wall.pdf", "load.pdf", "sweep.pdf"} & drawn
    claims = json.loads(results.drawn("claims.json"))["claims"]
    (line, *_) = [one for one in claims if (one["id"], one["workload"]) == ("C1", "activation")]
    assert line["verdict"] != "undecided"
    (wall,) = [one for one in claims if one["id"] == "C6"]
    assert (wall["verdict"], bool(wall["remark"])) == ("undecided", True)


def test_the_page_of_costs_has_no_row_of_what_was_not_asked_for(results):
    """It was not left undone."""
    page = results.drawn("experiments.md").decode()
    assert "| **E1** |" in page
    assert "| **E2** |" not in page
    assert "not measured" not in page


def test_verdicts_are_a_few_lines(results):
    """Each claim with its commonest verdict, where there is another one, where to look and what is next."""
    printed = list(lines(results.material()))
    assert printed[0] == "The run local:"
    claims = [line.split()[:2] for line in printed if line.startswith("  C")]
    assert [name for name, _ in claims] == [f"C{n}" for n in range(1, 9)]
    assert "  C8 supported: No change to the user's model code" in printed
    assert "     refuted: activation (first kernel); session (first kernel)" in printed
    assert printed[-2].startswith("Look first at ")
    assert printed[-1].endswith("make report")
    assert max(map(len, printed[:-2])) <= 80
    assert len(printed) < 30


def test_it_is_published_without_what_it_does_not_ask_for(results):
    """And what it asks for is demanded."""
    published = results.root / "results" / "published"
    target = put_among_the_published(results.folder, published, "ten")
    assert load_run(target).study["experiments"] == ["pairs", "capabilities"]
    assert side_records(load_run(target).study) == [f"capabilities/{method}.json" for method in TEN.methods]
    assert not (target / "raw" / "djinn").exists()
    (results.folder / "raw" / "pairs" / "round_6.json").rename(results.root / "aside.json")
    try:
        with pytest.raises(ValueError, match=r"pairs/round_6.json: missing"):
            put_among_the_published(results.folder, published, "second")
    finally:
        (results.root / "aside.json").rename(results.folder / "raw" / "pairs" / "round_6.json")


def test_of_two_published_runs_the_second_decides_what_each_run_decides(tmp_path):
    """C1 to C5; memory wall, edits and lines are decided for the first, which has the folder for itself."""
    recipe = replace(TEN, asks={}, pairs=SyntheticPairs(rounds=2, layers=(1, 39)), layers=(1, 39), samples=6)
    results = Results.make(tmp_path, recipe)
    for name in ("first", "second"):
        publish(tmp_path, name, recipe)
    assert results.draw("claims", "crossover", run="first", leading="first") == 0
    assert results.draw("claims", "crossover", "setup", run="second", leading="first") == 0
    decided = {
        folder: {one["id"] for one in json.loads((tmp_path / "figures" / folder / "claims.json").read_text())["claims"]}
        for folder in (".", "second")
    }
    assert decided["."] == {f"C{number}" for number in range(1, 9)}
    assert decided["second"] == {f"C{number}" for number in range(1, 6)}
    assert {path.name for path in (tmp_path / "figures" / "second").iterdir()} >= {"claims.md", "crossover.pdf"}
    assert Plan.found(tmp_path / "results", "second").name == "second"


class Everything(dict):
    """Has every number, and notes which were asked for."""

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        self[name] = 1
        return 1


@pytest.mark.parametrize("template", ["section.tex.j2", "appendix.tex.j2"])
def test_no_sentence_waits_for_a_number_that_no_run_has(results, monkeypatch, template):
    """Else a slip in a name would leave its sentence out of every paper."""
    ends = {"median": 1.0, "ci_low": 1.0, "ci_high": 1.0, "n": 6}
    form = {"run": "x", "variant": "ordered", **ends}
    trips = [
        RoundTrip(workload="x", layer=1, keeps="nothing", metric="paused_ms", site=site, **{**form, **who})
        for site in ("known", FIRST)
        for who in ({"method": "djinn", "variant": "default"}, {"method": "manual_offload"})
    ]
    swaps = [
        Disturbance(window="swaps", metric="relative_rate", unit="", **{**form, "variant": variant}, method=method)
        for method, variant in (("djinn", "default"), ("manual_offload", "ordered"))
    ]
    saves = [
        Durability(run="x", workload="session", layer=1, metric=metric, unit=unit, **ends)
        for metric, unit in (("file_bytes", "bytes"), ("save_ms", "ms"), ("restore_ms", "ms"), ("rerun_ms", "ms"))
    ]
    kills = [Kill(run="x", method="djinn", variant="default", saved_bytes=1, survives="edit")]
    sizes = {"sessions": 1, "on_disk": 1, "host_arena_bytes": 1, "state_bytes": 1}
    spills = [Spilling(run="x", metric=metric, **sizes, **ends) for metric in ("ready_spilled_ms", "read_ms")]
    coded = Capacity(
        run="x", method="djinn", variant="coded", sessions=1, stopped_by="cap", device_bytes=1, host_bytes=1
    )
    tables = Tables(editing=trips, neighbour=swaps, durable=saves, kills=kills, disk=spills, capacity=[coded])
    usable = claim("C5", "session", "usable", "refuted", ratio={"value": 15.0, "unit": "times"})
    known = {one.name for one in (*numbers_of_use(tables), *verdicts([usable]))}
    for folder in (results.root / "figures" / "local", FIGURES):
        numbers, claims = (json.loads((folder / name).read_text()) for name in ("numbers.json", "claims.json"))
        known |= Words.of(numbers, claims).values.keys()
    asked = Everything()
    monkeypatch.setattr(section, "words_of", lambda material: Words(values=asked, claims=claims["claims"]))
    assert section.text(results.material(), template)
    known |= {"LeadingLayer"}  # of neither run, and these of no job of theirs
    known |= {f"ManualOffloadOrderedSession{clock}MsLayerOne" for clock in ("Ready", "Resident")}
    known |= {name for name in asked if name.startswith("SweepOrderLayer")}  # which the caption tries for every layer
    assert {name for name in asked if not name.endswith(("Low", "High"))} <= known
