"""What of a machine decides about the bits of a result: its processor or GPU, driver, and versions of libraries."""

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from djinn.core import NotRestored

_NVIDIA_DRIVER = Path("/sys/module/nvidia/version")


def machine_of(device: torch.device) -> dict[str, str]:
    """Return what decides about bits computed on ``device``, in words by name."""
    machine = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
    }
    if device.type == "cuda":
        machine |= {
            "GPU": torch.cuda.get_device_name(device),
            "driver": _driver(),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    else:
        machine |= {"processor": platform.machine(), "vector instructions": torch.backends.cpu.get_cpu_capability()}
    return {"device": device.type, **machine}


def check_machine(saved: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise :class:`NotRestored` for the first name of which two machines differ."""
    for name in {**saved, **here}:
        was, now = saved.get(name, "absent"), here.get(name, "absent")
        if was != now:
            also = "allow_other=True accepts that, and results may differ in their last bits"
            raise NotRestored(f"the machine differs in {name}: {now} here, {was} in the file; {also}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    with suppress(OSError):
        return _NVIDIA_DRIVER.read_text().strip()
    return "unknown"
