"""Questions to NVML, each of which is answered by a value or by the reason why there is none.

NVML is optional: without a GPU every answer is a reason. Nothing is changed on the card.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pynvml

from evaluation.records.wording import one_line, without_folders
from evaluation.study.devices import Gpu

Answer = Any  # a JSON value, or {"unavailable": reason}
Questions = Mapping[str, Callable[[Any], Answer]]  # by name; each is given NVML's handle of the GPU
NO_GPU = "no GPU on this machine"


def unavailable(reason: str) -> dict[str, str]:
    """A field that could not be had."""
    return {"unavailable": reason}


def ask(question: Callable[[], Answer]) -> Answer:
    """The answer, or why NVML or the system has none."""
    try:
        answer = question()
    except (pynvml.NVMLError, OSError) as error:
        return unavailable(one_line(without_folders(str(error))) or type(error).__name__)
    name = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    return (one_line(name) or unavailable("it has no name")) if isinstance(name, str) else name


def ask_of(gpu: Gpu | None, questions: Questions, why_not: str = NO_GPU) -> dict[str, Answer]:
    """The answers of ``gpu`` by name; without a GPU each is ``why_not``."""
    if gpu is None:
        return {name: unavailable(why_not) for name in questions}
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(gpu.index)
        return {name: ask(partial(question, handle)) for name, question in questions.items()}
    finally:
        pynvml.nvmlShutdown()
