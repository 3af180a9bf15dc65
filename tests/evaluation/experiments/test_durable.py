"""Sessions that outlive their process: what the record holds, and that no lie passes, nor a process that lives."""

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from djinn import NotRestored
from evaluation.experiments import disk_folder, durable
from evaluation.measure import killed
from evaluation.measure.child import Child, Ended
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_unbuilt_job
from evaluation.measure.models import build
from evaluation.measure.peer import Peer, Unsupported
from evaluation.methods import benchmark_manual_offload
from evaluation.methods.benchmark_djinn import Djinn
from evaluation.methods.offloads import PinnedOffload
from evaluation.peers import memory_saver
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import LAYERS

SMALL = {
    "device": "cpu",
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "decode", "batch": 2, "tokens": 16, "kv_cache": True, "decode_step": 2},
    ],
    "measurement": {"decode_steps": 2},
    "functional": {"tokens": 16, "durable": {"samples": 2}},
    "djinn": {"host_arena_gib": 0.02},
}
SURVIVES = {
    ("vanilla", "default"): "nothing",
    ("recompute", "default"): "session",
    ("recompute", "kv_offloaded"): "nothing",
    ("recompute", "replay"): "session",
    ("manual_offload", "pinned"): "nothing",
    ("manual_offload", "pageable"): "nothing",
    ("manual_offload", "ordered"): "nothing",
    ("manual_offload", "saved"): "edit",
    ("djinn", "default"): "edit",
    ("djinn", "kept"): "edit",
}

pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture(scope="module")
def whole():
    return resolve(SMALL)


@pytest.fixture(scope="module")
def study(whole):
    """A part that is quick."""
    session = replace(whole.workloads[0], name="session", kv_cache=True)
    return replace(whole, workloads=(session,), methods=("manual_offload",))


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Where the files of sessions go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quiet(line):
    """Nobody is told."""


def take(study):
    with torch.no_grad():
        return durable.take(study.only("durable"), lambda: build(study), quiet)


def test_the_record_holds_every_workload_and_what_survives_of_every_variant(monkeypatch, folder, whole):
    """The edit of a saved session alone, the session where the prompt is enough; no file is left behind."""
    (folder / "study.json").write_text(json.dumps(whole.to_json()))
    monkeypatch.setattr(sys, "argv", ["durable", "--study", "study.json", "--out", "durable.json"])
    assert run_unbuilt_job("durable", "", durable.take) == 0
    record = json.loads(Path("durable.json").read_text())
    assert (record["ended_by_signal"], record["layer"], record["edited"]) == (9, LAYERS // 2, "decode")
    assert {(kill["method"], kill["variant"]): kill["survives"] for kill in record["kills"]} == SURVIVES
    written = {kill["method"] for kill in record["kills"] if kill["saved_bytes"]}
    assert written == {"manual_offload", "djinn"}
    needs = {"survives": None, "message": "it needs a GPU, and the study runs on the CPU"}
    assert record["peers"] == [{"peer": peer, **needs} for peer in ("memory_saver", "process_checkpoint")]
    activation, decode = record["cells"]
    assert (activation["workload"], decode["workload"]) == ("activation", "decode")
    for cell in (activation, decode):
        assert (len(cell["saves"]), len(cell["restores"])) == (2, 2)
        assert cell["file_bytes"] > cell["state_bytes"] > 0
        assert all(time > 0 for one in (*cell["saves"], *cell["restores"]) for time in one.values())
        assert [next(iter(one)) for one in cell["saves"]] == ["floor_ms", "save_ms"]  # either comes first as often
        assert [next(iter(one)) for one in cell["restores"]] == ["floor_ms", "rerun_ms"]
    assert activation["recorded_bytes"] == 0  # its model has returned nothing before the breakpoint
    assert decode["recorded_bytes"] > 0
    assert {path.name for path in folder.iterdir()} <= {"study.json", "durable.json", ".lock"}


def test_the_model_is_made_when_the_other_process_is_gone(monkeypatch, study):
    """So both never hold the device at once, and the one that goes on has no part in what was paused."""
    processes = []
    kill = Child.kill
    monkeypatch.setattr(Child, "kill", lambda self: processes.append(self.pid) or kill(self))

    def made():
        (process,) = processes
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        raise KeyboardInterrupt

    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        durable.take(study.only("durable"), made, quiet)


def test_a_process_that_was_not_killed_shows_nothing(monkeypatch, study):
    """It had time to do whatever it likes: the job fails, with status 1."""

    def ends_by_itself(connection, *arguments):
        connection.send(("paused", {}))

    def wait(self):
        self._process.join()
        return max(0, -self._process.exitcode)

    monkeypatch.setattr(durable, "_save_all", ends_by_itself)
    monkeypatch.setattr(Child, "kill", wait)
    with pytest.raises(killed.NotKilled, match="was to be killed, and ended by signal 0") as refusal:
        take(study)
    assert refusal.value.status == 1


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("refused it", ("nothing", "refused it")),
        (Unsupported("no such driver"), (None, "no such driver")),
        (Ended(1), (None, str(Ended(1)))),
    ],
)
def test_a_peer_is_asked_what_survives(monkeypatch, study, answer, found):
    """On a GPU: how it refused, or why it cannot be asked; a process that its library ended says nothing."""

    def kill(study, report):
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr(Peer, "named", lambda name: replace(memory_saver.PEER, kill=kill))
    on_gpu = replace(study, device="cuda")
    survives, message = found
    asked = {"peer": "memory_saver", "survives": survives, "message": message}
    assert durable._of_peer("memory_saver", on_gpu, quiet) == asked


def test_a_full_disk_is_named(monkeypatch, folder, study):
    """With the folder that is to have room; nothing stays there."""

    def full(self, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PinnedOffload, "save", full)
    monkeypatch.setattr(benchmark_manual_offload, "probed_by_kill", lambda workload: [PinnedOffload])
    with pytest.raises(disk_folder.DiskFull, match=f"{folder} has no room left for .*No space left"):
        take(study)
    assert not list(folder.glob(".killed-*"))


def test_a_session_that_is_restored_altered_fails_the_job(monkeypatch, study):
    """By one number of its hidden states."""
    restore = Djinn.restore

    def alter(self, folder):
        restored = restore(self, folder)
        self._session.state["hidden_states"][0, -1, 0] += 1
        return restored

    monkeypatch.setattr(Djinn, "restore", alter)
    with pytest.raises(NotBitExact, match="went on differs from one that never stopped"):
        take(study)


def test_a_file_that_is_altered_fails_the_job(monkeypatch, study):
    """It is refused before anything is restored."""

    def flip(file):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    monkeypatch.setattr(durable, "drop_pages", flip)
    with pytest.raises(NotRestored, match="altered"):
        take(study)


class GoesOnFromNothing(PinnedOffload):
    """Mutant: says that it was restored, and computes on from zeros."""

    def restore(self, folder):
        self.prepare()
        self.pause()
        self.edit(torch.Tensor.zero_)
        return True


class GoesOnEdited(PinnedOffload):
    """Mutant: makes the edit once more in the new process, from no file."""

    def restore(self, folder):
        self.prepare()
        self.pause()
        self.edit(durable.steer)
        return True


def test_a_result_of_no_session_fails_the_job(monkeypatch, study):
    """It is neither the edited run's nor the plain one's."""
    monkeypatch.setattr(benchmark_manual_offload, "probed_by_kill", lambda workload: [GoesOnFromNothing])
    with pytest.raises(NotBitExact, match=r"manual_offload \(pinned\) went on to a result that is of no session"):
        take(study)


def test_an_edit_that_nobody_wrote_down_is_no_survivor(monkeypatch, folder, study, capsys):
    """Whatever the result says: there is no record."""
    monkeypatch.setattr(benchmark_manual_offload, "probed_by_kill", lambda workload: [GoesOnEdited])
    (folder / "study.json").write_text(json.dumps(study.to_json()))
    monkeypatch.setattr(sys, "argv", ["durable", "--study", "study.json", "--out", "durable.json"])
    with pytest.raises(ValueError, match="an edit of which nothing was on disk cannot survive"):
        run_unbuilt_job("durable", "", durable.take)
    assert not Path("durable.json").exists()


def test_two_processes_with_other_weights_are_told(monkeypatch, study):
    """Before anything is restored."""
    monkeypatch.setattr(durable, "sha256_of", lambda logits: f"{os.getpid()}")
    with pytest.raises(NotBitExact, match="the uninterrupted runs of both processes differ"):
        take(study)


def test_an_edit_without_effect_decides_nothing(monkeypatch, study):
    """What goes on without it would look like what goes on with it."""
    monkeypatch.setattr(durable, "steer", lambda hidden_states: None)
    with pytest.raises(NotBitExact, match="changes nothing"):
        take(study)


def test_the_file_system_is_that_of_the_folder():
    """The deepest one that it lies in."""
    assert disk_folder.filesystem_of(Path("/proc/self")) == "proc"
    assert disk_folder.filesystem_of(Path("/dev/shm")) == "tmpfs"
