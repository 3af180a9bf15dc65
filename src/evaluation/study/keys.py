"""The blocks of ``config.yaml`` that a study keeps as they stand there: their keys, defaults and what is allowed."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from evaluation.study.block import Block, block
from evaluation.study.message import Json

SAMPLES = "_samples"  # behind the name of a peer: how many it takes

# Above these a number is a slip of the pen, and could be anything to what computes with it.
Count = Annotated[int, Field(ge=1, le=10**6)]
Samples = Annotated[int, Field(ge=2, le=10**6)]
Tokens = Annotated[int, Field(ge=2, le=10**6)]
Number = Annotated[int | float, Field(ge=0, le=10**6)]


@block
class ModelChoice(Block):
    """Which model, in which precision."""

    name: str = Field(default="auto", description="auto, llama-2-70b, llama-2-13b, llama-2-7b or llama-2-tiny")
    path: str | None = Field(
        default=None, min_length=1, description="a local checkpoint folder of a Llama model, or null for random weights"
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="bfloat16, float16 or float32"
    )
    attention: Literal["sdpa", "eager"] = Field(
        default="sdpa", description="transformers' attn_implementation: sdpa or eager"
    )
    seed: int = Field(default=0, ge=0, le=2**62, description="a whole number from 0; seeds weights and input tokens")


@block
class Workload(Block):
    """What a session computes before the breakpoint: a prefill of ``batch`` x ``tokens``.

    The breakpoint falls into that prefill, or into decode step ``decode_step`` (from 1) after it.
    """

    name: str = Field(description="lower-case letters and digits, beginning with a letter")
    batch: Count = Field(description="sequences, from 1")
    tokens: Tokens = Field(description="tokens of each sequence, from 2")
    kv_cache: bool = Field(description="true or false")
    decode_step: int = Field(
        default=0, ge=0, le=10**6, description="0 (default): in the prefill; or the decode step, from 1"
    )


@block
class Measurement(Block):
    """How often and under which conditions samples are taken."""

    samples: Samples = Field(default=8, description="timed samples per workload, variant and round, from 2")
    other_samples: Samples = Field(
        default=2, description="the same for variants that the paper does not draw, from 2 to samples"
    )
    warmup_samples: int = Field(default=1, ge=0, le=10**6, description="samples run first and thrown away, from 0")
    validation_samples: Count = Field(
        default=1, description="untimed samples that compare the frontier at the moment of ready, from 1"
    )
    think_time_ms: Number = Field(default=200, description="milliseconds between pause and resume, from 0")
    decode_steps: Count = Field(default=1, description="greedy decode steps after a prefill with KV cache, from 1")


@block
class Overhead(Block):
    """How an uninterrupted run under Djinn is compared with the bare model."""

    samples: Annotated[int, Field(ge=2, le=10**6, multiple_of=2)] = Field(
        description="pairs, an even number from 2: either model begins in half of them"
    )
    decode_steps: Count = Field(description="greedy decode steps of either model per pair, from 1")


@block
class Editing(Block):
    """How often a debugger's round trip is timed, method beside method."""

    blocks: Count = Field(
        description="from 1: in each every form runs in a random order and then back, Djinn's at known and new sites"
    )


@block
class Durable(Block):
    """How often a session is saved, and restored in another process."""

    samples: Samples = Field(description="saves of each workload's session, and as many restores, from 2")


@block
class Disk(Block):
    """Sessions that are paused at once, and the page-locked host memory that does not hold all of them."""

    sessions: Count = Field(description="paused sessions, from 1")
    host_arena_gib: Annotated[int | float, Field(gt=0, le=10**6)] = Field(description="GiB of host memory, above 0")


@block
class Load(Block):
    """Resumes of random ones among ``sessions`` that are paused at once."""

    sessions: Count = Field(description="sessions paused at once, from 1")
    resumes: Samples = Field(description="resumes of random ones among them, from 2")


@block
class Capacity(Block):
    """The caps of the memory wall: paused sessions, and vanilla sessions with weights of their own."""

    sessions: Count = Field(description="paused sessions, from 1")
    processes: Count = Field(description="vanilla sessions with weights of their own, from 1")


@block
class Size(Block):
    """Size of a prompt."""

    batch: Count = Field(description="prompts at once, from 1")
    tokens: Tokens = Field(description="tokens of each, from 2")


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """``values``, none of which stands twice."""
    if repeated := next((value for index, value in enumerate(values) if value in values[:index]), None):
        raise PydanticCustomError("repeated", "{value} stands there twice", {"value": repr(repeated)})
    return values


@block
class Sweep(Block):
    """Sizes at which recompute and offload are compared, at which breakpoints, with how many samples."""

    layers: Annotated[tuple[Count, ...], AfterValidator(distinct)] = Field(
        min_length=2, description="at least two breakpoints, from 1"
    )
    samples: Samples = Field(description="per size, layer and variant, from 2")
    sizes: tuple[Size, ...] = Field(min_length=1, description="a list of rows {batch, tokens}")


@block
class Wait(Block):
    """A wait between pause and resume, and how often it is measured."""

    think_time_ms: Number = Field(description="milliseconds between pause and resume, from 0")
    blocks: Count = Field(description="from 1: each runs every form twice, in a random order and back")


@block
class Thinking(Block):
    """Over which waits between pause and resume the clocks are taken, at which breakpoints."""

    layers: tuple[Count, ...]
    waits: tuple[Wait, ...]


@block
class Neighbour(Block):
    """How a session that decodes is disturbed by another one, which is swapped out and in meanwhile."""

    blocks: Count = Field(description="from 1: each has every window twice, in a random order and back")
    tokens: Samples = Field(description="decode steps of the neighbour in a window, from 2")
    swaps: Count = Field(description="swaps in a window in which nobody else computes, from 1")


@block
class PairCounts(Block):
    """How often forms of resumes are compared in one process: ``rounds`` processes, each with ``blocks`` a cell."""

    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(description="processes, each over all layers, from 1")
    blocks: Count = Field(
        description="per workload, layer and round, from 1: in each every form runs in a random order and then back"
    )
    forms: Literal["all", "plain"] = Field(
        default="all", description="all, or plain: those that keep nothing on the device and leave the link idle"
    )


@block
class Pairs(PairCounts):
    """The same on one machine, at these breakpoints."""

    layers: tuple[Count, ...]


@block
class Peers(Block):
    """What a user would pick instead: which of them are run, and how many ``samples`` each takes.

    In JSON, and as an attribute, the count of a peer is ``PEER_samples``.
    """

    run: tuple[str, ...]
    samples: dict[str, int]

    def __getattr__(self, name: str) -> int:
        peer, found = name.removesuffix(SAMPLES), vars(self).get("samples", {})
        if name.endswith(SAMPLES) and peer in found:
            return int(found[peer])
        raise self.absent(name, known=name == "run" or name.endswith(SAMPLES))

    def to_json(self) -> Json:
        """As in ``config.yaml``: a key for each count."""
        found = super().to_json()
        counts = found.pop("samples")
        return {**found, **{f"{peer}{SAMPLES}": count for peer, count in counts.items()}}

    @classmethod
    def from_json(cls, given: Json, about: tuple[str, str] = ("", "")) -> "Peers":
        """The inverse of :meth:`to_json`."""
        counts = {name.removesuffix(SAMPLES): count for name, count in given.items() if name.endswith(SAMPLES)}
        others = {name: value for name, value in given.items() if not name.endswith(SAMPLES)}
        return super().from_json({**others, "samples": counts}, about)
