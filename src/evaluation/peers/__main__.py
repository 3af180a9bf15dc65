"""What a user would pick instead of this project, at the deepest layer, on a GPU.

Each peer is a module of this folder that holds a :class:`~evaluation.measure.peer.Peer`. Their packages are in
``envs/peers.txt`` and not in the default environment. A peer that this machine cannot run is a result: a cell with the
outcome ``unsupported`` and the reason.
"""

import importlib.metadata
import sys

from evaluation.measure.cell import Record, cell
from evaluation.measure.child import Ended
from evaluation.measure.job import Report, run_peer_job
from evaluation.measure.peer import NEEDS_GPU, Peer, Unsupported
from evaluation.study.plan import Study


def take(name: str, study: Study, report: Report) -> Record:
    """The cells of peer ``name``, its best configuration in words, its package and the version (None: not installed).

    A peer's process that was ended from within is unsupported as well.
    """
    peer = Peer.named(name)
    try:
        if study.device != "cuda":
            raise Unsupported(NEEDS_GPU)
        cells = peer.take(study, report)
    except (Unsupported, Ended) as reason:
        cells = [cell(one, outcome="unsupported", message=str(reason)) for one in peer.workloads(study)]
    return {
        "layer": study.architecture.layers,
        "package": {"name": peer.package, "version": _version(peer.package)},
        "configuration": peer.configuration,
        "cells": cells,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(run_peer_job("peers", __doc__, take))
