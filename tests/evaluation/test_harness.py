"""The harness and the four methods on the CPU, and that a resume which restores too little is caught."""

import dataclasses
import json
import sys
import threading
import time

import pytest
import torch

from djinn import transfer
from djinn.transfer import TransferEngine
from evaluation.benchmark_djinn import Djinn, partners
from evaluation.benchmark_manual_offload import OrderedOffload, PageableOffload, PinnedOffload, variants
from evaluation.benchmark_recompute import KvOffload, Recompute
from evaluation.benchmark_vanilla import Vanilla
from evaluation.harness import NotBitExact, measure
from evaluation.job import check_record, run_job
from evaluation.models import build
from evaluation.study import resolve

CONFIG = {
    "device": "cpu",
    "layers": [1, 3],
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 32, "kv_cache": False},
        {"name": "session", "batch": 2, "tokens": 32, "kv_cache": True},
        {"name": "decode", "batch": 2, "tokens": 32, "kv_cache": True, "decode_step": 2},
    ],
    "measurement": {"decode_steps": 2, "validation_samples": 1},
    "djinn": {"host_arena_gib": 0.125},
    "functional": {"tokens": 32, "samples": 2, "warmup_samples": 1, "think_time_ms": 1},
}


@pytest.fixture(scope="module")
def study():
    return resolve(CONFIG)


@pytest.fixture(scope="module")
def subject(study):
    return build(study)


def none(workload):
    return []


def run(subject, study, kind, layer=3, partners=none):
    if issubclass(kind, KvOffload):  # only where a token can be run again
        study = dataclasses.replace(study, workloads=study.workloads[2:])
    return measure(subject, study, layer, variants=lambda workload: [kind], partners=partners)


KINDS = [Vanilla, Recompute, KvOffload, PinnedOffload, PageableOffload, OrderedOffload, Djinn]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [1, 20, 40])
def test_every_method_is_bit_exact_at_every_depth(subject, study, kind, layer):
    """All workloads finish with the uninterrupted run's logits; clocks are in order and every sample is kept."""
    cells = run(subject, study, kind, layer)
    workloads = [workload.name for workload in study.workloads]
    assert [cell["workload"] for cell in cells] == (workloads[2:] if kind is KvOffload else workloads)
    for cell in cells:
        assert len(cell["samples"]) == 2
        for sample in cell["samples"]:
            assert sample["bit_exact"] is True
            assert 0 < sample["ready_ms"] <= sample["first_kernel_ms"] <= sample["result_ms"]
            assert sample["ready_ms"] <= sample["resident_ms"]
            assert (sample["floor_ms"] is None) == (kind in (Vanilla, Recompute))
            assert (sample["overwritten_bytes"] == 0) == (kind is Vanilla)


def test_state_sizes_agree_between_methods(subject, study):
    """By hand and by Djinn the frontier is the same; Djinn takes what is alive on the stack besides."""
    by_hand = run(subject, study, PinnedOffload)
    by_djinn = run(subject, study, Djinn)
    for hand, djinn in zip(by_hand, by_djinn, strict=True):
        assert hand["frontier_bytes"] == djinn["frontier_bytes"] > 0
        assert hand["state_bytes"] <= djinn["state_bytes"] <= 4 * hand["state_bytes"]
    activation, session, decode = by_hand
    assert activation["state_bytes"] == activation["frontier_bytes"]
    shape = subject.model.config
    kv = 3 * 2 * 2 * 32 * shape.num_key_value_heads * shape.head_dim * 2  # layers, k and v, batch, tokens, ..., bf16
    assert session["state_bytes"] == session["frontier_bytes"] + kv
    token = 2 * 2 * shape.num_key_value_heads * shape.head_dim * 2  # k and v, batch
    assert decode["frontier_bytes"] > 33 * token  # layer 4 has not seen the second decode step's token yet
    assert decode["state_bytes"] == decode["frontier_bytes"] + (3 * 34 + 36 * 33) * token


def test_djinn_is_paired_in_alternating_order(subject, study):
    """Each sample carries its partners; the ordered one where there is history; the order alternates."""
    cells = run(subject, study, Djinn, partners=partners)
    activation, session, decode = cells
    assert [set(sample["paired"]) for sample in activation["samples"]] == [{"pinned"}] * 2
    for cell in (session, decode):
        assert [set(sample["paired"]) for sample in cell["samples"]] == [{"pinned_identical", "pinned_ordered"}] * 2
    assert [sample["paired"]["pinned_identical"]["djinn_first"] for sample in session["samples"]] == [True, False]


class NothingBack(PinnedOffload):
    """Mutant: allocates, copies nothing."""

    def _to_device(self, tensors):
        return {name: torch.empty_like(tensor) for name, tensor in tensors.items()}


class KvLost(OrderedOffload):
    """Mutant: forgets the KV cache."""

    def _bring_rest(self):
        self._copies.submit({layer: [] for layer in self._layers})
        for target in self._targets.values():
            target.zero_()


class LayersDoNotWait(OrderedOffload):
    """Mutant: computes on while the KV cache is still to come."""

    def _bring_rest(self):
        time.sleep(0.05)
        super()._bring_rest()

    def before_layer(self, number):
        return None


class TokenWithoutItsPast(KvOffload):
    """Mutant: runs the token again without the KV cache of the tokens before it."""

    def _submit(self, numbers):
        self._copies.submit({number: [] for number in numbers})
        for target in self._targets.values():
            target.zero_()


class RecomputeTooLittle(Recompute):
    """Mutant: runs one layer too few and passes its output off as the right one."""

    def resume(self):
        self.layer -= 1
        self.prepare()
        self.layer += 1
        self.stopped.layer = self.layer


@pytest.mark.parametrize("mutant", [NothingBack, KvLost, LayersDoNotWait, TokenWithoutItsPast, RecomputeTooLittle])
def test_hand_written_mutants_are_caught(subject, study, mutant):
    """A resume that restores nothing, loses the KV, or computes too little fails the job."""
    with pytest.raises(NotBitExact, match=mutant.__name__):
        run(subject, study, mutant)


def copy_nothing(entries):
    return None


def skip_history(engine, state, ahead):
    for batch in state.history:
        state.submitted(batch)
    state.finish()
    engine.release(state.entries)
    state.settle()


def signal_early(engine, state, *, busy):
    """Ready is signalled before the copies, which arrive in time for the computation."""
    transfer._allocate([*state.frontier, *state.history])
    state.land()
    engine._behind.put(lambda: time.sleep(0.05))
    engine._behind.put(lambda: [transfer._copy_in(batch.entries) for batch in state.frontier])
    engine._behind.put(lambda: engine._bring_back(state, 0))
    state.go()
    state.wake()


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (transfer, "_copy_in", copy_nothing),
        (TransferEngine, "_bring_back", skip_history),
        (TransferEngine, "swap_in", signal_early),
    ],
)
def test_djinn_mutants_are_caught(subject, study, monkeypatch, owner, name, mutant):
    """A runtime that copies nothing, skips the history, or signals early fails the job."""
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(NotBitExact, match="Djinn"):
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
    assert record["study"] == json.loads(json.dumps(study.to_json()))
    assert {cell["variant"] for cell in record["cells"]} == {"pinned", "pageable", "pinned_ordered"}


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
    arguments(monkeypatch, tmp_path, study, "--layer", "41")
    assert run_job("vanilla", "", lambda workload: [Vanilla]) == 2
    assert capsys.readouterr().err == "error: --layer 41: llama-2-tiny has layers 1 to 40\n"
    small = resolve({**CONFIG, "djinn": {"host_arena_gib": 1e-6}})
    arguments(monkeypatch, tmp_path, small)
    assert run_job("djinn", "", lambda workload: [Djinn]) == 2
    assert "error: djinn.host_arena_gib is too small" in capsys.readouterr().err


def test_nothing_is_left_behind(subject, study):
    """After a measurement the model carries no hook and no watch, and no thread of the harness is left."""
    before = threading.active_count()
    run(subject, study, Djinn, partners=lambda workload: [OrderedOffload])
    assert threading.active_count() == before
    for module in subject.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
