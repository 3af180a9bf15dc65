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
from evaluation.measure import fused_layers
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import check_record, run_job
from evaluation.measure.models import build
from evaluation.measure.workloads import _has_turn, measure
from evaluation.methods.benchmark_djinn import Djinn, partners
from evaluation.methods.benchmark_manual_offload import (
    OffloadedCache,
    OrderedOffload,
    PageableOffload,
    PinnedOffload,
    variants,
)
from evaluation.methods.benchmark_recompute import CompiledRecompute, KvOffload, Recompute
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import LAYERS

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


KINDS = [Vanilla, Recompute, CompiledRecompute, KvOffload, PinnedOffload, PageableOffload, OrderedOffload, Djinn]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [1, LAYERS // 2, LAYERS])
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
            assert (sample["floor_ms"] is None) == (kind in (Vanilla, Recompute, CompiledRecompute))
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
    assert decode["state_bytes"] == decode["frontier_bytes"] + (3 * 34 + (LAYERS - 4) * 33) * token


def test_djinn_is_paired_in_alternating_order(subject, study):
    """Each sample carries its partners; the ordered one where there is history; the order alternates."""
    cells = run(subject, study, Djinn, partners=partners)
    activation, session, decode = cells
    assert [set(sample["paired"]) for sample in activation["samples"]] == [{"pinned"}] * 2
    for cell in (session, decode):
        assert [set(sample["paired"]) for sample in cell["samples"]] == [{"pinned_identical", "pinned_ordered"}] * 2
    assert [sample["paired"]["pinned_identical"]["djinn_first"] for sample in session["samples"]] == [True, False]


def test_variants_that_lead_nothing_take_fewer_samples(subject, study):
    """They are spread over the job, and are warmed up like the others."""
    counts = dataclasses.replace(study.measurement, samples=5, other_samples=2)
    study = dataclasses.replace(study, measurement=counts, workloads=study.workloads[:1])
    cells = measure(subject, study, 3, variants=variants, partners=none)
    assert {cell["variant"]: len(cell["samples"]) for cell in cells} == {"pinned": 5, "pageable": 2}
    assert [index for index in range(30) if _has_turn(index, 12, 30)] == [2, 4, 7, 9, 12, 14, 17, 19, 22, 24, 27, 29]


def test_a_variant_that_cannot_run_says_why(subject, study):
    """The others of its method are measured."""
    study = dataclasses.replace(study, workloads=study.workloads[1:2])
    cells = {cell["variant"]: cell for cell in measure(subject, study, 3, variants=variants, partners=none)}
    assert cells["offloaded_cache"]["outcome"] == "unsupported"
    assert cells["offloaded_cache"]["message"] == "the offloaded cache of transformers needs a GPU"
    assert cells["offloaded_cache"]["samples"] == []
    assert cells["pinned"]["outcome"] == "ok"


class NoStream:
    """In place of a CUDA stream where there is none."""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        return None

    def wait_stream(self, stream):
        return None


def test_the_offloaded_cache_is_bit_exact(subject, study, monkeypatch):
    """Its state never is on the device as a whole, so the clock resident has no value."""
    monkeypatch.setattr(torch, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: NoStream())
    monkeypatch.setattr(OffloadedCache, "unsupported", classmethod(lambda kind, device: ""))
    study = dataclasses.replace(study, workloads=study.workloads[1:])
    for cell in run(subject, study, OffloadedCache):
        assert [sample["resident_ms"] for sample in cell["samples"]] == [None, None]
        assert all(sample["host_bytes_paused"] > 0 for sample in cell["samples"])


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


def test_fused_layers_come_off(subject, study):
    """The model's layers are its own again, after an error too."""

    def fail():
        with fused_layers.fused(subject):
            assert all("forward" in vars(layer) for layer in subject.layers)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all("forward" not in vars(layer) for layer in subject.layers)


def test_compiling_needs_a_compiler(monkeypatch):
    """On a GPU machine without one the variant is unsupported, and says what is missing."""
    monkeypatch.setattr(fused_layers.shutil, "which", lambda name: None)
    assert "C compiler" in CompiledRecompute.unsupported(torch.device("cuda"))
    monkeypatch.setattr(fused_layers.shutil, "which", lambda name: "/usr/bin/gcc")
    monkeypatch.setattr(fused_layers.sysconfig, "get_path", lambda name: "/nowhere")
    assert "Python.h" in CompiledRecompute.unsupported(torch.device("cuda"))


@pytest.mark.gpu
def test_variants_for_the_gpu_alone():
    """Compiled layers and the offloaded cache, on the device that they are for."""
    study = resolve({**CONFIG, "device": "cuda", "model": {"name": "llama-2-tiny"}, "layers": [1, LAYERS]})
    counts = dataclasses.replace(study.measurement, samples=2, other_samples=2, think_time_ms=1)
    study = dataclasses.replace(study, measurement=counts)
    subject = build(study)
    for kind in (CompiledRecompute, OffloadedCache):
        workloads = tuple(one for one in study.workloads if one.kv_cache or kind is CompiledRecompute)
        for layer in (1, LAYERS):
            cells = run(subject, dataclasses.replace(study, workloads=workloads), kind, layer)
            assert [cell["outcome"] for cell in cells] == ["ok"] * len(workloads)


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


def skip_history(engine, state, batches):
    for batch in state.history:
        state.submitted(batch)
    state.finish()
    engine.release(state.entries)
    state.settle()


def signal_early(engine, state, *, busy):
    """Ready is signalled before the copies, which arrive in time for the computation."""
    transfer._allocate([*state.frontier, *state.history])
    state.land()

    def late():
        time.sleep(0.05)
        for batch in state.frontier:
            transfer._copy_in(batch.entries)
        engine._bring_back(state, state.history)

    state.depart(engine._behind.posting(late))


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


def take_little(ownership, walk, by_storage, **kwargs):
    """Everything but the position ids seems to be somebody else's."""
    return {
        address: "somebody holds it"
        for address, nodes in by_storage.items()
        if not any("position_ids" in node.name for node in nodes)
    }


def test_a_pause_that_leaves_the_state_on_the_device_is_caught(subject, study, monkeypatch):
    """It would resume in no time, bit-exact: what it keeps in host memory is less than frontier and KV cache."""
    monkeypatch.setattr("djinn.ownership.Ownership.left", take_little)
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
    before = threading.active_count()
    run(subject, study, Djinn, partners=lambda workload: [OrderedOffload])
    assert threading.active_count() == before
    for module in subject.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
