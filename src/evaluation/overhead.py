"""What an uninterrupted run costs under Djinn: the hooked model against a twin without hooks, in pairs.

Two cells: ``prefill``, one forward pass without a KV cache, and ``decode``, greedy decode steps after a prefill, per
token. Both models compute in alternating order, pass by pass, on the thread of a session that is never paused; the twin
has modules of its own around the same weights, and the runtime's hooks are not on it. Nothing but the hooks then
distinguishes the two: not the core on which a thread happened to start, which makes up to half of a token's time. Each
pass is timed between two synchronisations of the device. Every pair's logits are compared bit for bit.
"""

import copy
import gc
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from transformers import LlamaForCausalLM

import djinn
from evaluation.clocks import now_ms
from evaluation.device_memory import synchronize
from evaluation.harness import NotBitExact, Record
from evaluation.job import run_side_job
from evaluation.models import Subject
from evaluation.statistics import ratio_interval
from evaluation.study import Study

_WARMUP = 2


def take(subject: Subject, study: Study, report: Callable[[str], None]) -> Record:
    """The cells, with every pair and the median of their ratios."""
    workload = study.workloads[0]
    generator = torch.Generator().manual_seed(study.model.seed)
    shape = (workload.batch, workload.tokens)
    input_ids = torch.randint(subject.model.config.vocab_size, shape, generator=generator).to(subject.device)
    bare = twin(subject.model)
    cells = []
    with djinn.Runtime(subject.model, host_memory_bytes=1 << 20) as runtime:
        # Steps per pair; 0 is the prefill itself.
        for name, steps in {"prefill": 0, "decode": study.overhead.decode_steps}.items():
            pairs = []
            for index in range(-_WARMUP, study.overhead.samples):
                report(f"{name}: {'pairs' if index >= 0 else 'warm-up'}")
                session = runtime.open().start(_pair, subject.model, bare, input_ids, steps, index % 2 == 0)
                pair = session.result()
                session.close()
                if index >= 0:
                    pairs.append(pair)
            ratio = ratio_interval([(pair["djinn_ms"], pair["bare_ms"]) for pair in pairs])
            cells.append({"name": name, "tokens": workload.tokens, "ratio": asdict(ratio), "pairs": pairs})
    return {"cells": cells}


def twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same model in modules of its own: weights and buffers are shared, hooks put on one are not on the other."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def _pair(
    hooked: LlamaForCausalLM, bare: LlamaForCausalLM, input_ids: torch.Tensor, steps: int, djinn_first: bool
) -> Record:
    """Milliseconds of either model: of the prefill, or per token of ``steps`` decode steps after one."""
    models = {"djinn_ms": hooked, "bare_ms": bare}
    order = ["djinn_ms", "bare_ms"] if djinn_first else ["bare_ms", "djinn_ms"]
    tokens = dict.fromkeys(order, input_ids)
    caches: dict[str, Any] = dict.fromkeys(order)
    if steps:
        for name, model in models.items():
            output = model(input_ids, use_cache=True, logits_to_keep=1)
            tokens[name], caches[name] = output.logits.argmax(-1), output.past_key_values
    times = dict.fromkeys(order, 0.0)
    gc.collect()
    gc.disable()  # a collection would fall on one of the two
    try:
        for _ in range(max(steps, 1)):
            logits = {}
            for name in order:
                synchronize(input_ids.device)
                start = now_ms()
                output = models[name](tokens[name], past_key_values=caches[name], use_cache=bool(steps))
                synchronize(input_ids.device)
                times[name] += (now_ms() - start) / max(steps, 1)
                logits[name] = output.logits
            if not torch.equal(logits["djinn_ms"], logits["bare_ms"]):
                raise NotBitExact("the logits under Djinn differ from the bare model's")
            tokens = {name: found[:, -1:].argmax(-1) for name, found in logits.items()}
            order.reverse()
    finally:
        gc.enable()
    return {"djinn_first": djinn_first, **times, "bit_exact": True}


if __name__ == "__main__":
    sys.exit(run_side_job("overhead", __doc__, take))
