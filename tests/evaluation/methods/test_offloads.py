"""The hand-written forms: what each waits for, keeps, allocates and shares."""

import dataclasses
import threading

import pytest
import torch

from evaluation.measure.harness import Harness, NotBitExact
from evaluation.measure.models import build
from evaluation.methods.offloads import AsyncOffload, BulkOffload, Lane, OrderedOffload, PinnedOffload, form
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import CONFIG, run
from tests.evaluation.mutants import FoundAgain

FORMS = [
    form(base, keeps=keeps, link=link)
    for base in (PinnedOffload, OrderedOffload, AsyncOffload)
    for keeps in ("nothing", "frontier")
    for link in ("idle", "attended")
]


def names(kinds):
    return [kind.variant for kind in kinds]


def test_a_form_is_named_by_what_it_does():
    """In the order in which its parts stand."""
    assert names(FORMS[4:8]) == ["ordered", "ordered_attended", "ordered_kept", "ordered_kept_attended"]
    assert not any(kind.headline for kind in FORMS)


@pytest.fixture
def paused(subject, study):
    """A method at layer 3 of the workload with that name, paused; it is finished in the end."""
    found = []

    def pause(kind, name="session", **more):
        workload = next(one for one in study.workloads if one.name == name)
        harness = Harness(subject, study, workload, 3)
        method = harness.method(kind, **more)
        with torch.no_grad():
            method.prepare()
            method.pause()
        found.append((harness, method))
        return method

    yield pause
    for harness, method in found:
        method.close()
        harness.close()


@pytest.mark.parametrize("kind", FORMS, ids=names(FORMS))
@pytest.mark.parametrize("name", ["activation", "session", "decode"])
def test_what_is_kept_and_what_is_copied_is_the_whole_state(paused, kind, name):
    """The frontier stays on the device by declared policy, or everything is in host memory."""
    method = paused(kind, name)
    frontier = sum(tensor.numel() * tensor.element_size() for tensor in method.frontier().values())
    state = sum(method.state_sizes())
    kept = frontier if method.keeps == "frontier" else 0
    assert (method.device_bytes_by_policy(), method.host_bytes()) == (kept, state - kept)
    assert sum(method.freed_sizes()) == state - kept
    waits_for = frontier if isinstance(method, OrderedOffload) else state
    assert method.floor_bytes == (0 if kept and isinstance(method, OrderedOffload) else
                                  state - kept if kept else waits_for)  # fmt: skip
    with torch.no_grad():
        method.resume()
        method.finish()
    assert not [one for one in threading.enumerate() if one.name == "link-beat"]


def test_nothing_but_the_frontier_is_allocated_before_ready(paused, monkeypatch):
    """The history is where it was until the resume has returned."""
    for kind in (OrderedOffload, AsyncOffload):
        method = paused(kind)
        history = {name: tensor.data_ptr() for name, tensor in method.stopped.history().items()}
        with torch.no_grad():
            method.resume()
            assert {name: tensor.data_ptr() for name, tensor in method.stopped.history().items()} == history
            method.finish()


def test_a_kept_frontier_is_the_very_tensors(paused):
    """They are not copied at all."""
    method = paused(form(OrderedOffload, keeps="frontier"))
    before = {name: tensor.data_ptr() for name, tensor in method.frontier().items()}
    with torch.no_grad():
        method.resume()
        assert {name: tensor.data_ptr() for name, tensor in method.frontier().items()} == before
        method.finish()


def test_the_link_is_attended_while_it_is_paused_alone(paused):
    """From the pause until the frontier has been submitted."""
    attended = [form(base, link="attended") for base in (PinnedOffload, OrderedOffload, AsyncOffload)]
    for kind in attended:
        method = paused(kind)
        assert [one.name for one in threading.enumerate()].count("link-beat") == 1
        with torch.no_grad():
            method.resume()
            assert method._beat._ended.is_set()
            method.finish()


@pytest.mark.parametrize("kind", [OrderedOffload, AsyncOffload])
def test_in_the_next_step_each_layer_waits_for_its_own(paused, monkeypatch, kind):
    """None waits for the whole cache, and in the steps after it none waits any more."""
    method = paused(kind)
    seen = []
    monkeypatch.setattr(method._copies, "wait", lambda number: seen.append(f"wait {number}"))
    with torch.no_grad():
        method.resume()
        for number, layer in enumerate(method.subject.layers, start=1):
            monkeypatch.setattr(layer, "forward", _noted(layer.forward, lambda number=number: seen.append(number)))
        method.finish()
    step = seen[seen.index("wait 1") :]
    assert step[:7] == ["wait 1", 1, "wait 2", 2, "wait 3", 3, 4]
    assert not any(layer._forward_pre_hooks for layer in method.subject.layers[:3])


def _noted(forward, note):
    def noted(*args, **kwargs):
        note()
        return forward(*args, **kwargs)

    return noted


@pytest.mark.parametrize(("kind", "begun"), [(OrderedOffload, [False, True]), (AsyncOffload, [True, True])])
def test_the_helper_begins_when_the_next_layer_is_launched(paused, monkeypatch, kind, begun):
    """Not before: the two would share the interpreter. Who waits for nothing does not wait for that."""
    method = paused(kind)
    seen = []
    with torch.no_grad():
        method.resume()
        for layer in method.subject.layers[3:5]:
            monkeypatch.setattr(
                layer, "forward", _noted(layer.forward, lambda: seen.append(method._bringing is not None))
            )
        method.finish()
    assert seen[:2] == begun


def test_a_layer_that_fails_leaves_nobody_waiting(paused, monkeypatch):
    """The rest comes back all the same, for whoever waits until it has."""
    method = paused(OrderedOffload)

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("no room")

    with torch.no_grad():
        method.resume()
        monkeypatch.setattr(method.subject.layers[3], "forward", fail)
        with pytest.raises(torch.OutOfMemoryError):
            method.finish()
        method.wait_resident()


@pytest.mark.parametrize("kind", [OrderedOffload, AsyncOffload])
def test_no_thread_is_woken_where_nothing_follows(paused, monkeypatch, kind):
    """Without a KV cache the frontier is all there is."""
    method = paused(kind, "activation")
    monkeypatch.setattr(method._helper, "submit", None)
    with torch.no_grad():
        method.resume()
        method.wait_resident() if kind is OrderedOffload else None
        method.finish()
    assert not any(layer._forward_pre_hooks for layer in method.subject.layers[:3])


def test_forms_may_share_a_lane(paused):
    """One host memory serves them, one after the other, and outlives each."""
    lane = Lane(torch.device("cpu"))
    first = paused(PinnedOffload, lane=lane)
    with torch.no_grad():
        first.resume()
        first.finish()
    first.close()
    second = paused(OrderedOffload, lane=lane)
    address = {view.untyped_storage().data_ptr() for view in (*first._host.values(), *second._host.values())}
    assert len(address) == 1
    lane.close()


def test_bulk_moves_all_that_another_method_moves(paused, subject, study):
    """Its own, and as many bytes more."""
    method = paused(BulkOffload)
    own = method.state_sizes()
    with torch.no_grad():
        method.resume()
        method.finish()
        method.match([*own, 100, 7])
        method.prepare()
        assert sorted(method.state_sizes()) == sorted([*own, 100, 7])
        method.pause()
    assert method.host_bytes() == sum(own) + 107


@pytest.mark.gpu
def test_forms_on_a_gpu():
    """Every form is bit-exact there too, and what one left in memory of the copies' stream is no help to a mutant."""
    study = resolve({**CONFIG, "device": "cuda", "model": {"name": "llama-2-tiny"}})
    counts = dataclasses.replace(study.measurement, samples=2, other_samples=2, think_time_ms=1)
    study = dataclasses.replace(study, measurement=counts)
    subject = build(study)
    for kind in (*FORMS, BulkOffload):
        for cell in run(subject, study, kind):
            assert cell["outcome"] == "ok"
    with pytest.raises(NotBitExact, match="FoundAgain"):
        run(subject, study, FoundAgain)


@pytest.mark.parametrize("kind", FORMS, ids=names(FORMS))
def test_every_form_is_bit_exact(subject, study, kind):
    """In every workload, what it hands to the caller too; one that waits for nothing has no clock ready."""
    counts = dataclasses.replace(study.measurement, warmup_samples=0)
    for cell in run(subject, dataclasses.replace(study, measurement=counts), kind):
        assert [sample["bit_exact"] for sample in cell["samples"]] == [True] * 2
        assert {sample["ready_ms"] is None for sample in cell["samples"]} == {not kind.waits_ready}
        assert all(sample["resident_ms"] is not None for sample in cell["samples"])
