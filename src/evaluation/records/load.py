"""The record of resumes among paused sessions: every one of Djinn's, and the one by hand beside it."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.asked import Asked, block
from evaluation.records.fields import Count, Milliseconds, Name, Positive, Strict
from evaluation.records.record import Record


class Alone(Strict):
    """One resume among paused sessions, of the session of that number."""

    session: Count
    ready_ms: Milliseconds
    resident_ms: Milliseconds
    bit_exact: Literal[True]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.resident_ms < self.ready_ms:
            raise ValueError("nothing is ready after all state is resident")
        return self


class Resume(Alone):
    """One of Djinn's, and the one by hand in the same turn, which older records do not have."""

    djinn_first: bool | None = None
    by_hand: Alone | None = None


class Control(Strict):
    """The hand-written sessions that are paused beside Djinn's, and what they hold in host memory."""

    variant: Name
    sessions: Positive
    host_bytes: Positive


class LoadCell(Strict):
    """So many paused sessions, and every resume."""

    sessions: Positive
    paused: Count
    opened: Count
    outcome: Literal["ok", "host_full"]
    message: str
    open_seconds: Annotated[float, Field(ge=0)]
    device_bytes_paused: Count | None
    host_bytes_paused: Count
    samples: list[Resume]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.outcome == "ok") != (self.paused == self.sessions) or self.paused > self.sessions:
            raise ValueError(f"the outcome is {self.outcome}, and {self.paused} of {self.sessions} are paused")
        if self.opened > self.paused:
            raise ValueError("more sessions were opened than are paused")
        if any(one.session >= self.paused for one in self.samples):
            raise ValueError("a session was resumed that is not paused")
        order = [one.djinn_first for one in self.samples]
        if len({(one.djinn_first is None, one.by_hand is None) for one in self.samples}) > 1:
            raise ValueError("not every resume has one by hand beside it, or does not say who was first")
        if any(first is not None and first == then for first, then in pairwise(order)):
            raise ValueError("who comes first does not alternate")
        return self


class Load(Record):
    """Resumes of random sessions among many, and copies by hand beside them, which older records do not have."""

    needed = ("load",)
    kind: Literal["load"]
    host_arena_bytes: Positive
    by_hand: Control | None = None
    cells: list[LoadCell]

    @property
    def place(self) -> str:
        """Beside what is measured over depth."""
        return "load.json"

    @model_validator(mode="after")
    def _beside(self) -> Self:
        for cell in self.cells:
            found = [one.by_hand for one in cell.samples]
            if any((one is None) != (self.by_hand is None) for one in found):
                raise ValueError(f"{cell.sessions} sessions: a resume by hand is missing, or their description")
            most = 0 if self.by_hand is None else min(self.by_hand.sessions, cell.paused)
            if any(one is not None and one.session >= most for one in found):
                raise ValueError(f"{cell.sessions} sessions: a session was resumed by hand of more than {most}")
        return self

    def _asked(self, study: Asked) -> None:
        wanted = {row.sessions: row.resumes for row in block(study.load, "load")}
        if self.cells and sorted(cell.sessions for cell in self.cells) != sorted(wanted):
            raise ValueError(f"the study asks for the sessions {', '.join(map(str, sorted(wanted)))}")
        for cell in self.cells:
            resumes = wanted[cell.sessions] if cell.paused else 0
            if len(cell.samples) != resumes:
                raise ValueError(f"{cell.sessions} sessions: {len(cell.samples)} samples of {resumes}")
            if cell.host_bytes_paused > self.host_arena_bytes:
                raise ValueError(f"{cell.sessions} sessions: more bytes are paused than the arena has")
