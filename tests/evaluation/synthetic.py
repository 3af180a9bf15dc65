"""Synthetic runs, valid against the schema, with medians chosen so that what follows can be worked out by
hand.

Every time of a cell is its median plus a symmetric scatter of the samples, so the median of any clock is
exact.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.claims.rules import KEY, digest
from evaluation.records.runs import latency_methods, pair_paths, side_records
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.side_cells import (
    EVERY,
    GIB,
    about,
    asking,
    clocks,
    completed,
    probe,
    put_cells,
    wall,
    write,
)

__all__ = ["EVERY", "GIB", "Synthetic", "clocks", "edit", "probe", "put_cells", "record_path", "wall", "write"]

Json = dict[str, Any]

LAYERS = [1, 10, 20, 30, 40]
FRONTIER_BYTES = 22_000_000
HISTORY_BYTES_PER_LAYER = 40_000_000
MATRIX_TFLOPS = 500.0
LINK_GBPS = 55.0
SCATTER = 0.01  # of the median, from end to end
# What a study asks for besides latency, as far as it has a block of it; pairs are asked for by the recipe.
EXPERIMENTS = (
    *("capacity", "capabilities", "editing", "durable", "disk"),
    *("load", "overhead", "sweep", "thinking", "neighbour", "peers"),
)


def ready_ms(method: str, variant: str, workload: str, layer: int, functional: bool) -> float:
    """Median of the clock ready: the magnitudes of an H100, or of a tiny model on a CPU."""
    slow = workload == "session" and variant in ("pinned", "pageable")
    if functional:
        return {"vanilla": 0.05, "recompute": 0.5 * layer, "djinn": 0.4}.get(method, 0.02 * layer if slow else 0.4)
    times = {"vanilla": 0.01, "recompute": 1.0 + 3.0 * layer, "djinn": 0.63}
    return times.get(method, (0.64 + 0.76 * layer if slow else 0.64) * (5 if variant == "pageable" else 1))


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Recipe of a run; :meth:`write` makes the folder."""

    functional: bool = False
    layers: tuple[int, ...] = tuple(LAYERS)
    methods: tuple[str, ...] = ("vanilla", "recompute", "manual_offload", "djinn")
    rounds: int = 1
    samples: int = 30
    gpu_name: str = "NVIDIA H100 80GB HBM3"
    scatter: float = SCATTER
    ready: Callable[[str, str, str, int, bool], float] = ready_ms
    peers: tuple[str, ...] = ()
    pairs: SyntheticPairs | None = None  # the study does not ask for them
    asks: Mapping[str, Any] = field(default_factory=dict)  # keys of study.json that say what is left out
    beside: Mapping[str, list[Json]] = field(default_factory=dict)  # cells of side records by path; else they have none

    def study(self) -> Json:
        """The settings, as study.json holds them."""
        plain: Json = {
            "device": "cpu" if self.functional else "cuda",
            "model": {
                "name": "llama-2-13b",
                "path": None,
                "dtype": "bfloat16",
                "attention": "sdpa",
                "seed": 0,
            },
            "methods": list(self.methods),
            "experiments": [*(["pairs"] if self.pairs else []), *EXPERIMENTS],
            "latency_methods": list(self.methods),
            "layers": list(self.layers),
            "rounds": self.rounds,
            "order_seed": 1,
            "workloads": [
                {"name": "activation", "batch": 1, "tokens": 2048, "kv_cache": False},
                {"name": "session", "batch": 1, "tokens": 2048, "kv_cache": True},
            ],
            "measurement": {
                "samples": self.samples,
                "other_samples": self.samples,
                "warmup_samples": 3,
                "validation_samples": 2,
                "think_time_ms": 50,
                "decode_steps": 2,
            },
            "host_arena_gib": 4,
            "coded": self.pairs is None or self.pairs.coded,
            "pairs": (self.pairs or SyntheticPairs()).asked(),
            "overhead": {"samples": 30, "decode_steps": 16},
            "load": [{"sessions": 64, "resumes": 500}],
            "load_host_arena_gib": 105,
            "capacity": {"sessions": 64, "processes": 8},
            "sweep": {"layers": [1, 10], "samples": 6, "sizes": [{"batch": 1, "tokens": 2048}]},
            "peers": {"run": list(self.peers), **{f"{peer}_samples": 10 for peer in self.peers}},
            KEY: digest(),
        }
        return asking({**plain, **self.asks}, dict(self.beside))

    def machine(self) -> Json:
        """The probe, as machine.json holds it."""
        missing = {"unavailable": "no GPU"}
        link = ("pcie_generation", "pcie_generation_max", "pcie_width", "pcie_width_max")
        clocks_and_power = ("sm_clock_mhz", "sm_clock_max_mhz", "memory_clock_mhz", "power_limit_watts")
        switches = ("ecc", "mig", "persistence")
        gpu: Json = {"name": self.gpu_name, "memory_bytes": 80 << 30, "driver": "580.159.04", "cuda_driver": "13.0"}
        gpu |= dict.fromkeys([*link, *clocks_and_power], 5) | dict.fromkeys(switches, False) | {"other_processes": 0}
        copies = ("pinned_d2h_gbps", "pageable_h2d_gbps", "pageable_d2h_gbps", "device_copy_gbps", "host_copy_gbps")
        rates = {"matrix_tflops_bf16": MATRIX_TFLOPS, "pinned_h2d_gbps": LINK_GBPS, **dict.fromkeys(copies, 7.5)}
        ceilings: Json = {name: {"median": rate, "samples": [rate] * 3} for name, rate in rates.items()}
        return {
            "functional": self.functional,
            "gpu": dict.fromkeys(gpu, missing) if self.functional else gpu,
            "host": {
                "cpu": "Xeon",
                "cores": 16,
                "cores_usable": 16,
                "memory_bytes": 126 << 30,
                "memory_lock_limit_bytes": "unlimited",
                "numa_nodes": 1,
                "kernel": "6.18.44",
                "system": "Ubuntu 24.04.3 LTS",
            },
            "software": {
                "versions": {"torch": "2.13.0"},
                "torch_cuda": "13.0",
                "git": {"commit": "0" * 40, "dirty": False},
                "source_sha256": "a" * 64,
            },
            "ceilings": dict.fromkeys(ceilings, missing) if self.functional else ceilings,
        }

    def record(self, method: str, layer: int, number: int) -> Json:
        """One raw record."""
        cells = []
        for workload in self.study()["workloads"]:
            variants = {"manual_offload": ["pinned", "pageable"]}.get(method, ["default"])
            if method == "manual_offload" and workload["kv_cache"]:
                variants = [*variants, "ordered"]
            if method == "djinn":
                variants = [*variants, "kept"]
            cells += [self._cell(method, variant, workload, layer) for variant in variants]
        # No two processes ever take the same times; this much no test sees.
        own = zlib.crc32(f"{method}, {layer}, {number}".encode()) * 1e-16
        for sample in (sample for cell in cells for sample in cell["samples"]):
            sample["resident_ms"] += own
        return {
            "schema": 1,
            "method": method,
            "layer": layer,
            "round": number,
            "study": self.study(),
            "model": {
                "name": "llama-2-13b",
                "weights": "random, seed 0",
                "dtype": "bfloat16",
                "attention": "sdpa",
                "layers": 40,
                "hidden_size": 5120,
                "parameter_bytes": 26_000_000_000,
            },
            "provenance": {
                "started": "2026-01-01T00:00:00Z",
                "command": f"python -m evaluation.benchmark_{method}",
                "git": {"commit": "0" * 40, "dirty": False},
                "source_sha256": "a" * 64,
                "device": "cpu" if self.functional else "cuda",
                "device_name": "cpu" if self.functional else self.gpu_name,
                "versions": {"python": "3.12.3", "torch": "2.13.0", "transformers": "5.23.0"},
            },
            "cells": cells,
        }

    @staticmethod
    def _shared(record: Json) -> Json:
        return {key: record[key] for key in ("schema", "study", "model", "provenance")}

    def _cell(self, method: str, variant: str, workload: Json, layer: int) -> Json:
        ready = self.ready(method, variant, workload["name"], layer, self.functional)
        history = HISTORY_BYTES_PER_LAYER * layer if workload["kv_cache"] else 0
        scatter = [1 + self.scatter * (i / max(self.samples - 1, 1) - 0.5) for i in range(self.samples)]
        return {
            "workload": workload["name"],
            "variant": variant,
            "headline": variant in ("default", "pinned"),
            "drawn": variant in ("ordered", "kept"),
            "reserved_bytes": 0,
            "outcome": "ok",
            "message": "",
            "frontier_bytes": FRONTIER_BYTES,
            "state_bytes": FRONTIER_BYTES + history,
            "recompute_flops": 1e12 * layer if method == "recompute" else None,
            "validation_samples": 2,
            "samples": [
                {
                    **clocks(ready * factor, kv_cache=workload["kv_cache"]),
                    "floor_ms": 0.5 * factor if method in ("manual_offload", "djinn") else None,
                    "device_bytes_paused": None if self.functional else 0,
                    "host_bytes_paused": FRONTIER_BYTES + history,
                    "overwritten_bytes": FRONTIER_BYTES,
                    "bit_exact": True,
                }
                for factor in scatter
            ],
        }

    def write(self, folder: Path) -> Path:
        """Write the run to ``folder`` and return it."""
        write(folder / "machine.json", self.machine())
        write(folder / "study.json", self.study())
        for method in latency_methods(self.study()):
            for layer in self.layers:
                for number in range(1, self.rounds + 1):
                    write(record_path(folder, method, layer, number), self.record(method, layer, number))
        for number, path in enumerate(pair_paths(folder, self.study()), start=1):
            assert self.pairs is not None
            shared = self._shared(self.record(self.methods[0], self.layers[0], 1))
            write(path, {**shared, **self.pairs.about(number, self.study()["workloads"])})
        for name in side_records(self.study()) if self.methods else ():
            shared = self._shared(self.record(self.methods[0], self.layers[0], 1))
            cells = completed(name, self.beside.get(name, []), self.study())
            write(folder / name, {**shared, **about(name, self.study(), cells), "cells": cells})
        return folder


def refused(cell: Json, outcome: str = "out_of_memory") -> None:
    """Make ``cell`` one that could not be measured."""
    cell.update(outcome=outcome, message="no room", samples=[], validation_samples=0)


def slowed(sample: Json, factor: float) -> None:
    """Make every time of ``sample`` so much longer; their order stays."""
    for name in [name for name in sample if name.endswith("_ms") and sample[name] is not None]:
        sample[name] *= factor


def record_path(folder: Path, method: str, layer: int, number: int = 1) -> Path:
    """Where a record lies in the run at ``folder``."""
    return folder / "raw" / method / f"layer_{layer}" / f"round_{number}.json"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Apply ``change`` to the JSON value in the file at ``path``."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
