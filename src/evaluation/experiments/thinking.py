"""The clocks over the wait between pause and resume: how a link, cores and caches that idle meanwhile show in them.

In the middle of the depth, for the first workload without a KV cache and the first with one. A block runs every form
after every wait once, in a random order, and then all in the reverse order. Before either half the floor is timed after
every wait: a raw copy of the frontier's bytes. Long waits stand in fewer blocks, for they take as long as they say. The
orders follow from a seed that stands in the record. Every sample is finished and compared bit for bit.
"""

import sys
from collections.abc import Callable
from random import Random

import torch

from evaluation.experiments.forms import Forms, Shared, there_and_back
from evaluation.measure.cell import Record, first_line
from evaluation.measure.job import Report, run_side_job
from evaluation.measure.method import Method
from evaluation.measure.models import Subject
from evaluation.methods.benchmark_djinn import AttendedDjinn, Djinn, KeptDjinn
from evaluation.methods.offloads import AsyncOffload, OrderedOffload, PinnedOffload, form
from evaluation.study.plan import Study, Workload

Kinds = Callable[[Workload], list[type[Method]]]


def kinds_of(workload: Workload) -> list[type[Method]]:
    """Djinn with everything swapped and with the frontier kept, and for each the quickest forms by hand.

    Without a KV cache also both with an attended link: there a resume is the frontier's copy and nothing else.
    """
    waiting = OrderedOffload if workload.kv_cache else PinnedOffload
    attended: list[type[Method]] = [] if workload.kv_cache else [AttendedDjinn, form(waiting, link="attended")]
    return [Djinn, KeptDjinn, waiting, AsyncOffload, form(waiting, keeps="frontier"), *attended]


def take(subject: Subject, study: Study, report: Report, kinds_of: Kinds = kinds_of) -> Record:
    """A cell for each workload and layer, and the seed of all orders."""
    chance = Random(study.order_seed)
    waits = study.thinking.waits
    study = study.but(measurement=study.measurement.but(think_time_ms=waits[0].think_time_ms))  # until it is varied
    first = {one.kv_cache: one for one in reversed(study.workloads)}
    workloads = [first[kv_cache] for kv_cache in (False, True) if kv_cache in first]
    with Shared(subject, study) as shared:
        cells = [
            _cell(shared, workload, layer, kinds_of(workload), chance, report)
            for workload in workloads
            for layer in study.thinking.layers
        ]
    return {"seed": study.order_seed, "cells": cells}


def _cell(
    shared: Shared, workload: Workload, layer: int, kinds: list[type[Method]], chance: Random, report: Report
) -> Record:
    """All ``kinds`` after all waits; running out of device memory is an outcome."""
    about = {"workload": workload.name, "layer": layer}
    rows = shared.study.thinking.waits
    try:
        with Forms(shared, workload, layer, kinds, report) as forms:
            blocks = [
                _block(forms, len(kinds), [row.think_time_ms for row in rows if row.blocks > number], chance)
                for number in range(max(row.blocks for row in rows))
            ]
            found = {"frontier_bytes": forms.frontier_bytes, "forms": forms.described(), "blocks": blocks}
        return {**about, "outcome": "ok", "message": "", **found}
    except torch.OutOfMemoryError as error:
        nothing: Record = {"frontier_bytes": 0, "forms": [], "blocks": []}
        return {**about, "outcome": "out_of_memory", "message": first_line(error), **nothing}


def _block(forms: Forms, count: int, waits: list[int | float], chance: Random) -> Record:
    """Each of ``count`` forms after each of ``waits`` once and then back, with the floors before either half."""
    block: Record = {"floors": [], "samples": []}
    runs = [(number, wait) for number in range(count) for wait in waits]
    floors = there_and_back(len(waits), chance)
    for half, before in zip(there_and_back(len(runs), chance), floors, strict=True):
        for wait in (waits[index] for index in before):
            forms.harness.think_time_ms = wait
            block["floors"].append({"think_time_ms": wait, "floor_ms": forms.floor_ms()})
        for number, wait in (runs[index] for index in half):
            forms.harness.think_time_ms = wait
            block["samples"].append({"think_time_ms": wait, **forms.sample(number)})
    return block


if __name__ == "__main__":
    sys.exit(run_side_job("thinking", __doc__, take))
