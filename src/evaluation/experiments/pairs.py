"""The pairs: Djinn's variants, hand-written offloads and recompute against each other, in one process over all layers.

Recompute stands beside the others at the last layer and the one before. The forms that attend the link stand at the
deepest layer with a next one alone, for what they save does not depend on depth. Coded state stands beside plain state
wherever there is some that can become smaller: in a KV cache.

At each workload and layer every form is validated and warmed up. Then come the blocks. A block runs all forms once in a
random order, and once more in the reverse order, so that whatever drifts falls on all alike. Before either half the
floor is timed: a raw copy of the frontier's bytes after the same wait. The orders follow from a seed that stands in the
record. Every sample is finished and compared bit for bit, and one that differs fails the round.

How forms stand side by side is :mod:`evaluation.experiments.forms`. Who was the quicker is computed later, from the
record.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch

from evaluation.experiments.forms import Forms, Shared, there_and_back
from evaluation.measure.cell import Record, first_line
from evaluation.measure.job import Report, run_round_job
from evaluation.measure.method import Method
from evaluation.measure.models import Subject
from evaluation.methods import benchmark_djinn, benchmark_manual_offload, benchmark_recompute
from evaluation.study.plan import Study, Workload


@dataclass(frozen=True, kw_only=True)
class Where:
    """A cell to be measured: ``deep`` in the model, where recompute is compared; ``leading`` among the layers.

    ``coded``: whether Djinn's coded state is compared, too.
    """

    workload: Workload
    layer: int
    device: torch.device
    deep: bool
    leading: bool
    coded: bool


Kinds = Callable[[Where], list[type[Method]]]


def places(study: Study, device: torch.device) -> list[Where]:
    """Every workload at every layer of the pairs."""
    depth = study.architecture.layers
    leading = max(study.pairs.layers, key=lambda layer: (layer < depth, layer))
    return [
        Where(
            workload=workload,
            layer=layer,
            device=device,
            deep=layer >= depth - 1,
            leading=layer == leading,
            coded=study.coded and workload.kv_cache,
        )
        for workload in study.workloads
        for layer in study.pairs.layers
    ]


def forms(where: Where) -> list[type[Method]]:
    """Djinn's variants, for each the hand-written forms of its policy, and what recompute has."""
    ours = [kind for kind in benchmark_djinn.compared(coded=where.coded) if where.leading or kind.link == "idle"]
    by_hand = [
        kind
        for mine in ours
        if mine.codec == "raw"  # nobody codes by hand
        for kind in benchmark_manual_offload.compared(where.workload, keeps=mine.keeps, link=mine.link)
    ]
    again = benchmark_recompute.compared(where.workload, where.device) if where.deep else []
    return [*ours, *by_hand, *again]


def take(subject: Subject, study: Study, number: int, report: Report, forms: Kinds = forms) -> Record:
    """The cells of round ``number``, in the order in which they were measured, and the seed of all orders."""
    seed = study.order_seed + number
    chance = Random(seed)
    to_come = places(study, subject.device)
    chance.shuffle(to_come)

    def asked(where: Where) -> list[type[Method]]:
        kinds = forms(where)
        if study.pairs.forms == "plain":
            return [kind for kind in kinds if (kind.keeps, kind.link, kind.codec) == ("nothing", "idle", "raw")]
        return kinds

    with Shared(subject, study) as shared:
        cells = [_cell(shared, where, asked(where), chance, report) for where in to_come]
    return {"seed": seed, "cells": cells}


def _cell(shared: Shared, where: Where, kinds: list[type[Method]], chance: Random, report: Report) -> Record:
    """All ``kinds`` at one workload and layer; running out of device memory is an outcome."""
    about = {"workload": where.workload.name, "layer": where.layer}
    try:
        with Forms(shared, where.workload, where.layer, kinds, report) as there:
            blocks = [_block(there, len(kinds), chance) for _ in range(shared.study.pairs.blocks)]
            found = {"frontier_bytes": there.frontier_bytes, "forms": there.described(), "blocks": blocks}
        return {**about, "outcome": "ok", "message": "", **found}
    except torch.OutOfMemoryError as error:
        nothing: Record = {"frontier_bytes": 0, "forms": [], "blocks": []}
        return {**about, "outcome": "out_of_memory", "message": first_line(error), **nothing}


def _block(there: Forms, count: int, chance: Random) -> Record:
    """Each of ``count`` forms once and then back, with the floor before either half."""
    block: Record = {"floor_ms": [], "samples": []}
    for half in there_and_back(count, chance):
        block["floor_ms"].append(there.floor_ms())
        block["samples"] += [there.sample(number) for number in half]
    return block


if __name__ == "__main__":
    sys.exit(run_round_job("pairs", __doc__, take))
