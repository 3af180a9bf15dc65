"""Tests whether an edit of a paused session's hidden states survives, and whether it does so in every bit.

Each variant of a method runs the program to the middle of the model, pauses, lets the user edit the hidden states, and
goes on. A variant that keeps nothing while it is paused is edited just before. What was freed is overwritten meanwhile.
The logits of the prefill and of all decode steps are compared with two uninterrupted runs. One is plain. In the other,
the oracle, a plain forward hook of torch makes the same edit. A cell holds

- ``edit_survives``: the logits are not those of the plain run,
- ``edit_exact``: they are the oracle's in every bit,
- ``resume_ms``: for each edited run, milliseconds from the request until the device can compute the next layer,
- ``state_lines``: see :mod:`evaluation.study.program_lines`; None for a variant whose program nobody has written down.

An edit that changes nothing in the oracle would decide nothing. Nor would a variant that is not edited and differs from
the plain run, or edited runs that differ from each other. Then :class:`NotBitExact` is raised.
"""

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from evaluation.measure.cell import Record
from evaluation.measure.device_memory import overwrite_free_memory, synchronize
from evaluation.measure.edits import edited_workload, middle, steer, uninterrupted
from evaluation.measure.harness import NotBitExact, check_kept
from evaluation.measure.job import Report, run_method_job
from evaluation.measure.method import Change, Method
from evaluation.measure.models import Subject, input_tokens
from evaluation.measure.programs import Logits, equal, least_bytes_of_prefill
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.study.plan import Study, Workload
from evaluation.study.program_lines import example, state_lines

_SAMPLES = 5


def take(method: str, study: Study, make_subject: Callable[[], Subject], report: Report) -> Record:
    """One cell for each variant that the method's module offers as ``probed``, or as ``variants``."""
    workload, subject = edited_workload(study), make_subject()
    layer, input_ids = middle(subject), input_tokens(subject, study, workload)
    probe = _Probe(
        subject=subject,
        study=study,
        workload=workload,
        layer=layer,
        input_ids=input_ids,
        least_bytes=least_bytes_of_prefill(subject.model, subject.layers[layer - 1], input_ids, workload.kv_cache),
    )
    report("uninterrupted runs")
    plain, oracle = probe.uninterrupted(), probe.uninterrupted(steer)
    if equal(plain, oracle):
        raise NotBitExact(f"capabilities: the edit after layer {probe.layer} changes nothing, which decides nothing")
    cells = []
    for kind in asked(method, workload, subject.device):
        report(kind.variant)
        lines = _state_lines(method, None if kind.headline else kind.variant)
        about = {"variant": kind.variant, "headline": kind.headline, "state_lines": lines}
        cells.append({**about, **probe.verdict(kind, plain, oracle)})
    return {"workload": workload.name, "layer": probe.layer, "cells": cells}


def asked(method: str, workload: Workload, device: torch.device, *lists: str) -> list[type[Method]]:
    """The variants of ``method`` that are asked what they can do with ``workload`` and run on ``device``.

    They are those of the first of ``lists``, ``probed`` and ``variants`` that its module has.
    """
    module = importlib.import_module(f"evaluation.methods.benchmark_{method}")
    offered = next(vars(module)[name] for name in (*lists, "probed", "variants") if name in vars(module))
    return [kind for kind in offered(workload) if not kind.unsupported(device)]


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """``workload`` on ``input_ids`` ([batch, tokens]), to be edited after decoder layer ``layer`` (1 .. N).

    A pause that keeps the state keeps ``least_bytes`` of it, or it has left it on the device.
    """

    subject: Subject
    study: Study
    workload: Workload
    layer: int
    input_ids: torch.Tensor
    least_bytes: int

    def uninterrupted(self, change: Change | None = None) -> Logits:
        """Logits of a run that never stops, with ``change`` made by a plain hook."""
        return uninterrupted(self.subject, self.study, self.workload, self.layer, self.input_ids, change)

    def verdict(self, kind: type[Method], plain: Logits, oracle: Logits) -> Record:
        """What becomes of the edit under ``kind``."""
        method = kind(self.subject, self.study, self.workload, layer=self.layer, input_ids=self.input_ids)
        where = self._where(method)
        try:
            found, _ = self._interrupted(method)  # also warms up
            if not equal(found, plain):
                raise NotBitExact(f"{where}: without an edit the logits differ from the uninterrupted run")
            found, first_ms = self._interrupted(method, steer)
            samples = [first_ms]
            while len(samples) < _SAMPLES:
                again, resume_ms = self._interrupted(method, steer)
                samples.append(resume_ms)
                if not equal(again, found):
                    raise NotBitExact(f"{where}: the same edit gives other logits in run {len(samples)}")
        finally:
            method.close()
        return {"edit_survives": not equal(found, plain), "edit_exact": equal(found, oracle), "resume_ms": samples}

    def _where(self, method: Method) -> str:
        return f"{type(method).__name__} ({method.variant}), layer {self.layer}, workload {self.workload.name}"

    def _interrupted(self, method: Method, change: Change | None = None) -> tuple[Logits, float]:
        """Logits of one run that is paused and resumed, and the milliseconds of the resume."""
        device = self.subject.device
        method.prepare()
        if change is not None and not method.keeps_state:
            method.edit(change)
        synchronize(device)
        freed = method.freed_sizes()
        method.pause()
        check_kept(method, self.least_bytes, self._where(method))
        overwrite_free_memory(device, freed, method.streams())
        if change is not None and method.keeps_state:
            method.edit(change)
            overwrite_free_memory(device, [], method.streams())  # an edit takes a kept frontier to host memory
        synchronize(device)
        time.sleep(self.study.measurement.think_time_ms / 1000)
        with without_collections():
            start = now_ms()
            method.resume()
            resume_ms = now_ms() - start
        return method.finish(), resume_ms


def _state_lines(method: str, variant: str | None) -> int | None:
    program, vanilla = example(method, variant), example("vanilla")
    assert vanilla is not None
    return None if program is None else state_lines(program.read_text(), vanilla.read_text())


if __name__ == "__main__":
    sys.exit(run_method_job("capabilities", __doc__, take))
