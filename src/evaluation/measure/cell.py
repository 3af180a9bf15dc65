"""The cell of a record: what one variant of one workload came to. Every cell with samples is made here."""

import re
from collections.abc import Sequence
from typing import Any

from evaluation.study.plan import Workload

Record = dict[str, Any]

# The folders of an absolute path: a record says nothing of where a machine keeps its files. A URL is left alone.
_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/:'\"()]+/)*(?=[^\s/:'\"()])")


def cell(
    workload: Workload,
    *,
    variant: str = "default",
    primary: bool = True,
    drawn: bool = True,
    outcome: str = "ok",
    message: str = "",
    frontier_bytes: int = 0,
    state_bytes: int = 0,
    recompute_flops: float | None = None,
    reserved_bytes: int = 0,
    validation_samples: int = 0,
    samples: Sequence[Record] = (),
) -> Record:
    """The cell of ``variant``; one that could not be measured has an outcome, a message and no samples."""
    return {
        "workload": workload.name,
        "variant": variant,
        "headline": primary,  # the format's word for it
        "drawn": drawn,
        "outcome": outcome,
        "message": message,
        "frontier_bytes": frontier_bytes,
        "state_bytes": state_bytes,
        "recompute_flops": recompute_flops,
        "reserved_bytes": reserved_bytes,
        "validation_samples": validation_samples,
        "samples": list(samples),
    }


def first_line(error: BaseException) -> str:
    """What ``error`` says, in one line and without folders of this machine; its name if it says nothing."""
    return _FOLDERS.sub("", (str(error).splitlines() or [type(error).__name__])[0])
