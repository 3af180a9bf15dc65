"""The round trip: what its record holds, what "first" means, and that a wrong edit or resume fails the job."""

import json
import sys

import pytest
import torch

from djinn.state import ownership, referrers
from evaluation.experiments import capabilities, editing
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.measure.models import build
from evaluation.methods import benchmark_djinn
from evaluation.methods.benchmark_djinn import KeptDjinn
from evaluation.methods.offloads import PinnedOffload
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import LAYERS
from tests.evaluation.mutants import LeftOnTheDevice, NothingBack

SMALL = {
    "device": "cpu",
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "session", "batch": 2, "tokens": 16, "kv_cache": True},
    ],
    "measurement": {"decode_steps": 2},
    "functional": {"tokens": 16, "think_time_ms": 0, "editing": {"blocks": 1}},
    "djinn": {"host_arena_gib": 0.02},
}
BY_HAND = [
    ("vanilla", "default", "nothing", "known"),
    ("recompute", "replay", "nothing", "known"),
    ("manual_offload", "pinned", "nothing", "known"),
    ("manual_offload", "ordered", "nothing", "known"),
    ("manual_offload", "ordered_kept", "frontier", "known"),
]
OURS = [
    ("djinn", "default", "nothing", "known"),
    ("djinn", "default", "nothing", "first"),
    ("djinn", "kept", "frontier", "known"),
    ("djinn", "kept", "frontier", "first"),
]


@pytest.fixture(scope="module")
def study():
    return resolve(SMALL)


@pytest.fixture(scope="module")
def subject(study):
    return build(study)


def test_the_record_holds_every_form_in_mirrored_orders(monkeypatch, tmp_path, study):
    """With the seed, the middle layer of the first workload with a KV cache, and all times of each sample."""
    (tmp_path / "study.json").write_text(json.dumps(study.to_json()))
    out = tmp_path / "editing.json"
    monkeypatch.setattr(sys, "argv", ["editing", "--study", str(tmp_path / "study.json"), "--out", str(out)])
    assert run_side_job("editing", "", editing.take) == 0
    record = json.loads(out.read_text())
    (cell,) = record["cells"]
    assert (record["kind"], cell["workload"], cell["layer"]) == ("editing", "session", LAYERS // 2)
    assert record["seed"] == study.order_seed
    assert record["heap_objects"] > 1000
    assert [tuple(form.values()) for form in cell["forms"]] == [*BY_HAND, *OURS]
    (block,) = cell["blocks"]
    order = [sample["form"] for sample in block["samples"]]
    assert order == order[::-1]
    assert sorted(order[: len(order) // 2]) == list(range(9))
    assert sorted(one["form"] for one in block["watched"]) == list(range(9))
    for sample in block["samples"]:
        assert sample["stop_ms"] > 0
        assert sample["edit_ms"] > 0
        assert sample["usable_ms"] > sample["ready_ms"]


def test_every_session_at_a_first_site_is_searched_for(monkeypatch, subject, study):
    """Each asks for the referrers; after a warm-up those at a known site need not."""
    searches = []
    monkeypatch.setattr(
        ownership, "Chains", lambda *args, **more: searches.append(1) or referrers.Chains(*args, **more)
    )

    def searched(desk, form):
        before = len(searches)
        desk.round_trip(form)
        return len(searches) - before

    with torch.no_grad(), editing._Desk(subject, study) as desk:
        for form in desk.forms:
            desk.round_trip(form)
        for form in desk.forms:
            found = [searched(desk, form) for _ in range(3)]
            if form.about["site"] == "first":
                assert min(found) == 1
            else:
                assert min(found) == 0


@pytest.mark.parametrize("experiment", ["editing", "capabilities"])
def test_what_an_edit_gives_up_is_overwritten_before_the_resume(monkeypatch, subject, study, experiment):
    """Djinn takes a frontier that was kept on the device to host memory, so that it can be edited there."""
    done = []

    class Watched(KeptDjinn):
        def edit(self, change):
            done.append("edit")
            super().edit(change)

        def resume(self):
            done.append("resume")
            super().resume()

    module = {"editing": editing, "capabilities": capabilities}[experiment]
    real = module.overwrite_free_memory
    monkeypatch.setattr(module, "overwrite_free_memory", lambda *args: done.append("overwrite") or real(*args))
    with torch.no_grad():
        if experiment == "editing":
            monkeypatch.setattr(editing, "KeptDjinn", Watched)
            editing.take(subject, study.only("editing"), lambda line: None)
        else:
            monkeypatch.setattr(benchmark_djinn, "variants", lambda workload: [Watched])
            capabilities.take("djinn", study, lambda: subject, lambda line: None)
    edits = [number for number, what in enumerate(done) if what == "edit"]
    assert edits
    assert {tuple(done[number - 1 : number + 3]) for number in edits} == {("overwrite", "edit", "overwrite", "resume")}


class EditOfACopy(PinnedOffload):
    """Mutant: hands out a copy of the state."""

    def edit(self, change):
        super().edit(lambda hidden_states: change(hidden_states.clone()))


@pytest.mark.parametrize("mutant", [EditOfACopy, NothingBack])
def test_a_lost_edit_and_a_resume_that_restores_nothing_fail_the_job(monkeypatch, subject, study, mutant):
    """By the name of the form, and no times are handed out."""
    monkeypatch.setattr(editing, "PinnedOffload", mutant)
    with torch.no_grad(), pytest.raises(NotBitExact, match=r"manual_offload \(pinned\), layer 5, workload session: "):
        editing.take(subject, study.only("editing"), lambda line: None)


def test_a_pause_that_leaves_the_state_on_the_device_fails_the_job(monkeypatch, subject, study):
    """It would be ready at once, and every bit would be right."""
    monkeypatch.setattr(editing, "PinnedOffload", LeftOnTheDevice)
    with torch.no_grad(), pytest.raises(NotBitExact, match=r"the pause kept \d+ bytes of a state of at least"):
        editing.take(subject, study.only("editing"), lambda line: None)


def test_an_edit_without_effect_decides_nothing(monkeypatch, subject, study):
    """It is refused before anything is timed."""
    monkeypatch.setattr(editing, "steer", lambda hidden_states: None)
    with torch.no_grad(), pytest.raises(NotBitExact, match="changes nothing"):
        editing.take(subject, study, lambda line: None)


def test_nothing_is_left_on_the_model(subject, study):
    """No hook, and no runtime."""
    with torch.no_grad(), editing._Desk(subject, study):
        pass
    for module in subject.model.modules():
        assert not module._forward_hooks
        assert "forward" not in vars(module)
