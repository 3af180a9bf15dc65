"""The record of sessions that outlive their process: how each workload's was saved and restored, and what survived.

One process paused and saved all of them and was killed. Another one went on with what it found on disk.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.asked import Asked, block
from evaluation.records.cells import check_unique
from evaluation.records.fields import Count, Milliseconds, Name, Positive, Strict, Text
from evaluation.records.record import Record


class Save(Strict):
    """One save, and a plain write of as many bytes."""

    save_ms: Milliseconds
    floor_ms: Milliseconds


class Restore(Strict):
    """One restore in another process, a plain read of the file, and a run of the program from its start."""

    restore_ms: Milliseconds
    floor_ms: Milliseconds
    ready_ms: Milliseconds
    usable_ms: Milliseconds
    rerun_ms: Milliseconds
    rerun_usable_ms: Milliseconds
    bit_exact: Literal[True]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.usable_ms < self.ready_ms:
            raise ValueError("the logits cannot be usable before the next layer can compute")
        return self


class DurableCell(Strict):
    """The session of one workload. ``recorded_bytes`` are what its model had returned.

    ``start_ms``: until it was parked, recorded on the way.
    """

    workload: Text
    file_bytes: Positive
    state_bytes: Positive
    recorded_bytes: Count
    start_ms: Milliseconds
    saves: Annotated[list[Save], Field(min_length=1)]
    restores: Annotated[list[Restore], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.file_bytes < self.recorded_bytes:
            raise ValueError("the file has fewer bytes than what it must hold")
        return self


class Kill(Strict):
    """What of an edited session of one variant went on: with its edit, without it, or nothing."""

    method: Name
    variant: Name
    headline: bool
    saved_bytes: Count
    survives: Literal["edit", "session", "nothing"]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.survives == "edit" and not self.saved_bytes:
            raise ValueError(f"{self.method} {self.variant}: an edit of which nothing was on disk cannot survive")
        return self


class PeerKill(Strict):
    """What went on of an edited session under a peer, which was asked for it; None: the peer cannot run there.

    ``message`` is how it refused, or why it cannot run.
    """

    peer: Name
    survives: Literal["nothing"] | None
    message: Text


class Durable(Record):
    """Two processes: of the first nothing is left but files, for ``ended_by_signal`` 9 ended it."""

    needed = ("workloads", "methods", "durable.samples")

    kind: Literal["durable"]
    ended_by_signal: Literal[9]
    filesystem: Text
    layer: Positive
    first_start_ms: Milliseconds
    first_restore_ms: Milliseconds
    cells: Annotated[list[DurableCell], Field(min_length=1)]
    edited: Text
    kills: Annotated[list[Kill], Field(min_length=1)]
    peers: list[PeerKill]

    @property
    def place(self) -> str:
        """There is one in a run."""
        return "durable.json"

    def _asked(self, study: Asked) -> None:
        check_unique([(kill.method, kill.variant) for kill in self.kills], "method and variant")
        if self.layer != max(1, self.model.layers // 2) or self.edited != study.paused.name:
            raise ValueError(f"workload {self.edited} after layer {self.layer}: not what is edited in this study")
        if [cell.workload for cell in self.cells] != [one.name for one in study.workloads]:
            raise ValueError("not every workload has its cell")
        if missing := [name for name in study.methods if name not in {kill.method for kill in self.kills}]:
            raise ValueError(f"nobody asked what survives of {missing[0]}")
        if [one.peer for one in self.peers] != block(study.peers, "peers").run:
            raise ValueError("not every peer was asked what survives")
        samples = block(study.durable, "durable").samples
        for cell in self.cells:
            if {len(cell.saves), len(cell.restores)} != {samples}:
                raise ValueError(f"{cell.workload}: not the {samples} saves and restores that are asked for")
