"""What a measuring job finds around it: binds it to the cores near its GPU, and notes how busy host and GPU are.

NVML is asked before anything is timed and after everything was, never between: a question takes the driver's lock. What
happens between is told by counters that the driver keeps. The job's process and its children stay bound.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pynvml
import torch

from evaluation.command import Refusal
from evaluation.records.conditions import THROTTLES
from evaluation.records.nvml import Answer, ask, ask_of, unavailable
from evaluation.study.devices import Gpu, visible_gpu

_FEWEST_CORES = 4  # on fewer, the threads of a job would wait for each other
_WHY_NOT = "measured without a GPU"
_REASONS = {
    pynvml.nvmlClocksEventReasonGpuIdle: "gpu_idle",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "applications_clocks_setting",
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake_slowdown",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display_clock_setting",
}
_COUNTERS = {  # of nanoseconds since the driver was loaded
    "sw_power_cap": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP,
    "sw_thermal_slowdown": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN,
    "hw_thermal_slowdown": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
    "hw_power_brake_slowdown": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
}


class Disturbed(Refusal):
    """The GPU is throttled or shared, or cannot tell, and the study is strict."""


class Surroundings:
    """Of one job, on ``device`` (``cuda`` or ``cpu``). Made before anything is timed, and before the job uses the GPU.

    With ``strict`` a throttled or shared GPU raises :class:`Disturbed`, here and at the end; a CPU is never refused.
    """

    def __init__(self, device: str, *, strict: bool) -> None:
        self._gpu = visible_gpu() if device == "cuda" else None
        self._strict = strict
        self._affinity = _bind(self._gpu)
        self._before = _moment(self._gpu, computes=False)
        self._check(_disturbance(self._before), "before anything was measured")

    def after(self, *, computes: bool) -> dict[str, Answer]:
        """The conditions, see :mod:`evaluation.records.conditions`; ``computes``: this process has used the GPU."""
        after = _moment(self._gpu, computes=computes)
        during = _throttled_between(self._before, after)
        self._check(_disturbance(after) or during, "after it was measured, so there is no record")
        return {"strict": self._strict, "affinity": self._affinity, "before": self._before, "after": after}

    def _check(self, disturbance: str, when: str) -> None:
        if self._strict and self._gpu is not None and disturbance:
            raise Disturbed(f"strict: {disturbance} {when}. Wait, choose another GPU, or set strict: false")


def _disturbance(moment: dict[str, Answer]) -> str:
    """What is wrong with the GPU; nothing is said where nothing is."""
    others, reasons = moment["other_processes"], moment["clock_reasons"]
    if isinstance(reasons, dict):
        return f"NVML does not tell whether the GPU is throttled ({reasons['unavailable']})"
    if isinstance(others, dict):
        return f"NVML does not tell whether the GPU is shared ({others['unavailable']})"
    if throttles := [reason for reason in reasons if reason in THROTTLES]:
        return f"the GPU was throttled ({', '.join(throttles)})"
    return f"the GPU was shared with {others} other process{'es' * (others > 1)}" if others else ""


def _throttled_between(before: dict[str, Answer], after: dict[str, Answer]) -> str:
    """The same of the time between two moments, where the driver counts it."""
    earlier, later = before["throttled_ms"], after["throttled_ms"]
    grown = [name for name in later.keys() & earlier.keys() & THROTTLES if later[name] > earlier[name]]
    return f"the GPU was throttled for a while ({', '.join(sorted(grown))})" if grown else ""


def _moment(gpu: Gpu | None, *, computes: bool) -> dict[str, Answer]:
    """How busy host and GPU are now, see :class:`evaluation.records.conditions.Moment`."""
    questions: dict[str, Callable[[Any], Answer]] = {
        "other_processes": lambda handle: _other_processes(handle, computes=computes),
        "sm_clock_mhz": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "temperature_celsius": lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_watts": lambda handle: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "power_limit_watts": lambda handle: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "clock_reasons": lambda handle: _named(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        "throttled_ms": _throttled_ms,
    }
    return {"host_load": ask(lambda: os.getloadavg()[0]), **ask_of(gpu, questions, _WHY_NOT)}


def _other_processes(handle: Any, *, computes: bool) -> int:
    """Processes other than this one that compute on the GPU.

    One that computes is among them; in a container NVML knows it by the number that it has outside.
    """
    running = [one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    own = computes or os.getpid() in running
    return max(0, len(running) - own)


def _named(bits: int) -> list[str]:
    known = [name for bit, name in _REASONS.items() if bits & bit]
    unknown = bits & ~sum(_REASONS)
    return [*known, *([f"unknown_{unknown:x}"] if unknown else [])]


def _throttled_ms(handle: Any) -> Answer:
    found = pynvml.nvmlDeviceGetFieldValues(handle, list(_COUNTERS.values()))
    answered = [(name, one) for name, one in zip(_COUNTERS, found, strict=True) if one.nvmlReturn == 0]
    return {name: one.value.ullVal / 1e6 for name, one in answered} or unavailable("NVML counts none of them")


def _bind(gpu: Gpu | None) -> Answer:
    """Bind all threads of this process to the cores nearest ``gpu``: which, as the kernel writes it, or why to none."""
    near = ask_of(gpu, {"cores": _near}, _WHY_NOT)["cores"]
    return near if isinstance(near, dict) else ask(lambda: _bind_to(os.sched_getaffinity(0) & set(near)))


def _bind_to(cores: set[int]) -> Answer:
    if len(cores) < _FEWEST_CORES:
        return unavailable(f"this process may use {len(cores)} of the cores near the GPU, fewer than {_FEWEST_CORES}")
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cores)
    # OpenMP counted the cores when it was loaded: more threads than cores would wait for each other.
    torch.set_num_threads(min(torch.get_num_threads(), len(cores)))
    return _ranges(cores)


def _near(handle: Any) -> list[int]:
    words = pynvml.nvmlDeviceGetCpuAffinity(handle, os.sysconf("SC_NPROCESSORS_CONF") // 64 + 1)
    return [64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1]


def _ranges(cores: Iterable[int]) -> str:
    """``cores`` as 0-3,8."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1][1:] = [core]
        else:
            runs.append([core])
    return ",".join("-".join(map(str, run)) for run in runs)
