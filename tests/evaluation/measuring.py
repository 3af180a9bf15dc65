"""Shared by the tests of what measures: a shallow model, a study of three workloads, quick processes."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from evaluation.measure import child
from evaluation.measure.models import build
from evaluation.measure.workloads import measure
from evaluation.methods.benchmark_recompute import KvOffload
from evaluation.study.architectures import LLAMA_2
from evaluation.study.resolve import resolve

LAYERS = 10  # the least to which the default study fits


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """The tiny model has 10 layers here, not 40: what its tests hold is the same, in a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LLAMA_2, "llama-2-tiny", replace(LLAMA_2["llama-2-tiny"], layers=LAYERS))
        yield


@pytest.fixture
def forked(monkeypatch):
    """Children are forked, which is quick, and compute with one thread: OpenMP's do not outlive a fork.

    They hold the job's end of the pipe too, so that one that waits for a word is killed.
    """
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(child.multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setattr(child, "_PATIENCE_S", 0.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def run(subject, study, kind, layer=3):
    if issubclass(kind, KvOffload):  # only where a token can be run again
        study = replace(study, workloads=study.workloads[2:])
    return measure(subject, study, layer, variants=lambda workload: [kind])
