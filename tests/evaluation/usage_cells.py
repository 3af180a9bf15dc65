"""Cells of the records of waits and of neighbours, with times that can be worked out by hand."""

from typing import Any

from evaluation.records.neighbour import WINDOWS

Json = dict[str, Any]
WAITS = (0, 200)  # ms; the first in two blocks, the second in one
FORMS = (("djinn", "default", "nothing"), ("djinn", "kept", "frontier"), ("manual_offload", "pinned", "nothing"))


def ready_after(form: int, wait: float, run: int) -> float:
    """Milliseconds until form number ``form`` is ready after ``wait`` ms in run 0, 1, ... of it: spread by 0.02."""
    return 1.0 + form + wait / 1000 + 0.02 * run


def waits_of(workload: str, *, kv_cache: bool, layer: int = 20) -> Json:
    """A cell of the waits: each form after 0 ms in two blocks, and after 200 ms in the first of them."""
    blocks = []
    for number, waits in enumerate((WAITS, WAITS[:1])):
        half = [(form, wait) for wait in waits for form in range(len(FORMS))]
        samples = [
            {
                "form": form,
                "think_time_ms": wait,
                "pause_ms": 2.0,
                "ready_ms": (ready := ready_after(form, wait, 2 * number + back)),
                "first_kernel_ms": ready + 0.1,
                "usable_ms": ready + 2,
                "next_token_ms": ready + 4 if kv_cache else None,
                "resident_ms": ready + 1,
                "bit_exact": True,
            }
            for back, runs in enumerate((half, half[::-1]))
            for form, wait in runs
        ]
        floors = [{"think_time_ms": wait, "floor_ms": 0.9 + wait / 1000} for wait in (*waits, *waits[::-1])]
        blocks.append({"floors": floors, "samples": samples})
    sizes = {"state_bytes": 5, "device_bytes_paused": 0}
    forms = [
        {"method": method, "variant": variant, "keeps": keeps, "link": "idle", **sizes, **_kept(keeps)}
        for method, variant, keeps in FORMS
    ]
    about = {"workload": workload, "layer": layer, "outcome": "ok", "message": "", "frontier_bytes": 2}
    return {**about, "forms": forms, "blocks": blocks}


def _kept(keeps: str) -> Json:
    kept = 2 if keeps == "frontier" else 0
    return {"kept_bytes": kept, "reserved_bytes": 0, "host_bytes_paused": 5 - kept}


def neighbour_of(method: str, variant: str, *, slower: float = 1.0, blocks: int = 1) -> Json:
    """A cell of the neighbour: a token takes 10 ms, beside steps 20, beside swaps 30; all times ``slower``.

    The last step and the last swap beside it end after its last token.
    """
    took = {"undisturbed": 10.0, "steps": 20.0, "swaps": 30.0}
    ends = {
        "undisturbed": [],
        "steps": [4.0, 5.0, 6.0, 7.0, 500.0],
        "swaps": [5.0, 10.0, 500.0],
        "alone": [1.0, 2.0, 3.0],
    }
    times = {"swaps": [(5.0, 2.0), (5.0, 2.0), (70.0, 90.0)], "alone": [(5.0, 1.0)] * 3}
    windows = [
        {
            "window": window,
            "token_ms": [took[window] * slower] * 8 if window in took else [],
            "steps": len(ends[window]),
            "step_ends_ms": ends[window],
            "resumes": [
                {"pause_ms": pause, "ready_ms": ready, "ended_ms": end}
                for (pause, ready), end in zip(times.get(window, []), ends[window], strict=False)
            ],
            "bit_exact": True,
        }
        for window in WINDOWS
    ]
    block = [*windows, *windows[::-1]]
    return {"method": method, "variant": variant, "state_bytes": 5, "blocks": [block] * blocks}


USAGE = {
    "thinking.json": [waits_of("activation", kv_cache=False), waits_of("session", kv_cache=True)],
    "neighbour.json": [neighbour_of("djinn", "default"), neighbour_of("manual_offload", "ordered", slower=2.0)],
}


def asked(place: str, cells: list[Json]) -> Json:
    """What a study asks for, in whose run ``cells`` are those of the record at ``place``."""
    blocks = cells[0]["blocks"]
    if place == "neighbour.json":
        windows = {one["window"]: one for one in blocks[0]}
        tokens, swaps = len(windows["undisturbed"]["token_ms"]), windows["alone"]["steps"]
        return {"blocks": len(blocks), "tokens": tokens, "swaps": swaps}
    found = [{sample["think_time_ms"] for sample in block["samples"]} for block in blocks]
    rows = [{"think_time_ms": wait, "blocks": sum(wait in waits for waits in found)} for wait in sorted(found[0])]
    return {"layers": sorted({cell["layer"] for cell in cells}), "waits": rows}
