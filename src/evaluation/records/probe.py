"""What machine this is: hardware and software as found, and what its link and its matrix units really do.

Every field is a value or ``{"unavailable": reason}``. Nothing is changed on the card; nothing names the machine, its
users or folders. The ceilings are measured with plain torch copies and products, each sample kept.
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import torch

from evaluation.records.atomic import write_json
from evaluation.records.machine import check_machine
from evaluation.records.nvml import NO_GPU, Answer, ask, ask_of, unavailable
from evaluation.records.provenance import git_state, source_sha256, versions
from evaluation.study.devices import DeviceError, Gpu, choose_device, visible_gpu

_COPY_BYTES = 512 << 20  # long enough for the link's full rate
_ACTIVATION_BYTES = 2048 * 5120 * 2  # the hidden states of Llama-2-13B at 2048 tokens: what a resume waits for


def probe(wanted: str = "auto") -> dict[str, Answer]:
    """The whole page, see :mod:`evaluation.records.machine`, for a study on device ``wanted``: auto, cuda or cpu.

    Raises :class:`evaluation.study.devices.DeviceError` as :func:`evaluation.study.devices.choose_device` does.
    """
    gpu = visible_gpu()
    cuda = choose_device(wanted, gpu) == "cuda"
    return {
        "functional": not cuda,
        "gpu": _gpu(gpu),
        "host": _host(),
        "software": {
            "versions": versions(),
            "torch_cuda": torch.version.cuda or unavailable("a CPU build of torch"),
            "git": git_state(),
            "source_sha256": source_sha256(),
        },
        "ceilings": _ceilings(cuda, NO_GPU if gpu is None else "a functional run, on the CPU by the configuration"),
    }


def _gpu(gpu: Gpu | None) -> dict[str, Answer]:
    """What NVML says of the GPU; clocks in MHz, power in watts, memory in bytes."""
    questions: dict[str, Callable[[Any], Answer]] = {
        "name": pynvml.nvmlDeviceGetName,
        "memory_bytes": lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        "driver": lambda handle: pynvml.nvmlSystemGetDriverVersion(),
        "cuda_driver": lambda handle: _dotted(pynvml.nvmlSystemGetCudaDriverVersion()),
        "pcie_generation": pynvml.nvmlDeviceGetCurrPcieLinkGeneration,
        "pcie_generation_max": pynvml.nvmlDeviceGetMaxPcieLinkGeneration,
        "pcie_width": pynvml.nvmlDeviceGetCurrPcieLinkWidth,
        "pcie_width_max": pynvml.nvmlDeviceGetMaxPcieLinkWidth,
        "sm_clock_mhz": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "sm_clock_max_mhz": lambda handle: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "power_limit_watts": lambda handle: pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
        "ecc": lambda handle: bool(pynvml.nvmlDeviceGetEccMode(handle)[0]),
        "mig": lambda handle: bool(pynvml.nvmlDeviceGetMigMode(handle)[0]),
        "persistence": lambda handle: bool(pynvml.nvmlDeviceGetPersistenceMode(handle)),
        "other_processes": _other_processes,
    }
    return ask_of(gpu, questions)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _other_processes(handle: Any) -> int:
    """Processes other than this one that compute on the GPU."""
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return sum(process.pid != os.getpid() for process in running)


def _host() -> dict[str, Answer]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    nodes = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))
    return {
        "cpu": ask(_cpu_model),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_lock_limit_bytes": "unlimited" if soft == resource.RLIM_INFINITY else soft,
        "numa_nodes": len(nodes) or unavailable("the kernel lists none"),
        "kernel": platform.release(),
        "system": ask(lambda: platform.freedesktop_os_release()["PRETTY_NAME"]),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _ceilings(cuda: bool, why_not: str) -> dict[str, Answer]:
    names = ("pinned_h2d", "pinned_d2h", "pageable_h2d", "pageable_d2h", "device_copy")
    host_copy = _rate(torch.empty(64 << 20, dtype=torch.uint8), torch.empty(64 << 20, dtype=torch.uint8), samples=5)
    found: dict[str, Answer] = {"host_copy_gbps": host_copy}
    if not cuda:
        absent = {f"{name}_gbps": unavailable(why_not) for name in names}
        return {**found, **absent, "matrix_tflops_bf16": unavailable(why_not)}
    device = torch.device("cuda", 0)
    for size, suffix in ((_COPY_BYTES, "gbps"), (_ACTIVATION_BYTES, "activation_gbps")):
        on_device = torch.zeros(size, dtype=torch.uint8, device=device)
        for kind in ("pinned", "pageable"):
            on_host = torch.zeros(size, dtype=torch.uint8, pin_memory=kind == "pinned")
            found[f"{kind}_h2d_{suffix}"] = _rate(on_host, on_device)
            found[f"{kind}_d2h_{suffix}"] = _rate(on_device, on_host)
        found[f"device_copy_{suffix}"] = _rate(on_device, torch.empty_like(on_device), moved=2)
    found["matrix_tflops_bf16"] = _matrix_rate(device)
    return found


def _rate(source: torch.Tensor, target: torch.Tensor, *, samples: int = 15, moved: int = 1) -> dict[str, Answer]:
    """Copy rate in GB/s (1e9 bytes, ``moved`` times the size) from raw samples, host clock, device synchronised."""
    nbytes = source.numel()

    def copy() -> float:
        start = time.perf_counter()
        target.copy_(source, non_blocking=True)
        if target.is_cuda or source.is_cuda:
            torch.cuda.synchronize()
        return moved * nbytes / (time.perf_counter() - start) / 1e9

    return _summary([copy() for _ in range(samples + 2)][2:], nbytes)


def _summary(samples: list[float], nbytes: int | None = None) -> dict[str, Answer]:
    size = {} if nbytes is None else {"bytes": nbytes}
    return {"median": statistics.median(samples), "samples": samples, **size}


def _matrix_rate(device: torch.device, size: int = 8192, samples: int = 30) -> dict[str, Answer]:
    """Rate of a bf16 product of two random ``size`` x ``size`` matrices in TFLOP/s, by device events."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (size, size)
    left = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
    right = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
    rates = []
    warmup = 50  # about a tenth of a second: a card raises its clocks when there is work
    for _ in range(samples + warmup):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        torch.mm(left, right)
        end.record()
        end.synchronize()
        rates.append(2 * size**3 / (start.elapsed_time(end) / 1e3) / 1e12)
    return {**_summary(rates[warmup:]), "n": size}


def said(found: dict[str, Answer]) -> str:
    """The machine in one line, for whoever probes it by hand."""
    gpu, ceilings = found["gpu"], found["ceilings"]
    if found["functional"]:
        return f"Functional, on the CPU: {found['host']['cpu']}, {found['host']['cores_usable']} cores"
    units = {"pinned_h2d_gbps": "GB/s to the device", "pinned_d2h_gbps": "GB/s back", "matrix_tflops_bf16": "TFLOP/s"}
    rates = [f"{ceilings[name]['median']:.3g} {unit}" for name, unit in units.items() if "median" in ceilings[name]]
    return f"{gpu['name']}: {', '.join(rates)}"


def main() -> int:
    """Write the probe as JSON, and print what matters most of it."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.records.probe", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="of the study; default: auto")
    arguments = parser.parse_args()
    try:
        found = probe(arguments.device)
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    check_machine(found)
    write_json(arguments.out, found)
    print(said(found), f"All of it: {arguments.out}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
