"""What is measured once per run: the cost of Djinn without a pause, and resumes among many sessions."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from djinn import transfer
from djinn.session import Session
from evaluation import load, overhead
from evaluation.harness import NotBitExact
from evaluation.job import run_side_job
from evaluation.models import build
from evaluation.study import Load, load_config, resolve

SMALL = {
    "device": "cpu",
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "session", "batch": 1, "tokens": 16, "kv_cache": True},
    ],
    "functional": {
        "tokens": 16,
        "think_time_ms": 0,
        "overhead": {"samples": 2, "decode_steps": 2},
        "load": [{"sessions": 1, "resumes": 2}, {"sessions": 3, "resumes": 5}],
    },
    "djinn": {"host_arena_gib": 0.02},
}


@pytest.fixture(scope="module")
def study():
    return resolve(SMALL)


@pytest.fixture(scope="module")
def subject(study):
    return build(study)


def run(monkeypatch, tmp_path, study, name, take):
    (tmp_path / "study.json").write_text(json.dumps(study.to_json()))
    out = tmp_path / f"{name}.json"
    monkeypatch.setattr(sys, "argv", [name, "--study", str(tmp_path / "study.json"), "--out", str(out)])
    return run_side_job(name, "", take), out


def test_overhead_keeps_every_pair(monkeypatch, tmp_path, study):
    """Both cells hold pairs in alternating order; the runtime's own part of the session is no longer than the whole."""
    status, out = run(monkeypatch, tmp_path, study, "overhead", overhead.take)
    assert status == 0
    cells = json.loads(out.read_text())["cells"]
    assert [cell["name"] for cell in cells] == ["prefill", "decode"]
    for cell in cells:
        assert [pair["djinn_first"] for pair in cell["pairs"]] == [True, False]
        assert all(0 < pair["djinn_ms"] <= pair["session_ms"] for pair in cell["pairs"])
        assert cell["ratio"]["n"] == 2


def test_overhead_calls_the_bare_model_bare(subject, study, monkeypatch):
    """No hook stands on the model while a bare call is timed, and one on each layer and side under Djinn."""
    seen = []

    def note(module, args, output):
        seen.append(sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in subject.layers))

    handle = subject.model.model.norm.register_forward_hook(note)
    try:
        with torch.no_grad():
            overhead.take(subject, study, lambda line: None)
    finally:
        handle.remove()
    assert set(seen) == {0, 2 * len(subject.layers)}


def test_load_resumes_what_was_asked_for(monkeypatch, tmp_path, study):
    """Every row has its sessions open at once and its resumes, with spread and bytes; all are closed in the end."""
    status, out = run(monkeypatch, tmp_path, study, "load", load.take)
    assert status == 0
    cells = json.loads(out.read_text())["cells"]
    assert [(cell["sessions"], cell["paused"], len(cell["samples"])) for cell in cells] == [(1, 1, 2), (3, 3, 5)]
    assert cells[1]["host_bytes_paused"] == 3 * cells[0]["host_bytes_paused"]
    assert all(cell["outcome"] == "ok" and cell["ready"]["p95"] >= cell["ready"]["median"] for cell in cells)
    assert len({sample["session"] for sample in cells[1]["samples"]}) > 1


def test_an_arena_that_is_too_small_is_an_outcome(subject, study):
    """As many sessions as found room are resumed; the row says that the host was full."""
    tight = replace(study, load=(Load(sessions=500, resumes=3),), load_host_arena_gib=0.002)
    with torch.no_grad():
        (cell,) = load.take(subject, tight, lambda line: None)["cells"]
    assert cell["outcome"] == "host_full"
    assert 0 < cell["paused"] < 500
    assert "the host arena of" in cell["message"]
    assert len(cell["samples"]) == 3


def lose_history(engine, state, ahead):
    for batch in state.history:
        state.submitted(batch)
    state.finish()
    engine.release(state.entries)
    state.settle()


def test_a_session_that_loses_its_kv_fails_the_job(subject, study, monkeypatch, tmp_path, capsys):
    """Nothing is written of a run in which one session differs."""
    monkeypatch.setattr(transfer.TransferEngine, "_bring_back", lose_history)
    status, out = run(monkeypatch, tmp_path, study, "load", load.take)
    assert status == 1
    assert not out.exists()
    assert "not bit-exact: load: session" in capsys.readouterr().err


def test_djinn_that_computes_something_else_fails_the_job(subject, study, monkeypatch):
    """The logits of both calls of a pair are compared."""
    result = Session.result

    def other(session, timeout=None):
        milliseconds, logits = result(session, timeout)
        return milliseconds, [tensor + 1 for tensor in logits]

    monkeypatch.setattr(Session, "result", other)
    with torch.no_grad(), pytest.raises(NotBitExact, match="bare model"):
        overhead.take(subject, study, lambda line: None)


def test_shipped_rows_fit_their_arena():
    """64 sessions of the shipped workload, 1661 MiB each on a 13B model, fit the arena of the shipped configuration."""
    config = load_config(Path(__file__).parents[2] / "config.yaml")
    rows = {row["sessions"]: row["resumes"] for row in config["load"]}
    assert rows[64] >= 500
    assert max(rows) * 1_741_701_120 <= config["djinn"]["load_host_arena_gib"] * 2**30
