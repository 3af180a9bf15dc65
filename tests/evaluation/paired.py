"""Synthetic records of the pairs: times of each form as a test gives them, the same in every sample of a block."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

Json = dict[str, Any]
PLAIN = {"keeps": "nothing", "link": "idle", "codec": "raw"}
KEEPS, LINKS = ("nothing", "frontier"), ("idle", "attended")
FRONTIER_BYTES = 22_000_000
HISTORY_BYTES_PER_LAYER = 40_000_000
DEPTH = 40  # layers of the model of synthetic runs
BUFFER_BYTES = 65_000_000
CODED = 0.72  # of the bytes of coded state
RESERVED_BYTES = 300_000_000  # of a graph


@dataclass(frozen=True, kw_only=True)
class Which:
    """A form in a block: what a test decides its times by."""

    method: str
    variant: str
    keeps: str
    link: str
    codec: str
    workload: str
    layer: int
    round: int
    block: int


def ready_ms(which: Which) -> float | None:
    """Median of the clock ready on an H100: all copies of the frontier are alike, and what is kept is there at once."""
    if which.method == "recompute":
        return (2.0 if which.variant == "graphed" else 2.2) * which.layer + 1
    if which.variant.startswith("async"):
        return None
    return 0.08 if which.keeps == "frontier" else 0.6 if which.link == "idle" else 0.5


def recomputed(decode_step: int) -> list[Json]:
    """Those of recompute on a GPU, in a prefill or in a decode step."""
    names = ["kv_offloaded"] if decode_step else ["compiled", "graphed"]
    return [{"method": "recompute", "variant": name, **PLAIN} for name in names]


def forms(kv_cache: bool, *, attended: bool = True, coded: bool = True) -> list[Json]:
    """Djinn's and those by hand of a workload, by ``method``, ``variant`` and policy, as the job names them.

    The job has the ``attended`` ones at one layer, a synthetic record at all. Recompute's come at the last layers.
    """
    found = []
    for keeps in KEEPS:
        for link in LINKS if attended else ("idle",):
            policy = {"keeps": keeps, "link": link, "codec": "raw"}
            parts = [name for name, has in (("kept", keeps == "frontier"), ("attended", link == "attended")) if has]
            waiting = ["ordered" if kv_cache else "pinned"]
            for base in waiting if keeps == "frontier" and not kv_cache else [*waiting, "async"]:
                found.append({"method": "manual_offload", "variant": "_".join([base, *parts]), **policy})
            found.append({"method": "djinn", "variant": "_".join(parts) or "default", **policy})
    bulk = {"method": "manual_offload", "variant": "bulk", **PLAIN}
    ours = {"method": "djinn", "variant": "coded", **PLAIN, "codec": "auto"}
    return [*found, bulk, *([ours] if coded else [])] if kv_cache else found


def pairs_path(folder: Path, number: int) -> Path:
    """Of the record of round ``number``."""
    return folder / "raw" / "pairs" / f"round_{number}.json"


def without_room(record: Json, workload: str, layer: int) -> None:
    """Make a ``record`` of pairs say that the device had no room there."""
    (cell,) = (one for one in record["cells"] if (one["workload"], one["layer"]) == (workload, layer))
    cell.update(outcome="out_of_memory", message="no room", forms=[], blocks=[])


@dataclass(frozen=True, kw_only=True)
class SyntheticPairs:
    """Recipe of the pairs of a run. ``ready`` gives the clock ready of a form, or None if it has none.

    ``coded``: whether there is coded state among them; all else is there in any case.
    ``times`` gives further clocks by name (``usable_ms``) that differ from what follows from ready.
    """

    rounds: int = 2
    blocks: int = 1
    layers: tuple[int, ...] = (1, 40)
    coded: bool = True
    ready: Callable[[Which], float | None] = ready_ms
    times: Callable[[Which], Json] = field(default=lambda which: {})

    def asked(self) -> Json:
        """The block of the study."""
        return {"rounds": self.rounds, "blocks": self.blocks, "forms": "all", "layers": list(self.layers)}

    def about(self, number: int, workloads: list[Json]) -> Json:
        """What the record of round ``number`` holds besides what all records share."""
        chance = Random(number)
        cells = [self._cell(one, layer, number, chance) for one in workloads for layer in self.layers]
        return {"kind": "pairs", "round": number, "seed": number, "cells": cells}

    def _cell(self, workload: Json, layer: int, number: int, chance: Random) -> Json:
        kinds = forms(workload["kv_cache"], coded=self.coded)
        if layer >= DEPTH - 1:
            kinds += recomputed(workload.get("decode_step", 0))
        history = HISTORY_BYTES_PER_LAYER * layer if workload["kv_cache"] else 0
        blocks = []
        for block in range(1, self.blocks + 1):
            order = chance.sample(range(len(kinds)), len(kinds))
            about = {"workload": workload["name"], "layer": layer, "round": number, "block": block}
            of_form = [self._times(Which(**kind, **about), workload["kv_cache"]) for kind in kinds]
            samples = [{"form": form, **of_form[form], "bit_exact": True} for form in [*order, *reversed(order)]]
            blocks.append({"floor_ms": [0.5, 0.5], "samples": samples})
        state = FRONTIER_BYTES + history
        return {
            "workload": workload["name"],
            "layer": layer,
            "outcome": "ok",
            "message": "",
            "frontier_bytes": FRONTIER_BYTES,
            "forms": [
                {
                    **kind,
                    "state_bytes": state,
                    "host_bytes_paused": 0 if kind["method"] == "recompute" else state - kept - spared,
                    "device_bytes_paused": kept + reserved,
                    "kept_bytes": kept,
                    "reserved_bytes": reserved,
                    "buffer_bytes": BUFFER_BYTES if kind["codec"] == "auto" else 0,
                }
                for kind in kinds
                for kept in [FRONTIER_BYTES if kind["keeps"] == "frontier" else 0]
                for spared in [round((1 - CODED) * state) if kind["codec"] == "auto" else 0]
                for reserved in [RESERVED_BYTES if kind["variant"] == "graphed" else 0]
            ],
            "blocks": blocks,
        }

    def _times(self, which: Which, kv_cache: bool) -> Json:
        ready = self.ready(which)
        base = 0.5 if ready is None else ready
        # No two processes take the same times; this much no test sees.
        own = (which.round + which.block / 100) * 1e-12
        found = {
            "pause_ms": 30.0 + own,
            "ready_ms": ready,
            "first_kernel_ms": base + 0.5,
            "usable_ms": base + 2,
            "next_token_ms": base + 30 if kv_cache else None,
            "resident_ms": base if which.method == "recompute" else base + 28,
        }
        return {**found, **self.times(which)}
