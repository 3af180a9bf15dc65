"""Each kind of job, run on its part of the study: it reads every key of it, and no other, which would raise."""

import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.experiments import (
    capabilities,
    capacity,
    disk,
    durable,
    editing,
    load,
    neighbour,
    overhead,
    pairs,
    sweep,
    thinking,
)
from evaluation.measure.models import build
from evaluation.measure.workloads import measure
from evaluation.methods import benchmark_djinn, benchmark_manual_offload
from evaluation.peers import memory_saver, process_checkpoint
from evaluation.study.block import Block
from evaluation.study.plan import READS
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import forked
from tests.evaluation.peers.test_peers import Saver

__all__ = ["forked"]

SMALL = {
    "device": "cpu",
    "workloads": [{"name": "session", "batch": 1, "tokens": 8, "kv_cache": True}],
    "djinn": {"host_arena_gib": 0.01},
    "functional": {
        "tokens": 8,
        "samples": 2,
        "think_time_ms": 0,
        "pairs": {"rounds": 1, "blocks": 1, "layers": [2]},
        "overhead": {"samples": 2, "decode_steps": 1},
        "editing": {"blocks": 1},
        "durable": {"samples": 2},
        "disk": {"sessions": 6, "host_arena_gib": 0.00002},
        "load": [{"sessions": 1, "resumes": 2}],
        "capacity": {"sessions": 1, "processes": 1},
        "sweep": {"layers": [1, 2], "samples": 2, "sizes": [{"batch": 1, "tokens": 8}]},
        "thinking": {"waits": [{"think_time_ms": 0, "blocks": 1}]},
        "neighbour": {"blocks": 1, "tokens": 2, "swaps": 1},
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Of a checkpoint of three layers."""
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model.save_pretrained(folder)
    return resolve({**SMALL, "model": {"path": str(folder)}})


@pytest.fixture
def read(monkeypatch):
    """The paths of all keys that are read from now on, but for those that a study copies into a part of itself."""
    seen = set()

    def note(self, name):
        about = object.__getattribute__(self, "__dict__").get("_about")
        if about is not None and sys._getframe(1).f_code.co_name != "for_job":
            seen.add(f"{about[1]}{name}")
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Block, "__getattribute__", note)
    return seen


def quiet(line):
    """Nobody is told."""


def capacity_of_all(study, monkeypatch):
    """Djinn's sessions, which fill an arena, and vanilla ones in processes, in whose place nothing is computed."""

    def here(kind, study, workload, report):
        return capacity._fill_there(SimpleNamespace(send=quiet), study, kind, workload)

    monkeypatch.setattr(capacity, "_apart", here)
    capacity.take("djinn", study, lambda: build(study), quiet)

    def answer(connection, *arguments):
        connection.send(("opened", ("cap", "", {})))
        connection.recv()

    monkeypatch.setattr(capacity, "_alone", answer)
    capacity._own_processes(study, study.workloads[0], quiet)


def process_checkpoint_of(study):
    """The process that is paused, and then its supervisor, who hears what it said."""
    said = []
    process_checkpoint.session(SimpleNamespace(send=said.append, recv=lambda: "resume"), study)
    words = iter([*said, ("done", None)])
    nothing = SimpleNamespace(pause=id, resume=id, used_bytes=lambda: 0, others_bytes=0, overwrite_free_memory=list)
    process = SimpleNamespace(pid=0, hear=lambda expected: next(words)[1], tell=id)
    process_checkpoint.supervise(process, nothing, study, nothing, quiet)


def run(kind, study, monkeypatch):
    """A job of ``kind``, in this process."""
    jobs = {
        "measure": lambda: [
            measure(build(study), study, 2, variants=method.variants)
            for method in (benchmark_djinn, benchmark_manual_offload)
        ],
        "pairs": lambda: pairs.take(build(study), study, 1, quiet),
        "capacity": lambda: capacity_of_all(study, monkeypatch),
        "capabilities": lambda: capabilities.take("djinn", study, lambda: build(study), quiet),
        "editing": lambda: editing.take(build(study), study, quiet),
        "durable": lambda: durable.take(study, lambda: build(study), quiet),
        "disk": lambda: disk.take(build(study), study, quiet),
        "load": lambda: load.take(build(study), study, quiet),
        "overhead": lambda: overhead.take(build(study), study, quiet),
        "sweep": lambda: sweep.take(build(study), study, quiet),
        "thinking": lambda: thinking.take(build(study), study, quiet),
        "neighbour": lambda: neighbour.take(build(study), study, quiet),
        "memory_saver": lambda: memory_saver.measured(build(study), study, Saver(), quiet),
        "process_checkpoint": lambda: process_checkpoint_of(study),
    }
    jobs[kind]()


@pytest.mark.parametrize("kind", READS)
@pytest.mark.usefixtures("forked")
def test_a_job_reads_its_whole_part_and_nothing_else(read, monkeypatch, study, kind):
    """So no key is in it for nothing: to change that would measure again what does not depend on it."""
    threads = torch.get_num_threads()
    part = study.only(kind)
    read.clear()
    try:
        run(kind, part, monkeypatch)
    finally:
        torch.set_num_threads(threads)
    assert set(READS[kind]) - read == set()
