"""How the deciders read a run: every sample of one clock by layer and process, and the forms that were run in pairs.

What is missing raises :class:`evaluation.claims.claim.Undecided` with the reason.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from evaluation.analysis.metrics import CLOCK
from evaluation.analysis.pairs import Cell as PairedCell
from evaluation.analysis.pairs import Policy, cells
from evaluation.analysis.resampling import Groups, Sittings
from evaluation.analysis.statistics import RESAMPLES
from evaluation.analysis.variants import PRIMARY
from evaluation.claims.claim import Place, Undecided
from evaluation.records.runs import Json, Run

# Samples of one cell of a record, and all of them at a layer: one for each process.
Cells = list[Json]


@dataclass(frozen=True, kw_only=True)
class OverDepth:
    """One clock of one form by layer, in groups by process: group i of every layer is of the one of ``sittings[i]``.

    ``host_bytes``: what it has in host memory while paused.
    """

    series: dict[int, Groups]
    host_bytes: dict[int, int]
    sittings: Sittings

    def per_gigabyte(self) -> "OverDepth":
        """The same in ms per 10^9 bytes that are copied back; raises :class:`Undecided` where there are none."""
        if not all(self.host_bytes.values()):
            raise Undecided("Nothing is in host memory while it is paused, of which there is no time per GB.")
        series: dict[int, Groups] = {
            layer: [[value / (self.host_bytes[layer] / 1e9) for value in group] for group in groups]
            for layer, groups in self.series.items()
        }
        return OverDepth(series=series, host_bytes=self.host_bytes, sittings=self.sittings)


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The raw samples of a run, by layer and process; every interval is of ``resamples`` bootstrap samples."""

    run: Run
    resamples: int = RESAMPLES

    @property
    def depth(self) -> int:
        """Layers of the model."""
        return int(self.run.records[0]["model"]["layers"])

    @property
    def layers(self) -> list[int]:
        """Breakpoints of the study, the deepest last."""
        return sorted(self.run.study["layers"])

    def leading(self, layers: Collection[int]) -> int:
        """The last layer that has a next one if it is among ``layers``, or the last of them."""
        return self.depth - 1 if self.depth - 1 in layers else max(layers)

    def workloads(self, *, prefill: bool = False, kv_cache: bool | None = None) -> list[str]:
        """Names of the study's workloads: those that break in the prefill, or that have a KV cache or have none."""
        return [
            one["name"]
            for one in self.run.study["workloads"]
            if not (prefill and one.get("decode_step")) and kv_cache in (None, one["kv_cache"])
        ]

    @cached_property
    def _pairs(self) -> dict[tuple[str, int], PairedCell]:
        return {(cell.workload, cell.layer): cell for cell in cells(self.run)}

    def paired_cells(self, place: Place) -> dict[int, PairedCell]:
        """The forms that were run in pairs in its workload, by layer; raises :class:`Undecided` if a round lacks."""
        assert place.workload is not None
        asked = self.run.study["pairs"]
        there = {record["round"] for record in self.run.pairs}
        if missing := sorted(set(range(1, asked["rounds"] + 1)) - there):
            raise Undecided(f"No record of the pairs of round {missing[0]}.")
        return {layer: self._pairs[place.workload, layer] for layer in sorted(asked["layers"])}

    def had_room(self, cell: PairedCell) -> None:
        """Raise :class:`Undecided` if the device had no room for ``cell`` in any round."""
        if not cell.forms:
            raise Undecided(f"The device had no room for the pairs of any round at layer {cell.layer}.")

    def in_every_round(self, rounds: Collection[int], layer: int) -> None:
        """Raise :class:`Undecided` unless ``rounds`` are all of the pairs."""
        if len(rounds) < self.run.study["pairs"]["rounds"]:
            raise Undecided(f"The device had no room for the pairs of every round at layer {layer}.")

    def over_depth(self, method: str, place: Place) -> OverDepth:
        """The primary form of ``method`` in the pairs; raises :class:`Undecided` for a gap."""
        assert place.clock is not None
        series: dict[int, Groups] = {}
        host_bytes: dict[int, int] = {}
        sittings: list[str | None] = []
        for layer, cell in self.paired_cells(place).items():
            self.had_room(cell)
            wanted = (method, PRIMARY[method].name, Policy())
            form = next((one for one in cell.forms if (one.method, one.variant, one.policy) == wanted), None)
            times = form.times.get(place.clock, {}) if form is not None else {}
            if form is None or not any(times.values()):
                raise Undecided(f"No form {wanted[1]} of {method} has this clock at layer {layer} of the pairs.")
            self.in_every_round(times, layer)
            rounds = sorted(times)
            series[layer], host_bytes[layer] = [times[number] for number in rounds], form.host_bytes
            sittings = [form.sittings[number] for number in rounds]
        return OverDepth(series=series, host_bytes=host_bytes, sittings=sittings)

    def samples_over_depth(self, method: str, place: Place) -> dict[int, Groups]:
        """The samples of every layer, which have processes of their own; raises as :meth:`samples` does."""
        return {layer: self.samples(method, place, layer) for layer in self.layers}

    def samples(self, method: str, place: Place, layer: int) -> list[list[float]]:
        """Milliseconds by its clock, one list for each process; raises :class:`Undecided` for a gap."""
        assert place.clock is not None
        cells = self.cells(method, place, layer)
        times = [[sample.get(f"{place.clock}_ms") for sample in cell["samples"]] for cell in cells]
        if any(None in process for process in times):
            raise Undecided(f"{method} at layer {layer}, {place.workload}, has no clock {CLOCK[place.clock].words}.")
        return times

    def cells(self, method: str, place: Place, layer: int) -> Cells:
        """The headline cells of all rounds; raises :class:`Undecided` if one was not measured, or had no room."""
        found = []
        for number in range(1, self.run.study["rounds"] + 1):
            where = f"{method}, layer {layer}, round {number}"
            at = (method, layer, number)
            record = next((r for r in self.run.records if (r["method"], r["layer"], r["round"]) == at), None)
            if record is None:
                raise Undecided(f"No record of {where}.")
            cell = next((c for c in record["cells"] if c["workload"] == place.workload and c["headline"]), None)
            if cell is None:
                raise Undecided(f"The record of {where}, lacks the workload {place.workload}.")
            if not cell["samples"]:
                raise Undecided(f"The device had no room for {where}, workload {place.workload}.")
            found.append(cell)
        return found
