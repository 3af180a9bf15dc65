"""Which device the study runs on, asked of NVML so that planning needs no torch."""

import os
from dataclasses import dataclass

import pynvml


class DeviceError(RuntimeError):
    """The device that was asked for, or that is plainly there, cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first GPU that this process may use; ``index`` is NVML's, ``memory_bytes`` all of its memory."""

    index: int
    name: str
    memory_bytes: int


def visible_gpu() -> Gpu | None:
    """The GPU that CUDA will call device 0, or None if NVML finds none or the environment hides all."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        count = pynvml.nvmlDeviceGetCount()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        wanted = visible.split(",")[0].strip() if visible is not None else "0"
        for index in range(count):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if wanted in (str(index), pynvml.nvmlDeviceGetUUID(handle)):
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
                return Gpu(index=index, name=pynvml.nvmlDeviceGetName(handle), memory_bytes=int(memory))
        return None
    finally:
        pynvml.nvmlShutdown()


def choose_device(wanted: str, gpu: Gpu | None) -> str:
    """``cuda`` or ``cpu`` for the configured ``auto``, ``cuda`` or ``cpu``.

    Raises :class:`DeviceError` if CUDA was asked for and there is no GPU, or if there is a GPU that torch cannot use: a
    functional run in its place would pass for less than the machine can do.
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
