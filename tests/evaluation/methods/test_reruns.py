"""Recompute by a graph, whose place a stand-in takes on the CPU: bit-exact, recorded once, and caught where it lies."""

import dataclasses

import pytest
import torch

from evaluation.measure.harness import NotBitExact
from evaluation.measure.models import build
from evaluation.measure.workloads import measure
from evaluation.methods.benchmark_recompute import compared, variants
from evaluation.methods.reruns import CompiledRecompute, GraphedRecompute, Recompute
from evaluation.study.resolve import resolve
from tests.evaluation.measuring import CONFIG, LAYERS


class Recorded:
    """In place of a graph: runs the work again, and writes what it returns where its first result lies."""

    def __init__(self, work, device):
        self._work = work
        self.result = work()
        self.reserved_bytes = sum(tensor.nbytes for tensor in tensors(self.result).values())
        self.replays = 0

    def replay(self):
        self.replays += 1
        found = tensors(self._work())
        for name, tensor in tensors(self.result).items():
            tensor.copy_(found[name])

    def close(self):
        del self.result


def tensors(stopped):
    return {**stopped.frontier(), **stopped.history()}


class Graphed(GraphedRecompute):
    """The method around the stand-in."""

    recorder = Recorded

    @classmethod
    def unsupported(cls, device):
        return ""


def run(subject, study, kind, layer):
    """Cells of the prefills."""
    study = dataclasses.replace(study, workloads=study.workloads[:2])
    return measure(subject, study, layer, variants=lambda workload: [kind])


@pytest.mark.parametrize("layer", [1, LAYERS - 1, LAYERS])
def test_a_graph_is_bit_exact_and_says_what_it_keeps(subject, study, layer):
    """With and without a KV cache every resume replays, and what the graph writes is overwritten while paused."""
    for cell in run(subject, study, Graphed, layer):
        assert (cell["outcome"], cell["variant"], cell["drawn"]) == ("ok", "graphed", True)
        assert cell["reserved_bytes"] > cell["state_bytes"] > 0
        for sample in cell["samples"]:
            assert sample["bit_exact"] is True
            assert sample["resident_ms"] == sample["ready_ms"]
            assert sample["host_bytes_paused"] == 0
            assert sample["overwritten_bytes"] == 2 * cell["state_bytes"]  # the program's own, and the graph's


def test_a_graph_is_recorded_once_and_before_anything_is_timed(subject, study):
    """In the first run to the breakpoint; validation, warm-up and samples replay it."""
    made = []

    class Counted(Graphed):
        def recorder(self, work, device):
            made.append(Recorded(work, device))
            return made[-1]

    run(subject, study, Counted, 3)
    counts = study.measurement
    resumes = counts.validation_samples + counts.warmup_samples + counts.samples
    assert [graph.replays for graph in made] == [resumes] * 2
    assert not any(hasattr(graph, "result") for graph in made)


class Stale(Graphed):
    """Mutant: replays nothing, and passes off what the graph wrote before."""

    def resume(self):
        self._graph.replay = lambda: None
        super().resume()


class HalfStale(Graphed):
    """Mutant: brings the hidden states anew, and the KV cache from before."""

    def resume(self):
        graph, kept = self._graph, [(tensor, tensor.clone()) for tensor in self._graph.result.history().values()]
        graph.replay()
        for tensor, before in kept:
            tensor.copy_(before)
        graph.replay = lambda: None
        super().resume()
        del graph.replay


class Hidden(Graphed):
    """Mutant: keeps the graph's memory to itself, and so could find the state there."""

    def rewritten(self):
        return []


class TooFew(Graphed):
    """Mutant: recorded one layer too few."""

    def _rerun(self, arguments):
        self.layer -= 1
        found = super()._rerun(arguments)
        self.layer += 1
        found.layer = self.layer
        return found


@pytest.mark.parametrize(
    ("mutant", "message"),
    [(Stale, "not on the device"), (HalfStale, "differ"), (Hidden, "of which 0 were overwritten"), (TooFew, "TooFew")],
)
def test_mutants_of_the_graph_fail_the_job(subject, study, mutant, message):
    """One that replays nothing, not all, too little, or whose memory nobody can overwrite."""
    with_cache = dataclasses.replace(study, workloads=study.workloads[1:2])
    with pytest.raises(NotBitExact, match=message):
        measure(subject, with_cache, 3, variants=lambda workload: [mutant])


def test_without_a_gpu_a_graph_is_unsupported(subject, study):
    """A cell says so; the other variants are measured."""
    study = dataclasses.replace(study, workloads=study.workloads[:1])
    cells = {cell["variant"]: cell for cell in measure(subject, study, 3, variants=variants)}
    assert (cells["graphed"]["outcome"], cells["graphed"]["message"]) == ("unsupported", "a CUDA graph needs a GPU")
    assert {name: cell["outcome"] for name, cell in cells.items() if name != "graphed"} == {
        "default": "ok",
        "compiled": "ok",
    }


def test_what_is_compared_at_depth_can_run_there(study, monkeypatch):
    """The fused layers and their graph; where nothing can be compiled the model as it is."""
    device = torch.device("cuda")
    activation, _, decode = study.workloads
    monkeypatch.setattr("evaluation.measure.fused_layers.unsupported", lambda device: "")
    assert compared(activation, device) == [CompiledRecompute, GraphedRecompute]
    assert [kind.variant for kind in compared(decode, device)] == ["kv_offloaded"]
    monkeypatch.setattr("evaluation.measure.fused_layers.unsupported", lambda device: "no compiler")
    assert compared(activation, device) == [Recompute]


@pytest.mark.gpu
def test_a_graph_on_a_gpu():
    """The real one: bit-equal to the layers launched one by one, in memory of its own."""
    study = resolve({**CONFIG, "device": "cuda", "model": {"name": "llama-2-tiny"}, "layers": [1, LAYERS]})
    study = dataclasses.replace(study, measurement=study.measurement.but(samples=2, think_time_ms=1))
    subject = build(study)
    for layer in (1, LAYERS - 1, LAYERS):
        for cell in run(subject, study, GraphedRecompute, layer):
            assert cell["outcome"] == "ok"
            assert all(sample["device_bytes_paused"] >= cell["reserved_bytes"] > 0 for sample in cell["samples"])
