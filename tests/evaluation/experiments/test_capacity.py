"""The memory wall: sessions are opened until something refuses, and none of those that are paused is lost."""

import copy
import json
import os
import re
import signal
import sys
from dataclasses import replace

import pytest
import torch

from evaluation.experiments import capacity
from evaluation.measure.child import Child, Ended
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_method_job
from evaluation.measure.models import build
from evaluation.methods.benchmark_djinn import Djinn
from evaluation.methods.benchmark_manual_offload import PageableOffload
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.methods.offloads import PinnedOffload
from evaluation.study.plan import Capacity
from evaluation.study.resolve import resolve

SMALL = {
    "device": "cpu",
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "session", "batch": 1, "tokens": 16, "kv_cache": True},
    ],
    "functional": {"tokens": 16, "capacity": {"sessions": 10, "processes": 1}},
    "djinn": {"host_arena_gib": 0.02},
}


@pytest.fixture(scope="module")
def study():
    return resolve(SMALL)


def take(method, study):
    """Its cells; no model is built here."""
    with torch.no_grad():
        return capacity.take(method, study, lambda: 1 / 0, lambda line: None)["cells"]


@pytest.fixture(scope="module")
def subject(study):
    return build(study)


@pytest.fixture
def here(subject, monkeypatch):
    """Each variant in this process, with the model that is built once."""

    def filled(kind, study, workload, report):
        return capacity._fill(kind, subject, study, workload, report)

    monkeypatch.setattr(capacity, "_apart", filled)


@pytest.fixture
def fill(study, subject):
    """The cell of a method, with the model that is built once."""

    def filled(kind, study=study):
        with torch.no_grad():
            return capacity._fill(kind, subject, study, study.workloads[1], lambda line: None)

    return filled


@pytest.mark.parametrize(
    ("method", "variants"),
    [("recompute", ["default"]), ("manual_offload", ["pageable", "pinned"]), ("djinn", ["coded", "default"])],
)
@pytest.mark.usefixtures("here")
def test_every_method_reaches_the_cap(study, method, variants):
    """More sessions than there are prompts stay paused together, and each goes on as an uninterrupted run."""
    cells = take(method, study)
    assert [cell["variant"] for cell in cells] == variants
    plain = cells[-1]["figures"][0]["host_bytes"]
    for cell in cells:
        assert (cell["sessions"], cell["stopped_by"], cell["message"]) == (10, "cap", "")
        assert (cell["arena_bytes"] is None) == (method == "recompute" or cell["variant"] == "pageable")
        assert [figures["sessions"] for figures in cell["figures"]] == list(range(1, 11))
        held = [figures["host_bytes"] for figures in cell["figures"]]
        if cell["variant"] == "coded":  # by how much depends on the prompt
            assert all(0.7 * count < nbytes / plain < count for count, nbytes in enumerate(held, start=1))
        else:
            assert held == [0 if method == "recompute" else plain * count for count in range(1, 11)]


def test_vanilla_in_two_forms(forked, monkeypatch, tmp_path, study):
    """One session in a process with weights of its own, before the model is built here; and sessions that share."""
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    (tmp_path / "study.json").write_text(json.dumps(study.to_json()))
    out = tmp_path / "vanilla.json"
    arguments = ["capacity", "--method", "vanilla", "--study", str(tmp_path / "study.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert run_method_job("capacity", "", capacity.take) == 0
    record = json.loads(out.read_text())
    assert record["method"] == "vanilla"
    cells = [(cell["variant"], cell["headline"], cell["sessions"], cell["stopped_by"]) for cell in record["cells"]]
    assert cells == [("own_process", False, 1, "cap"), ("default", True, 10, "cap")]


class OutOfMemory(Vanilla):
    """The device refuses the third session, the fourth with the one that shows what it takes to end."""

    opened = 0
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")

    def prepare(self):
        OutOfMemory.opened += 1
        if OutOfMemory.opened == 4:
            raise self.error
        super().prepare()


def test_a_refusal_of_the_device_is_the_wall(fill, monkeypatch):
    """Its message and the figures of that moment are kept; the two sessions before it are resumed."""
    monkeypatch.setattr(OutOfMemory, "opened", 0)
    cell = fill(OutOfMemory)
    assert (cell["sessions"], cell["stopped_by"]) == (2, "device_oom")
    assert cell["message"] == "CUDA out of memory. Tried to allocate 20.00 MiB."
    assert [figures["sessions"] for figures in cell["figures"]] == [1, 2, 2]
    assert OutOfMemory.opened == 4


def test_a_refusal_of_a_library_is_the_wall(fill, monkeypatch):
    """cuBLAS has words of its own for a device without memory; any other error is one."""
    monkeypatch.setattr(OutOfMemory, "opened", 0)
    monkeypatch.setattr(OutOfMemory, "error", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert fill(OutOfMemory)["stopped_by"] == "device_oom"
    monkeypatch.setattr(OutOfMemory, "opened", 0)
    monkeypatch.setattr(OutOfMemory, "error", RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        fill(OutOfMemory)


def test_each_variant_has_a_process_of_its_own(study, monkeypatch):
    """What the threads and caches of one hold would be counted with the next."""
    started = []

    class Noting(Child):
        def __enter__(self):
            started.append(self)
            return super().__enter__()

    monkeypatch.setattr(capacity, "Child", Noting)
    cells = take("djinn", replace(study, capacity=Capacity(sessions=2, processes=1)))
    assert [cell["variant"] for cell in cells] == ["coded", "default"]
    assert len(started) == 2


@pytest.mark.usefixtures("here")
def test_a_full_arena_is_the_wall(study):
    """The session that found no room in it is given up, the others go on; by hand it is as large as Djinn's."""
    tight = replace(study, load_host_arena_gib=0.0004, capacity=Capacity(sessions=60, processes=1))
    nbytes = {}
    for method in ("djinn", "manual_offload"):
        *_, cell = take(method, tight)
        assert cell["stopped_by"] == "arena"
        assert "the host arena of" in cell["message"]
        assert 0 < cell["sessions"] < 60
        nbytes[method] = cell["arena_bytes"]
        held = cell["figures"][-1]["host_bytes"]
        assert held <= nbytes[method] < held + held // cell["sessions"] + 64 * 100
    assert abs(nbytes["djinn"] - nbytes["manual_offload"]) < 4096


@pytest.mark.usefixtures("here")
def test_more_coded_sessions_fit(study):
    """In the same arena, and each goes on bit for bit."""
    longer = tuple(replace(one, tokens=64) for one in study.workloads)
    tight = replace(study, workloads=longer, load_host_arena_gib=0.002, capacity=Capacity(sessions=60, processes=1))
    coded, plain = take("djinn", tight)
    assert [(cell["variant"], cell["stopped_by"]) for cell in (coded, plain)] == [
        ("coded", "arena"),
        ("default", "arena"),
    ]
    assert coded["sessions"] > plain["sessions"]


def test_memory_that_the_host_refuses_is_the_wall(fill, monkeypatch):
    """Copies in ordinary memory have no arena, and stop where the host gives none."""

    def refuse(*args, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    cell = fill(PageableOffload)
    assert (cell["sessions"], cell["stopped_by"], cell["arena_bytes"]) == (0, "host_full", None)
    assert re.fullmatch(r"no host memory for \d+ bytes: Cannot allocate memory", cell["message"])


@pytest.fixture
def scarce(monkeypatch):
    """A host that has 16 MiB available, of which 4 MiB are left alone."""
    available = [16 << 20]
    monkeypatch.setattr(capacity, "available_bytes", lambda: available[0])
    monkeypatch.setattr(capacity, "_left_free", lambda device: 4 << 20)
    return available


@pytest.mark.parametrize("kind", [PinnedOffload, Djinn])
def test_an_arena_of_all_that_the_host_can_spare_is_filled(fill, scarce, monkeypatch, kind):
    """Sessions in it need no more of the host, where less is available than must be left alone."""
    share = kind.share_arena

    def touched(session):
        nbytes = share(session)
        scarce[0] -= nbytes + 4096
        return nbytes

    monkeypatch.setattr(kind, "share_arena", touched)
    cell = fill(kind)
    assert (cell["sessions"], cell["stopped_by"], cell["arena_bytes"]) == (10, "cap", 12 << 20)


def test_without_an_arena_the_last_host_memory_is_left_alone(fill, scarce):
    """A host that would be exhausted kills."""
    scarce[0] = (4 << 20) - 1
    cell = fill(PageableOffload)
    assert (cell["sessions"], cell["stopped_by"]) == (0, "host_full")
    assert cell["message"] == f"less than {4 << 20} bytes of host memory are available"


class SharedBuffers(PinnedOffload):
    """Sessions that write their state over each other's."""

    def beside(self, input_ids):
        other = copy.copy(self)
        other.input_ids = input_ids
        return other


def test_a_lost_session_fails_the_job(fill):
    """State that another session has overwritten is noticed."""
    with pytest.raises(NotBitExact, match="SharedBuffers"):
        fill(SharedBuffers)


def answer(connection, study, workload, index):
    """A child in whose place nothing is computed: the second is refused."""
    if index == 1:
        connection.send(("opened", ("device_oom", "CUDA out of memory", {"device_bytes": 80})))
        return
    connection.send(("opened", ("cap", "", {"device_bytes": 40})))
    connection.recv()


def test_the_device_refuses_a_process(monkeypatch, forked, study):
    """The processes before it are resumed, and the figures of its refusal are kept."""
    monkeypatch.setattr(capacity, "_alone", answer)
    several = replace(study, capacity=Capacity(sessions=1, processes=8))
    cell = capacity._own_processes(several, study.workloads[1], lambda line: None)
    assert (cell["sessions"], cell["stopped_by"], cell["message"]) == (1, "device_oom", "CUDA out of memory")
    assert cell["figures"] == [{"device_bytes": 40, "sessions": 1}, {"device_bytes": 80, "sessions": 1}]


def vanish(connection, study, workload, index):
    """A child that the system ends."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(connection, study, workload, index):
    """A child that goes wrong by itself."""
    raise SystemExit(9)


def differ(connection, study, workload, index):
    """A child whose session goes on to something else."""
    connection.send(("opened", ("cap", "", {})))
    connection.recv()
    raise NotBitExact("capacity: vanilla session 0 in a process of its own differs")


def test_a_process_that_is_killed_is_the_wall(monkeypatch, forked, study):
    """The system that ends a process for its memory is a host that is full."""
    monkeypatch.setattr(capacity, "_alone", vanish)
    cell = capacity._own_processes(study, study.workloads[1], lambda line: None)
    assert (cell["sessions"], cell["stopped_by"], cell["message"]) == (0, "host_full", "the system killed the process")


def test_a_process_that_fails_is_no_wall(monkeypatch, forked, study):
    """What is wrong with the program says nothing about memory."""
    monkeypatch.setattr(capacity, "_alone", fail)
    with pytest.raises(RuntimeError, match="what went wrong stands above"):
        capacity._own_processes(study, study.workloads[1], lambda line: None)


def leave(connection, study, workload, index):
    """A child that a library ends."""
    os._exit(1)


def test_a_process_that_a_library_ends_is_no_wall(monkeypatch, forked, study):
    """Only one that was killed was too much for the host."""
    monkeypatch.setattr(capacity, "_alone", leave)
    with pytest.raises(Ended, match="with status 1"):
        capacity._own_processes(study, study.workloads[1], lambda line: None)


def test_a_session_of_its_own_that_differs_fails_the_job(monkeypatch, forked, study):
    """Its process compares what it computed after the resume."""
    monkeypatch.setattr(capacity.Vanilla, "resume", lambda session: session.stopped.hidden_states.zero_())
    with pytest.raises(NotBitExact, match="vanilla session 0 in a process of its own differs"):
        capacity._own_processes(study, study.workloads[1], lambda line: None)


def test_a_process_that_differs_fails_the_job(monkeypatch, forked, study):
    """What a session in its own process computed is compared there."""
    monkeypatch.setattr(capacity, "_alone", differ)
    with pytest.raises(NotBitExact, match="process of its own"):
        capacity._own_processes(study, study.workloads[1], lambda line: None)


def test_a_method_that_there_is_not_is_refused(monkeypatch, tmp_path, capsys):
    """One message names what there is; nothing is written."""
    out = tmp_path / "x.json"
    monkeypatch.setattr(sys, "argv", ["capacity", "--method", "magic", "--out", str(out)])
    with pytest.raises(SystemExit) as caught:
        run_method_job("capacity", "", capacity.take)
    assert caught.value.code == 2
    assert "argument --method: invalid choice: 'magic' (choose from 'djinn', " in capsys.readouterr().err
    assert not out.exists()
