"""The cells of what is measured besides the clocks over depth: overhead, the memory wall, and edits."""

from itertools import zip_longest
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.fields import Count, Milliseconds, Name, Positive, Strict


class Passes(Strict):
    """Milliseconds of each pass, by turns, and whether Djinn computed first in it."""

    djinn_ms: Annotated[list[Milliseconds], Field(min_length=1)]
    bare_ms: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    djinn_first: list[bool]

    @model_validator(mode="after")
    def _by_turns(self) -> Self:
        if len(self.djinn_ms) != len(self.bare_ms):
            raise ValueError("one model has more passes than the other")
        if len(self.djinn_first) != len(self.djinn_ms):
            raise ValueError("not every pass says who computed first")
        return self


class Pair(Strict):
    """The passes of both models."""

    passes: Passes
    bit_exact: Literal[True]


class OverheadCell(Strict):
    """All pairs of one program."""

    name: Literal["prefill", "decode"]
    tokens: Positive
    pairs: Annotated[list[Pair], Field(min_length=1)]

    @model_validator(mode="after")
    def _of_pairs(self) -> Self:
        orders = [pair.passes.djinn_first for pair in self.pairs]
        for first, second in zip_longest(orders[::2], orders[1::2]):
            if second is None or first != [not one for one in second]:
                raise ValueError("two neighbouring pairs are not mirror images: one model had the better places")
        return self


class Figure(Strict):
    """Memory when so many sessions were paused; a process that the system killed says nothing of the device."""

    sessions: Count
    device_bytes: Count | None = None
    host_bytes: Count
    host_available_bytes: Count


class Wall(Strict):
    """Sessions paused one after another; the last of ``figures`` are those of the refusal, if there was one.

    ``message`` is what refused, in words. ``arena_bytes``: the host memory that was set aside for all sessions, None
    where there was none.
    """

    variant: Name
    headline: bool
    sessions: Count
    stopped_by: Literal["cap", "device_oom", "host_full", "arena"]
    message: str
    figures: Annotated[list[Figure], Field(min_length=1)]
    bit_exact: Literal[True]
    arena_bytes: Positive | None = None
    expandable_segments: bool | None = None

    @model_validator(mode="after")
    def _of_figures(self) -> Self:
        refused = [] if self.stopped_by == "cap" else [self.sessions]
        counted = [figure.sessions for figure in self.figures]
        if self.sessions > len(counted) or counted != [*range(1, self.sessions + 1), *refused]:
            raise ValueError(f"{self.sessions} sessions, stopped by {self.stopped_by}, do not follow from the figures")
        if (self.stopped_by == "cap") != (not self.message):
            raise ValueError(f"stopped by {self.stopped_by}, and the message is {self.message!r}")
        if self.stopped_by == "arena" and self.arena_bytes is None:
            raise ValueError("an arena was full, and nothing says how large it was")
        if self.arena_bytes is not None and any(figure.host_bytes > self.arena_bytes for figure in self.figures):
            raise ValueError("the sessions hold more bytes than their arena has")
        return self

    def asked(self, cap: int) -> None:
        """Raise ValueError unless the wall stands at ``cap``, if it is the cap, and else below."""
        if (self.stopped_by == "cap") != (self.sessions == cap) or self.sessions > cap:
            raise ValueError(f"{self.variant}: {self.sessions} sessions, ended by {self.stopped_by}; the cap is {cap}")


class CapabilityCell(Strict):
    """What became of an edit, and the resumes of the edited runs; no lines: nobody has written the program down."""

    variant: Name
    headline: bool
    state_lines: Count | None
    edit_survives: bool
    edit_exact: bool
    resume_ms: Annotated[list[Milliseconds], Field(min_length=1)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.edit_exact and not self.edit_survives:
            raise ValueError("an edit that is lost cannot be exact")
        return self
