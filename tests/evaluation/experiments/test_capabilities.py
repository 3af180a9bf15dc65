"""What the probe says of every method, of methods that lose or repeat an edit, and how it counts a program's lines."""

import dataclasses
import json
import sys

import pytest

from evaluation.experiments import capabilities
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_method_job
from evaluation.measure.models import build
from evaluation.methods import benchmark_manual_offload
from evaluation.methods.benchmark_recompute import Replay
from evaluation.methods.offloads import PinnedOffload
from evaluation.study.program_lines import example, state_lines
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import LAYERS
from tests.evaluation.mutants import LeftOnTheDevice, NothingBack, take_little

SMALL = {
    "device": "cpu",
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "session", "batch": 2, "tokens": 16, "kv_cache": True},
        {"name": "decode", "batch": 2, "tokens": 16, "kv_cache": True, "decode_step": 2},
    ],
    "measurement": {"decode_steps": 2},
    "functional": {"tokens": 16, "think_time_ms": 0},
    "djinn": {"host_arena_gib": 0.02},
}
KEEPS, LOSES = (True, True), (False, False)  # edit_survives, edit_exact
VERDICTS = {
    "vanilla": {"default": KEEPS},
    "recompute": {"default": LOSES, "replay": KEEPS},
    "manual_offload": {"pinned": KEEPS, "pageable": KEEPS, "ordered": KEEPS},
    "djinn": {"default": KEEPS, "kept": KEEPS},
}


@pytest.fixture(scope="module")
def study():
    return resolve(SMALL)


@pytest.fixture(scope="module")
def subject(study):
    return build(study)


def take(subject, study, method):
    return capabilities.take(method, study, lambda: subject, lambda line: None)


def verdicts(record):
    return {cell["variant"]: (cell["edit_survives"], cell["edit_exact"]) for cell in record["cells"]}


def offer(monkeypatch, *kinds):
    """Let the module of manual offload offer ``kinds`` instead of its own."""
    monkeypatch.setattr(benchmark_manual_offload, "variants", lambda workload: list(kinds))


def run(monkeypatch, tmp_path, study, method):
    """Exit status of the command, and where its record goes."""
    (tmp_path / "study.json").write_text(json.dumps(study.to_json()))
    out = tmp_path / "capabilities" / f"{method}.json"
    asked = ["--method", method, "--study", str(tmp_path / "study.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["capabilities", *asked])
    return run_method_job("capabilities", capabilities.__doc__, capabilities.take), out


@pytest.mark.parametrize("method", VERDICTS)
def test_verdict_of_every_method(subject, study, method):
    """What keeps its state keeps the edit in every bit; recompute loses it, and keeps it if the program replays it."""
    record = take(subject, study, method)
    assert verdicts(record) == VERDICTS[method]
    assert (record["workload"], record["layer"]) == ("session", LAYERS // 2)


@pytest.mark.parametrize("method", VERDICTS)
@pytest.mark.parametrize("name", ["activation", "decode"])
def test_verdict_is_that_of_every_workload(subject, study, method, name):
    """Without a KV cache, and in a decode step, the same survives; the KV cache that recompute keeps holds no edit."""
    only = dataclasses.replace(study, workloads=tuple(one for one in study.workloads if one.name == name))
    expected = dict(VERDICTS[method])
    if name == "activation":
        expected.pop("ordered", None)  # there is nothing to order
    elif method == "recompute":
        expected["kv_offloaded"] = LOSES
    assert verdicts(take(subject, only, method)) == expected


@pytest.mark.parametrize("method", ["recompute", "djinn"])
def test_nothing_is_left_on_the_model(subject, study, method):
    """After a probe no hook and no watch is on any module."""
    take(subject, study, method)
    for module in subject.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)


class EditOfACopy(PinnedOffload):
    """Mutant: hands out a copy of the state."""

    def edit(self, change):
        super().edit(lambda hidden_states: change(hidden_states.clone()))


class EditOfTheFirst(PinnedOffload):
    """Mutant: hands out the state of the first sequence of the batch."""

    def edit(self, change):
        super().edit(lambda hidden_states: change(hidden_states[:1]))


class EditTwice(PinnedOffload):
    """Mutant: makes every edit twice."""

    def edit(self, change):
        super().edit(change)
        super().edit(change)


class ReplayTwice(Replay):
    """Mutant: stores every edit twice."""

    def edit(self, change):
        super().edit(change)
        self._edits *= 2


class EditNowAndThen(PinnedOffload):
    """Mutant: makes every second edit only."""

    edits = 0

    def edit(self, change):
        self.edits += 1
        if self.edits % 2:
            super().edit(change)


class NeverForgets(Replay):
    """Mutant: makes the edits of a session again in the sessions after it."""

    def finish(self):
        edits = list(self._edits)
        logits = super().finish()
        self._edits += edits
        return logits


def test_a_lost_edit_is_reported(monkeypatch, subject, study):
    """A method that hands out a copy resumes bit for bit, and the edit is neither there nor exact."""
    offer(monkeypatch, EditOfACopy)
    assert verdicts(take(subject, study, "manual_offload")) == {"pinned": LOSES}


@pytest.mark.parametrize("mutant", [EditTwice, ReplayTwice, EditOfTheFirst])
def test_another_edit_survives_but_is_not_exact(monkeypatch, subject, study, mutant):
    """Made twice, or in half of the batch, the result is neither the plain run's nor the oracle's."""
    offer(monkeypatch, mutant)
    assert verdicts(take(subject, study, "manual_offload")) == {mutant.variant: (True, False)}


def test_a_pause_that_left_the_state_where_it_was_decides_nothing(monkeypatch, subject, study):
    """By hand, and the runtime's, to whom everything seems to be somebody else's."""
    offer(monkeypatch, LeftOnTheDevice)
    with pytest.raises(NotBitExact, match="LeftOnTheDevice .* the pause kept"):
        take(subject, study, "manual_offload")
    monkeypatch.setattr("djinn.state.ownership.Ownership.externally_referenced", take_little)
    with pytest.raises(NotBitExact, match="Djinn .* the pause kept"):
        take(subject, study, "djinn")


@pytest.mark.parametrize("mutant", [EditNowAndThen, NeverForgets])
def test_runs_that_differ_from_each_other_decide_nothing(monkeypatch, subject, study, mutant):
    """An edit that is made in some runs, or reaches into the next one, is no verdict."""
    offer(monkeypatch, mutant)
    with pytest.raises(NotBitExact, match=f"{mutant.__name__} .* the same edit gives other logits in run 2"):
        take(subject, study, "manual_offload")


def test_an_edit_without_effect_fails_the_job(monkeypatch, tmp_path, study, capsys):
    """Exit status 1 and no record if the oracle computes what the plain run does."""
    monkeypatch.setattr(capabilities, "steer", lambda hidden_states: None)
    status, out = run(monkeypatch, tmp_path, study, "vanilla")
    assert status == 1
    assert not out.exists()
    assert "the edit after layer 5 changes nothing" in capsys.readouterr().err


def test_an_unedited_run_that_differs_fails_the_job(monkeypatch, tmp_path, study, capsys):
    """Exit status 1 and no record if a method restores nothing: no edit is the reason for what it computes."""
    offer(monkeypatch, NothingBack)
    status, out = run(monkeypatch, tmp_path, study, "manual_offload")
    assert status == 1
    assert not out.exists()
    expected = "NothingBack (pinned), layer 5, workload session: without an edit the logits differ"
    assert expected in capsys.readouterr().err


def test_record_says_what_the_docstring_promises(monkeypatch, tmp_path, study):
    """Every variant has its verdict, five raw resumes and its program's lines, or None where there is no program."""
    lines = {"recompute": [6, 10], "manual_offload": [33, None, None]}
    for method, counted in lines.items():
        status, out = run(monkeypatch, tmp_path, study, method)
        assert status == 0
        record = json.loads(out.read_text())
        assert (record["schema"], record["kind"], record["method"]) == (1, "capabilities", method)
        assert record["study"] == study.part("capabilities")
        assert record["model"]["name"] == "llama-2-tiny"
        assert "provenance" in record
        assert verdicts(record) == VERDICTS[method]
        assert [cell["headline"] for cell in record["cells"]] == [True] + [False] * (len(counted) - 1)
        assert [cell["state_lines"] for cell in record["cells"]] == counted
        for cell in record["cells"]:
            assert len(cell["resume_ms"]) == 5
            assert min(cell["resume_ms"]) > 0


PLAIN = '''
"""A program."""

import torch


def run(model, input_ids):
    """Runs it."""
    output = model(input_ids, use_cache=True)
    return output.logits


class Stop(Exception):
    """Leaves it."""
'''
CALL = "    output = model(input_ids, use_cache=True)\n"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("", "", 0),
        (CALL, "    # why\n" + CALL[:-1] + "  # and how\n", 0),
        (CALL, "\n\n" + CALL, 0),
        (CALL, "    output = model(\n        input_ids,\n        use_cache=True,\n    )\n", 0),
        ('    """Runs it."""\n', "", 0),
        ('"""A program."""', '"""A program\n\nof many words.\n"""', 0),
        ('    """Leaves it."""', "    pass", 0),
        (CALL, CALL + "    session.io_wait()\n", 1),
        (CALL, CALL + "    session.wait(); session.io_wait()\n", 2),
        ("use_cache=True", "use_cache=False", 1),
        ("import torch", "import torch\nimport djinn", 1),
        ("return output.logits", "with runtime:\n        return output.logits", 2),
        (CALL, "", 0),
    ],
)
def test_lines_of_a_program(old, new, lines):
    """Statements that are added or changed count one each; comments, layout, docstrings and what is left out do not."""
    assert old in PLAIN
    assert state_lines(PLAIN.replace(old, new, 1), PLAIN) == lines


def test_a_line_that_is_repeated_often_is_still_found():
    """In programs of hundreds of lines, a line that stands in both counts in neither."""
    program = "step()\n" * 300
    assert state_lines(program + "stop()\n", program) == 1


def test_lines_of_the_examples():
    """Vanilla's program asks for nothing, Djinn's for less than manual offload's, a replay for more than none."""
    counted = {
        name: state_lines(example(*name).read_text(), example("vanilla").read_text())
        for name in [("vanilla",), ("recompute",), ("recompute", "replay"), ("manual_offload",), ("djinn",)]
    }
    assert counted[("vanilla",)] == 0
    assert 0 < counted[("djinn",)] < counted[("manual_offload",)]
    assert 0 < counted[("recompute",)] < counted[("recompute", "replay")]


def test_a_program_that_nobody_wrote_has_no_lines():
    """A method or variant without an example is not counted as another one."""
    assert example("manual_offload", "ordered") is None
    assert example("keep_twice") is None
