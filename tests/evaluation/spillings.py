"""A synthetic record of sessions beyond host memory, with times that can be worked out by hand."""

from pathlib import Path
from typing import Any

from tests.evaluation.side_cells import ask_for, write

Json = dict[str, Any]
SESSIONS, HELD, STATE_BYTES = 10, 4, 1_000_000_000


def cell() -> Json:
    """An IO_WAIT takes 100 ms, and 900 with a spill; a resume 5 ms, from the disk 600, and 1400 with a spill too."""
    spilled = SESSIONS - HELD
    outs = [{"swap_out_ms": 100.0, "spilled_bytes": 0}] * HELD
    outs += [{"swap_out_ms": 900.0 + number, "spilled_bytes": STATE_BYTES} for number in range(spilled)]
    backs = [_back(0, ready_ms=1400.0, on_disk=True, spills=True)]
    backs += [_back(number, ready_ms=600.0 + number, on_disk=True) for number in range(1, spilled + 1)]
    backs += [_back(number, ready_ms=5.0, on_disk=False) for number in range(spilled + 1, SESSIONS)]
    plain = {"nbytes": STATE_BYTES, "write_ms": 800.0, "read_ms": 500.0}
    return {
        **{"sessions": SESSIONS, "stopped_by": "cap", "message": "", "state_bytes": STATE_BYTES},
        **{"on_disk_bytes": spilled * STATE_BYTES, "swap_outs": outs, "resumes": backs, "plain": [plain, plain]},
    }


def _back(session: int, *, ready_ms: float, on_disk: bool, spills: bool = False) -> Json:
    sizes = {"on_disk_bytes": STATE_BYTES * on_disk, "spilled_bytes": STATE_BYTES * spills}
    return {"session": session, "ready_ms": ready_ms, "resident_ms": ready_ms + 40, "bit_exact": True, **sizes}


def put_disk(folder: Path) -> None:
    """Add the record to the run in ``folder``, and make its study ask for it."""
    study, shared = ask_for(folder, "disk", {"sessions": SESSIONS, "host_arena_gib": 4})
    about = {"kind": "disk", "filesystem": "ext4", "host_arena_bytes": 4 << 30}
    write(folder / "disk.json", {**shared, **about, "study": study, "cells": [cell()]})
