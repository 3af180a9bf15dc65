"""What an uninterrupted run costs under Djinn: the same call, bare and on a session that is never paused, in pairs.

Two cells: ``prefill``, one forward pass without a KV cache, and ``decode``, greedy decode steps after a prefill, per
token. The program takes the time around its own work, between two synchronisations of the device; ``session_ms`` is
the whole time from ``start`` to ``result``, with the thread and the runtime's turn. The model of a bare call carries no
hook. All calls run on one core: where a session's thread happened to start made up to twice the time of a token, and
that is no cost of Djinn. Every pair's logits are compared bit for bit.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch

import djinn
from evaluation.clocks import now_ms
from evaluation.device_memory import synchronize
from evaluation.harness import NotBitExact, Record
from evaluation.job import run_side_job
from evaluation.models import Subject
from evaluation.programs import Logits, decode
from evaluation.statistics import ratio_interval
from evaluation.study import Study

_WARMUP = 2
Program = Callable[[], tuple[float, Logits]]  # milliseconds, logits


def take(subject: Subject, study: Study, report: Callable[[str], None]) -> Record:
    """The cells, with every pair and the median of their ratios."""
    workload = study.workloads[0]
    generator = torch.Generator().manual_seed(study.model.seed)
    shape = (workload.batch, workload.tokens)
    input_ids = torch.randint(subject.model.config.vocab_size, shape, generator=generator).to(subject.device)
    steps = study.overhead.decode_steps

    def prefill() -> tuple[float, Logits]:
        synchronize(subject.device)
        start = now_ms()
        logits = subject.model(input_ids, use_cache=False).logits
        synchronize(subject.device)
        return now_ms() - start, [logits]

    def generate() -> tuple[float, Logits]:
        output = subject.model(input_ids, use_cache=True)
        synchronize(subject.device)
        start = now_ms()
        logits = decode(subject.model, output.logits, output.past_key_values, steps)
        synchronize(subject.device)
        return (now_ms() - start) / steps, logits

    cells = []
    for name, program in {"prefill": prefill, "decode": generate}.items():
        pairs = []
        with _one_core():
            for index in range(-_WARMUP, study.overhead.samples):
                report(f"{name}: {'pairs' if index >= 0 else 'warm-up'}")
                pair = _pair(subject, program, djinn_first=index % 2 == 0)
                if index >= 0:
                    pairs.append(pair)
        ratio = ratio_interval([(pair["djinn_ms"], pair["bare_ms"]) for pair in pairs])
        cells.append({"name": name, "tokens": workload.tokens, "ratio": asdict(ratio), "pairs": pairs})
    return {"cells": cells}


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this thread and those that it starts on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _pair(subject: Subject, program: Program, *, djinn_first: bool) -> Record:
    times: Record = {"djinn_first": djinn_first}
    logits: list[Logits] = []
    for under_djinn in (djinn_first, not djinn_first):
        gc.collect()
        gc.disable()  # a collection would fall on one of the two
        try:
            if under_djinn:
                times["djinn_ms"], times["session_ms"], found = _on_a_session(subject, program)
            else:
                times["bare_ms"], found = program()
        finally:
            gc.enable()
        logits.append(found)
    if not all(torch.equal(left, right) for left, right in zip(*logits, strict=True)):
        raise NotBitExact("the logits under Djinn differ from the bare model's")
    return {**times, "bit_exact": True}


def _on_a_session(subject: Subject, program: Program) -> tuple[float, float, Logits]:
    with djinn.Runtime(subject.model, host_memory_bytes=1 << 20) as runtime:
        session = runtime.open()
        start = now_ms()
        own_ms, logits = session.start(program).result()
        return own_ms, now_ms() - start, logits


if __name__ == "__main__":
    sys.exit(run_side_job("overhead", __doc__, take))
