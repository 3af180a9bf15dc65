"""What a former piece of a run measured is taken if it belongs here, and refused by name if not."""

import json
import os
import sys
from types import SimpleNamespace

import pytest

from evaluation.claims.rules import KEY
from evaluation.records.carry import carry, main
from evaluation.records.json_file import RunError
from evaluation.records.provenance import source_sha256
from evaluation.records.runs import benchmark_path, load_run
from evaluation.study.plan import Study
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.synthetic import EVERY, Synthetic, edit, record_path, write

PAIRS = SyntheticPairs(rounds=2, layers=(1, 40))
KINDS = ("measure", "pairs", "capabilities", "capacity")
HERE, BEFORE = "0123456789ab", "ba9876543210"  # sittings


class Whole(Synthetic):
    """A run whose records were measured by the sources here, each with its part of the study."""

    def study(self):
        study = super().study()
        del study[KEY]
        return {**study, "experiments": list(KINDS[1:]), "latency_methods": list(self.methods)}

    def write(self, folder):
        super().write(folder)
        whole = Study.from_json(json.loads((folder / "study.json").read_text()))
        write(folder / "study.json", whole.published())
        for kind in KINDS:
            write(folder / "studies" / f"{kind}.json", whole.for_job(kind))
        for path in [*folder.rglob("raw/**/*.json"), *folder.glob("cap*/*.json")]:
            edit(path, lambda record: self._measured(record, whole))
        return folder

    @staticmethod
    def _measured(record, whole):
        record["study"] = whole.part(record.get("kind", "measure"))
        record["provenance"].update(source_sha256=source_sha256(), sitting=BEFORE)


@pytest.fixture
def former(tmp_path):
    """A whole run, measured in another sitting."""
    recipe = Whole(layers=(1, 40), samples=6, pairs=PAIRS, beside=EVERY)
    return recipe.write(tmp_path / "former")


@pytest.fixture
def here(tmp_path, former):
    """A fresh checkout's run, which says what is to be measured, later than anything that was."""
    folder = tmp_path / "results" / "local"
    for path in [former / "study.json", *(former / "studies").iterdir()]:
        write(folder / path.relative_to(former), json.loads(path.read_text()))
    return folder


def test_a_whole_run_is_taken_and_newer_than_what_it_was_measured_by(former, here):
    """Records, what their jobs took, and the probe; it can be read, and nothing of it is stale."""
    for path in former.rglob("*.json"):
        os.utime(path, (1, 1))
    cost = benchmark_path(former, record_path(former, "djinn", 40))
    cost.parent.mkdir(parents=True)
    cost.write_text("s\tmax_rss\n1\t2\n")
    carried = carry(former, here, now=HERE)
    assert (len(carried.taken), carried.kept, carried.refused) == (4 * 2 + 2 + 8, [], {})
    assert len(load_run(here).records) == 8
    assert benchmark_path(here, record_path(here, "djinn", 40)).read_text() == cost.read_text()
    asked = max(path.stat().st_mtime_ns for path in (here / "studies").iterdir())
    assert min((here / place).stat().st_mtime_ns for place in [*carried.taken, "machine.json"]) >= asked


def test_what_is_here_is_kept(former, here):
    """A second time there is nothing to take."""
    carry(former, here, now=HERE)
    before = record_path(here, "djinn", 1).stat()
    again = carry(former, here, now=HERE)
    assert (again.taken, len(again.kept)) == ([], 18)
    assert record_path(here, "djinn", 1).stat() == before


REFUSED = {
    "sources": (lambda record: record["provenance"].update(source_sha256="0" * 64), "measured by other sources"),
    "study": (lambda record: record["study"]["measurement"].update(think_time_ms=7), "measured for another study"),
    "schema": (lambda record: record.update(round=0), "round"),
    "place": (lambda record: record.update(round=2), "holds the record of raw/pairs/round_2.json"),
    "device": (lambda record: record["provenance"].update(device_name="Other"), "mixed run: another device name"),
    "inexact": (lambda record: record["cells"][0]["blocks"][0]["samples"][0].update(bit_exact=False), "bit_exact"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_does_not_belong_is_refused_with_the_reason(former, here, fault):
    """One record; the others are taken."""
    change, reason = REFUSED[fault]
    edit(former / "raw" / "pairs" / "round_1.json", change)
    carried = carry(former, here, now=HERE)
    assert list(carried.refused) == ["raw/pairs/round_1.json"]
    assert reason in carried.refused["raw/pairs/round_1.json"]
    assert not (here / "raw" / "pairs" / "round_1.json").exists()
    assert len(carried.taken) == 17


def test_what_the_rest_would_not_be_measured_with_is_refused(former, here):
    """Another driver, or other packages: the run would be refused as a mixed one when all of it is measured."""
    of_them = json.loads(record_path(former, "djinn", 1).read_text())["provenance"]
    machine = {name: of_them.get(name) for name in ("driver", "versions")}
    edit(former / "raw" / "pairs" / "round_1.json", lambda record: record["provenance"].update(driver="999.1"))
    edit(former / "raw" / "pairs" / "round_2.json", lambda record: record["provenance"]["versions"].update(torch="1.0"))
    carried = carry(former, here, now=HERE, here=machine)
    assert carried.refused == {
        "raw/pairs/round_1.json": "measured with another driver than what measures the rest here",
        "raw/pairs/round_2.json": "measured with other packages than what measures the rest here",
    }
    assert len(carried.taken) == 16


def test_the_command_compares_with_this_machine(former, here, monkeypatch, capsys):
    """These records are of no machine that has these tests, so none of them is taken."""
    monkeypatch.setattr(
        "evaluation.records.carry.visible_gpu", lambda: SimpleNamespace(uuid="GPU-1", driver="1.2.3", name="H100")
    )
    monkeypatch.setattr(sys, "argv", ["carry", "--from", str(former), "--results", str(here.parent)])
    assert main() == 0
    out = capsys.readouterr().out
    assert out.startswith("0 records taken, 0 here already, 18 refused\n")
    assert out.count("measured with another driver and other packages") == 18


def test_a_piece_of_another_device_is_refused_as_a_whole(former, here):
    """As on a machine without a GPU, whose study is a functional one: the reason of each record would not say that."""
    edit(here / "study.json", lambda study: study.update(device="cpu"))
    with pytest.raises(RunError, match="measured on cuda, and what is to be measured here on cpu"):
        carry(former, here, now=HERE)


def test_a_strict_study_takes_what_was_measured_strictly(former, here):
    """Others may have been throttled, or shared their GPU."""
    edit(here / "study.json", lambda study: study.update(strict=True))
    edit(record_path(former, "djinn", 1), lambda record: record["provenance"].update(conditions={"strict": True}))
    refused = carry(former, here, now=HERE).refused
    assert refused.pop("raw/djinn/layer_1/round_1.json") != "measured without strict, which this study asks for"
    assert len(refused) == 17
    assert set(refused.values()) == {"measured without strict, which this study asks for"}


def test_a_piece_without_latency_over_depth_is_taken(former, here):
    """As one of pairs alone, which lie in several sittings."""
    for method in ("vanilla", "recompute", "manual_offload", "djinn"):
        for layer in (1, 40):
            record_path(former, method, layer).unlink()
    edit(former / "raw" / "pairs" / "round_2.json", lambda record: record["provenance"].update(sitting=HERE))
    carried = carry(former, here, now=HERE)
    assert (len(carried.taken), carried.refused) == (10, {})


def test_a_piece_that_was_not_probed_goes_by_the_probe_here(former, here):
    """One that ended before its probe, or of which the records alone were kept."""
    write(here / "machine.json", json.loads((former / "machine.json").read_text()))
    (former / "machine.json").unlink()
    assert len(carry(former, here, now=HERE).taken) == 4 * 2 + 2 + 8
    assert len(load_run(here).records) == 8


def test_latency_over_depth_is_of_one_sitting(former, here):
    """A part of it is taken in the sitting that measured it, where the rest follows, and in no other."""
    record_path(former, "djinn", 40).unlink()
    carried = carry(former, here, now=HERE)
    assert len(carried.refused) == 7
    reason = carried.refused["raw/djinn/layer_1/round_1.json"]
    assert "which has 7 of the 8 records of raw/METHOD; all need one" in reason
    assert len(carried.taken) == 10
    assert carry(former, here, now=BEFORE).refused == {}
    assert record_path(here, "djinn", 1).exists()


def test_of_two_sittings_this_one_is_taken(former, here):
    """The rest would be measured in it, so what the other one has is incomplete."""
    edit(record_path(former, "djinn", 40), lambda record: record["provenance"].update(sitting=HERE))
    carried = carry(former, here, now=HERE)
    assert len(carried.refused) == 7
    reason = carried.refused["raw/djinn/layer_1/round_1.json"]
    assert reason == "of another sitting, which has 7 of the 8 records of raw/METHOD; all need one"
    assert record_path(here, "djinn", 40).exists()


def test_one_that_is_refused_leaves_the_others_of_its_sitting_incomplete(former, here):
    """All of latency over depth is there, but one record of it does not belong; none of it is taken."""
    edit(record_path(former, "djinn", 40), lambda record: record["provenance"].update(device_name="Other"))
    carried = carry(former, here, now=HERE)
    assert len(carried.refused) == 8
    assert "another device name" in carried.refused["raw/djinn/layer_40/round_1.json"]
    assert "which has 7 of the 8 records" in carried.refused["raw/djinn/layer_1/round_1.json"]
    assert len(carried.taken) == 10
    assert not (here / "raw" / "djinn").exists()


def test_a_folder_that_is_no_run_or_a_run_that_asks_for_nothing_is_refused(former, here, tmp_path, capsys, monkeypatch):
    """With one message and status 2."""
    with pytest.raises(RunError, match="name a copy of a folder results/RUN"):
        carry(tmp_path, here, now=None)
    write(here / "machine.json", json.loads((former / "machine.json").read_text()))
    with pytest.raises(RunError, match="no record of this run in it"):
        carry(former / "raw", here, now=None)
    with pytest.raises(RunError, match="snakemake --cores 1 studies"):
        carry(former, tmp_path / "other", now=None)
    monkeypatch.setattr(sys, "argv", ["carry", "--from", str(former), "--run", "h100-sxm-80gb"])
    assert main() == 2
    assert "published runs are never added to" in capsys.readouterr().err
