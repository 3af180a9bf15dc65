"""What a user would pick instead: run with stand-ins for the libraries, and recorded as unsupported where it cannot."""

import csv
import enum
import importlib
import json
import multiprocessing
import sys
import types
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from evaluation.measure.child import Child, Ended
from evaluation.measure.edits import edited, middle
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_peer_job
from evaluation.measure.models import build, outline
from evaluation.measure.peer import Peer, Unread, Unsupported
from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.peers import __main__ as peers
from evaluation.peers import memory_saver, process_checkpoint
from evaluation.study.config import peers as known
from evaluation.study.plan import ConfigError, Study
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import LAYERS
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic, clocks

SMALL = {
    "device": "cpu",
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "session", "batch": 2, "tokens": 16, "kv_cache": True},
        {"name": "decode", "batch": 1, "tokens": 16, "kv_cache": True, "decode_step": 1},
    ],
    "functional": {"tokens": 16, "think_time_ms": 0},
}


@pytest.fixture(scope="module")
def study():
    return resolve(SMALL)


@pytest.fixture(scope="module")
def subject(study):
    return build(study)


# The row of a machine that cannot run a peer


@pytest.mark.parametrize(
    ("peer", "workloads", "package"),
    [
        ("memory_saver", ["activation", "session", "decode"], "torch_memory_saver"),
        ("process_checkpoint", ["session"], "cuda-bindings"),
    ],
)
def test_without_a_gpu_a_peer_is_unsupported(monkeypatch, tmp_path, study, subject, peer, workloads, package):
    """The job succeeds without building a model, and the record has the reason and belongs to the run."""
    (tmp_path / "study.json").write_text(json.dumps(study.to_json()))
    out = tmp_path / f"{peer}.json"
    arguments = ["peers", "--peer", peer, "--study", str(tmp_path / "study.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert run_peer_job("peers", "", peers.take) == 0
    record = json.loads(out.read_text())
    assert (record["kind"], record["peer"], record["layer"]) == ("peers", peer, LAYERS)
    assert record["package"]["name"] == package
    assert record["configuration"]
    assert record["model"] == subject.describe(study)
    assert [cell["workload"] for cell in record["cells"]] == workloads
    for cell in record["cells"]:
        assert (cell["outcome"], cell["samples"]) == ("unsupported", [])
        assert cell["message"] == "it needs a GPU, and the study runs on the CPU"


def test_an_outline_describes_a_checkpoint(tmp_path, study, subject):
    """Without reading its weights."""
    subject.model.save_pretrained(tmp_path)
    loaded = replace(study, model=replace(study.model, path=str(tmp_path)))
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()
    assert outline(loaded).describe(loaded) == {**subject.describe(study), "weights": "checkpoint llama-2-tiny"}


def test_every_module_of_the_folder_is_a_peer():
    """Found by its name alone; each says its package, its configuration and what it measures."""
    assert known() == ["memory_saver", "process_checkpoint"]
    for name in known():
        peer = importlib.import_module(f"evaluation.peers.{name}").PEER
        assert isinstance(peer, Peer)
        assert peer.package
        assert peer.configuration


def test_a_peer_that_there_is_not_is_refused(monkeypatch, tmp_path, capsys):
    """One message names what there is; nothing is written."""
    monkeypatch.setattr(sys, "argv", ["peers", "--peer", "cuda_checkpoint", "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit) as caught:
        run_peer_job("peers", "", peers.take)
    assert caught.value.code == 2
    message = "argument --peer: invalid choice: 'cuda_checkpoint' (choose from 'memory_saver', 'process_checkpoint')"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("error", [Unsupported("no such driver"), Ended(1)])
def test_a_peer_that_cannot_go_on_is_a_cell(monkeypatch, study, error):
    """With the reason, whether it says so or its library ends the process."""

    def take(study, report):
        raise error

    monkeypatch.setattr(memory_saver, "PEER", replace(memory_saver.PEER, take=take))
    cells = peers.take("memory_saver", replace(study, device="cuda"), lambda line: None)["cells"]
    assert [(cell["outcome"], cell["message"]) for cell in cells] == [("unsupported", str(error))] * 3


def test_a_missing_package_is_the_reason(monkeypatch, study):
    """And the message says where its pin is."""
    monkeypatch.setitem(sys.modules, "torch_memory_saver", None)
    with pytest.raises(Unsupported, match=r"torch_memory_saver cannot be imported .*envs/peers\.txt"):
        memory_saver.open_saver(torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "cuda", None)
    on_gpu = replace(study, device="cuda")
    (cell,) = peers.take("process_checkpoint", on_gpu, lambda line: None)["cells"]
    assert cell["outcome"] == "unsupported"
    assert cell["message"].startswith("cuda-bindings cannot be imported")
    assert "envs/peers.txt" in cell["message"]


# torch_memory_saver


class Recorded(TorchFunctionMode):
    """Notes the storage of every tensor that is made while it is active."""

    def __init__(self, storages):
        self.storages = storages

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.empty, torch.full):
            self.storages.append(made.untyped_storage())
        return made


class Saver:
    """Stands in for the library: what is made in a region is really taken away at the pause, and put back."""

    retain_cpu_backup = False  # told from an older library by being there
    restores = True

    def __init__(self):
        self.hook_mode = "preload"
        self.regions = {}
        self.backups = {}
        self.calls = []

    @contextmanager
    def region(self, tag, enable_cpu_backup):
        assert enable_cpu_backup
        with Recorded(self.regions.setdefault(tag, [])):
            yield

    def pause(self, tag):
        assert tag not in self.backups
        self.calls.append(("pause", tag, [storage.data_ptr() for storage in self.regions[tag]]))
        self.backups[tag] = [storage.clone() for storage in self.regions[tag]]
        for storage in self.regions[tag]:
            storage.fill_(0)

    def resume(self, tag):
        regions = self.regions.get(tag, [])  # a tag that it does not know has none, and is no error
        self.calls.append(("resume", tag, [storage.data_ptr() for storage in regions]))
        for storage, backup in zip(regions, self.backups.pop(tag, []), strict=True):
            if self.restores:
                storage.copy_(backup)


@pytest.fixture
def library(monkeypatch):
    """A saver in the place of the package's."""

    def put(saver):
        monkeypatch.setitem(sys.modules, "torch_memory_saver", types.SimpleNamespace(torch_memory_saver=saver))
        return saver

    return put


def test_memory_saver_is_bit_exact(library, monkeypatch, study, subject):
    """Every workload at the deepest layer, with its samples; one allocation each, made once, and never moved.

    The driver's memory is overwritten in the validation and not where the resume is timed.
    """
    saver = library(Saver())
    overwritten = []  # at which calls of the library
    monkeypatch.setattr(memory_saver, "overwrite_driver_memory", lambda device: overwritten.append(saver.calls[-1]))
    opened = memory_saver.open_saver(torch.device("cpu"))
    assert opened is saver
    assert (saver.hook_mode, saver.retain_cpu_backup) == ("torch", True)
    more = replace(study, peers=study.peers.but(samples={"memory_saver": 3}))
    cells = memory_saver.measured(subject, more, opened, lambda line: None)
    assert [cell["workload"] for cell in cells] == ["activation", "session", "decode"]
    for cell in cells:
        assert (cell["outcome"], cell["validation_samples"]) == ("ok", 1)
        assert [sample["bit_exact"] for sample in cell["samples"]] == [True] * 3
        for sample in cell["samples"]:
            assert 0 < sample["ready_ms"] <= sample["first_kernel_ms"] <= sample["usable_ms"]
            assert sample["resident_ms"] == sample["ready_ms"]
            assert sample["floor_ms"] > 0
            assert sample["overwritten_bytes"] >= cell["state_bytes"]
            assert sample["host_bytes_paused"] >= cell["state_bytes"]
    tags = {tag for _, tag, _ in saver.calls} - {"trial"}
    first_pauses = [next(call for call in saver.calls if call[:2] == ("pause", tag)) for tag in tags]
    assert sorted(overwritten) == sorted(first_pauses)
    assert sorted(tag.split(".")[0] for tag in tags) == ["activation", "decode", "session"]
    for tag in tags:
        calls = [(verb, addresses) for verb, of, addresses in saver.calls if of == tag]
        assert [verb for verb, _ in calls] == ["pause", "resume"] * 5  # validated, warmed up, three samples
        assert len({tuple(addresses) for _, addresses in calls}) == 1
        assert len(calls[0][1]) == 1


class Forgetful(Saver):
    """Mutant: restores nothing, but for the trial, which would notice."""

    def resume(self, tag):
        self.restores = tag == "trial"
        super().resume(tag)


def test_a_saver_that_restores_nothing_fails_the_job(library, study, subject):
    """It is no result: the sample is not bit-exact."""
    library(Forgetful())
    saver = memory_saver.open_saver(torch.device("cpu"))
    with pytest.raises(NotBitExact, match="MemorySaver"):
        memory_saver.measured(subject, study, saver, lambda line: None)


def test_memory_saver_has_nothing_of_a_killed_process(library, forked, study):
    """Another process asks for the tag under which the killed one had paused, and its device is as it was."""
    library(Saver())
    told = memory_saver.kill(study, lambda line: None)
    assert told == "torch_memory_saver in another process mapped 0 bytes for the tag that the killed one had paused"


def test_what_comes_back_after_a_kill_is_not_called_nothing(library, forked, monkeypatch, study):
    """Mutant: the library maps memory for the tag."""
    library(Saver())
    free = iter(range(100, 0, -1))
    monkeypatch.setattr(memory_saver, "_driver_free", lambda device: next(free))
    with pytest.raises(Unread, match="mapped 1 bytes for what the killed one had paused"):
        memory_saver.kill(study, lambda line: None)


def test_the_paused_session_that_is_killed_was_edited(study, subject):
    """Its hidden states are those of the session, with the edit."""
    method, plain = (edited(Vanilla, subject, study) for _ in range(2))
    plain.prepare()
    difference = method.stopped.hidden_states - plain.stopped.hidden_states
    assert method.layer == middle(subject)
    assert difference[:, -1].any()
    assert not difference[:, :-1].any()


def broken(error):
    """A saver whose library says ``error`` when it is loaded."""

    class Broken(Saver):
        @property
        def retain_cpu_backup(self):
            return False

        @retain_cpu_backup.setter
        def retain_cpu_backup(self, value):
            raise error

    return Broken()


class WithoutRestoring(Saver):
    """Shows at the trial that it restores nothing."""

    restores = False


@pytest.mark.parametrize(
    ("saver", "message"),
    [
        (broken(OSError("libcudart.so.13: cannot open\nmore")), "library cannot be loaded: libcudart.so.13: cannot op"),
        (broken(RuntimeError("expected exactly one .so")), "library cannot be loaded: expected exactly one .so"),
        (WithoutRestoring(), "did not restore what it paused"),
        (object(), "does not retain its backup between pauses: pip install -r envs/peers.txt"),
    ],
)
def test_a_saver_that_does_not_work_is_unsupported(library, saver, message):
    """With the reason, before anything is measured."""
    library(saver)
    with pytest.raises(Unsupported, match=message):
        memory_saver.open_saver(torch.device("cpu"))


def test_a_saver_that_gives_no_memory_back_is_unsupported(library, monkeypatch):
    """As one does whose library was loaded but hooked nothing."""
    library(Saver())
    monkeypatch.setattr(memory_saver, "synchronize", lambda device: None)
    monkeypatch.setattr(memory_saver, "_driver_free", lambda device: 5)
    monkeypatch.setattr(memory_saver.torch, "full", lambda *args, **kwargs: torch.empty(args[0]))
    with pytest.raises(Unsupported, match="and the driver got 0 of them back"):
        memory_saver._try_out(Saver(), types.SimpleNamespace(type="cuda"))


# The driver's process checkpoint


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NOT_PERMITTED = 800
    CUDA_ERROR_NOT_SUPPORTED = 801


class Bindings:
    """Stands in for cuda.bindings.driver: notes the calls, refuses those in ``refused``, holds the device's memory."""

    CUresult = Result

    def __init__(self, **refused):
        self.refused = refused
        self.calls = []
        self.timeouts = []
        self.gone = False

    def CUcheckpointLockArgs(self):  # noqa: N802 - the driver's name
        return types.SimpleNamespace(timeoutMs=0)

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(pid, *arguments):
            self.calls.append((name, pid))
            self.timeouts += [argument.timeoutMs for argument in arguments if argument is not None]
            error = self.refused.get(name, Result.CUDA_SUCCESS)
            if not error:
                self.gone = {"cuCheckpointProcessCheckpoint": True, "cuCheckpointProcessRestore": False}.get(
                    name, self.gone
                )
            return (error,)

        return call


class Device:
    """The device's memory as the bindings have left it."""

    others_bytes = 100

    def __init__(self, bindings, given_back=1 << 30):
        self._bindings = bindings
        self._given_back = given_back

    def used_bytes(self):
        return 150 if self._bindings.gone else 150 + self._given_back

    def overwrite_free_memory(self):
        self._bindings.calls.append(("overwritten", None))


LOCK, CHECKPOINT, RESTORE, UNLOCK = (
    f"cuCheckpointProcess{verb}" for verb in ("Lock", "Checkpoint", "Restore", "Unlock")
)


def supervised(study, bindings, program=process_checkpoint.session, device=None):
    driver = process_checkpoint.Driver(bindings)
    with Child(program, study) as process:
        device = device or Device(bindings)
        cell = process_checkpoint.supervise(process, driver, study, device, lambda line: None, lambda s: None)
        return process.pid, cell


@pytest.mark.parametrize(("warmup_samples", "rounds"), [(0, 1), (1, 1), (2, 2)])
def test_a_process_is_paused_and_resumed_for_each_sample(forked, study, warmup_samples, rounds):
    """In the order lock, checkpoint, restore, unlock; the process goes on to the same bits; its clocks are in order.

    Free memory is overwritten where nobody is timed, also in a study without warm-up.
    """
    study = replace(study, measurement=replace(study.measurement, warmup_samples=warmup_samples))
    bindings = Bindings()
    pid, cell = supervised(study, bindings)
    pauses, resumes = [(LOCK, pid), (CHECKPOINT, pid)], [(RESTORE, pid), (UNLOCK, pid)]
    untimed = [*pauses, ("overwritten", None), *resumes]
    assert bindings.calls == [("cuInit", 0), *untimed * rounds, *[*pauses, *resumes] * 2]
    assert bindings.timeouts == [60_000] * (rounds + 2)
    assert (cell["workload"], cell["outcome"]) == ("session", "ok")
    assert cell["state_bytes"] > cell["frontier_bytes"] > 0
    assert len(cell["samples"]) == 2
    for sample in cell["samples"]:
        # ready comes by a pipe, which on a busy machine takes longer than the first kernel
        assert sample["ready_ms"] > 0
        assert 0 < sample["first_kernel_ms"] <= sample["usable_ms"] < sample["next_token_ms"]
        assert (sample["device_bytes_paused"], sample["host_bytes_paused"]) == (50, 1 << 30)
        assert (sample["overwritten_bytes"], sample["bit_exact"]) == (0, True)


def waits(connection, study):
    """In the place of a session: it needs no model."""
    connection.send(("paused", {"frontier_bytes": 1, "state_bytes": 2, "device_bytes": 3}))
    connection.recv()


@pytest.mark.parametrize(
    ("refused", "calls", "message"),
    [
        ({LOCK: 801}, [LOCK], f"the driver refused {LOCK}: CUDA_ERROR_NOT_SUPPORTED"),
        ({CHECKPOINT: 800}, [LOCK, CHECKPOINT, UNLOCK], f"the driver refused {CHECKPOINT}: CUDA_ERROR_NOT_PERMITTED$"),
        (
            {CHECKPOINT: 800, UNLOCK: 801},
            [LOCK, CHECKPOINT, UNLOCK],
            f"{CHECKPOINT}: CUDA_ERROR_NOT_PERMITTED, then the driver refused {UNLOCK}: CUDA_ERROR_NOT_SUPPORTED",
        ),
        (
            {RESTORE: 801},
            [LOCK, CHECKPOINT, "overwritten", RESTORE],
            f"the driver refused {RESTORE}: CUDA_ERROR_NOT_SUPPORTED",
        ),
    ],
)
def test_a_refusal_of_the_driver_is_the_reason(forked, study, refused, calls, message):
    """By its name; a process that cannot be checkpointed is not left locked."""
    bindings = Bindings(**{name: Result(code) for name, code in refused.items()})
    with pytest.raises(Unsupported, match=message):
        supervised(study, bindings, waits)
    assert [name for name, _ in bindings.calls] == ["cuInit", *calls]


def test_a_driver_that_keeps_the_memory_is_unsupported(forked, study):
    """A checkpoint that gave back less than the tensors took is none."""
    bindings = Bindings()
    with pytest.raises(Unsupported, match="gave back 2 of 3 bytes of device memory"):
        supervised(study, bindings, waits, Device(bindings, given_back=2))


@pytest.fixture
def bindings_of_package(monkeypatch):
    """Bindings in the place of the package's."""

    def put(bindings):
        monkeypatch.setattr(process_checkpoint, "_bindings", lambda: bindings)
        return bindings

    return put


def test_the_driver_has_nothing_of_a_killed_process(bindings_of_package, forked, study):
    """It is checkpointed, killed, and then asked for; the answer is the driver's refusal."""
    bindings = bindings_of_package(Bindings(**{RESTORE: Result.CUDA_ERROR_NOT_SUPPORTED}))
    alive = []

    class Watched(Bindings):
        def __getattr__(self, name):
            if name in (CHECKPOINT, RESTORE):
                alive.append(bool(multiprocessing.active_children()))
            return super().__getattr__(name)

    bindings.__class__ = Watched
    told = process_checkpoint.kill(study, lambda line: None)
    assert told == f"the driver refused {RESTORE}: CUDA_ERROR_NOT_SUPPORTED"
    assert [name for name, _ in bindings.calls] == ["cuInit", LOCK, CHECKPOINT, RESTORE]
    assert len({pid for _, pid in bindings.calls[1:]}) == 1
    assert alive == [True, False]


def test_a_driver_that_restores_the_killed_is_not_believed(bindings_of_package, forked, study):
    """Mutant: it says that it did."""
    bindings_of_package(Bindings())
    with pytest.raises(Unread, match="the driver restored process"):
        process_checkpoint.kill(study, lambda line: None)


def test_a_driver_that_cannot_pause_is_not_asked_what_it_kept(bindings_of_package, forked, study):
    """And its process is gone."""
    bindings_of_package(Bindings(**{CHECKPOINT: Result.CUDA_ERROR_NOT_PERMITTED}))
    with pytest.raises(Unsupported, match=f"refused {CHECKPOINT}"):
        process_checkpoint.kill(study, lambda line: None)
    assert not multiprocessing.active_children()


def test_a_driver_without_the_functions_is_unsupported():
    """Old bindings lack them, and an old driver lacks what they would call."""
    with pytest.raises(Unsupported, match="cuInit: .*no attribute"):
        process_checkpoint.Driver(types.SimpleNamespace(CUresult=Result))

    def missing(*arguments):
        raise RuntimeError(f'Function "{LOCK}" not found')

    bindings = Bindings()
    setattr(bindings, LOCK, missing)
    with pytest.raises(Unsupported, match=f'{LOCK}: Function "{LOCK}" not found'):
        process_checkpoint.Driver(bindings).pause(1)


def test_a_restored_process_that_differs_fails_the_job(forked, monkeypatch, study):
    """What it computes after the restore is compared there."""
    monkeypatch.setattr(process_checkpoint.Vanilla, "resume", lambda method: method.stopped.hidden_states.zero_())
    with pytest.raises(NotBitExact, match="the logits differ from the uninterrupted run"):
        supervised(study, Bindings())


@pytest.mark.parametrize(
    ("said", "raised", "message"),
    [
        ("CUDA error: an illegal memory access", Unsupported, "did not go on after a restore: CUDA error: an illegal"),
        ("shapes do not match", RuntimeError, "what went wrong stands above"),
    ],
)
def test_a_process_that_does_not_go_on(forked, monkeypatch, study, said, raised, message):
    """An error of the device after a restore is a reason, any other a fault."""

    def fail(method):
        raise RuntimeError(said)

    monkeypatch.setattr(process_checkpoint.Vanilla, "resume", fail)
    with pytest.raises(raised, match=message):
        supervised(study, Bindings())


# The configuration, and the table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"run": ["memory_saver", "cuda_checkpoint"]},
            "config: peers.run: 'cuda_checkpoint' is not a peer. Allowed: memory_saver",
        ),
        ({"run": ["memory_saver"] * 2}, "config: peers.run: 'memory_saver' stands there twice"),
        ({"memory_saver_samples": 1}, "config: peers.memory_saver_samples: 1 should be greater than or equal to 2"),
        ({"samples": 6}, "config: peers.samples is not a known key. .*Allowed: memory_saver_samples, process_"),
    ],
)
def test_what_cannot_be_run_is_refused(change, message):
    """By name, before anything runs."""
    with pytest.raises(ConfigError, match=message):
        resolve({"device": "cpu", "peers": change})


def test_a_functional_study_takes_its_own_counts_and_the_same_list():
    """And survives being written and read."""
    study = resolve({"device": "cpu", "peers": {"run": ["process_checkpoint"]}})
    assert (study.peers.run, study.peers.process_checkpoint_samples) == (("process_checkpoint",), 2)
    assert Study.from_json(json.loads(json.dumps(study.to_json()))) == study


def test_the_table_of_peers(tmp_path):
    """One row per metric; one row with the reason where a peer is unsupported; none of a run without peers."""
    without = Results.make(tmp_path / "without", Synthetic(layers=(1,), samples=6))
    columns = "run,peer,workload,metric,median,ci_low,ci_high,n,unit,outcome,message\n"
    assert without.summary.with_name("peers.csv").read_text() == columns
    sample = {"pause_ms": 9.0, "device_bytes_paused": 1_734_567_890}
    samples = [{**clocks(5.5 + step), **sample} for step in range(6)]
    measured = {"workload": "session", "state_bytes": 1_741_000_001, "samples": samples}
    unsupported = {"workload": "session", "outcome": "unsupported", "message": "no driver, none", "samples": []}
    beside = {"peers/memory_saver.json": [measured], "peers/process_checkpoint.json": [unsupported]}
    recipe = Synthetic(layers=(1,), samples=6, peers=("memory_saver", "process_checkpoint"), beside=beside)
    table = Results.make(tmp_path, recipe).summary.with_name("peers.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    found = [(row["peer"], row["metric"], row["median"], row["ci_low"], row["ci_high"], row["n"]) for row in rows]
    assert [row for row in found if row[1] in ("ready_ms", "pause_ms", "device_bytes_paused", "state_bytes")] == [
        ("memory_saver", "ready_ms", "8", "5.5", "10.5", "6"),
        ("memory_saver", "pause_ms", "9", "9", "9", "6"),
        ("memory_saver", "device_bytes_paused", "1734567890", "1734567890", "1734567890", "6"),
        ("memory_saver", "state_bytes", "1741000001", "", "", "1"),
        ("process_checkpoint", "ready_ms", "", "", "", "0"),
    ]
    assert {(row["run"], row["workload"]) for row in rows} == {("local", "session")}
    assert [(row["outcome"], row["message"], row["unit"]) for row in rows[-2:]] == [
        ("ok", "", "bytes"),
        ("unsupported", "no driver, none", "ms"),
    ]
