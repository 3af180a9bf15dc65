"""What is measured once per run: the cost of Djinn without a pause, and resumes among many sessions."""

import json
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from djinn.memory import transfer
from djinn.program.program import Program
from evaluation.experiments import crowd, load, overhead
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.measure.models import build
from evaluation.study.plan import Load
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve
from tests.evaluation.mutants import KvLost, LeftOnTheDevice, NothingBack, skip_history, take_little

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
    """Both cells hold pairs, with every pass of either model and who was first, and nothing that is computed from them.

    Who begins alternates from pair to pair, and who is first from pass to pass.
    """
    status, out = run(monkeypatch, tmp_path, study, "overhead", overhead.take)
    assert status == 0
    cells = json.loads(out.read_text())["cells"]
    assert [cell["name"] for cell in cells] == ["prefill", "decode"]
    for cell in cells:
        assert set(cell) == {"name", "tokens", "pairs"}
        assert [pair["passes"]["djinn_first"] for pair in cell["pairs"]] == [[True, False], [False, True]]
        for pair in cell["pairs"]:
            assert set(pair) == {"passes", "bit_exact"}
            for clock in ("djinn_ms", "bare_ms"):
                assert len(pair["passes"][clock]) == 2
                assert min(pair["passes"][clock]) > 0


def test_overhead_compares_the_watched_model_with_a_bare_one(subject, study, monkeypatch):
    """On a session's thread, one model is watched, layer by layer, and its twin is not; the record has their order."""
    seen = []
    take = overhead._Passes.take

    def look(passes, models, forward):
        assert threading.current_thread().name.startswith("djinn-")
        assert not any(part._forward_hooks or "forward" in vars(part) for part in models["bare_ms"].modules())
        assert all("forward" in vars(layer) for layer in models["djinn_ms"].model.layers)
        order = []
        logits = take(passes, models, lambda clock, model: order.append(clock) or forward(clock, model))
        seen.append(order[0] == "djinn_ms")
        return logits

    monkeypatch.setattr(overhead._Passes, "take", look)
    with torch.no_grad():
        cells = overhead.take(subject, study, lambda line: None)["cells"]
    warmup, written = 4, [cell["pairs"][0]["passes"]["djinn_first"] + cell["pairs"][1]["passes"]["djinn_first"]
                          for cell in cells]  # fmt: skip
    assert [seen[warmup:8], seen[8 + warmup :]] == written


def test_an_order_that_always_begins_with_djinn_is_refused(subject, study, monkeypatch, tmp_path, capsys):
    """A session's first prefill is quicker than its others: whoever had it every time would seem quicker."""
    monkeypatch.setattr(overhead, "_in_turn", lambda models, number: models)
    with pytest.raises(ValueError, match="two neighbouring pairs are not mirror images"):
        run(monkeypatch, tmp_path, study, "overhead", overhead.take)


def test_load_resumes_what_was_asked_for(monkeypatch, tmp_path, study):
    """Every row has its sessions open at once, its resumes as raw samples, and bytes; all are closed in the end."""
    status, out = run(monkeypatch, tmp_path, study, "load", load.take)
    assert status == 0
    cells = json.loads(out.read_text())["cells"]
    assert [(cell["sessions"], cell["paused"], len(cell["samples"])) for cell in cells] == [(1, 1, 2), (3, 3, 5)]
    assert cells[1]["host_bytes_paused"] == 3 * cells[0]["host_bytes_paused"]
    for cell in cells:
        assert cell["outcome"] == "ok"
        assert not {"ready", "resident"} & set(cell)
    assert len({sample["session"] for sample in cells[1]["samples"]}) > 1


def test_load_has_a_resume_by_hand_beside_each(subject, study):
    """First is either by turns; by hand there are two sessions, or one where Djinn has no more, without its hooks."""
    with torch.no_grad():
        record = load.take(subject, study, lambda line: None)
    assert (record["by_hand"]["variant"], record["by_hand"]["sessions"]) == ("ordered", 2)
    assert 0 < record["by_hand"]["host_bytes"] <= 2 * record["cells"][0]["host_bytes_paused"]
    for cell in record["cells"]:
        first = [sample["djinn_first"] for sample in cell["samples"]]
        assert first == [number % 2 == 0 for number in range(len(first))]
        assert {sample["by_hand"]["session"] for sample in cell["samples"]} <= set(range(min(2, cell["paused"])))


def test_by_hand_nobody_pays_for_hooks(subject, study, monkeypatch):
    """The model that Djinn follows is a twin."""
    resume = crowd.ByHand.go_on

    def look(by_hand, index):
        assert not any("forward" in vars(part) for part in by_hand.subject.model.modules())
        return resume(by_hand, index)

    monkeypatch.setattr(crowd.ByHand, "go_on", look)
    with torch.no_grad():
        load.take(subject, study, lambda line: None)


def test_an_arena_that_is_too_small_is_an_outcome(subject, study):
    """As many sessions as found room are resumed; the row says that the host was full."""
    tight = replace(study, load=(Load(sessions=40, resumes=3),), load_host_arena_gib=0.0004)
    with torch.no_grad():
        (cell,) = load.take(subject, tight, lambda line: None)["cells"]
    assert cell["outcome"] == "host_full"
    assert 0 < cell["paused"] < 40
    assert "the host arena of" in cell["message"]
    assert len(cell["samples"]) == 3


def test_a_session_that_loses_its_kv_fails_the_job(subject, study, monkeypatch, tmp_path, capsys):
    """Nothing is written of a run in which one session differs."""
    monkeypatch.setattr(transfer.TransferEngine, "_bring_back", skip_history)
    status, out = run(monkeypatch, tmp_path, study, "load", load.take)
    assert status == 1
    assert not out.exists()
    assert "not bit-exact: load: Djinn: session" in capsys.readouterr().err


@pytest.mark.parametrize("mutant", [NothingBack, KvLost])
def test_a_control_that_restores_nothing_fails_the_job(subject, study, monkeypatch, mutant):
    """It would be as quick as nobody by hand is."""
    monkeypatch.setattr(crowd, "compared", lambda *args, **kwargs: [mutant])
    with torch.no_grad(), pytest.raises(NotBitExact, match=r"load: by hand \(\w+\): session 0 of 3 differs"):
        load.take(subject, study, lambda line: None)


def test_a_control_that_stays_on_the_device_fails_the_job(subject, study, monkeypatch):
    """It would resume in no time."""
    monkeypatch.setattr(crowd, "compared", lambda *args, **kwargs: [LeftOnTheDevice])
    with torch.no_grad(), pytest.raises(NotBitExact, match=r"load: by hand \(pinned\): the pause kept \d+ bytes"):
        load.take(subject, study, lambda line: None)


def test_a_control_is_paused_once(subject, study):
    """Its host copies serve resume after resume, and no session's decode steps reach another's cache."""
    prompts = crowd.Prompts(subject, study, 2)
    with torch.no_grad(), closing(crowd.ByHand(subject, prompts, study, 2)) as by_hand:
        copies = [view.clone() for session in by_hand._sessions for view in session._host.values()]
        for index in (0, 1, 1, 0):
            by_hand.turn(index, 0)
        after = [view for session in by_hand._sessions for view in session._host.values()]
        for session in by_hand._sessions:  # paused sessions hold nothing on the device: no turn has filled what is left
            held = [*session.stopped.frontier().values(), *session.stopped.history().values()]
            assert {id(tensor) for tensor in held} == {id(tensor) for tensor in session._host.values()}
    assert all(torch.equal(one, other) for one, other in zip(copies, after, strict=True))


def test_a_pause_that_leaves_the_state_on_the_device_fails_the_job(subject, study, monkeypatch):
    """It would resume in no time."""
    monkeypatch.setattr("djinn.state.ownership.Ownership.externally_referenced", take_little)
    with (
        torch.no_grad(),
        pytest.raises(NotBitExact, match=r"load: Djinn: the pause kept \d+ bytes of a state of at least"),
    ):
        load.take(subject, study, lambda line: None)


def test_djinn_that_computes_something_else_fails_the_job(subject, study, monkeypatch, tmp_path, capsys):
    """The logits of both models of a pair are compared."""

    def other(program, layer, args, kwargs, output):
        output += 1

    monkeypatch.setattr(Program, "leave_layer", other)
    status, out = run(monkeypatch, tmp_path, study, "overhead", overhead.take)
    assert status == 1
    assert not out.exists()
    assert "differ from the bare model's" in capsys.readouterr().err


def test_shipped_rows_fit_their_arena():
    """64 sessions of the shipped workload, 1661 MiB each on a 13B model, fit the arena of the shipped configuration."""
    config = load_config(Path(__file__).parents[3] / "config.yaml")
    rows = {row["sessions"]: row["resumes"] for row in config["load"]}
    assert rows[64] >= 500
    arena, state = config["djinn"]["load_host_arena_gib"] * 2**30, 1_741_701_120
    assert max(rows) * state <= arena
    assert config["capacity"]["sessions"] * state > arena + state  # the arena ends that count, not the cap
