"""What a swap costs another session that computes: tokens per second of a neighbour that decodes, and ready meanwhile.

The neighbour decodes, and hands each token to its caller, who reads the clock. In four kinds of windows it is

- ``undisturbed``: another session stays in host memory,
- beside ``steps``: the other one decodes as well, and stops in each decode step,
- beside ``swaps``: the same, and at each stop it is swapped out and resumed,
- not there: the other one is swapped and goes on ``alone``.

So what swaps cost is told from what computing by turns costs. Under Djinn both are sessions of one runtime, which take
turns on the device. The neighbour gives up its turn while its caller takes a token, and the other one goes on then. By
hand each has a thread and a stream of its own, and the quickest copies are used. A block has each window of either
twice: in a random order, and then all in the reverse one.

After each window the tokens of both sessions are compared bit for bit, and each swap-out must have moved the whole
state. Within a window nobody overwrites the memory that a swap-out frees. So each side swaps once more before the first
block and after the last one, untimed. There that memory is overwritten before the resume, and the tokens are compared.
"""

import gc
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from random import Random

import torch

import djinn
from evaluation.experiments.forms import there_and_back
from evaluation.experiments.others import OtherByDjinn, OtherByHand
from evaluation.experiments.windows import Reference, Side, Windows
from evaluation.measure.cell import Record
from evaluation.measure.job import Report, run_side_job
from evaluation.measure.models import Subject, input_tokens, twin
from evaluation.measure.programs import Logits, least_bytes, stop_at_layer
from evaluation.methods.benchmark_djinn import make_runtime
from evaluation.methods.offloads import Lane
from evaluation.methods.stepped_offload import SteppedOffload
from evaluation.records.neighbour import WINDOWS
from evaluation.study.plan import Study, Workload


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The two sessions: the ``other`` stops after ``layer`` in each decode step, with ``least`` bytes of state."""

    workload: Workload
    layer: int
    neighbour: Reference
    other: Reference
    least: int


def scene_of(subject: Subject, study: Study) -> Scene:
    """Both after a prompt of their own, and the other one in the middle of the model."""
    workload = next((one for one in study.workloads if one.kv_cache), study.workloads[0])
    workload = workload.but(kv_cache=True, decode_step=1)
    layer = max(1, len(subject.layers) // 2)
    neighbour, other = (Reference(subject.model, input_tokens(subject, study, workload, index)) for index in (0, 1))
    least = _state_bytes(subject, layer, other.input_ids)
    return Scene(workload=workload, layer=layer, neighbour=neighbour, other=other, least=least)


def by_djinn(runtime: djinn.Runtime, subject: Subject, scene: Scene, variant: str = "default") -> Side:
    """Both are sessions of ``runtime``, which is that of ``subject``."""
    return Side(
        method="djinn",
        variant=variant,
        model=subject.model,
        start=lambda program: _closing(runtime.open().start(program)),
        aside=djinn.waiting,
        other=lambda: OtherByDjinn(runtime, subject.model, scene.other.input_ids, scene.layer),
    )


def take(subject: Subject, study: Study, report: Report) -> Record:
    """A cell for Djinn and one for the copies by hand, with every window of every block, and the seed of all orders."""
    scene = scene_of(subject, study)
    ours, by_hand, lane = twin(subject), twin(subject), Lane(subject.device)
    stream = torch.cuda.Stream(subject.device) if subject.device.type == "cuda" else None
    threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="neighbour")

    with torch.cuda.stream(stream):
        offload = SteppedOffload(
            by_hand, study, scene.workload, layer=scene.layer, input_ids=scene.other.input_ids, lane=lane
        )

    with make_runtime(ours, study) as runtime, threads:
        sides = [
            by_djinn(runtime, ours, scene),
            Side(
                method="manual_offload",
                variant=SteppedOffload.variant,
                model=subject.model,
                start=lambda program: threads.submit(torch.no_grad()(program)).result,
                aside=nullcontext,
                other=lambda: OtherByHand(offload, stream),
            ),
        ]
        windows = [Windows(side, study, scene.neighbour, scene.other, scene.least) for side in sides]
        try:
            cells = cells_of(windows, study, subject.device, report)
        finally:
            offload.close()
            lane.close()
    return {"seed": study.order_seed, "workload": scene.workload.name, "layer": scene.layer, "cells": cells}


def _closing(session: djinn.Session) -> Callable[[], Logits]:
    """Waits for the result of ``session``, and closes it: an open session holds its result on the device."""

    def wait() -> Logits:
        with session:
            found: Logits = session.result()
            return found

    return wait


def _state_bytes(subject: Subject, layer: int, input_ids: torch.Tensor) -> int:
    """Bytes of frontier and KV cache in the first decode step."""
    model = subject.model
    output = model(input_ids, use_cache=True, logits_to_keep=1)
    stopped = stop_at_layer(model, layer, output.logits.argmax(-1), True, output.past_key_values)
    return least_bytes(stopped.hidden_states, stopped.arguments)


def cells_of(windows: Sequence[Windows], study: Study, device: torch.device, report: Report) -> list[Record]:
    """Validate and warm up, take the blocks, validate again and close the ``windows``.

    In each half of a block the sides take turns, in the second one all in reverse.
    """
    try:
        return _cells(windows, study, device, report)
    finally:
        for one in windows:
            one.close()


def _cells(windows: Sequence[Windows], study: Study, device: torch.device, report: Report) -> list[Record]:
    state_bytes = []
    for one in windows:
        report(f"{one.side.method}: validation")
        state_bytes.append(one.validate(device))
        one.take("swaps")
    chance = Random(study.order_seed)
    blocks: list[list[list[Record]]] = [[] for _ in windows]
    for _ in range(study.neighbour.blocks):
        gc.collect()  # none is made within a window
        sides = chance.sample(range(len(windows)), len(windows))
        taken: list[list[Record]] = [[] for _ in windows]
        for half, order in zip(there_and_back(len(WINDOWS), chance), (sides, sides[::-1]), strict=True):
            for kind in half:
                for number in order:
                    report(f"{windows[number].side.method}: windows")
                    taken[number].append(windows[number].take(WINDOWS[kind]))
        for mine, found in zip(blocks, taken, strict=True):
            mine.append(found)
    for one in windows:
        report(f"{one.side.method}: validation")
        one.validate(device)
    return [
        {"method": one.side.method, "variant": one.side.variant, "state_bytes": nbytes, "blocks": mine}
        for one, nbytes, mine in zip(windows, state_bytes, blocks, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(run_side_job("neighbour", __doc__, take))
