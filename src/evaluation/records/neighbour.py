"""The record of the neighbour: windows in which a session decodes, and what another one does meanwhile.

A block has each kind of window twice: in a random order, and then in the reverse one.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.asked import Asked, block
from evaluation.records.cells import check_unique
from evaluation.records.fields import Count, Milliseconds, Name, Positive, Strict, Text
from evaluation.records.record import Record

WINDOWS = ("undisturbed", "steps", "swaps", "alone")


class Swap(Strict):
    """One swap-out and resume of the other session; ``ended_ms``: when it was ready, after the window's beginning."""

    pause_ms: Milliseconds
    ready_ms: Milliseconds
    ended_ms: Milliseconds


class Window(Strict):
    """``token_ms``: of each of the neighbour's tokens; ``steps``: decode steps to which the other session came.

    ``step_ends_ms``: when each of them had come to its stop, after the window's beginning. The
    last of them, and its swap, may end after the neighbour's last token: later than the sum of ``token_ms``.
    """

    window: Literal["undisturbed", "steps", "swaps", "alone"]
    token_ms: list[Annotated[float, Field(gt=0)]]
    steps: Count
    step_ends_ms: list[Milliseconds]
    resumes: list[Swap]
    bit_exact: Literal[True]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.window == "alone") == bool(self.token_ms):
            raise ValueError(f"{self.window}: {len(self.token_ms)} tokens of the neighbour")
        swapped = self.steps if self.window in ("swaps", "alone") else 0
        if (self.window == "undisturbed") == bool(self.steps) or len(self.resumes) != swapped:
            raise ValueError(f"{self.window}: {self.steps} steps and {len(self.resumes)} swaps of the other session")
        if len(self.step_ends_ms) != self.steps:
            raise ValueError(f"{self.window}: {self.steps} steps and {len(self.step_ends_ms)} ends of steps")
        return self


class Shared(Strict):
    """All windows of one way to share the device."""

    method: Name
    variant: Name
    state_bytes: Positive
    blocks: list[Annotated[list[Window], Field(min_length=1)]]

    @model_validator(mode="after")
    def _there_and_back(self) -> Self:
        for number, windows in enumerate(self.blocks, start=1):
            order = [one.window for one in windows]
            half = order[: len(order) // 2]
            if sorted(half) != sorted(WINDOWS) or order != [*half, *reversed(half)]:
                raise ValueError(f"{self.method}: block {number} has not each window once and then back")
        return self


class Neighbour(Record):
    """What a swap costs another session that computes."""

    needed = ("workloads", "neighbour")
    kind: Literal["neighbour"]
    seed: int  # of the orders
    workload: Text
    layer: Positive
    cells: Annotated[list[Shared], Field(min_length=1)]

    @property
    def place(self) -> str:
        """Once per run."""
        return "neighbour.json"

    def _asked(self, study: Asked) -> None:
        wanted = block(study.neighbour, "neighbour")
        check_unique([cell.method for cell in self.cells], "method")
        if self.workload != study.paused.name or self.layer != max(1, self.model.layers // 2):
            raise ValueError(f"workload {self.workload} after layer {self.layer}: not what is swapped in this study")
        for cell in self.cells:
            if len(cell.blocks) != wanted.blocks:
                raise ValueError(f"{cell.method}: {len(cell.blocks)} blocks of the {wanted.blocks} that are asked for")
            for one in (window for windows in cell.blocks for window in windows):
                if one.token_ms and len(one.token_ms) != wanted.tokens:
                    raise ValueError(f"{cell.method}, {one.window}: {len(one.token_ms)} tokens of {wanted.tokens}")
                if one.window == "alone" and one.steps != wanted.swaps:
                    raise ValueError(f"{cell.method}, alone: {one.steps} swaps of {wanted.swaps}")
