"""The record of the pairs: the forms of a resume against each other in one process, and the blocks in which they ran.

Djinn's variants and the hand-written offloads stand at every layer. Recompute's forms stand beside them at the last
layer and the one before, where it is compared.

A block runs every form once in a random order, and then once more in the reverse order. So whatever drifts falls on all
forms alike. Says nothing of who was the quicker.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.asked import Asked
from evaluation.records.cells import check_unique, check_usable
from evaluation.records.fields import Count, Milliseconds, Name, Positive, Strict, Text
from evaluation.records.record import Record


class Form(Strict):
    """One variant of a method: what it keeps on the device and what becomes of the link while a session is paused.

    ``state_bytes`` are all that belongs to the session; ``kept_bytes`` of it stay on the device by declared policy.
    With the ``codec`` "auto" state is coded where that makes it smaller: ``host_bytes_paused`` tell how much. It goes
    through ``buffer_bytes`` of the device, which all sessions share, and which are not among those of one.
    ``reserved_bytes`` of the device are the form's own whether paused or not, as the pool of a CUDA graph is; they are
    among ``device_bytes_paused``.
    """

    method: Name
    variant: Name
    keeps: Literal["nothing", "frontier"]
    link: Literal["idle", "attended"]
    codec: Literal["raw", "auto"] = "raw"  # older records do not have it
    state_bytes: Count
    host_bytes_paused: Count
    device_bytes_paused: Count | None
    kept_bytes: Count
    reserved_bytes: Count
    buffer_bytes: Count = 0

    @model_validator(mode="after")
    def _by_policy(self) -> Self:
        if self.method == "recompute" and (self.keeps, self.link, self.kept_bytes) != ("nothing", "idle", 0):
            raise ValueError(f"{self.variant} of recompute keeps nothing of the state, and leaves the link idle")
        if self.device_bytes_paused is not None and self.reserved_bytes > self.device_bytes_paused:
            raise ValueError(f"{self.variant} reserves more of the device than is in use while it is paused")
        if self.host_bytes_paused > self.state_bytes - self.kept_bytes:
            raise ValueError(f"{self.variant} has more bytes in host memory than it moves")
        if self.codec == "raw":
            if self.buffer_bytes:
                raise ValueError(f"{self.variant} has a buffer to code through, and codes nothing")
        elif (self.method, self.keeps, self.link) != ("djinn", "nothing", "idle"):
            raise ValueError(f"{self.variant} of {self.method} is coded, as a Djinn that swaps everything alone can be")
        elif not self.host_bytes_paused or (self.host_bytes_paused < self.state_bytes and not self.buffer_bytes):
            raise ValueError(f"{self.variant} is coded without a trace, or without a buffer to code through")
        if self.keeps == "frontier" and not self.kept_bytes:
            raise ValueError(f"{self.variant} keeps the frontier, and 0 bytes of it")
        return self


class PairSample(Strict):
    """One resume of form number ``form``; no ``ready_ms``: it waits for nothing, and the streams order what follows."""

    form: Count
    pause_ms: Milliseconds
    ready_ms: Milliseconds | None
    first_kernel_ms: Milliseconds
    usable_ms: Milliseconds
    next_token_ms: Milliseconds | None
    resident_ms: Milliseconds
    bit_exact: Literal[True]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        check_usable(self.ready_ms, self.first_kernel_ms, self.usable_ms, self.next_token_ms)
        return self


class Block(Strict):
    """Every form twice; ``floor_ms``: a raw copy of the frontier, timed before the first half and before the second."""

    floor_ms: Annotated[list[Milliseconds], Field(min_length=2, max_length=2)]
    samples: Annotated[list[PairSample], Field(min_length=2)]


class CellOfForms(Strict):
    """All forms at one workload and breakpoint, or why there are none; a subclass says what its blocks are."""

    workload: Text
    layer: Positive
    outcome: Literal["ok", "out_of_memory"]
    message: str
    frontier_bytes: Count
    forms: list[Form]
    blocks: Sequence[Strict]

    @property
    def where(self) -> str:
        """The place, in words."""
        return f"workload {self.workload}, layer {self.layer}"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.outcome != "ok" and (self.forms or self.blocks or not self.message):
            raise ValueError(f"{self.where}: the outcome is {self.outcome}, with samples or without a message")
        check_unique([(form.method, form.variant) for form in self.forms], f"{self.where}: form")
        return self


class PairCell(CellOfForms):
    """Its blocks run each form once, and then back."""

    blocks: list[Block]

    @model_validator(mode="after")
    def _in_mirrored_orders(self) -> Self:
        for number, one in enumerate(self.blocks, start=1):
            order = [sample.form for sample in one.samples]
            half = order[: len(order) // 2]
            if sorted(half) != list(range(len(self.forms))) or order != [*half, *reversed(half)]:
                raise ValueError(f"{self.where}: block {number} does not run each form once and then back")
        return self


class Pairs(Record):
    """One process: every workload and breakpoint, every form."""

    needed = ("workloads", "pairs.blocks", "pairs.layers")

    kind: Literal["pairs"]
    round: Positive
    seed: int  # of the orders
    cells: Annotated[list[PairCell], Field(min_length=1)]

    @property
    def place(self) -> str:
        """By the round."""
        return f"raw/pairs/round_{self.round}.json"

    def _asked(self, study: Asked) -> None:
        wanted = study.pairs
        places = [(cell.workload, cell.layer) for cell in self.cells]
        check_unique(places, "workload and layer")
        if set(places) != {(one.name, layer) for one in study.workloads for layer in wanted.layers}:
            raise ValueError("not every workload is there at every layer that the study asks for, or more are")
        for cell in self.cells:
            where = f"workload {cell.workload}, layer {cell.layer}"
            if cell.layer > self.model.layers:
                raise ValueError(f"{where}: the model has {self.model.layers} layers")
            if cell.layer < self.model.layers - 1 and any(form.method == "recompute" for form in cell.forms):
                raise ValueError(f"{where}: recompute is compared at the last layer and the one before alone")
            if cell.outcome == "ok" and len(cell.blocks) != wanted.blocks:
                raise ValueError(f"{where}: {len(cell.blocks)} blocks of the {wanted.blocks} that are asked for")
            cache = study.workload(cell.workload).kv_cache
            coded = study.coded and wanted.forms == "all" and cache
            if cell.outcome == "ok" and (number := sum(form.codec == "auto" for form in cell.forms)) != coded:
                raise ValueError(f"{where}: {number} forms with coded state in place of {int(coded)}")
            if any((one.next_token_ms is not None) != cache for part in cell.blocks for one in part.samples):
                raise ValueError(f"{where}: a next token {'is missing' if cache else 'needs a KV cache'}")
