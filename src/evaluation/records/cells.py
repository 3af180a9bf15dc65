"""The cells of records that hold samples of the clocks: one method, variant and workload each."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.fields import Count, Milliseconds, Strict, Text


def check_usable(ready_ms: float | None, first_kernel_ms: float, usable_ms: float, next_token_ms: float | None) -> None:
    """Raise ValueError unless these are in the order of a resume; one that it does not have is None.

    Of two threads that go on at once either may be the first: the one that is told ``ready``, or the one that computes.
    """
    if max(ready_ms or 0, first_kernel_ms) > usable_ms:
        raise ValueError("the logits cannot be usable before ready, nor before the next layer has computed")
    if next_token_ms is not None and next_token_ms < usable_ms:
        raise ValueError("the next token cannot be there before the logits that it follows from")


class Sample(Strict):
    """One pause and resume with its memory; what a method or a device does not have is null.

    Each time is from its request. ``usable_ms``: the caller has the logits of the last token; with a KV cache
    ``next_token_ms`` follows. ``resident_ms`` may be later than the others.
    """

    pause_ms: Milliseconds
    ready_ms: Milliseconds
    first_kernel_ms: Milliseconds
    usable_ms: Milliseconds
    next_token_ms: Milliseconds | None
    resident_ms: Milliseconds | None
    floor_ms: Milliseconds | None
    device_bytes_paused: Count | None
    host_bytes_paused: Count
    overwritten_bytes: Count
    bit_exact: Literal[True]  # a job that differs from the uninterrupted run fails

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        check_usable(self.ready_ms, self.first_kernel_ms, self.usable_ms, self.next_token_ms)
        if self.resident_ms is not None and self.resident_ms < self.ready_ms:
            raise ValueError("nothing is ready after all state is resident")
        return self


class Cell(Strict):
    """All samples of one variant for one workload, or why there are none; ``headline``: the paper leads with it.

    ``drawn``: the paper shows it beside that one, and it takes as many samples.
    ``reserved_bytes`` of the device are its own whether paused or not, as the pool of a CUDA graph is; they are among
    ``device_bytes_paused``.
    """

    workload: Text
    variant: Text
    headline: bool
    drawn: bool
    outcome: Literal["ok", "out_of_memory", "unsupported"]
    message: str
    frontier_bytes: Count
    state_bytes: Count
    recompute_flops: Annotated[float, Field(ge=0)] | None
    reserved_bytes: Count
    validation_samples: Count
    samples: list[Sample]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.outcome == "ok" and self.state_bytes < self.frontier_bytes:
            raise ValueError("the state holds the frontier, and is said to be smaller")
        if (self.samples and self.outcome == "unsupported") or (self.outcome == "ok" and not self.samples):
            raise ValueError(f"the outcome is {self.outcome}, and there are {len(self.samples)} samples")
        if self.outcome != "ok" and not self.message:
            raise ValueError(f"the outcome is {self.outcome}, and no message says why")
        return self

    def asked(self, samples: int, validated: int) -> None:
        """Raise ValueError unless this has what its study asks for; fewer samples, if the device had no room."""
        where = f"workload {self.workload}, variant {self.variant}"
        if self.outcome != "ok":
            if len(self.samples) >= samples:
                raise ValueError(f"{where}: the outcome is {self.outcome}, and no sample of {samples} is missing")
            return
        if len(self.samples) != samples:
            raise ValueError(f"{where}: {len(self.samples)} samples of the {samples} that the study asks for")
        if self.validation_samples != validated:
            raise ValueError(f"{where}: {self.validation_samples} validation samples, the study asks for {validated}")


def check_unique(keys: Sequence[object], what: str) -> None:
    """Raise ValueError if two cells have one key: they would be pooled without a trace."""
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"two cells of {what} {twice}")
