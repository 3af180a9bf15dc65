"""The edit of a paused session's hidden states that experiments make, and the oracle that tells what must follow.

The oracle is a run that never stops, in which a plain forward hook of torch makes the same edit.
"""

from itertools import count
from typing import TypeVar

import torch
from torch import nn

from evaluation.measure.method import Change, Method
from evaluation.measure.models import Subject, input_tokens
from evaluation.measure.programs import Logits, generate_greedily
from evaluation.study.plan import Study, Workload

OfKind = TypeVar("OfKind", bound=Method)


def steer(hidden_states: torch.Tensor) -> None:
    """The edit: the last token's state is scaled, and pushed aside by a ramp, which no norm undoes."""
    last = hidden_states[:, -1]
    ramp = torch.linspace(-1, 1, last.shape[-1], device="cpu")  # there always: devices may round it differently
    last *= 1.5
    last += ramp.to(last)


def middle(subject: Subject) -> int:
    """The decoder layer after which sessions are edited."""
    return max(1, len(subject.layers) // 2)


def edited_workload(study: Study) -> Workload:
    """The workload whose sessions are edited: the first with a KV cache, or else the first."""
    return next((one for one in study.workloads if one.kv_cache), study.workloads[0])


def edited(kind: type[OfKind], subject: Subject, study: Study) -> OfKind:
    """A session of ``kind`` that has stopped in the middle of the model and whose hidden states have the edit."""
    workload = edited_workload(study)
    input_ids = input_tokens(subject, study, workload)
    method = kind(subject, study, workload, layer=middle(subject), input_ids=input_ids)
    method.prepare()
    method.edit(steer)
    return method


def uninterrupted(
    subject: Subject,
    study: Study,
    workload: Workload,
    layer: int,
    input_ids: torch.Tensor,
    change: Change | None = None,
) -> Logits:
    """Logits of a run on ``input_ids`` ([batch, tokens]) that never stops.

    A hook makes ``change`` to what decoder layer ``layer`` (1 .. N) returns in the pass in which the others are paused.
    """
    passes = count()

    def hook(module: nn.Module, args: object, output: torch.Tensor) -> None:
        if change is not None and next(passes) == workload.decode_step:
            change(output)

    handle = subject.layers[layer - 1].register_forward_hook(hook)
    try:
        return generate_greedily(
            subject.model,
            input_ids,
            workload.kv_cache,
            workload.decode_step + study.measurement.decode_steps,
            whole_prefill=not workload.decode_step,
        )
    finally:
        handle.remove()
