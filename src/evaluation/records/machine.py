"""The page of one machine, as the probe writes it and a run holds it: hardware, software, and measured ceilings.

A field is a value or ``{"unavailable": reason}``; copy rates are in GB/s (1e9 bytes), the matrix rate in TFLOP/s.
"""

import math
from statistics import median
from typing import Annotated, Any

from pydantic import Field, model_validator

from evaluation.records.fields import Commit, Count, Digest, Positive, Strict, Text, Unavailable, checked

_Text = Text | Unavailable
_Count = Count | Unavailable
_Number = Annotated[float, Field(ge=0)] | Unavailable
_Switch = bool | Unavailable
_Rate = Annotated[float, Field(gt=0)]
_ROUNDING = 1e-9


class _Gpu(Strict):
    name: _Text
    memory_bytes: Positive | Unavailable
    driver: _Text
    cuda_driver: _Text
    pcie_generation: _Count
    pcie_generation_max: _Count
    pcie_width: _Count
    pcie_width_max: _Count
    sm_clock_mhz: _Number
    sm_clock_max_mhz: _Number
    memory_clock_mhz: _Number
    power_limit_watts: _Number
    ecc: _Switch
    mig: _Switch
    persistence: _Switch
    other_processes: _Count


class _Host(Strict):
    cpu: _Text
    cores: Positive | Unavailable
    cores_usable: Positive | Unavailable
    memory_bytes: Positive | Unavailable
    memory_lock_limit_bytes: Text | Count
    numa_nodes: Positive | Unavailable
    kernel: Text
    system: _Text

    @model_validator(mode="after")
    def _usable(self) -> "_Host":
        if isinstance(self.cores, int) and isinstance(self.cores_usable, int) and self.cores_usable > self.cores:
            raise ValueError("more cores are usable than there are")
        return self


class _Software(Strict):
    versions: dict[str, Text]
    torch_cuda: _Text
    git: Commit | Unavailable
    source_sha256: Digest


class _Measured(Strict):
    median: _Rate
    samples: Annotated[list[_Rate], Field(min_length=3)]
    bytes: Positive | None = None
    n: Positive | None = None  # rows and columns of each matrix

    @model_validator(mode="after")
    def _of_samples(self) -> "_Measured":
        if not math.isclose(self.median, median(self.samples), rel_tol=_ROUNDING):
            raise ValueError(f"the median {self.median:g} does not follow from the samples")
        return self


class _Ceilings(Strict):
    host_copy_gbps: _Measured | Unavailable
    pinned_h2d_gbps: _Measured | Unavailable
    pinned_d2h_gbps: _Measured | Unavailable
    pageable_h2d_gbps: _Measured | Unavailable
    pageable_d2h_gbps: _Measured | Unavailable
    device_copy_gbps: _Measured | Unavailable
    matrix_tflops_bf16: _Measured | Unavailable
    pinned_h2d_activation_gbps: _Measured | Unavailable | None = None
    pinned_d2h_activation_gbps: _Measured | Unavailable | None = None
    pageable_h2d_activation_gbps: _Measured | Unavailable | None = None
    pageable_d2h_activation_gbps: _Measured | Unavailable | None = None
    device_copy_activation_gbps: _Measured | Unavailable | None = None


class Machine(Strict):
    """What :mod:`evaluation.records.probe` found; ``functional``: runs here say nothing about speed."""

    functional: bool
    gpu: _Gpu
    host: _Host
    software: _Software
    ceilings: _Ceilings

    def is_called(self, device_name: str) -> bool:
        """Whether a record of ``device_name`` can be of this GPU: torch and NVML may shorten its name differently."""
        if isinstance(self.gpu.name, Unavailable):
            return True
        own, other = self.gpu.name.casefold(), device_name.casefold()
        return own in other or other in own


def check_machine(machine: Any) -> Machine:
    """``machine`` as a page; raises ValueError with one line that says where it is none."""
    return checked(Machine, machine)
