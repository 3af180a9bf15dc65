"""What each kind of job is given of the study: a change of one key measures again what reads it, and nothing else."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from evaluation.study.block import AbsentKey
from evaluation.study.config import peers
from evaluation.study.plan import READS, ConfigError, Study
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve

ROOT = Path(__file__).parents[3]

ROWS = [
    {"name": "activation", "batch": 1, "tokens": 8, "kv_cache": False},
    {"name": "session", "batch": 1, "tokens": 8, "kv_cache": True},
]
OF_SESSIONS = {"measure", "pairs", "capabilities", "disk", "editing", "load", "memory_saver", "process_checkpoint"}
TIMED = {"measure", "pairs", "sweep", "thinking", "memory_saver"}
WITH_WORKLOADS = {"capacity", "durable", "overhead", "thinking", "neighbour", *OF_SESSIONS}
ALL = {"sweep", *WITH_WORKLOADS}

# Each key of config.yaml that reaches a functional study: another value, and whom it concerns.
CHANGES = {
    "model.name": ("llama-2-7b", ALL),
    "model.dtype": ("float32", ALL),
    "model.attention": ("eager", ALL),
    "model.seed": (1, ALL),
    "methods": (["djinn"], {"durable"}),
    "experiments": (["capacity"], set()),
    "latency_methods": (["djinn"], set()),
    "layers": ([1, 2, 3], set()),
    "order_seed": (1, {"capacity", "disk", "editing", "load", "pairs", "thinking", "neighbour"}),
    "strict": (True, set()),
    "workloads": (ROWS, WITH_WORKLOADS),
    "measurement.decode_steps": (2, ALL - {"overhead"}),
    "djinn.host_arena_gib": (
        1,
        {"measure", "pairs", "capabilities", "editing", "durable", "capacity", "load", "thinking", "neighbour"},
    ),
    "djinn.load_host_arena_gib": (1, set()),
    "djinn.coded": (False, {"pairs", "capacity"}),
    "peers.run": ([], {"durable"}),
    "functional.rounds": (2, set()),
    "functional.tokens": (32, WITH_WORKLOADS),
    "functional.samples": (4, {"measure"}),
    "functional.other_samples": (3, {"measure"}),
    "functional.warmup_samples": (2, {"process_checkpoint", *TIMED}),
    "functional.validation_samples": (2, TIMED),
    "functional.think_time_ms": (3, {"sweep", *OF_SESSIONS}),
    "functional.pairs": ({"rounds": 2, "blocks": 2, "forms": "plain", "layers": [2]}, {"pairs"}),
    "functional.overhead": ({"samples": 6, "decode_steps": 4}, {"overhead"}),
    "functional.editing": ({"blocks": 2}, {"editing"}),
    "functional.durable": ({"samples": 3}, {"durable"}),
    "functional.disk": ({"sessions": 5, "host_arena_gib": 0.001}, {"disk"}),
    "functional.load": ([{"sessions": 1, "resumes": 3}], {"load"}),
    "functional.capacity": ({"sessions": 5, "processes": 1}, {"capacity"}),
    "functional.sweep": ({"layers": [1, 9], "samples": 2, "sizes": [{"batch": 1, "tokens": 16}]}, {"sweep"}),
    "functional.thinking": ({"waits": [{"think_time_ms": 1, "blocks": 1}]}, {"thinking"}),
    "functional.neighbour": ({"blocks": 2, "tokens": 4, "swaps": 2}, {"neighbour"}),
    "functional.peers.memory_saver_samples": (3, {"memory_saver"}),
    "functional.peers.process_checkpoint_samples": (3, {"process_checkpoint"}),
    "run": ("local-b", set()),
    "paper_runs": ([], set()),
}


@pytest.fixture(scope="module")
def study():
    return resolve({"device": "cpu"})


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_concerns_the_jobs_that_read_it(study, key):
    """And the record of no other is of another study."""
    value, concerned = CHANGES[key]
    config = {"device": "cpu"}
    *outer, last = key.split(".")
    block = config
    for part in outer:
        block = block.setdefault(part, {})
    block[last] = value
    changed = resolve(config)
    for of in (Study.part, Study.for_job):
        assert {kind for kind in READS if of(changed, kind) != of(study, kind)} == concerned


# Of the machine with a GPU: a functional study has others in their place, or is what these are.
OF_A_GPU = {
    *(f"measurement.{name}_samples" for name in ("other", "warmup", "validation")),
    *("measurement.samples", "measurement.think_time_ms", "rounds", "pairs", "overhead", "load", "capacity", "sweep"),
    *("thinking", "neighbour", "editing", "durable", "disk"),
    *("peers.memory_saver_samples", "peers.process_checkpoint_samples", "device", "model.path"),
}


def keys(given, place=""):
    """The paths of the keys in ``given``; what stands below these blocks is changed as one."""
    for key, value in given.items():
        path = f"{place}{key}"
        nested = path in ("model", "measurement", "djinn", "peers", "functional", "functional.peers")
        yield from keys(value, f"{path}.") if nested else [path]


def test_every_key_of_the_shipped_file_is_among_them():
    """So that a new key says whom it concerns."""
    assert set(keys(load_config(ROOT / "config.yaml"))) == OF_A_GPU | CHANGES.keys()


def test_each_kind_of_job_has_its_row(study):
    """Every kind, and every peer that there is."""
    kinds = {
        "measure",
        "pairs",
        "capacity",
        "capabilities",
        "editing",
        "durable",
        "disk",
        "load",
        "overhead",
        "sweep",
        "thinking",
        "neighbour",
    }
    assert READS.keys() == kinds | set(peers())


def test_a_study_survives_json(study):
    """What a job reads back is what was resolved."""
    assert Study.from_json(json.loads(json.dumps(study.to_json()))) == study


@pytest.mark.parametrize("kind", READS)
def test_a_part_survives_json_and_is_its_own_part(study, kind):
    """As a job passes it on to its child processes."""
    given = study.for_job(kind)
    part = Study.from_json(json.loads(json.dumps(given)))
    assert part.to_json() == given == {"kind": kind, **study.part(kind)}
    assert part.only(kind).for_job(kind) == given
    assert part.but(device="cuda").to_json() == {**given, "device": "cuda"}


def test_a_key_that_a_part_lacks_is_named_with_the_kind(study):
    """It has no default, in a block neither, and not if it is called as a peer's count."""
    part = study.only("load")
    assert part.measurement.decode_steps == study.measurement.decode_steps
    for read, key in (
        (lambda: part.rounds, "rounds"),
        (lambda: part.sweep, "sweep"),
        (lambda: part.measurement.samples, "measurement.samples"),
        (lambda: study.only("memory_saver").peers.process_checkpoint_samples, "peers.process_checkpoint_samples"),
        (lambda: study.only("memory_saver").peers.run, "peers.run"),
    ):
        with pytest.raises(
            AbsentKey, match=rf"^study: {key} is not in the part of the study for (load|memory_saver) jobs"
        ):
            read()
    with pytest.raises(AbsentKey, match="study: overhead is not in the part of the study for load jobs"):
        part.part("overhead")
    with pytest.raises(AttributeError, match="Study has no attribute 'lod'"):
        part.lod  # noqa: B018


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "study: the file is not a JSON object"),
        ({"laod": []}, "study: laod is not a known key"),
        ({"measurement": 3}, "study: measurement is not a JSON object"),
        ({"measurement": {"samples": "3"}}, "study: measurement.samples: '3' should be a valid integer"),
        ({"workloads": [{"name": "a"}]}, "study: workloads: "),
    ],
)
def test_what_is_no_study_is_refused(given, message):
    """By name."""
    with pytest.raises(ConfigError) as caught:
        Study.from_json(given)
    assert str(caught.value).startswith(message)


def test_no_record_says_where_a_checkpoint_lies(tmp_path, monkeypatch):
    """The jobs are told; what is published has its folder's name, or the path that was written if it is relative."""
    LlamaConfig(num_hidden_layers=40, hidden_size=64, intermediate_size=96).save_pretrained(tmp_path / "mine")
    study = resolve({"device": "cpu", "model": {"path": str(tmp_path / "mine")}})
    assert study.model.name == "mine"
    for kind in READS:
        assert study.for_job(kind)["model"]["path"] == str(tmp_path / "mine")
        assert study.part(kind)["model"]["path"] == "mine"
        assert study.only(kind).part(kind) == study.part(kind)
    assert study.published()["model"]["path"] == "mine"
    monkeypatch.chdir(tmp_path)
    assert resolve({"device": "cpu", "model": {"path": "./mine"}}).published()["model"]["path"] == "./mine"
