"""The harness and its jobs on the CPU, and that a resume which restores too little is caught."""

import dataclasses
import json
import sys
import threading

import pytest
import torch

from evaluation.measure import job
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_job
from evaluation.measure.workloads import _has_turn, measure
from evaluation.methods.benchmark_djinn import Djinn
from evaluation.methods.benchmark_manual_offload import variants
from evaluation.methods.benchmark_recompute import variants as recomputes
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.methods.offloads import AsyncOffload, form
from evaluation.methods.reruns import CompiledRecompute
from evaluation.records.kinds import check_record
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import CONFIG, run
from tests.evaluation.mutants import OF_THE_RUNTIME, NothingBack, take_little


def test_variants_that_are_not_drawn_take_fewer_samples(subject, study):
    """They are spread over the job, and are warmed up like the others; what is drawn beside the primary takes all."""
    counts = dataclasses.replace(study.measurement, samples=5, other_samples=2)
    study = dataclasses.replace(study, measurement=counts, workloads=study.workloads[:1])
    cells = measure(subject, study, 3, variants=variants)
    assert {cell["variant"]: len(cell["samples"]) for cell in cells} == {"pinned": 5, "pageable": 2}
    more = measure(subject, study, 3, variants=recomputes)
    assert {cell["variant"]: len(cell["samples"]) for cell in more} == {"default": 5, "compiled": 5, "graphed": 0}
    assert [index for index in range(30) if _has_turn(index, 12, 30)] == [2, 4, 7, 9, 12, 14, 17, 19, 22, 24, 27, 29]


def test_a_variant_that_cannot_run_says_why(subject, study):
    """The others of its method are measured."""
    study = dataclasses.replace(study, workloads=study.workloads[1:2])
    cells = {cell["variant"]: cell for cell in measure(subject, study, 3, variants=variants)}
    assert cells["offloaded_cache"]["outcome"] == "unsupported"
    assert cells["offloaded_cache"]["message"] == "the offloaded cache of transformers needs a GPU"
    assert cells["offloaded_cache"]["samples"] == []
    assert cells["pinned"]["outcome"] == "ok"


class OtherArithmetic(CompiledRecompute):
    """Bits of its own, as compiled layers have them on a GPU; ``factor`` scales what the layers return."""

    factor = 1 + 2**-7

    def prepare(self):
        super().prepare()
        self.stopped.hidden_states = self.stopped.hidden_states * self.factor


def test_arithmetic_of_its_own_is_compared_with_its_own_run(subject, study):
    """Rounded otherwise it still is bit-exact; what restores too little or computes something else is not."""
    for cell in run(subject, study, OtherArithmetic):
        assert all(sample["bit_exact"] for sample in cell["samples"])


class Something(OtherArithmetic):
    """Mutant: another function than the program's."""

    factor = torch.linspace(-1, 1, 64, dtype=torch.bfloat16)


class Forgetful(OtherArithmetic):
    """Mutant: of its arithmetic something is lost in a resume."""

    def resume(self):
        super().resume()
        self.stopped.hidden_states = self.stopped.hidden_states / self.factor


@pytest.mark.parametrize(
    ("mutant", "message"), [(Something, "it computes something else"), (Forgetful, "not on the device")]
)
def test_mutants_with_arithmetic_of_their_own_are_caught(subject, study, mutant, message):
    """Neither is hidden by the comparison with its own run."""
    with pytest.raises(NotBitExact, match=message):
        run(subject, study, mutant)


@pytest.mark.parametrize(("owner", "name", "mutant"), OF_THE_RUNTIME)
def test_djinn_mutants_are_caught(subject, study, monkeypatch, owner, name, mutant):
    """A runtime that copies nothing, skips the history, or signals early fails the job."""
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(NotBitExact, match="Djinn"):
        run(subject, study, Djinn)


def test_a_pause_that_leaves_the_state_on_the_device_is_caught(subject, study, monkeypatch):
    """It would resume in no time, bit-exact: what it keeps in host memory is less than frontier and KV cache."""
    monkeypatch.setattr("djinn.state.ownership.Ownership.externally_referenced", take_little)
    with pytest.raises(NotBitExact, match=r"Djinn.*the pause kept \d+ bytes of a state of at least \d+"):
        run(subject, study, Djinn)


def arguments(monkeypatch, tmp_path, study, *more):
    resolved = tmp_path / "study.json"
    resolved.write_text(json.dumps(study.to_json()))
    out = tmp_path / "raw" / "record.json"
    monkeypatch.setattr(sys, "argv", ["benchmark", "--layer", "3", "--study", str(resolved), "--out", str(out), *more])
    return out


def test_job_writes_a_valid_record(monkeypatch, tmp_path, study):
    """The record passes its schema and says what ran."""
    out = arguments(monkeypatch, tmp_path, study)
    assert run_job("manual_offload", "", variants) == 0
    record = json.loads(out.read_text())
    check_record(record)
    assert (record["method"], record["layer"], record["round"]) == ("manual_offload", 3, 1)
    assert record["study"] == study.part("measure")
    assert {cell["variant"] for cell in record["cells"]} == {
        variant.variant for variant in variants(study.workloads[1])
    }


def test_a_record_that_is_not_as_described_is_not_written(monkeypatch, tmp_path, study):
    """It is a fault of this program, and no result."""
    out = arguments(monkeypatch, tmp_path, study)
    monkeypatch.setattr(job, "measure", lambda *args, **kwargs: [{"workload": "session"}])
    with pytest.raises(ValueError, match="cells.0"):
        run_job("vanilla", "", lambda workload: [Vanilla])
    assert not out.exists()


def test_a_study_that_is_no_json_is_refused(monkeypatch, tmp_path, study, capsys):
    """By the option that names it, in one line."""
    arguments(monkeypatch, tmp_path, study)
    (tmp_path / "study.json").write_text("{")
    assert run_job("vanilla", "", lambda workload: [Vanilla]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --study ")
    assert "it is no JSON: Expecting property name" in said
    assert said.count("\n") == 1


def test_corrupted_resume_fails_the_job(monkeypatch, tmp_path, study, capsys):
    """Exit status 1, a message that names the method and layer, and no record."""
    out = arguments(monkeypatch, tmp_path, study)
    assert run_job("manual_offload", "", lambda workload: [NothingBack]) == 1
    assert not out.exists()
    assert "not bit-exact: NothingBack (pinned), layer 3, workload activation" in capsys.readouterr().err


def test_out_of_memory_is_an_outcome(monkeypatch, tmp_path, study):
    """A device that refuses gives a cell with its message instead of a traceback; other workloads are measured."""

    class Refused(Vanilla):
        def prepare(self):
            if self.workload.kv_cache:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more")
            super().prepare()

    out = arguments(monkeypatch, tmp_path, study)
    assert run_job("vanilla", "", lambda workload: [Refused]) == 0
    activation, session, _ = json.loads(out.read_text())["cells"]
    assert activation["outcome"] == "ok"
    assert session["outcome"] == "out_of_memory"
    assert session["message"] == "CUDA out of memory. Tried to allocate 2 GiB."
    assert session["samples"] == []


def test_bad_requests_are_refused_with_one_message(monkeypatch, tmp_path, study, capsys):
    """A layer beyond the depth and an arena that is too small end with status 2 and one line each."""
    arguments(monkeypatch, tmp_path, study, "--layer", "11")
    assert run_job("vanilla", "", lambda workload: [Vanilla]) == 2
    assert capsys.readouterr().err == "error: --layer 11: llama-2-tiny has layers 1 to 10\n"
    small = resolve({**CONFIG, "djinn": {"host_arena_gib": 1e-6}})
    arguments(monkeypatch, tmp_path, small)
    assert run_job("djinn", "", lambda workload: [Djinn]) == 2
    assert "error: djinn.host_arena_gib is too small" in capsys.readouterr().err


def test_nothing_is_left_behind(subject, study):
    """After a measurement the model carries no hook and no watch, and no thread of the harness is left."""
    before = set(threading.enumerate())
    for kind in (Djinn, form(AsyncOffload, link="attended")):
        run(subject, study, kind)
    assert set(threading.enumerate()) <= before
    for module in subject.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
