"""How the deciders read a run: every sample of one clock by layer and process, and the forms that were run in pairs.

What is missing raises :class:`evaluation.claims.claim.Undecided` with the reason.
"""

from dataclasses import dataclass
from functools import cached_property

from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.pairs import Cell as PairedCell
from evaluation.analysis.pairs import cells, has_pairs
from evaluation.analysis.statistics import RESAMPLES
from evaluation.claims.claim import Undecided
from evaluation.records.runs import Json, Run

# Samples of one cell of a record, and all of them at a layer: one for each process.
Cells = list[Json]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The raw samples of a run, by layer and process; every interval is of ``resamples`` bootstrap samples."""

    run: Run
    resamples: int = RESAMPLES

    @property
    def old_protocol(self) -> bool:
        """Whether the study has no pairs: then what they would decide is decided by Djinn's partners."""
        return not has_pairs(self.run)

    @cached_property
    def _pairs(self) -> dict[tuple[str, int], PairedCell]:
        return {(cell.workload, cell.layer): cell for cell in cells(self.run)}

    def pair_cell(self, workload: str, layer: int) -> PairedCell | None:
        """The forms that were run in pairs there; None if none were."""
        return self._pairs.get((workload, layer))

    def has_clock(self, clock: str) -> bool:
        """Whether any sample was taken by it."""
        taken = (sample for record in self.run.records for cell in record["cells"] for sample in cell["samples"])
        return any(sample.get(f"{clock}_ms") is not None for sample in taken)

    @property
    def layers(self) -> list[int]:
        """Breakpoints of the study, the deepest last."""
        return sorted(self.run.study["layers"])

    def workloads(self, *, prefill: bool = False, kv_cache: bool | None = None) -> list[str]:
        """Names of the study's workloads: those that break in the prefill, or that have a KV cache or have none."""
        return [
            one["name"]
            for one in self.run.study["workloads"]
            if not (prefill and one.get("decode_step")) and kv_cache in (None, one["kv_cache"])
        ]

    def cells(self, method: str, workload: str, layer: int) -> Cells:
        """The headline cells of all rounds; raises :class:`Undecided` if one was not measured, or had no room."""
        found = []
        for number in range(1, self.run.study["rounds"] + 1):
            where = f"{method}, layer {layer}, round {number}"
            place = (method, layer, number)
            record = next((r for r in self.run.records if (r["method"], r["layer"], r["round"]) == place), None)
            if record is None:
                raise Undecided(f"No record of {where}.")
            cell = next((c for c in record["cells"] if c["workload"] == workload and c["headline"]), None)
            if cell is None:
                raise Undecided(f"The record of {where}, lacks the workload {workload}.")
            if not cell["samples"]:
                raise Undecided(f"The device had no room for {where}, workload {workload}.")
            found.append(cell)
        return found

    def samples(self, method: str, workload: str, clock: str, layer: int) -> list[list[float]]:
        """Milliseconds of ``clock``, one list for each process; raises as :meth:`cells` does, or without the clock."""
        cells = self.cells(method, workload, layer)
        times = [[sample.get(f"{clock}_ms") for sample in cell["samples"]] for cell in cells]
        if any(None in process for process in times):
            raise Undecided(f"{method} at layer {layer}, {workload}, has no clock {CLOCK[clock].words}.")
        return times

    def series(self, method: str, workload: str, clock: str) -> dict[int, list[list[float]]]:
        """The samples of every layer; raises as :meth:`cells` does."""
        return {layer: self.samples(method, workload, clock, layer) for layer in self.layers}

    def other_variants(self, method: str, workload: str, clock: str, layer: int) -> dict[str, list[list[float]]]:
        """The same of the variants that the paper does not lead with, by name; none that lacks the clock."""
        found: dict[str, list[list[float]]] = {}
        for record in self.run.records:
            if (record["method"], record["layer"]) != (method, layer):
                continue
            for cell in record["cells"]:
                times = [sample.get(f"{clock}_ms") for sample in cell["samples"]]
                if cell["workload"] == workload and not cell["headline"] and times and None not in times:
                    found.setdefault(cell["variant"], []).append(times)
        return found
