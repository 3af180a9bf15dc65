"""Which device the study runs on, asked of NVML so that planning needs no torch."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml

from evaluation.command import Refusal


class DeviceError(Refusal):
    """The device that was asked for, or that is plainly there, cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first GPU that this process may use; ``index`` is NVML's, ``memory_bytes`` all of its memory.

    ``uuid`` names one card among all that there are, so it stays out of what is printed; of a MIG device it is the
    whole card's. ``driver`` is its version. Both are "" where NVML does not tell.
    """

    index: int
    name: str
    memory_bytes: int
    uuid: str = field(default="", repr=False, compare=False)
    driver: str = field(default="", compare=False)


def visible_gpu() -> Gpu | None:
    """The GPU that CUDA will call device 0, or None if NVML finds none or the environment hides all."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return _first_visible(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip())
    finally:
        pynvml.nvmlShutdown()


def _first_visible(wanted: str) -> Gpu | None:
    """The GPU that ``wanted`` names: a number, a UUID or its beginning, or the UUID of a MIG device."""
    if wanted.startswith("MIG-"):
        try:
            part = pynvml.nvmlDeviceGetHandleByUUID(wanted)
            return _describe(pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)), part)
        except pynvml.NVMLError:
            return None
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        by_uuid = wanted.startswith("GPU-") and pynvml.nvmlDeviceGetUUID(handle).startswith(wanted)
        if by_uuid or wanted == str(index):
            return _describe(index, handle)
    return None


def _describe(index: int, handle: Any) -> Gpu:
    return Gpu(
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        uuid=_told(lambda: pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))),
        driver=_told(pynvml.nvmlSystemGetDriverVersion),
    )


def _told(question: Callable[[], str]) -> str:
    try:
        return question()
    except pynvml.NVMLError:
        return ""


def choose_device(wanted: str, gpu: Gpu | None) -> str:
    """``cuda`` or ``cpu`` for the configured ``auto``, ``cuda`` or ``cpu``.

    Raises :class:`DeviceError` if CUDA was asked for and there is no GPU, or if torch cannot use the GPU that there is.
    A functional run in its place would pass for less than the machine can do.
    """
    if wanted == "cpu" or (wanted == "auto" and gpu is None):
        return "cpu"
    if gpu is None:
        raise DeviceError("device: cuda, but NVML finds no GPU on this machine; allowed here: auto, cpu")
    import torch  # noqa: PLC0415 - two seconds that only machines with a GPU should pay

    if not torch.cuda.is_available():
        raise DeviceError(
            f"NVML finds a {gpu.name}, but torch {torch.__version__} cannot use it: install a CUDA build of torch or a "
            "newer driver, or set device: cpu for a functional run"
        )
    return "cuda"
