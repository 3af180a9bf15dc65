"""The record of a debugger's round trip: forms beside each other in one process, and the blocks in which they ran.

A block runs every form once in a random order, and then once more in the reverse order. Then each runs once beside a
thread that wants to run, and is not timed. Says nothing of who was the quicker.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.asked import Asked, block
from evaluation.records.cells import check_unique
from evaluation.records.fields import Count, Milliseconds, Name, Positive, Strict, Text
from evaluation.records.record import Record


class EditingForm(Strict):
    """One variant of a method; ``site``: whether its sessions were paused before at the same instructions."""

    method: Name
    variant: Name
    keeps: Literal["nothing", "frontier"]
    site: Literal["known", "first"]

    @model_validator(mode="after")
    def _of_djinn(self) -> Self:
        if self.site == "first" and self.method != "djinn":
            raise ValueError(f"{self.method} {self.variant}: only Djinn looks for its state, and has a first site")
        return self


class RoundTrip(Strict):
    """One session of form number ``form``: stopped, paused, edited and resumed."""

    form: Count
    stop_ms: Milliseconds
    pause_ms: Milliseconds
    edit_ms: Milliseconds
    ready_ms: Milliseconds
    usable_ms: Milliseconds
    bit_exact: Literal[True]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.usable_ms < self.ready_ms:
            raise ValueError("the logits cannot be usable before the next layer can compute")
        return self


class Watched(Strict):
    """The longest time in which another thread could not run while form number ``form`` was paused."""

    form: Count
    longest_ms: Milliseconds


class EditingBlock(Strict):
    """Every form twice, and once more beside a thread."""

    samples: Annotated[list[RoundTrip], Field(min_length=2)]
    watched: Annotated[list[Watched], Field(min_length=1)]


class EditingCell(Strict):
    """Every form at one workload and breakpoint."""

    workload: Text
    layer: Positive
    forms: Annotated[list[EditingForm], Field(min_length=1)]
    blocks: Annotated[list[EditingBlock], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_unique([(form.method, form.variant, form.site) for form in self.forms], "form")
        every = list(range(len(self.forms)))
        for number, one in enumerate(self.blocks, start=1):
            order = [sample.form for sample in one.samples]
            half = order[: len(order) // 2]
            if sorted(half) != every or order != [*half, *reversed(half)]:
                raise ValueError(f"block {number} does not run each form once and then back")
            if sorted(watched.form for watched in one.watched) != every:
                raise ValueError(f"block {number} does not run each form once beside a thread")
        return self


class Editing(Record):
    """One process: every form in the middle of the model."""

    needed = ("workloads", "editing.blocks")

    kind: Literal["editing"]
    seed: int  # of the orders
    heap_objects: Positive  # that Python's garbage collector knows
    cells: Annotated[list[EditingCell], Field(min_length=1, max_length=1)]

    @property
    def place(self) -> str:
        """There is one in a run."""
        return "editing.json"

    def _asked(self, study: Asked) -> None:
        wanted = block(study.editing, "editing")
        for cell in self.cells:
            if cell.workload != study.paused.name or cell.layer != max(1, self.model.layers // 2):
                raise ValueError(f"workload {cell.workload} after layer {cell.layer}: not what is edited in this study")
            if len(cell.blocks) != wanted.blocks:
                raise ValueError(f"{len(cell.blocks)} blocks of the {wanted.blocks} that are asked for")
