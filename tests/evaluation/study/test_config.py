"""The configuration: every fault has one message that names the key, and the plan is what was asked for."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from snakemake.utils import update_config

from evaluation.records.runs import side_records
from evaluation.study.__main__ import main
from evaluation.study.architectures import LLAMA_2
from evaluation.study.config import check, check_paper_runs
from evaluation.study.devices import Gpu
from evaluation.study.plan import ConfigError, Study, Workload
from evaluation.study.read import load_config
from evaluation.study.resolve import bytes_needed, resolve

ROOT = Path(__file__).parents[3]
H100 = Gpu(index=0, name="H100", memory_bytes=80 << 30)
L4 = Gpu(index=0, name="L4", memory_bytes=23 << 30)


@pytest.fixture
def config():
    return load_config(ROOT / "config.yaml")


@pytest.fixture
def on_gpu(monkeypatch):
    """Resolve as on a machine with a GPU that torch can use."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


def test_shipped_configuration_is_the_default(config):
    """config.yaml says nothing else than the schema's defaults: one cannot drift from the other.

    But for the runs that are drawn, which are no part of a study: another one is published while the schema, which
    measures, stays as it is.
    """
    drawn = config.pop("paper_runs")
    assert drawn
    assert check(config) == check({})


FAULTS = {
    "mesurement": (
        {"mesurement": {}},
        "config: mesurement is not a known key. Did you mean measurement? Allowed: capacity,",
    ),
    "nested": ({"measurement": {"sample": 3}}, "config: measurement.sample is not a known key. Did you mean samples?"),
    "row": (
        {"workloads": [{"name": "a", "batch": 1, "tokens": 8, "kv_cache": True, "token": 1}]},
        "config: workloads.0.token is not a known key. Did you mean tokens?",
    ),
    "row lacks": (
        {"workloads": [{"name": "a", "batch": 1, "tokens": 8}]},
        "config: workloads.0 lacks a key: 'kv_cache'",
    ),
    "experiment": (
        {"experiments": ["pairs", "lod"]},
        "config: experiments: ['pairs', 'lod'] is not allowed. Allowed: all, or a list of rows of READS",
    ),
    "latency": (
        {"methods": ["djinn", "vanilla"], "latency_methods": ["recompute"]},
        "config: latency_methods: 'recompute' is not among methods. Allowed: djinn, vanilla, or all",
    ),
    "run": ({"run": "published"}, "config: run: 'published' should match pattern"),
    "method": ({"methods": ["jinn"]}, "config: methods: 'jinn' is not a method. Allowed: djinn, manual_offload,"),
    "model": ({"model": {"name": "gpt-5"}}, "config: model.name: 'gpt-5' should be 'auto', 'llama-2-70b',"),
    "type": ({"rounds": "two"}, "config: rounds: 'two' should be a valid integer. Allowed: how often each job is"),
    "switch": ({"strict": "yes"}, "config: strict: 'yes' should be a valid boolean. Allowed: true (a job stops on a"),
    "list": ({"layers": "all"}, "config: layers: 'all' is not allowed. Allowed: auto (layer 1, each quarter"),
    "item": ({"layers": [1, 0]}, "config: layers.1: 0 should be greater than or equal to 1. Allowed: auto (layer 1"),
    "block": ({"measurement": None}, "config: measurement: None should be an object. Allowed: the keys decode_steps,"),
    "name": (
        {"workloads": [{"name": "A", "batch": 1, "tokens": 8, "kv_cache": True}]},
        "config: workloads.0.name: 'A' should match pattern '^[a-z][a-z0-9]*$'. Allowed: lower-case letters",
    ),
    "other": (
        {"functional": {"peers": {"vllm_samples": 3}}},
        "config: functional.peers.vllm_samples is not a known",
    ),
    "old key": (
        {"paper_run": "mine"},
        "config: paper_run is a list now, called paper_runs. Write paper_runs:",
    ),
    "two runs": ({"paper_runs": ["a", "a"]}, "config: paper_runs: 'a' stands there twice"),
    "layer": ({"layers": [1, 41]}, "config: layers: 41 is beyond llama-2-tiny; allowed: 1 to 40, or auto"),
    "twice": (
        {"workloads": [{"name": "a", "batch": 1, "tokens": 8, "kv_cache": True}] * 2},
        "config: workloads: each name may stand once; there are a, a",
    ),
    "length": (
        {"functional": {"tokens": 5000}},
        "config: workloads: activation: 5000 tokens; llama-2-tiny takes fewer",
    ),
    "samples": (
        {"functional": {"samples": 3, "other_samples": 4}},
        "config: functional.other_samples: 4 is more than functional.samples, 3",
    ),
    "checkpoint": ({"model": {"path": "nowhere"}}, "config: model.path: nowhere is no checkpoint folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_message(fault):
    """One line that names the key and what is allowed."""
    change, message = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        resolve({"device": "cpu", **change})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_model_that_does_not_fit_is_refused(on_gpu, config):
    """The message names the model, what it needs and what the GPU has."""
    config["model"]["name"] = "llama-2-70b"
    with pytest.raises(ConfigError, match=r"model.name: llama-2-70b needs about 13\d GiB .* the H100 has 80 GiB"):
        resolve(config, H100)


@pytest.mark.parametrize(
    ("gpu", "name", "layers"),
    [(H100, "llama-2-13b", (1, 10, 20, 30, 39, 40)), (L4, "llama-2-7b", (1, 8, 16, 24, 31, 32))],
)
def test_auto_takes_what_the_gpu_holds(on_gpu, config, gpu, name, layers):
    """13B on an H100, 7B on an L4; layer 1, the quarters of the depth and the last but one."""
    study = resolve(config, gpu)
    assert (study.device, study.model.name, study.layers) == ("cuda", name, layers)
    assert {workload.tokens for workload in study.workloads} == {2048}
    assert study.pairs.layers == study.layers
    assert (study.rounds, study.measurement.samples, study.pairs.rounds) == (1, 8, 8)


def laid_over(config, name):
    """What Snakemake makes of ``--configfile configs/NAME``."""
    update_config(config, load_config(ROOT / "configs" / name))
    return config


def test_70b_is_for_a_gpu_of_141_gb(on_gpu, config):
    """As NVML counts an H200's memory; a GPU of 80 GB is refused before anything is measured."""
    laid_over(config, "llama-2-70b.yaml")
    study = resolve(config, Gpu(index=0, name="H200", memory_bytes=143771 << 20))
    assert (study.model.name, study.pairs.rounds, study.pairs.layers) == ("llama-2-70b", 6, (1, 20, 40, 60, 79, 80))
    assert [job.method for job in study.jobs()] == ["recompute"] * 6
    # The device ends the count of processes, and not their cap.
    assert study.capacity.processes * study.architecture.weight_bytes(study.model.dtype) > 143771 << 20
    with pytest.raises(ConfigError, match=r"model.name: llama-2-70b needs about 13\d GiB .* the H100 has 80 GiB"):
        resolve(config, H100)


@pytest.mark.parametrize(("gpu", "layers"), [(H100, (1, 20, 39)), (L4, (1, 16, 31))])
def test_the_ten_minutes_are_three_layers_and_six_processes(on_gpu, config, gpu, layers):
    """Of whichever model the GPU holds: recompute's line, edits, and pairs with the two layers that C5 needs."""
    study = resolve(laid_over(config, "ten_minutes.yaml"), gpu)
    assert (study.layers, study.pairs.rounds, study.pairs.forms) == (layers, 6, "plain")
    assert {job.method for job in study.jobs()} == {"recompute"}
    assert set(study.pairs.layers) == {*layers, layers[-1] + 1}
    assert side_records(study.published()) == [f"capabilities/{method}.json" for method in study.methods]


def test_memory_counts_the_heads_that_a_cache_has():
    """70B's cache has 8 heads of 64: 640 MiB at 2048 tokens, three times of it, and weights of 138 GB."""
    with_cache, without = (
        bytes_needed(LLAMA_2["llama-2-70b"], "bfloat16", Workload(name="a", batch=1, tokens=2048, kv_cache=kept))
        for kept in (True, False)
    )
    assert with_cache - without == 3 * (640 << 20)
    assert 137.9e9 < without < 140e9


def test_what_is_not_measured_needs_no_room(on_gpu, config):
    """A sweep that is not part of the study may name layers and prompts that the model has no place for."""
    config["sweep"] = {"layers": [1, 99], "samples": 6, "sizes": [{"batch": 99, "tokens": 4000}]}
    with pytest.raises(ConfigError):
        resolve(config, H100)
    config["experiments"] = ["pairs"]
    assert resolve(config, H100).experiments == ("pairs",)


def test_a_small_gpu_is_told_so(on_gpu, config):
    """auto on a GPU that holds no model says what would help."""
    with pytest.raises(ConfigError, match="not even llama-2-7b fits the 8 GiB"):
        resolve(config, Gpu(index=0, name="small", memory_bytes=8 << 30))


def test_functional_run_takes_the_functional_values(config):
    """On the CPU: the tiny model of 40 layers, fewer tokens and samples, everything else as configured."""
    config["device"] = "cpu"
    study = resolve(config)
    assert study.functional
    assert study.model.name == "llama-2-tiny"
    assert study.layers == (1, 20, 39, 40)
    assert {workload.tokens for workload in study.workloads} == {config["functional"]["tokens"]}
    assert study.measurement.samples == config["functional"]["samples"]
    assert study.measurement.decode_steps == config["measurement"]["decode_steps"]


def test_a_decode_step_needs_a_kv_cache(config):
    """Without the cache there is no decode step to pause in."""
    config["device"] = "cpu"
    config["workloads"] = [{"name": "odd", "batch": 1, "tokens": 8, "kv_cache": False, "decode_step": 1}]
    with pytest.raises(ConfigError, match="config: workloads: odd: a decode_step needs kv_cache: true"):
        resolve(config)


def test_jobs_are_shuffled_reproducibly(config):
    """Every method, layer and round once, in an order that depends on the seed alone and is not lexical."""
    config.update(device="cpu")
    config["functional"]["rounds"] = 2
    jobs = resolve(config).jobs()
    assert len({(job.method, job.layer, job.round) for job in jobs}) == len(jobs) == 4 * 4 * 2
    assert jobs == resolve(config).jobs()
    first, second = jobs[:16], jobs[16:]
    assert ({job.round for job in first}, {job.round for job in second}) == ({1}, {2})
    for jobs_of_round in (first, second):
        assert jobs_of_round != sorted(jobs_of_round, key=lambda job: (job.method, job.layer))
    assert [replace(job, round=2) for job in first] != second
    other = copy.deepcopy(config)
    other["order_seed"] += 1
    assert resolve(other).jobs() != jobs


def test_a_further_round_comes_after_the_others(config):
    """So that a run of one round can be made one of two."""
    one = resolve({**config, "device": "cpu"})
    config["functional"]["rounds"] = 2
    two = resolve({**config, "device": "cpu"})
    assert (one.rounds, two.rounds) == (1, 2)
    assert two.jobs()[: len(one.jobs())] == one.jobs()


def test_study_survives_json(config):
    """What a job reads back is what was resolved."""
    config["device"] = "cpu"
    study = resolve(config)
    assert Study.from_json(json.loads(json.dumps(study.to_json()))) == study


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 2.0}, "config: rounds: 2.0 should be a valid integer"),
        ({"rounds": True}, "config: rounds: True should be a valid integer"),
        ({"rounds": 10**9}, "config: rounds: 1000000000 should be less than or equal to 1000"),
        ({"rounds": 10**400}, "config: rounds: a number of more than 18 digits is too large"),
        ({"layers": [10**20]}, "config: layers.0: a number of more than 18 digits is too large"),
        ({"functional": {"tokens": 10**30}}, "config: functional.tokens: a number of more than 18 digits is too large"),
        ({"measurement": {"think_time_ms": float("nan")}}, "config: measurement.think_time_ms: nan is not allowed"),
        ({"djinn": {"host_arena_gib": 1e308}}, "config: djinn.host_arena_gib: 1e+308 should be less than or equal to"),
        ({"measurement": {"think_time_ms": float("inf")}}, "config: measurement.think_time_ms: inf is not allowed"),
    ],
)
def test_numbers_that_would_fail_later_are_refused(change, message):
    """A count is a whole number as written, and nothing is infinite."""
    with pytest.raises(ConfigError) as caught:
        resolve({"device": "cpu", **change})
    assert str(caught.value).startswith(message)


def test_model_must_fit_a_machine_without_gpu_too(monkeypatch):
    """On the CPU the machine's memory is the limit."""
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 << 20}.get)
    with pytest.raises(ConfigError, match=r"model\.name: llama-2-7b needs .*; this machine has 8 GiB"):
        resolve({"device": "cpu", "model": {"name": "llama-2-7b"}})


def test_a_run_that_is_not_published_is_refused():
    """By name, with those that are."""
    check_paper_runs(("a",), ["a", "b"])
    with pytest.raises(ConfigError, match="config: paper_runs: '../c' is no published run. Allowed: a, b"):
        check_paper_runs(("a", "../c"), ["a", "b"])
    with pytest.raises(ConfigError, match="Allowed: none, as results/published/ is empty"):
        check_paper_runs(("a",), [])


def test_the_command_prints_the_study(monkeypatch, tmp_path, capsys):
    """As study.json has it; a fault is one line and status 2."""
    (tmp_path / "c.yaml").write_text("device: cpu\n")
    monkeypatch.setattr(sys, "argv", ["study", "--config", str(tmp_path / "c.yaml")])
    assert main() == 0
    assert json.loads(capsys.readouterr().out) == resolve({"device": "cpu"}).published()
    (tmp_path / "c.yaml").write_text("devise: cpu\n")
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: config: devise is not a known key. Did you mean device?")
