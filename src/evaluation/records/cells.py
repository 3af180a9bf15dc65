"""The cells of records that hold samples of the clocks: one method, variant and workload each."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.fields import Count, Milliseconds, Strict, Text

# Of a protocol that paired samples of Djinn within per-layer jobs; evaluation.records.pairs has what came after it.
Partner = Literal["pinned", "pinned_identical", "pinned_ordered"]
Partners = Annotated[dict[Partner, "Paired"], Field(min_length=1)]


class Clocks(Strict):
    """The times of one pause and resume, each from its request; ``resident_ms`` may follow the others.

    Older records have ``result_ms``, the end of the forward pass; newer ones ``usable_ms``, when the caller had the
    logits of the last token, and with a KV cache ``next_token_ms``.
    """

    pause_ms: Milliseconds
    ready_ms: Milliseconds
    first_kernel_ms: Milliseconds
    resident_ms: Milliseconds | None
    result_ms: Milliseconds | None = None
    usable_ms: Milliseconds | None = None
    next_token_ms: Milliseconds | None = None
    bit_exact: Literal[True]  # a job that differs from the uninterrupted run fails

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if (self.result_ms is None) == (self.usable_ms is None):
            raise ValueError("the end is either result_ms or usable_ms")
        if self.result_ms is not None and not self.ready_ms <= self.first_kernel_ms <= self.result_ms:
            raise ValueError("the next layer cannot compute before it is ready, nor the result be there before it")
        check_usable(self.ready_ms, self.first_kernel_ms, self.usable_ms, self.next_token_ms)
        if self.resident_ms is not None and self.resident_ms < self.ready_ms:
            raise ValueError("nothing is ready after all state is resident")
        return self


def check_usable(
    ready_ms: float | None, first_kernel_ms: float, usable_ms: float | None, next_token_ms: float | None
) -> None:
    """Raise ValueError unless these are in the order of a resume; one that was not measured, or has none, is None.

    Of two threads that go on at once either may be the first: the one that is told ``ready``, or the one that computes.
    """
    if usable_ms is not None and max(ready_ms or 0, first_kernel_ms) > usable_ms:
        raise ValueError("the logits cannot be usable before ready, nor before the next layer has computed")
    if next_token_ms is not None and (usable_ms is None or next_token_ms < usable_ms):
        raise ValueError("the next token cannot be there before the logits that it follows from")


class Paired(Clocks):
    """The hand-written offload that was run next to a sample of Djinn; who came first alternates."""

    djinn_first: bool


class Sample(Clocks):
    """One pause and resume with its memory; what a method or a device does not have is null."""

    floor_ms: Milliseconds | None
    device_bytes_paused: Count | None
    host_bytes_paused: Count
    overwritten_bytes: Count
    paired: Partners | None = None


class Cell(Strict):
    """All samples of one variant for one workload, or why there are none; ``headline``: the paper leads with it.

    ``drawn``: the paper shows it beside that one, and it takes as many samples; older records do not say.
    ``reserved_bytes`` of the device are its own whether paused or not, as the pool of a CUDA graph is; they are among
    ``device_bytes_paused``.
    """

    workload: Text
    variant: Text
    headline: bool
    drawn: bool = False
    outcome: Literal["ok", "out_of_memory", "unsupported"]
    message: str
    frontier_bytes: Count
    state_bytes: Count
    recompute_flops: Annotated[float, Field(ge=0)] | None
    reserved_bytes: Count = 0
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
        if len({None if one.paired is None else frozenset(one.paired) for one in self.samples}) > 1:
            raise ValueError("the samples are paired with different partners")
        return self

    @property
    def paired(self) -> bool:
        """Whether each sample has partners."""
        return any(sample.paired for sample in self.samples)

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
