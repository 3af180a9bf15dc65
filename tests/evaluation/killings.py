"""A synthetic record of sessions that outlive their process, with times that can be worked out by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.evaluation.side_cells import ask_for, write

Json = dict[str, Any]
SAMPLES = 3
SURVIVES = {
    ("vanilla", "default", True): "nothing",
    ("recompute", "default", True): "session",
    ("recompute", "replay", False): "session",
    ("manual_offload", "pinned", True): "nothing",
    ("manual_offload", "saved", False): "edit",
    ("djinn", "default", True): "edit",
    ("djinn", "kept", False): "edit",
}


def cell_of(workload: str, *, times: float = 1.0) -> Json:
    """Saved in 1 s, restored in 2, run again in 0.5, ``times`` as long each; a sample is 0.1 s longer than the last."""

    def longer(number: int, seconds: float) -> float:
        return (seconds + 0.1 * number) * 1000 * times

    return {
        "workload": workload,
        "file_bytes": 900_000_000,
        "state_bytes": 890_000_000,
        "recorded_bytes": 64_000,
        "start_ms": longer(0, 0.6),
        "saves": [{"save_ms": longer(n, 1.0), "floor_ms": longer(n, 0.4)} for n in range(SAMPLES)],
        "restores": [
            {
                "floor_ms": longer(n, 0.3),
                "restore_ms": longer(n, 2.0),
                "ready_ms": 0.1 * times,
                "usable_ms": 50.0 * times,
                "rerun_ms": longer(n, 0.5),
                "rerun_usable_ms": 50.0 * times,
                "bit_exact": True,
            }
            for n in range(SAMPLES)
        ],
    }


def put_durable(folder: Path) -> None:
    """Add the record to the run in ``folder``, and make its study ask for it."""
    study, shared = ask_for(folder, "durable", {"samples": SAMPLES})
    names = [one["name"] for one in study["workloads"]]
    paused = next((one["name"] for one in study["workloads"] if one["kv_cache"]), names[0])
    kills = [
        {
            **{"method": method, "variant": variant, "headline": headline, "survives": survives},
            "saved_bytes": 900_000_000 if survives == "edit" else 0,
        }
        for (method, variant, headline), survives in SURVIVES.items()
        if method in study["methods"]
    ]
    about = {"kind": "durable", "ended_by_signal": 9, "filesystem": "ext4", "edited": paused, "kills": kills}
    about |= {"layer": shared["model"]["layers"] // 2, "first_start_ms": 700.0, "first_restore_ms": 2200.0}
    about["peers"] = [
        {"peer": peer, "survives": "nothing", "message": "refused"} for peer in study.get("peers", {}).get("run", ())
    ]
    cells = [cell_of(name, times=number) for number, name in enumerate(names, start=1)]
    write(folder / "durable.json", {**shared, **about, "study": study, "cells": cells})


def leave_durable_alone(folder: Path) -> None:
    """Make of a run that has the record one that was asked for nothing else."""
    for path in [*folder.iterdir()]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("machine.json", "study.json", "durable.json"):
            path.unlink()
    study = json.loads((folder / "study.json").read_text()) | {"experiments": ["durable"], "latency_methods": []}
    write(folder / "study.json", study)
    record = json.loads((folder / "durable.json").read_text())
    told = {key: value for key, value in study.items() if key not in ("experiments", "latency_methods")}
    write(folder / "durable.json", {**record, "study": told})
