"""Times an uninterrupted run under Djinn against a bare twin of the model, pass by pass.

Two cells: ``prefill``, forward passes without a KV cache, and ``decode``, greedy decode steps after a prefill. Both
models compute by turns on the thread of a session that is never paused. The twin has modules of its own around the same
weights, and the runtime's forward hooks are not on it. Nothing else then distinguishes the two: not the core on which a
thread happened to start, which makes up to half of a token's time. Who computes first alternates from pass to pass, for
the second of two prefills takes 3 % longer on an H100. Each pass is timed between two synchronisations of the device. A
pair is of the passes of both models in one session. All logits are compared bit for bit.
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
from evaluation.measure.stopwatch import now_ms
from evaluation.study.plan import Study

Models = dict[str, LlamaForCausalLM]  # by clock: djinn_ms, bare_ms
Times = dict[str, list[float]]  # milliseconds of each pass, by clock

_WARMUP = 2
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
                models = {"djinn_ms": subject.model, "bare_ms": bare}
                gc.collect()
                gc.disable()  # a collection would fall on one of the two
                try:
                    session = runtime.open().start(program, models, input_ids, study.overhead.decode_steps)
                    passes = session.result()
                    session.close()
                finally:
                    gc.enable()
                if index >= 0:
                    pairs.append({"passes": passes, "bit_exact": True})
            cells.append({"name": name, "tokens": workload.tokens, "pairs": pairs})
    return {"cells": cells}


def _prefills(models: Models, input_ids: torch.Tensor, decode_steps: int) -> Times:
    """Milliseconds of each prefill, by clock."""
    times: Times = {clock: [] for clock in models}
    for number in range(_PREFILLS):
        _by_turns(models, times, number, lambda clock, model: model(input_ids, use_cache=False).logits)
    return times


def _decode_steps(models: Models, input_ids: torch.Tensor, decode_steps: int) -> Times:
    """Milliseconds of each decode step after a prefill, by clock."""
    times: Times = {clock: [] for clock in models}
    starts = {clock: model(input_ids, use_cache=True, logits_to_keep=1) for clock, model in models.items()}
    token = starts["bare_ms"].logits.argmax(-1)

    def step(clock: str, model: LlamaForCausalLM) -> torch.Tensor:
        logits: torch.Tensor = model(token, past_key_values=starts[clock].past_key_values, use_cache=True).logits
        return logits

    for number in range(decode_steps):
        token = _by_turns(models, times, number, step).argmax(-1)
    return times


def _by_turns(
    models: Models, times: Times, number: int, forward: Callable[[str, LlamaForCausalLM], torch.Tensor]
) -> torch.Tensor:
    """Let each model compute, add what it took to ``times``; the logits, which must agree."""
    logits = {}
    for clock in sorted(models, reverse=number % 2 == 0):
        device = models[clock].device
        synchronize(device)
        start = now_ms()
        logits[clock] = forward(clock, models[clock])
        synchronize(device)
        times[clock].append(now_ms() - start)
    if not torch.equal(logits["djinn_ms"], logits["bare_ms"]):
        raise NotBitExact("the logits under Djinn differ from the bare model's")
    return logits["bare_ms"]


if __name__ == "__main__":
    sys.exit(run_side_job("overhead", __doc__, take))
