"""A synthetic record of round trips: the times of each form as a test gives them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.evaluation.side_cells import write

Json = dict[str, Any]

FORMS = [
    {"method": "vanilla", "variant": "default", "keeps": "nothing", "site": "known"},
    {"method": "recompute", "variant": "replay", "keeps": "nothing", "site": "known"},
    {"method": "manual_offload", "variant": "pinned", "keeps": "nothing", "site": "known"},
    {"method": "manual_offload", "variant": "ordered", "keeps": "nothing", "site": "known"},
    {"method": "djinn", "variant": "default", "keeps": "nothing", "site": "known"},
    {"method": "djinn", "variant": "default", "keeps": "nothing", "site": "first"},
    {"method": "djinn", "variant": "kept", "keeps": "frontier", "site": "known"},
    {"method": "djinn", "variant": "kept", "keeps": "frontier", "site": "first"},
]


def times(form: Json) -> Json:
    """Of an H100: 1 ms to stop and 55 to search, 30 to swap out, 60 to compute on."""
    stop = 56.0 if form["site"] == "first" else 1.0
    pause = 0.0 if form["method"] == "vanilla" else 30.0
    return {"stop_ms": stop, "pause_ms": pause, "edit_ms": 0.5, "ready_ms": 0.6, "usable_ms": 60.0}


def put_round_trips(folder: Path, *, blocks: int = 3, times: Callable[[Json], Json] = times) -> None:
    """Add the record to the run in ``folder``, and make its study ask for it."""
    study = json.loads((folder / "study.json").read_text()) | {"editing": {"blocks": blocks}}
    for path in folder.rglob("*.json"):
        if path.name not in ("study.json", "machine.json"):
            record = json.loads(path.read_text())
            write(path, {**record, "study": study})
    write(folder / "study.json", study)
    shared = {key: record[key] for key in ("schema", "model", "provenance")}
    order = list(range(len(FORMS)))
    workload = next((one["name"] for one in study["workloads"] if one["kv_cache"]), study["workloads"][0]["name"])
    cell = {
        "workload": workload,
        "layer": record["model"]["layers"] // 2,
        "forms": FORMS,
        "blocks": [
            {
                "samples": [
                    {"form": form, **times(FORMS[form]), "bit_exact": True} for form in [*order, *reversed(order)]
                ],
                "watched": [{"form": form, "longest_ms": times(FORMS[form])["stop_ms"] - 0.5} for form in order],
            }
            for _ in range(blocks)
        ],
    }
    about = {"kind": "editing", "seed": 1, "heap_objects": 400_000, "cells": [cell]}
    write(folder / "editing.json", {**shared, **about, "study": study})
