"""The record of sessions beyond host memory: every swap-out and resume, and plain transfers of the same disk."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.asked import Asked, block
from evaluation.records.fields import Count, Milliseconds, Positive, Strict, Text
from evaluation.records.load import Alone
from evaluation.records.record import Record


class SwapOut(Strict):
    """One IO_WAIT; ``spilled_bytes`` of other sessions went to the disk in it."""

    swap_out_ms: Milliseconds
    spilled_bytes: Count


class Return(Alone):
    """One resume, of a session of which ``on_disk_bytes`` lay there; ``spilled_bytes`` of others went there for it."""

    on_disk_bytes: Count
    spilled_bytes: Count


class Plain(Strict):
    """A plain write and read of ``nbytes``, by several threads."""

    nbytes: Positive
    write_ms: Milliseconds
    read_ms: Milliseconds


class DiskCell(Strict):
    """So many sessions of at most ``state_bytes`` each; ``on_disk_bytes`` of them lay there when all were paused.

    The plain transfers are of as many bytes as a session.
    """

    sessions: Positive
    stopped_by: Literal["cap", "disk"]
    message: str
    state_bytes: Positive
    on_disk_bytes: Positive
    swap_outs: Annotated[list[SwapOut], Field(min_length=1)]
    resumes: Annotated[list[Return], Field(min_length=1)]
    plain: Annotated[list[Plain], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.swap_outs) != self.sessions:
            raise ValueError("not every session has its swap-out")
        if sorted(one.session for one in self.resumes) != list(range(self.sessions)):
            raise ValueError("not every session was resumed once")
        if sum(one.spilled_bytes for one in self.swap_outs) != self.on_disk_bytes:
            raise ValueError("what was spilled is not what lay on the disk")
        spilled_later = sum(one.spilled_bytes for one in self.resumes)
        if sum(one.on_disk_bytes for one in self.resumes) != self.on_disk_bytes + spilled_later:
            raise ValueError("what came back from the disk is not what went there")
        if any(one.on_disk_bytes > self.state_bytes for one in self.resumes):
            raise ValueError("a session had more on the disk than its state")
        if {one.nbytes for one in self.plain} != {self.state_bytes}:
            raise ValueError("a plain transfer was not of as many bytes as a session")
        if bool(self.message) != (self.stopped_by == "disk"):
            raise ValueError("a refusal has a message, and nothing else has")
        return self


class Disk(Record):
    """More sessions than an arena of ``host_arena_bytes`` holds."""

    needed = ("disk.sessions",)

    kind: Literal["disk"]
    filesystem: Text
    host_arena_bytes: Positive
    cells: Annotated[list[DiskCell], Field(min_length=1, max_length=1)]

    @property
    def place(self) -> str:
        """There is one in a run."""
        return "disk.json"

    def _asked(self, study: Asked) -> None:
        asked = block(study.disk, "disk")
        (cell,) = self.cells
        if cell.stopped_by == "cap" and cell.sessions != asked.sessions:
            raise ValueError(f"{cell.sessions} sessions, of {asked.sessions} that are asked for")
