"""Measures every workload of a study with every variant of a method, into the cells of a record.

Variants take turns, so that drift falls on all of them alike. Comparisons of forms are not made here: see
:mod:`evaluation.experiments.pairs`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from evaluation.measure.cell import Record, cell, first_line
from evaluation.measure.harness import Harness
from evaluation.measure.method import Method
from evaluation.measure.models import Subject
from evaluation.study.plan import Measurement, Study, Workload

Variants = Callable[[Workload], Sequence[type[Method]]]


def measure(
    subject: Subject,
    study: Study,
    layer: int,
    *,
    variants: Variants,
    report: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """The cells of one job, for every workload of ``study``: see :class:`evaluation.records.cells.Cell`.

    ``report`` is told, at every sample, what is being done. Raises :class:`NotBitExact`; running out of device memory
    is an outcome of the cell.
    """
    cells = []
    with torch.no_grad():
        for workload in study.workloads:
            kinds = []
            for kind in variants(workload):
                if reason := kind.unsupported(subject.device):
                    cells.append(_cell(workload, kind, outcome="unsupported", message=reason))
                else:
                    kinds.append(kind)
            try:
                cells += _measure_workload(subject, study, workload, layer, kinds, report)
            except torch.OutOfMemoryError as error:
                said = first_line(error)
                cells += [_cell(workload, kind, outcome="out_of_memory", message=said) for kind in kinds]
    return cells


def _measure_workload(
    subject: Subject,
    study: Study,
    workload: Workload,
    layer: int,
    kinds: Sequence[type[Method]],
    report: Callable[[str], None],
) -> list[Record]:
    harness = Harness(subject, study, workload, layer)
    methods: list[Method] = []
    counts = study.measurement
    try:
        for kind in kinds:
            methods.append(harness.method(kind, **(methods[0].shared() if methods else {})))
        samples: dict[str, list[Record]] = {method.variant: [] for method in methods}
        seen = []
        for method in methods:
            seen.append(harness.validate(method))
            report(f"{workload.name}: validation")
        for method in methods * (counts.validation_samples - 1):
            harness.validate(method)
            report(f"{workload.name}: validation")
        for index in range(-counts.warmup_samples, counts.samples):
            for method in methods:
                if not _has_turn(index, _wanted(method, counts), counts.samples):
                    continue
                taken = harness.sample_beside_floor(method)
                report(f"{workload.name}: {'samples' if index >= 0 else 'warm-up'}")
                if index >= 0:
                    samples[method.variant].append(taken)
    finally:
        harness.close()
        for method in reversed(methods):  # the first has what the others share
            method.close()
    return [
        _cell(
            workload,
            method,
            frontier_bytes=found.frontier_bytes,
            state_bytes=sum(found.sizes),
            recompute_flops=method.flops(),
            reserved_bytes=method.reserved_bytes(),
            validation_samples=counts.validation_samples,
            samples=samples[method.variant],
        )
        for method, found in zip(methods, seen, strict=True)
    ]


def _cell(workload: Workload, kind: Method | type[Method], **known: Any) -> Record:
    """The cell of a variant."""
    return cell(workload, variant=kind.variant, primary=kind.headline, drawn=kind.headline or kind.drawn, **known)


def _wanted(method: Method, counts: Measurement) -> int:
    """How many samples ``method`` takes."""
    return counts.samples if method.headline or method.drawn else counts.other_samples


def _has_turn(index: int, wanted: int, rounds: int) -> bool:
    """Whether one who takes ``wanted`` samples, spread over ``rounds``, takes one in round ``index``; all warm up."""
    return index < 0 or (index + 1) * wanted // rounds > index * wanted // rounds
