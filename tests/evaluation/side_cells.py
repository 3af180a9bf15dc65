"""Side records of a synthetic run: cells that a test gives in part are made whole, and the study asks for them."""

import json
from pathlib import Path
from typing import Any

from tests.evaluation.usage_cells import USAGE, asked

Json = dict[str, Any]
GIB = 2**30


def wall(variant, sessions, stopped_by, *, headline, arena_bytes=None):
    """A cell of a capacity record; its last figures are those of the refusal."""
    figures = [{"sessions": count, "device_bytes": (24 + count) * GIB, "host_bytes": 0} for count in range(1, sessions)]
    figures.append({"sessions": sessions, "device_bytes": 79 * GIB, "host_bytes": sessions})
    end = {"sessions": sessions, "stopped_by": stopped_by, "figures": figures, "bit_exact": True}
    return {"variant": variant, "headline": headline, "arena_bytes": arena_bytes, **end}


def probe(variant, survives, exact, lines, resume_ms, *, headline):
    """A cell of a capabilities record."""
    verdict = {"edit_survives": survives, "edit_exact": exact, "state_lines": lines, "resume_ms": resume_ms}
    return {"variant": variant, "headline": headline, **verdict}


def clocks(ready: float, *, kv_cache: bool = False) -> Json:
    """All times of a sample that was ready after ``ready`` ms."""
    return {
        "pause_ms": 2 * ready,
        "ready_ms": ready,
        "first_kernel_ms": ready + 0.1,
        "usable_ms": ready + 2,
        "next_token_ms": ready + 4 if kv_cache else None,
        "resident_ms": ready + 1,
    }


def kind_of(place: str) -> str:
    """The kind of the side record at ``place``."""
    return place.partition("/")[0].removesuffix(".json")


CONTROL = {"variant": "ordered", "sessions": 2, "host_bytes": 3 * GIB}


def controlled(cells: list[Json]) -> bool:
    """Whether ``cells`` of a record of load hold resumes by hand."""
    return any("by_hand" in sample for cell in cells for sample in cell.get("samples", []))


def about(place: str, study: Json, cells: list[Json]) -> Json:
    """What a side record holds besides its cells and what all records share."""
    kind, name = kind_of(place), Path(place).stem
    more: dict[str, Json] = {
        "load": {"host_arena_bytes": 105 * GIB, "by_hand": CONTROL if controlled(cells) else None},
        "capacity": {"method": name},
        "capabilities": {"method": name, "workload": _paused(study), "layer": 20},
        "peers": {
            "peer": name,
            "layer": 40,
            "package": {"name": name, "version": "1.0"},
            "configuration": "its best",
        },
        "thinking": {"seed": 1},
        "neighbour": {"seed": 1, "workload": _paused(study), "layer": 20},
    }
    return {"kind": kind, **more.get(kind, {})}


def _paused(study: Json) -> str:
    return next((one["name"] for one in study["workloads"] if one["kv_cache"]), study["workloads"][0]["name"])


def completed(place: str, cells: list[Json], study: Json) -> list[Json]:
    """``cells`` with all that a test does not care for."""
    whole = {"load": _load, "sweep": _sweep, "overhead": _overhead, "capacity": _capacity, "peers": _peer}
    kind = kind_of(place)
    if kind == "overhead" and [cell["name"] for cell in cells] == ["decode"]:
        cells = [{**cells[0], "name": "prefill"}, *cells]
    return [whole[kind](cell, study) for cell in cells] if kind in whole else cells


def _load(cell: Json, study: Json) -> Json:
    samples = [{"session": 0, "bit_exact": True, **sample} for sample in cell.get("samples", [])]
    for sample in samples:
        if "by_hand" in sample:
            sample["by_hand"] = {"session": 0, "bit_exact": True, **sample["by_hand"]}
    paused = cell.get("paused", cell["sessions"])
    memory = {"device_bytes_paused": 0, "host_bytes_paused": 0}
    more = {"paused": paused, "opened": paused, "outcome": "ok", "message": "", "open_seconds": 1.0}
    return {**more, **memory, **cell, "samples": samples}


def _timed(cell: Json, study: Json) -> Json:
    """A cell of the clocks."""
    samples = [
        {
            **clocks(sample.get("ready_ms", 1.0)),
            "floor_ms": None,
            "device_bytes_paused": 0,
            "host_bytes_paused": 0,
            "overwritten_bytes": 0,
            "bit_exact": True,
            **sample,
        }
        for sample in cell["samples"]
    ]
    more = {"variant": "default", "headline": True, "drawn": False, "recompute_flops": None}
    more |= {"frontier_bytes": 0, "state_bytes": 0, "reserved_bytes": 0}
    validated = study["measurement"]["validation_samples"] if samples else 0
    end = {"outcome": "ok" if samples else "unsupported", "message": "" if samples else "no"}
    return {**more, **end, "validation_samples": validated, **cell, "samples": samples}


def _sweep(cell: Json, study: Json) -> Json:
    return _timed({"workload": f"{cell['batch']}x{cell['tokens']}", **cell}, study)


def _peer(cell: Json, study: Json) -> Json:
    return _timed(cell, study)


def _overhead(cell: Json, study: Json) -> Json:
    pairs = []
    for number, pair in enumerate(cell["pairs"]):
        count = len(pair["passes"]["djinn_ms"])
        pairs.append({"bit_exact": True, "passes": {"djinn_first": [number % 2 == 0] * count, **pair["passes"]}})
    return {"tokens": study["workloads"][0]["tokens"], **cell, "pairs": pairs}


def _capacity(cell: Json, study: Json) -> Json:
    figures = [{"host_bytes": 0, "host_available_bytes": GIB, **figure} for figure in cell["figures"]]
    if cell["stopped_by"] != "cap" and len(figures) == cell["sessions"]:
        figures.append(figures[-1])
    message = "" if cell["stopped_by"] == "cap" else "no room"
    return {"message": message, "bit_exact": True, **cell, "figures": figures}


def asking(study: Json, beside: dict[str, list[Json]]) -> Json:
    """``study`` as it asks for what ``beside``, cells by the places of their records, holds."""
    found = json.loads(json.dumps(study))
    if cells := beside.get("load.json"):
        found["load"] = [{"sessions": c["sessions"], "resumes": len(c.get("samples", [])) or 1} for c in cells]
    if cells := beside.get("overhead.json"):
        passes = cells[-1]["pairs"][0].get("passes", {"bare_ms": [1]})
        found["overhead"] = {"samples": len(cells[0]["pairs"]), "decode_steps": len(passes["bare_ms"])}
    if cells := beside.get("sweep.json"):
        sizes = {(cell["batch"], cell["tokens"]): None for cell in cells}
        found["sweep"] = {
            "layers": sorted({cell["layer"] for cell in cells}),
            "samples": max(len(cell["samples"]) for cell in cells) or 1,
            "sizes": [{"batch": batch, "tokens": tokens} for batch, tokens in sizes],
        }
    found |= {kind_of(place): asked(place, beside[place]) for place in USAGE if beside.get(place)}
    walls = [cell for place, cells in beside.items() if kind_of(place) == "capacity" for cell in cells]
    for key, own in (("sessions", False), ("processes", True)):
        ends = [c["sessions"] + (c["stopped_by"] != "cap") for c in walls if (c["variant"] == "own_process") == own]
        found["capacity"][key] = max(ends, default=found["capacity"][key])
    for place, cells in beside.items():
        if kind_of(place) == "peers" and any(cell["samples"] for cell in cells):
            found["peers"][f"{Path(place).stem}_samples"] = max(len(cell["samples"]) for cell in cells)
    return found


def put_cells(folder: Path, place: str, cells: list[Json]) -> None:
    """Make ``cells``, completed, those of the record at ``place`` in the run, and its study ask for them."""
    study = json.loads((folder / "study.json").read_text())
    paths = [path for path in folder.rglob("*.json") if path.name not in ("study.json", "machine.json")]
    records = {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in paths}
    raw = next(record for name, record in records.items() if name.startswith("raw/"))
    shared = {key: raw[key] for key in ("schema", "study", "model", "provenance")}
    records[place] = {**shared, **about(place, study, cells), "cells": completed(place, cells, study)}
    beside = {name: record["cells"] for name, record in records.items() if not name.startswith("raw/")}
    study = asking(study, beside)
    write(folder / "study.json", study)
    for name, record in records.items():
        write(folder / name, {**record, "study": study})


def write(path: Path, value: object) -> None:
    """Write ``value`` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def ask_for(folder: Path, experiment: str, block: object) -> tuple[Json, Json]:
    """Make the run in ``folder`` ask for ``experiment`` by ``block``: its study, and what its records share."""
    study = json.loads((folder / "study.json").read_text()) | {experiment: block}
    study["experiments"] = list(dict.fromkeys([*study["experiments"], experiment]))
    for path in folder.rglob("*.json"):
        if path.name not in ("study.json", "machine.json"):
            record = json.loads(path.read_text())
            write(path, {**record, "study": study})
    write(folder / "study.json", study)
    return study, {key: record[key] for key in ("schema", "model", "provenance")}


# One record of each kind, for a run of all four methods and the peer ``memory_saver``.
EVERY = {
    "load.json": [
        {
            "sessions": n,
            "samples": [
                {
                    **{"ready_ms": 1 + i / n, "resident_ms": 30 + i, "djinn_first": i % 2 == 0},
                    "by_hand": {"ready_ms": 0.9 + i / n, "resident_ms": 29 + i},
                }
                for i in range(12)
            ],
        }
        for n in (1, 8)
    ],
    "overhead.json": [
        {
            "name": name,
            "pairs": [
                {
                    "passes": {
                        "djinn_ms": [1.0 + i, 1.2 + i],
                        "bare_ms": [1.0 + i, 1.1 + i],
                        "djinn_first": [i % 2 == 0, i % 2 == 1],
                    },
                    "bit_exact": True,
                }
                for i in range(4)
            ],
        }
        for name in ("prefill", "decode")
    ],
    "sweep.json": [
        {
            **{"batch": 1, "tokens": 128 * layer, "layer": layer, "method": method, "variant": variant},
            "samples": [{"ready_ms": 1.0 + i + layer + len(variant)} for i in range(3)],
        }
        for layer in (1,)
        for method, variant in (("recompute", "default"), ("manual_offload", "pinned"))
    ],
    "capacity/vanilla.json": [
        wall("own_process", 2, "device_oom", headline=False),
        wall("default", 5, "device_oom", headline=True),
    ],
    "capacity/recompute.json": [wall("default", 8, "cap", headline=True)],
    "capacity/manual_offload.json": [wall("pinned", 6, "host_full", headline=True)],
    "capacity/djinn.json": [
        wall("default", 7, "arena", headline=True, arena_bytes=105 * GIB),
        wall("coded", 7, "arena", headline=False, arena_bytes=105 * GIB),
    ],
    "capabilities/vanilla.json": [probe("default", True, True, 0, [0.1, 0.2], headline=True)],
    "capabilities/recompute.json": [probe("default", False, False, 6, [58.0, 59.0], headline=True)],
    "capabilities/manual_offload.json": [probe("pinned", True, True, 33, [0.6, 0.7], headline=True)],
    "capabilities/djinn.json": [probe("default", True, True, 8, [0.6, 0.8], headline=True)],
    "peers/memory_saver.json": [
        {"workload": "session", "samples": [{"ready_ms": 2.0 + i} for i in range(4)]},
    ],
    **USAGE,
}
