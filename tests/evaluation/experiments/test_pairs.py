"""The pairs job on the CPU: every form in every block, there and back, and that each mutant fails it."""

import dataclasses
import json
import sys
import threading

import pytest
import torch

from djinn.state.compiled import compiles
from evaluation.experiments import pairs
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_round_job
from evaluation.measure.models import build
from evaluation.methods.benchmark_djinn import Djinn, compared
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.methods.offloads import AsyncOffload, BulkOffload, OrderedOffload, PinnedOffload, form
from evaluation.records.kinds import check_record
from evaluation.study.plan import Pairs
from evaluation.study.resolve import resolve
from tests.evaluation import mutants
from tests.evaluation.measuring import CONFIG, LAYERS, shallow, study, subject
from tests.evaluation.paired import forms, recomputed

__all__ = ["shallow", "study", "subject"]


@pytest.fixture(scope="module")
def small(study):
    """One layer, without warm-up."""
    counts = dataclasses.replace(study.measurement, warmup_samples=0, think_time_ms=0)
    return dataclasses.replace(study, pairs=Pairs(rounds=2, blocks=2, layers=(3,)), measurement=counts)


def take(subject, study, *kinds, workload="session"):
    """The cell of ``kinds`` after Djinn, which comes first."""
    one = tuple(one for one in study.workloads if one.name == workload)
    study = dataclasses.replace(study, workloads=one, pairs=Pairs(rounds=1, blocks=1, layers=(3,)))
    with torch.no_grad():
        (cell,) = pairs.take(subject, study, 1, lambda line: None, lambda where: [Djinn, *kinds])["cells"]
    return cell


def test_a_round_measures_every_form_everywhere(monkeypatch, tmp_path, small):
    """One record with all workloads and layers, in the order of its seed, that passes its schema."""
    layers = (3, LAYERS)
    small = dataclasses.replace(small, workloads=small.workloads[:2], pairs=Pairs(rounds=2, blocks=1, layers=layers))
    (tmp_path / "study.json").write_text(json.dumps(small.to_json()))
    out = tmp_path / "round_2.json"
    command = ["pairs", "--round", "2", "--study", str(tmp_path / "study.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    before = set(threading.enumerate())
    assert run_round_job("pairs", "", pairs.take) == 0
    assert set(threading.enumerate()) <= before
    record = json.loads(out.read_text())
    check_record(record)
    assert (record["kind"], record["round"], record["seed"]) == ("pairs", 2, small.order_seed + 2)
    assert record["study"] == small.part("pairs")
    assert {cell["workload"] for cell in record["cells"]} == {"activation", "session"}
    for cell in record["cells"]:
        found = {one["variant"]: one for one in cell["forms"]}
        named = [{key: one[key] for key in ("method", "variant", "keeps", "link", "codec")} for one in cell["forms"]]
        deep = [] if cell["layer"] == 3 else [one for one in recomputed(0) if one["variant"] != "graphed"]  # no GPU
        # Those of which synthetic records are made; the link is attended at the deepest layer with a next one.
        described = [*forms(cell["workload"] == "session", attended=cell["layer"] == 3), *deep]
        assert sorted(named, key=str) == sorted(described, key=str)
        if cell["workload"] == "session":
            assert found["bulk"]["state_bytes"] == found["default"]["state_bytes"]
        for one in found.values():
            assert one["kept_bytes"] == (cell["frontier_bytes"] if one["keeps"] == "frontier" else 0)
            left = 0 if one["method"] == "recompute" else one["state_bytes"] - one["kept_bytes"]
            if one["codec"] == "auto":  # sign, mantissa and 3 bits of the 16 are the least
                assert 11 / 16 * left < one["host_bytes_paused"] < 0.9 * left
                assert 0 < one["buffer_bytes"] <= 64 << 20
            else:
                assert (one["host_bytes_paused"], one["buffer_bytes"]) == (left, 0)
        assert len(cell["blocks"]) == 1
        for block in cell["blocks"]:
            for sample in block["samples"]:
                waits = not cell["forms"][sample["form"]]["variant"].startswith("async")
                assert (sample["ready_ms"] is not None) == waits
                assert (sample["next_token_ms"] is not None) == (cell["workload"] != "activation")


def test_recompute_leaves_nothing_that_changes_djinn_beside_it(subject, small):
    """After a round with fused layers no code counts as compiled, so Djinn still waits only for what is read."""
    torch._dynamo.reset()
    small = dataclasses.replace(
        small, workloads=small.workloads[:2], pairs=Pairs(rounds=1, blocks=1, forms="plain", layers=(LAYERS,))
    )
    with torch.no_grad():
        cells = pairs.take(subject, small, 1, lambda line: None)["cells"]
    assert all("compiled" in {one["variant"] for one in cell["forms"]} for cell in cells)
    assert not compiles()


def test_plain_forms_are_those_that_keep_nothing_and_leave_the_link_idle(subject, small):
    """No other is measured, nor what is coded, so that a process takes a third of the time."""
    plain = Pairs(rounds=1, blocks=1, forms="plain", layers=(3,))
    small = dataclasses.replace(small, workloads=small.workloads[1:2], pairs=plain)
    with torch.no_grad():
        (cell,) = pairs.take(subject, small, 1, lambda line: None)["cells"]
    found = {(one["method"], one["variant"]) for one in cell["forms"] if one["method"] != "recompute"}
    by_hand = {("manual_offload", variant) for variant in ("ordered", "async", "bulk")}
    assert found == {("djinn", "default"), *by_hand}


def test_orders_differ_between_blocks_and_follow_from_the_seed(subject, small):
    """The same round has the same orders, another one others."""

    def orders(number):
        kinds = [Djinn, PinnedOffload, OrderedOffload, AsyncOffload, BulkOffload]
        one = dataclasses.replace(small, workloads=small.workloads[:1])
        with torch.no_grad():
            found = pairs.take(subject, one, number, lambda line: None, lambda where: kinds)
        return [[sample["form"] for sample in block["samples"]] for block in found["cells"][0]["blocks"]]

    first = orders(1)
    assert first == orders(1)
    assert len({tuple(order) for order in (*first, *orders(2))}) > 2


def test_each_of_djinn_s_variants_has_hand_written_forms_of_its_kind(study):
    """They keep the same and have the link in the same state; one waits, one does not."""
    for where in pairs.places(study, torch.device("cpu")):
        kinds = [kind for kind in pairs.forms(where) if kind.keeps_state]
        ours = [kind for kind in kinds if issubclass(kind, Djinn)]
        wanted = [kind for kind in compared(coded=where.workload.kv_cache) if where.leading or kind.link == "idle"]
        assert ours == wanted
        for mine in ours:
            alike = [one for one in kinds if (one.keeps, one.link, one.codec) == (mine.keeps, mine.link, "raw")]
            alike = [one for one in alike if one not in compared(coded=False)]
            something = where.workload.kv_cache or mine.keeps == "nothing"
            assert {one.waits_ready for one in alike} == ({True, False} if something else {True})
            assert not any(issubclass(one, Djinn) for one in alike)


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({}, {"session", "decode"}),
        ({"djinn": {"coded": False}}, set()),
        ({"model": {"dtype": "float32"}}, set()),
        ({"workloads": [row for row in CONFIG["workloads"] if not row["kv_cache"]]}, set()),
    ],
)
def test_coded_state_is_compared_where_there_is_some(config, where):
    """In a KV cache of bfloat16, and if the study wants it."""
    study = resolve({**CONFIG, **config})
    assert study.coded == bool(where)
    found = pairs.places(study, torch.device("cpu"))
    assert {one.workload.name for one in found if any(kind.codec == "auto" for kind in pairs.forms(one))} == where


@pytest.mark.parametrize("name", ["NothingBack", "KvLost", "LayersDoNotWait", "SignalsEarly", "NothingSubmitted",
                                  "Unhanded", "LeftOnTheDevice", "FoundAgain"])  # fmt: skip
def test_hand_written_mutants_fail_the_job(subject, small, name):
    """One that copies nothing, skips the KV, signals early or leaves the state where it is."""
    with pytest.raises(NotBitExact, match=name):
        take(subject, small, getattr(mutants, name))


@pytest.mark.parametrize(("owner", "name", "mutant"), mutants.OF_THE_RUNTIME)
def test_djinn_mutants_fail_the_job(subject, small, monkeypatch, owner, name, mutant):
    """A runtime that copies nothing, skips the history, or signals early."""
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(NotBitExact, match="Djinn"):
        take(subject, small, OrderedOffload)


@pytest.mark.gpu
def test_a_round_on_a_gpu():
    """All forms side by side, with the streams and the page-locked memory that they are for."""
    study = resolve({**CONFIG, "device": "cuda", "model": {"name": "llama-2-tiny"}, "layers": [3]})
    counts = dataclasses.replace(study.measurement, think_time_ms=1)
    small = dataclasses.replace(study, measurement=counts, pairs=Pairs(rounds=1, blocks=1, layers=(3, LAYERS)))
    with torch.no_grad():
        cells = pairs.take(build(small), small, 1, lambda line: None)["cells"]
    assert [cell["outcome"] for cell in cells] == ["ok"] * 6


class Lost(form(PinnedOffload, keeps="frontier")):
    """Mutant: says that it keeps the frontier, and keeps less."""

    def pause(self):
        super().pause()
        self.stopped.hidden_states = torch.zeros_like(self.stopped.hidden_states)


def test_a_form_that_keeps_less_than_it_says_fails_the_job(subject, small):
    """What is to stay on the device is compared as well."""
    with pytest.raises(NotBitExact, match="Lost"):
        take(subject, small, Lost)


def test_no_memory_is_an_outcome_of_its_cell(subject, small):
    """The others are measured, and nothing is left on the model."""

    class Refused(PinnedOffload):
        def prepare(self):
            if self.workload.kv_cache:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more")
            super().prepare()

    with torch.no_grad():
        found = pairs.take(subject, small, 1, lambda line: None, lambda where: [Djinn, Refused])
    outcomes = {cell["workload"]: (cell["outcome"], cell["message"]) for cell in found["cells"]}
    refused = ("out_of_memory", "CUDA out of memory. Tried to allocate 2 GiB.")
    assert outcomes == {"activation": ("ok", ""), "session": refused, "decode": refused}
    for module in subject.model.modules():
        assert not module._forward_hooks
        assert "forward" not in vars(module)


def test_a_session_that_failed_leaves_the_runtime_to_the_next_cell(subject, small):
    """What it had in host memory is free again."""
    seen = []

    class Refused(Djinn):
        def prepare(self):
            seen.append(len(self._runtime.sessions))
            super().prepare()

        def resume(self):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with torch.no_grad():
        found = pairs.take(subject, small, 1, lambda line: None, lambda where: [Refused, PinnedOffload])
    assert [cell["outcome"] for cell in found["cells"]] == ["out_of_memory"] * 3
    assert seen == [0] * 3


def test_hand_written_forms_compute_on_a_model_without_hooks_of_djinn(subject, small):
    """Its runtime has a twin of the model, which shares the weights."""
    seen = []

    class Looking(PinnedOffload):
        def resume(self):
            seen.append([vars(layer).keys() & {"forward"} for layer in self.subject.layers])
            super().resume()

    take(subject, small, Looking)
    assert seen
    assert not any(any(layers) for layers in seen)


def test_vanilla_is_not_among_the_pairs(study):
    """A form that keeps everything on the device has nothing to bring back."""
    everywhere = pairs.places(study, torch.device("cpu"))
    assert not any(issubclass(kind, Vanilla) for where in everywhere for kind in pairs.forms(where))


@pytest.mark.parametrize(
    ("layers", "deep", "leading"),
    [((1, 3, LAYERS - 1, LAYERS), [LAYERS - 1, LAYERS], LAYERS - 1), ((1, 3), [], 3), ((LAYERS,), [LAYERS], LAYERS)],
)
def test_recompute_is_compared_at_the_last_layers_and_the_link_is_attended_at_one(study, layers, deep, leading):
    """At N-1, the deepest with a next layer, if it is measured; whatever layers are asked for, one leads."""
    found = pairs.places(
        dataclasses.replace(study, pairs=Pairs(rounds=1, blocks=1, layers=layers)), torch.device("cpu")
    )
    for where in found:
        kinds = pairs.forms(where)
        assert where.deep == (where.layer in deep) == any(not kind.keeps_state for kind in kinds)
        assert where.leading == (where.layer == leading) == any(kind.link == "attended" for kind in kinds)
