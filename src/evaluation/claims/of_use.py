"""Decides the claims that no clock decides: how many sessions fit (C6), edits (C7), lines of the program (C8).

C6 and C7 are read from what was measured besides, the records of capacity and capabilities. C8 is decided by the
example programs as they are here. It holds as far as they reach: this program needs no change to the code of its model,
which comes from transformers as it is. That no program ever will is not shown. So that a run is never judged by another
program than it had, the count in its record must be the count of the program here.
"""

from evaluation.analysis.margins import SESSIONS
from evaluation.analysis.numerals import significant
from evaluation.claims.claim import Figure, Judgement, Undecided, Verdict, printed, verdict_of
from evaluation.records.runs import Json, Run
from evaluation.study.program_lines import IMPORTS, changed_parts, example, state_lines

# The one definition of the example programs that asks for the pause. All else is the user's: model, call and edit.
_DEBUGGING = "run"
_EDITABLE = ("vanilla", "manual_offload", "djinn")
_ENDED = {
    "device_oom": "the device refused",
    "host_full": "the host's memory refused",
    "arena": "the host arena was full",
    "cap": "a stated cap ended the count",
}
_GIB = 2**30


def cell_of(run: Run, kind: str, method: str, variant: str | None = None) -> Json | None:
    """The cell of ``variant``, or of the primary variant; None if it was not measured."""
    cells: list[Json] = run.beside.get(f"{kind}/{method}.json", {"cells": []})["cells"]
    return next((c for c in cells if (c["headline"] if variant is None else c["variant"] == variant)), None)


def sessions(run: Run) -> Judgement:
    """C6: Djinn beside vanilla with shared weights; each refutes alone, and both must be there to support.

    Djinn's plain state decides. How many coded sessions fit stands beside it.
    """
    if run.functional:
        raise Undecided("A functional run says nothing about speed or a GPU's memory.")
    djinn, vanilla = cell_of(run, "capacity", "djinn"), cell_of(run, "capacity", "vanilla")
    figures = {}
    for name, cell in {
        "djinn": djinn,
        "djinn_coded": cell_of(run, "capacity", "djinn", "coded"),
        "vanilla": vanilla,
        "vanilla_own_process": cell_of(run, "capacity", "vanilla", "own_process"),
    }.items():
        if cell is not None:
            at_least = cell["stopped_by"] == "cap"
            figures[f"{name}_sessions"] = Figure(value=cell["sessions"], unit="sessions", at_least=at_least)
            figures[f"{name}_stopped_by"] = Figure(value=cell["stopped_by"], unit="")
    verdicts, remarks = zip(_holds_enough(djinn), _stops_early(vanilla), strict=True)
    return Judgement(
        verdict=verdict_of(
            supported=all(verdict is Verdict.SUPPORTED for verdict in verdicts),
            refuted=Verdict.REFUTED in verdicts,
        ),
        figures=figures,
        lead=", ".join(
            f"{words} {printed(figures[f'{name}_sessions']).removesuffix(' sessions')}"
            for name, words in {"vanilla": "Vanilla", "djinn": "Djinn", "djinn_coded": "coded"}.items()
            if f"{name}_sessions" in figures
        ),
        remark=" ".join(filter(None, remarks)),
    )


def what_ended(cell: Json) -> str:
    """What ended the count of ``cell``, in words; with the arena where there was one, and how many sessions fill it."""
    ended, arena = _ENDED[cell["stopped_by"]], cell.get("arena_bytes")
    used = cell["figures"][-1].get("host_bytes") if cell["figures"] else None
    if not arena or not used or not cell["sessions"]:
        return ended
    room = arena / (used / cell["sessions"])
    holds = f"{ended}; the arena of {significant(arena / _GIB)} GiB holds {significant(room)} sessions of that size"
    bound = cell["stopped_by"] == "cap" and room < cell["sessions"] + 1
    return f"{holds}, and would have ended it there" if bound else holds


def _holds_enough(cell: Json | None) -> tuple[Verdict, str]:
    if cell is None:
        return Verdict.UNDECIDED, "No capacity record of Djinn."
    ended = f"At {cell['sessions']} sessions {what_ended(cell)}."
    if cell["sessions"] >= SESSIONS:
        return Verdict.SUPPORTED, f"Djinn's sessions were all resumed in every bit. {ended}"
    if cell["stopped_by"] == "cap":
        return Verdict.UNDECIDED, f"Djinn was not asked for {SESSIONS} sessions."
    return Verdict.REFUTED, ended


def _stops_early(cell: Json | None) -> tuple[Verdict, str]:
    if cell is None:
        return Verdict.UNDECIDED, "No capacity record of vanilla with shared weights."
    if cell["sessions"] >= SESSIONS:
        return Verdict.REFUTED, "Vanilla holds as many."
    if cell["stopped_by"] != "device_oom":
        return Verdict.UNDECIDED, f"Vanilla was not refused by the device: {_ENDED[cell['stopped_by']]}."
    return Verdict.SUPPORTED, ""


def edits(run: Run) -> Judgement:
    """C7: every variant that was asked."""
    probes, wrong, missing = {}, [], []
    wanted = [*((method, None) for method in _EDITABLE), ("recompute", None), ("recompute", "replay")]
    for method, variant in wanted:
        if cell_of(run, "capabilities", method, variant) is None:
            missing.append(f"{method} {variant}" if variant else method)
    for method in dict.fromkeys(method for method, _ in wanted):
        for cell in run.beside.get(f"capabilities/{method}.json", {"cells": []})["cells"]:
            name = f"{method}_{cell['variant']}"
            found = "exact" if cell["edit_exact"] else "inexact" if cell["edit_survives"] else "lost"
            probes[name] = Figure(value=found, unit="")
            if found != ("lost" if method == "recompute" and cell["variant"] != "replay" else "exact"):
                wrong.append(f"{name} ({found})")
    agree = len(probes) - len(wrong)
    figures = {
        "probes_as_claimed": Figure(value=agree, unit="probes"),
        "probes": Figure(value=len(probes), unit="probes"),
        **probes,
    }
    remarks = [
        f"Not as claimed: {', '.join(wrong)}." if wrong else "",
        f"No capabilities record of {', '.join(missing)}." if missing else "",
    ]
    return Judgement(
        verdict=verdict_of(supported=not wrong and not missing, refuted=bool(wrong)),
        figures=figures,
        lead=f"{agree} of {len(probes)} probes",
        remark=" ".join(filter(None, remarks)),
    )


def lines(run: Run) -> Judgement:
    """C8: Djinn's example program beside vanilla's."""
    paths = {method: example(method) for method in ("vanilla", "djinn")}
    if lacking := [method for method, path in paths.items() if path is None]:
        raise Undecided(f"No example program of {', '.join(lacking)}.")
    vanilla, djinn = (path.read_text(encoding="utf-8") for path in paths.values() if path is not None)
    cells = {method: cell_of(run, "capabilities", method) for method in ("djinn", "manual_offload")}
    if cells["djinn"] is None:
        raise Undecided("No capabilities record of djinn, which counts the lines of its program.")
    counted, here = cells["djinn"]["state_lines"], state_lines(djinn, vanilla)
    if counted is None:
        raise Undecided("The run's capabilities record of djinn counts no lines.")
    if counted != here:
        raise Undecided(f"The run's program had {counted} lines that differ, the one here has {here}.")
    changed = changed_parts(djinn, vanilla)
    outside = [name for name in changed if name not in (_DEBUGGING, IMPORTS)]
    figures = {
        "lines_changed": Figure(value=here, unit="lines"),
        "definitions_changed_outside": Figure(value=len(outside), unit="definitions"),
    }
    if cells["manual_offload"] is not None and cells["manual_offload"]["state_lines"] is not None:
        figures["lines_changed_manual_offload"] = Figure(value=cells["manual_offload"]["state_lines"], unit="lines")
    return Judgement(
        verdict=verdict_of(supported=not outside, refuted=bool(outside)),
        figures=figures,
        lead=f"{here} lines, in {' and '.join(changed) or 'none'}",
        remark=(
            f"Changed outside the function that asks for the pause: {', '.join(outside)}."
            if outside
            else f"What differs is in {' and '.join(changed)}. Decided by the example program alone: it shows that "
            "this program needs no change to its model, not that none will."
        ),
    )
