"""The job of the waits on the CPU: every form after every wait, there and back, and that each mutant fails it."""

import dataclasses
import json
import sys

import pytest
import torch

from evaluation.experiments import thinking
from evaluation.measure import harness
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.methods.benchmark_djinn import AttendedDjinn, Djinn
from evaluation.methods.offloads import PinnedOffload
from evaluation.records.kinds import check_record
from evaluation.study.plan import Thinking, Wait
from tests.evaluation import mutants
from tests.evaluation.measuring import shallow, study, subject

__all__ = ["shallow", "study", "subject"]

WAITS = (Wait(think_time_ms=0, blocks=2), Wait(think_time_ms=3, blocks=1))


@pytest.fixture(scope="module")
def small(study):
    """Two waits at one layer, without warm-up."""
    counts = dataclasses.replace(study.measurement, warmup_samples=0)
    return dataclasses.replace(study, thinking=Thinking(layers=(3,), waits=WAITS), measurement=counts)


def test_every_form_comes_after_every_wait(monkeypatch, tmp_path, small):
    """One record that passes its schema: the first workload without a KV cache and the first with one."""
    (tmp_path / "study.json").write_text(json.dumps(small.for_job("thinking")))
    out = tmp_path / "thinking.json"
    monkeypatch.setattr(sys, "argv", ["thinking", "--study", str(tmp_path / "study.json"), "--out", str(out)])
    assert run_side_job("thinking", "", thinking.take) == 0
    record = json.loads(out.read_text())
    check_record(record)
    assert record["study"] == small.part("thinking")
    assert [(cell["workload"], cell["layer"]) for cell in record["cells"]] == [("activation", 3), ("session", 3)]
    names = [{form["variant"] for form in cell["forms"]} for cell in record["cells"]]
    assert names == [
        {"default", "kept", "pinned", "async", "pinned_kept", "attended", "pinned_attended"},
        {"default", "kept", "ordered", "async", "ordered_kept"},
    ]
    for cell in record["cells"]:
        for block, waits in zip(cell["blocks"], ([0, 3], [0]), strict=True):
            runs = [(sample["form"], sample["think_time_ms"]) for sample in block["samples"]]
            assert runs == runs[::-1]
            assert sorted(runs) == sorted(2 * [(form, wait) for form in range(len(cell["forms"])) for wait in waits])
            assert sorted(floor["think_time_ms"] for floor in block["floors"]) == sorted(2 * waits)


def take(subject, study, *kinds):
    one = dataclasses.replace(study, workloads=study.workloads[1:2])
    with torch.no_grad():
        return thinking.take(subject, one, lambda line: None, lambda workload: [Djinn, *kinds])


def test_a_sample_waits_as_long_as_its_row_says(monkeypatch, subject, small):
    """The floor too; of what is thrown away, the shortest wait."""
    slept = []
    monkeypatch.setattr(harness.time, "sleep", slept.append)
    (cell,) = take(subject, small, PinnedOffload)["cells"]
    said = [sample["think_time_ms"] for block in cell["blocks"] for sample in (*block["floors"], *block["samples"])]
    assert sorted(round(1000 * seconds) for seconds in slept) == sorted([0, 0, *said])
    assert said.count(3) == 2 + 4


@pytest.mark.parametrize("name", ["NothingBack", "KvLost", "SignalsEarly", "LeftOnTheDevice"])
def test_hand_written_mutants_fail_the_job(subject, small, name):
    """One that copies nothing, skips the KV, signals early or leaves the state where it is."""
    with pytest.raises(NotBitExact, match=name):
        take(subject, small, getattr(mutants, name))


@pytest.mark.parametrize(("owner", "name", "mutant"), mutants.OF_THE_RUNTIME)
def test_djinn_mutants_fail_the_job(subject, small, monkeypatch, owner, name, mutant):
    """A runtime that copies nothing, skips the history, or signals early."""
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(NotBitExact, match="Djinn"):
        take(subject, small)


def test_no_memory_is_an_outcome_of_its_cell(subject, small):
    """The other workload is measured."""

    class Refused(PinnedOffload):
        def prepare(self):
            if self.workload.kv_cache:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more")
            super().prepare()

    with torch.no_grad():
        found = thinking.take(subject, small, lambda line: None, lambda workload: [Djinn, Refused])
    outcomes = [(cell["outcome"], cell["message"]) for cell in found["cells"]]
    assert outcomes == [("ok", ""), ("out_of_memory", "CUDA out of memory. Tried to allocate 2 GiB.")]


def test_no_model_has_the_hooks_of_another_form(monkeypatch, subject, small):
    """A runtime's twin is made when its form is, which may be behind forms that put their clocks on the model."""
    hooks = {}
    prepare = Djinn.prepare

    def counted(self):
        layer = self.subject.layers[self.layer]
        found = [*layer._forward_pre_hooks.values(), *layer.input_layernorm._forward_hooks.values()]
        hooks.setdefault(self.variant, len(found))
        prepare(self)

    monkeypatch.setattr(Djinn, "prepare", counted)
    take(subject, small, PinnedOffload, AttendedDjinn)
    assert hooks["attended"] == hooks["default"] > 0
