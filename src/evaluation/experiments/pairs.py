"""The pairs: Djinn's variants and hand-written offloads against each other, in one process over all layers.

At each workload and layer every form is validated and warmed up. Then come the blocks. A block runs all forms once in a
random order, and once more in the reverse order, so that whatever drifts falls on all alike. Before either half the
floor is timed: a raw copy of the frontier's bytes after the same wait. The orders follow from a seed that stands in the
record. Every sample is finished and compared bit for bit, and one that differs fails the round.

The hand-written forms run on the model itself, and none pays for Djinn's hooks. Each runtime has a twin of the model,
with modules of its own around the same weights. Who was the quicker is computed later, from the record.
"""

import sys
from collections.abc import Callable
from random import Random

import torch

import djinn
from evaluation.measure.cell import Record, first_line
from evaluation.measure.harness import Harness, Seen
from evaluation.measure.job import Report, run_round_job
from evaluation.measure.method import Method
from evaluation.measure.models import Subject, twin
from evaluation.methods import benchmark_djinn, benchmark_manual_offload
from evaluation.methods.benchmark_djinn import make_runtime
from evaluation.methods.offloads import Lane
from evaluation.study.plan import Study, Workload

Forms = Callable[[Workload], list[type[Method]]]

_OF_A_FORM = ("host_bytes_paused", "device_bytes_paused")  # the same in each of its samples, but for what torch rounds
_CLOCKS = ("pause_ms", "ready_ms", "first_kernel_ms", "usable_ms", "next_token_ms", "resident_ms")


def forms(workload: Workload) -> list[type[Method]]:
    """Djinn's variants, and for each the hand-written forms that keep the same and have the link in the same state."""
    ours = benchmark_djinn.compared()
    by_hand = [
        kind for mine in ours for kind in benchmark_manual_offload.compared(workload, keeps=mine.keeps, link=mine.link)
    ]
    return [*ours, *by_hand]


def take(subject: Subject, study: Study, number: int, report: Report, forms: Forms = forms) -> Record:
    """The cells of round ``number``, in the order in which they were measured, and the seed of all orders."""
    seed = study.order_seed + number
    chance = Random(seed)
    places = [(workload, layer) for workload in study.workloads for layer in study.pairs.layers]
    chance.shuffle(places)
    with _Shared(subject, study) as shared:
        cells = [_cell(shared, workload, layer, forms(workload), chance, report) for workload, layer in places]
    return {"seed": seed, "cells": cells}


class _Shared:
    """What the forms of a process share: host memory by hand, and a runtime for each state of the link."""

    def __init__(self, subject: Subject, study: Study) -> None:
        self.subject, self.study = subject, study
        self._lane = Lane(subject.device)
        self._runtimes: dict[str, tuple[Subject, djinn.Runtime]] = {}

    def method(self, harness: Harness, kind: type[Method]) -> Method:
        """``kind`` as it is measured here."""
        if not issubclass(kind, benchmark_djinn.Djinn):
            return harness.method(kind, lane=self._lane)
        if kind.link not in self._runtimes:
            subject = twin(self.subject)
            self._runtimes[kind.link] = subject, make_runtime(subject, self.study, link=kind.link)
        subject, runtime = self._runtimes[kind.link]
        return harness.method(kind, subject, runtime=runtime)

    def __enter__(self) -> "_Shared":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, runtime in self._runtimes.values():
            runtime.close()
        self._lane.close()


def _cell(
    shared: _Shared, workload: Workload, layer: int, kinds: list[type[Method]], chance: Random, report: Report
) -> Record:
    """All ``kinds`` at one workload and layer; running out of device memory is an outcome."""
    about = {"workload": workload.name, "layer": layer}
    try:
        harness = Harness(shared.subject, shared.study, workload, layer)
        methods: list[Method] = []
        try:
            methods += (shared.method(harness, kind) for kind in kinds)
            return {
                **about,
                "outcome": "ok",
                "message": "",
                **_measured(harness, methods, shared.study, chance, report),
            }
        finally:
            harness.close()
            for method in methods:
                method.close()
    except torch.OutOfMemoryError as error:
        nothing: Record = {"frontier_bytes": 0, "forms": [], "blocks": []}
        return {**about, "outcome": "out_of_memory", "message": first_line(error), **nothing}


def _measured(harness: Harness, methods: list[Method], study: Study, chance: Random, report: Report) -> Record:
    """The frontier's bytes, every form and every block."""
    counts, where = study.measurement, harness.where
    seen: list[Seen] = []
    for method in methods:
        report(f"{where}: validation")
        if seen:
            method.match(seen[0].sizes)  # Djinn's, which comes first and moves everything
        seen.append(harness.validate(method))
    for method in methods * (counts.validation_samples - 1):
        harness.validate(method)
    for method in methods * counts.warmup_samples:
        report(f"{where}: warm-up")
        harness.sample(method)
    sizes: list[Record] = [{} for _ in methods]
    blocks = []
    for _ in range(study.pairs.blocks):
        order = chance.sample(range(len(methods)), len(methods))
        block: Record = {"floor_ms": [], "samples": []}
        for half in (order, order[::-1]):
            report(f"{where}: samples")
            block["floor_ms"].append(harness.floor_ms(seen[0].frontier_bytes))
            for index in half:
                taken = harness.sample(methods[index])
                sizes[index] = {name: taken[name] for name in _OF_A_FORM}
                clocks = {name: taken[name] for name in _CLOCKS}
                block["samples"].append({"form": index, **clocks, "bit_exact": taken["bit_exact"]})
        blocks.append(block)
    described = [
        {
            "method": "djinn" if isinstance(method, benchmark_djinn.Djinn) else "manual_offload",
            "variant": method.variant,
            "keeps": method.keeps,
            "link": method.link,
            "state_bytes": sum(found.sizes),
            "kept_bytes": method.device_bytes_by_policy(),
            **size,
        }
        for method, found, size in zip(methods, seen, sizes, strict=True)
    ]
    return {"frontier_bytes": seen[0].frontier_bytes, "forms": described, "blocks": blocks}


if __name__ == "__main__":
    sys.exit(run_round_job("pairs", __doc__, take))
