"""The job of the neighbour on the CPU: what each window holds, and that nobody's tokens may differ."""

import dataclasses
import json
import sys
import threading

import pytest
import torch

import djinn
from djinn.memory.lanes import Lane
from djinn.memory.transfer import TransferEngine
from evaluation.experiments import neighbour, others, windows
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.measure.models import build
from evaluation.measure.programs import generate_greedily
from evaluation.methods.stepped_offload import SteppedOffload
from evaluation.records.kinds import check_record
from evaluation.records.neighbour import WINDOWS
from evaluation.study.plan import Neighbour
from evaluation.study.resolve import resolve
from tests.evaluation import mutants
from tests.evaluation.measuring import CONFIG, shallow, study, subject

__all__ = ["shallow", "study", "subject"]


@pytest.fixture(scope="module")
def small(study):
    """One block of few tokens after a short prompt."""
    workload = dataclasses.replace(study.workloads[1], batch=1, tokens=8)
    return dataclasses.replace(study, workloads=(workload,), neighbour=Neighbour(blocks=1, tokens=3, swaps=2))


def take(subject, study):
    with torch.no_grad():
        return neighbour.take(subject, study, lambda line: None)


def test_each_window_holds_what_was_computed_and_swapped(monkeypatch, tmp_path, small):
    """One record that passes its schema; every window of either side, there and back; no thread is left."""
    (tmp_path / "study.json").write_text(json.dumps(small.for_job("neighbour")))
    out = tmp_path / "neighbour.json"
    monkeypatch.setattr(sys, "argv", ["neighbour", "--study", str(tmp_path / "study.json"), "--out", str(out)])
    before = set(threading.enumerate())
    assert run_side_job("neighbour", "", neighbour.take) == 0
    assert set(threading.enumerate()) <= before
    record = json.loads(out.read_text())
    check_record(record)
    assert record["study"] == small.part("neighbour")
    assert (record["workload"], record["layer"]) == ("session", 5)
    assert [(cell["method"], cell["variant"]) for cell in record["cells"]] == [
        ("djinn", "default"),
        ("manual_offload", "ordered"),
    ]
    for cell in record["cells"]:
        (block,) = cell["blocks"]
        order = [window["window"] for window in block]
        assert order == order[::-1]
        assert sorted(order) == sorted(2 * WINDOWS)
        for window in block:
            assert len(window["token_ms"]) == (0 if window["window"] == "alone" else 3)
            assert (window["steps"] > 0) == (window["window"] != "undisturbed")
            swapped = window["window"] in ("swaps", "alone")
            assert len(window["resumes"]) == (window["steps"] if swapped else 0)
            assert len(window["step_ends_ms"]) == window["steps"]
            swaps = [swap["ended_ms"] for swap in window["resumes"]]
            assert all(swap <= step for swap, step in zip(swaps, window["step_ends_ms"], strict=False))


def corrupted(*args, **kwargs):
    """Mutant: the neighbour's last token follows from other logits than it was to."""
    *logits, last = generate_greedily(*args, **kwargs)
    return [*logits, last.roll(1, -1)]


def test_a_neighbour_whose_tokens_differ_fails_the_job(monkeypatch, subject, small):
    """Whatever is swapped beside it."""
    reference = windows.Reference.check

    def check(self, found, least, who):
        with monkeypatch.context() as patch:
            patch.setattr(windows, "generate_greedily", generate_greedily)
            reference(self, found, least, who)

    monkeypatch.setattr(windows.Reference, "check", check)
    monkeypatch.setattr(windows, "generate_greedily", corrupted)
    with pytest.raises(NotBitExact, match=r"the neighbour \(djinn\) computed something else"):
        take(subject, small)


def test_a_neighbour_that_raises_fails_the_job_with_its_error(monkeypatch, subject, small):
    """Nobody waits for ever for its next token."""

    def refuse(self, logits):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(windows.Tokens, "give", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        take(subject, small)


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [(Lane, "bring", mutants.copy_nothing), (TransferEngine, "_bring_back", mutants.skip_history)],
)
def test_a_runtime_that_brings_nothing_back_fails_the_job(monkeypatch, subject, small, owner, name, mutant):
    """Its memory was overwritten meanwhile."""
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(NotBitExact, match=r"the other session \(djinn\) computed something else"):
        take(subject, small)


def nothing_back(offload, tensors):
    """Mutant: allocates, and copies nothing."""
    offload.stopped.put(mutants.lost(tensors, offload.subject.device))


def kv_lost(offload, stopped):
    """Mutant: forgets the KV cache."""
    if offload.away:
        offload._copies.bring(offload._layers, lambda tensors: stopped.put({n: t.zero_() for n, t in tensors.items()}))


@pytest.mark.parametrize(("name", "mutant"), [("_submit", nothing_back), ("_bring_rest", kv_lost)])
def test_copies_by_hand_that_bring_nothing_back_fail_the_job(monkeypatch, subject, small, name, mutant):
    """The control is compared as well."""
    monkeypatch.setattr(SteppedOffload, name, mutant)
    with pytest.raises(NotBitExact, match=r"the other session \(manual_offload\) computed something else"):
        take(subject, small)


@pytest.mark.parametrize(("side", "name"), [(others.OtherByDjinn, "djinn"), (others.OtherByHand, "manual_offload")])
def test_a_swap_that_moves_nothing_fails_the_job(monkeypatch, subject, small, side, name):
    """What stays on the device costs a neighbour nothing."""
    monkeypatch.setattr(side, "host_bytes", 7)
    with pytest.raises(NotBitExact, match=rf"\({name}\): the pause kept 7 bytes of a state of at least"):
        take(subject, small)


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "method"),
    [
        (Lane, "bring", mutants.copy_nothing, "djinn"),
        (SteppedOffload, "_submit", nothing_back, "manual_offload"),
    ],
)
def test_a_swap_that_comes_to_copy_nothing_fails_the_job(monkeypatch, subject, small, owner, name, mutant, method):
    """Though it finds its state again wherever nobody has overwritten it."""
    copy, take_window, overwrite = getattr(owner, name), windows.Windows.take, windows.overwrite_free_memory
    warm, lost = threading.Event(), threading.Event()

    def taken(self, window):
        if self.side.method == method:
            warm.set()
        lost.clear()
        return take_window(self, window)

    def overwritten(*args):
        if warm.is_set():
            lost.set()
        return overwrite(*args)

    def copies(*args, **kwargs):
        return (mutant if lost.is_set() else copy)(*args, **kwargs)

    monkeypatch.setattr(windows.Windows, "take", taken)
    monkeypatch.setattr(windows, "overwrite_free_memory", overwritten)
    monkeypatch.setattr(owner, name, copies)
    with pytest.raises(NotBitExact, match=rf"the other session \({method}\) computed something else"):
        take(subject, small)


def test_no_window_leaves_a_session_open(monkeypatch, subject, small):
    """An open session holds its result on the device."""
    opened, left = [], []
    open_session, take_window = djinn.Runtime.open, windows.Windows.take

    def opens(*args, **kwargs):
        opened.append(open_session(*args, **kwargs))
        return opened[-1]

    def taken(self, window):
        found = take_window(self, window)
        left.append(sum(session.phase is not djinn.Phase.CLOSED for session in opened))
        return found

    monkeypatch.setattr(djinn.Runtime, "open", opens)
    monkeypatch.setattr(windows.Windows, "take", taken)
    take(subject, small)
    assert opened
    assert left == [0] * len(left)


@pytest.mark.gpu
def test_windows_on_a_gpu(study):
    """With the streams and the page-locked memory that they are for."""
    found = resolve({**CONFIG, "device": "cuda", "model": {"name": "llama-2-tiny"}, "layers": [3]})
    small = dataclasses.replace(found, neighbour=Neighbour(blocks=1, tokens=8, swaps=3))
    assert [len(cell["blocks"]) for cell in take(build(small), small)["cells"]] == [1, 1]
