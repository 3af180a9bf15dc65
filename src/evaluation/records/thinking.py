"""The record of the waits: forms of a resume after each wait between pause and resume, and the blocks of their runs.

A block runs every form after every wait of it in a random order, and then all in the reverse order. The shorter waits
stand in more blocks than the longer. Says nothing of what a wait costs.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from evaluation.records.asked import Asked, block
from evaluation.records.cells import check_unique
from evaluation.records.fields import Milliseconds, Strict
from evaluation.records.pairs import CellOfForms, PairSample
from evaluation.records.record import Record


class WaitSample(PairSample):
    """One resume after a wait."""

    think_time_ms: Milliseconds


class WaitFloor(Strict):
    """A raw copy of the frontier after the same wait."""

    think_time_ms: Milliseconds
    floor_ms: Milliseconds


class WaitBlock(Strict):
    """Every form after every wait twice, and every wait's floor before either half."""

    floors: Annotated[list[WaitFloor], Field(min_length=2)]
    samples: Annotated[list[WaitSample], Field(min_length=2)]

    def check_order(self, forms: int, waits: Sequence[float]) -> None:
        """Raise ValueError unless this has each of so many ``forms`` after each of the ``waits``, there and back."""
        runs = [(one.form, one.think_time_ms) for one in self.samples]
        floors = [one.think_time_ms for one in self.floors]
        halves = runs[: len(runs) // 2], floors[: len(floors) // 2]
        if runs != [*halves[0], *reversed(halves[0])] or floors != [*halves[1], *reversed(halves[1])]:
            raise ValueError("its second half is not the first in the reverse order")
        if sorted(halves[0]) != [(form, wait) for form in range(forms) for wait in sorted(waits)]:
            raise ValueError("not every form is there after every wait that the study asks for, or more are")
        if sorted(halves[1]) != sorted(waits):
            raise ValueError("not every wait has its floor")


class WaitCell(CellOfForms):
    """Its blocks run each form after every wait."""

    blocks: list[WaitBlock]


class Thinking(Record):
    """The clocks over the wait between pause and resume."""

    needed = ("workloads", "thinking")
    kind: Literal["thinking"]
    seed: int  # of the orders
    cells: Annotated[list[WaitCell], Field(min_length=1)]

    @property
    def place(self) -> str:
        """Once per run."""
        return "thinking.json"

    def _asked(self, study: Asked) -> None:
        wanted = block(study.thinking, "thinking")
        places = [(cell.workload, cell.layer) for cell in self.cells]
        check_unique(places, "workload and layer")
        if set(places) != {(one.name, layer) for one in study.with_and_without_cache for layer in wanted.layers}:
            raise ValueError("not every workload is there at every layer that the study asks for, or more are")
        for cell in self.cells:
            where = f"workload {cell.workload}, layer {cell.layer}"
            if cell.layer > self.model.layers:
                raise ValueError(f"{where}: the model has {self.model.layers} layers")
            if cell.outcome != "ok":
                continue
            blocks = max(wait.blocks for wait in wanted.waits)
            if len(cell.blocks) != blocks:
                raise ValueError(f"{where}: {len(cell.blocks)} blocks of the {blocks} that are asked for")
            cache = study.workload(cell.workload).kv_cache
            for number, one in enumerate(cell.blocks):
                waits = [wait.think_time_ms for wait in wanted.waits if wait.blocks > number]
                try:
                    one.check_order(len(cell.forms), waits)
                except ValueError as error:
                    raise ValueError(f"{where}: block {number + 1}: {error}") from error
                if any((sample.next_token_ms is not None) != cache for sample in one.samples):
                    raise ValueError(f"{where}: a next token {'is missing' if cache else 'needs a KV cache'}")
