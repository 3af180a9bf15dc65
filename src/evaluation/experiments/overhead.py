"""Times an uninterrupted run under Djinn against a bare twin of the model, pass by pass.

Two cells: ``prefill``, forward passes without a KV cache, and ``decode``, greedy decode steps after a prefill. Both
models compute by turns on the thread of a session that is never paused. The twin has modules of its own around the same
weights, and the runtime's forward hooks are not on it. Nothing else then distinguishes the two: not the core on which a
thread happened to start, which makes up to half of a token's time. A pair is of the passes of both models in one
session. Each pass is timed between two synchronisations of the device. All logits are compared bit for bit.

A session's first prefill is 3 % quicker than its later ones on an H100. So who computes first alternates from pass to
pass, and who begins from pair to pair. Two neighbours are mirror images, and each model has each place in the queue
once. The record says of every pass who was first.
"""

import gc
import sys
from collections.abc import Callable

import torch
from transformers import LlamaForCausalLM

import djinn
from evaluation.measure.cell import Record
from evaluation.measure.device_memory import synchronize
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import run_side_job
from evaluation.measure.models import Subject, input_tokens, twin
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.study.plan import Study

Models = dict[str, LlamaForCausalLM]  # by clock: djinn_ms, bare_ms
Passes = dict[str, list[float] | list[bool]]  # of each pass: milliseconds by clock, and whether Djinn was first

_WARMUP = 2  # pairs
_PREFILLS = 2  # of either model per pair


def take(subject: Subject, study: Study, report: Callable[[str], None]) -> Record:
    """The cells, with every pass of every pair."""
    workload = study.workloads[0]
    input_ids = input_tokens(subject, study, workload)
    bare = twin(subject).model
    cells = []
    with djinn.Runtime(subject.model, host_memory_bytes=1 << 20) as runtime:
        for name, program in {"prefill": _prefills, "decode": _decode_steps}.items():
            pairs = []
            for index in range(-_WARMUP, study.overhead.samples):
                report(f"{name}: {'pairs' if index >= 0 else 'warm-up'}")
                models = _in_turn({"djinn_ms": subject.model, "bare_ms": bare}, index)
                gc.collect()
                with without_collections():
                    session = runtime.open().start(program, models, input_ids, study.overhead.decode_steps)
                    passes = session.result()
                    session.close()
                if index >= 0:
                    pairs.append({"passes": passes, "bit_exact": True})
            cells.append({"name": name, "tokens": workload.tokens, "pairs": pairs})
    return {"cells": cells}


def _in_turn(models: Models, number: int) -> Models:
    """``models`` in their order, or the other way round if ``number`` is odd."""
    return models if number % 2 == 0 else dict(reversed(models.items()))


def _prefills(models: Models, input_ids: torch.Tensor, decode_steps: int) -> Passes:
    """Each prefill; who stands first in ``models`` begins."""
    passes = _Passes()
    for number in range(_PREFILLS):
        passes.take(_in_turn(models, number), lambda clock, model: model(input_ids, use_cache=False).logits)
    return passes.found


def _decode_steps(models: Models, input_ids: torch.Tensor, decode_steps: int) -> Passes:
    """Each decode step after a prefill; who stands first in ``models`` begins, with the prefill too."""
    passes = _Passes()
    starts = {clock: model(input_ids, use_cache=True, logits_to_keep=1) for clock, model in models.items()}
    token = starts["bare_ms"].logits.argmax(-1)

    def step(clock: str, model: LlamaForCausalLM) -> torch.Tensor:
        logits: torch.Tensor = model(token, past_key_values=starts[clock].past_key_values, use_cache=True).logits
        return logits

    for number in range(decode_steps):
        token = passes.take(_in_turn(models, number), step).argmax(-1)
    return passes.found


class _Passes:
    """What was taken in one session: the milliseconds of either model, and who came first."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {"djinn_ms": [], "bare_ms": []}
        self._djinn_first: list[bool] = []

    @property
    def found(self) -> Passes:
        """As a record keeps it."""
        return {**self._times, "djinn_first": self._djinn_first}

    def take(self, models: Models, forward: Callable[[str, LlamaForCausalLM], torch.Tensor]) -> torch.Tensor:
        """Let each of ``models`` compute, in their order; the logits, which must agree."""
        logits = {}
        for clock, model in models.items():
            synchronize(model.device)
            start = now_ms()
            logits[clock] = forward(clock, model)
            synchronize(model.device)
            self._times[clock].append(now_ms() - start)
        self._djinn_first.append(next(iter(models)) == "djinn_ms")
        if not torch.equal(logits["djinn_ms"], logits["bare_ms"]):
            raise NotBitExact("the logits under Djinn differ from the bare model's")
        return logits["bare_ms"]


if __name__ == "__main__":
    sys.exit(run_side_job("overhead", __doc__, take))
