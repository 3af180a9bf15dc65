"""What a user would pick instead of this project, at the deepest layer, on a GPU.

``memory_saver``, see :mod:`evaluation.peers.memory_saver`, for every workload; ``process_checkpoint``, see
:mod:`evaluation.peers.process_checkpoint`, for one session with KV cache. Their packages are in ``envs/peers.txt`` and
not in the default environment. A peer that this machine cannot run is a result: a cell with the outcome
``unsupported`` and the reason.
"""

import importlib.metadata
import sys
from collections.abc import Callable
from dataclasses import dataclass

from evaluation.measure.harness import Record
from evaluation.measure.job import Report, run_peer_job
from evaluation.peers import memory_saver, process_checkpoint
from evaluation.peers.process import Unsupported
from evaluation.study.plan import Study, Workload


@dataclass(frozen=True, kw_only=True)
class _Peer:
    """The package that is used, and how, and what measures it for which workloads."""

    package: str
    configuration: str
    take: Callable[[Study, Report], list[Record]]
    workloads: Callable[[Study], tuple[Workload, ...]]


_PEERS = {
    "memory_saver": _Peer(
        package=memory_saver.PACKAGE,
        configuration=memory_saver.CONFIGURATION,
        take=memory_saver.take,
        workloads=lambda study: study.workloads,
    ),
    "process_checkpoint": _Peer(
        package=process_checkpoint.PACKAGE,
        configuration=process_checkpoint.CONFIGURATION,
        take=process_checkpoint.take,
        workloads=lambda study: (process_checkpoint.paused_workload(study),),
    ),
}


def take(peer: str, study: Study, report: Report) -> Record:
    """The cells of ``peer``, its best configuration in words, the package and its version (None: not installed)."""
    chosen = _PEERS[peer]
    try:
        if study.device != "cuda":
            raise Unsupported("it needs a GPU, and the study runs on the CPU")
        cells = chosen.take(study, report)
    except Unsupported as reason:
        cells = [_unsupported(workload, str(reason)) for workload in chosen.workloads(study)]
    return {
        "layer": study.architecture.layers,
        "package": {"name": chosen.package, "version": _version(chosen.package)},
        "configuration": chosen.configuration,
        "cells": cells,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unsupported(workload: Workload, reason: str) -> Record:
    return {
        "workload": workload.name,
        "variant": "default",
        "headline": True,
        "outcome": "unsupported",
        "message": reason,
        "frontier_bytes": 0,
        "state_bytes": 0,
        "recompute_flops": None,
        "validation_samples": 0,
        "samples": [],
    }


if __name__ == "__main__":
    sys.exit(run_peer_job("peers", __doc__, take))
