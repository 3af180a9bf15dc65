"""Where recompute and hand-written copies cross: the clock ready over sizes of the prompt, at a few shallow layers.

Recompute's time grows with depth and with operations, a copy's with bytes alone. So each size of prompt has a depth up
to which recompute is the quicker. Every size is measured as a workload of its own, without KV cache, in the way of any
other: bit-exact, floors beside samples, variants by turns. ``results/sweep.csv`` has the depths, see
:mod:`evaluation.analysis.outcomes`.
"""

import sys

import torch

from evaluation.measure import fused_layers
from evaluation.measure.cell import Record
from evaluation.measure.job import Report, run_side_job
from evaluation.measure.method import Method
from evaluation.measure.models import Subject
from evaluation.measure.workloads import measure
from evaluation.methods.benchmark_manual_offload import PageableOffload
from evaluation.methods.offloads import PinnedOffload
from evaluation.methods.reruns import CompiledRecompute, GraphedRecompute, Recompute
from evaluation.study.plan import Study, Workload

_KINDS: dict[str, list[type[Method]]] = {
    "recompute": [Recompute, CompiledRecompute, GraphedRecompute],
    "manual_offload": [PinnedOffload, PageableOffload],
}


def take(subject: Subject, study: Study, report: Report) -> Record:
    """One cell for each size, layer and variant."""
    method_of = {kind.variant: method for method, kinds in _KINDS.items() for kind in kinds}
    cells = []
    for size in study.sweep.sizes:
        workload = Workload(name=f"{size.batch}x{size.tokens}", batch=size.batch, tokens=size.tokens, kv_cache=False)
        small = study.measurement.but(samples=study.sweep.samples, other_samples=study.sweep.samples)
        for layer in study.sweep.layers:
            found = measure(
                subject,
                study.but(workloads=(workload,), measurement=small),
                layer,
                variants=lambda workload: [kind for kinds in _KINDS.values() for kind in kinds],
                report=report,
            )
            about = {"batch": size.batch, "tokens": size.tokens, "layer": layer}
            cells += [{**about, "method": method_of[cell["variant"]], **cell} for cell in found]
        if subject.device.type == "cuda":
            torch.cuda.empty_cache()  # blocks of one size are of little use to the next
            fused_layers.forget()  # and so is code for it
    return {"cells": cells}


if __name__ == "__main__":
    sys.exit(run_side_job("sweep", __doc__, take))
