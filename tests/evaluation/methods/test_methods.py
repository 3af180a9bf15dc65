"""Every method on the CPU: bit-exact at every depth, and what its mutants lose is noticed."""

import dataclasses

import pytest
import torch

from evaluation.measure import fused_layers
from evaluation.measure.harness import NotBitExact
from evaluation.measure.models import build
from evaluation.methods.benchmark_djinn import Djinn
from evaluation.methods.benchmark_manual_offload import OffloadedCache, PageableOffload
from evaluation.methods.benchmark_recompute import KvOffload
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.methods.offloads import OrderedOffload, PinnedOffload
from evaluation.methods.reruns import CompiledRecompute, Recompute
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import CONFIG, LAYERS, run
from tests.evaluation.mutants import BY_HAND

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
            assert 0 < sample["ready_ms"] <= sample["usable_ms"]
            assert 0 < sample["first_kernel_ms"] <= sample["usable_ms"]
            assert sample["ready_ms"] <= sample["resident_ms"]
            if cell["workload"] == "activation":
                assert sample["next_token_ms"] is None
            else:
                assert sample["usable_ms"] < sample["next_token_ms"]
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


@pytest.mark.parametrize("mutant", BY_HAND)
def test_hand_written_mutants_are_caught(subject, study, mutant):
    """A resume that restores nothing, loses the KV, comes late, or computes too little fails the job."""
    with pytest.raises(NotBitExact, match=mutant.__name__):
        run(subject, study, mutant)
