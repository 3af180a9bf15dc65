"""The pairs: Djinn's variants and hand-written offloads against each other, in one process over all layers.

At each workload and layer every form is validated and warmed up. Then come the blocks. A block runs all forms once in a
random order, and once more in the reverse order, so that whatever drifts falls on all alike. Before either half the
floor is timed: a raw copy of the frontier's bytes after the same wait. The orders follow from a seed that stands in the
record. Every sample is finished and compared bit for bit, and one that differs fails the round.

How forms stand side by side is :mod:`evaluation.experiments.forms`. Who was the quicker is computed later, from the
record.
"""

import sys
from collections.abc import Callable
from random import Random

import torch

from evaluation.experiments.forms import Forms, Shared, there_and_back
from evaluation.measure.cell import Record, first_line
from evaluation.measure.job import Report, run_round_job
from evaluation.measure.method import Method
from evaluation.measure.models import Subject
from evaluation.methods import benchmark_djinn, benchmark_manual_offload
from evaluation.study.plan import Study, Workload

Kinds = Callable[[Workload], list[type[Method]]]


def forms(workload: Workload) -> list[type[Method]]:
    """Djinn's variants, and for each the hand-written forms that keep the same and have the link in the same state."""
    ours = benchmark_djinn.compared()
    by_hand = [
        kind for mine in ours for kind in benchmark_manual_offload.compared(workload, keeps=mine.keeps, link=mine.link)
    ]
    return [*ours, *by_hand]


def take(subject: Subject, study: Study, number: int, report: Report, forms: Kinds = forms) -> Record:
    """The cells of round ``number``, in the order in which they were measured, and the seed of all orders."""
    seed = study.order_seed + number
    chance = Random(seed)
    places = [(workload, layer) for workload in study.workloads for layer in study.pairs.layers]
    chance.shuffle(places)

    def asked(workload: Workload) -> list[type[Method]]:
        plain = study.pairs.forms == "plain"
        return [kind for kind in forms(workload) if not plain or (kind.keeps, kind.link) == ("nothing", "idle")]

    with Shared(subject, study) as shared:
        cells = [_cell(shared, workload, layer, asked(workload), chance, report) for workload, layer in places]
    return {"seed": seed, "cells": cells}


def _cell(
    shared: Shared, workload: Workload, layer: int, kinds: list[type[Method]], chance: Random, report: Report
) -> Record:
    """All ``kinds`` at one workload and layer; running out of device memory is an outcome."""
    about = {"workload": workload.name, "layer": layer}
    try:
        with Forms(shared, workload, layer, kinds, report) as there:
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
