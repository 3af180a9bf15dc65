"""What a run's ``study.json`` asks for, as far as the check of its records needs it.

Keys that no check reads are not looked at; whole blocks may be missing. Then the records that these blocks ask for are
refused, for nothing says how much of them there must be.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluation.records.fields import Count, Milliseconds, Name, Positive, Text
from evaluation.records.json_file import Json

Block = TypeVar("Block")


class _Block(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class Model(_Block):
    """Which model, in which precision."""

    name: str
    dtype: str
    attention: str


class Workload(_Block):
    """What a session computes."""

    name: Text
    tokens: Positive
    kv_cache: bool


class Measurement(_Block):
    """How many samples a primary variant takes, how many the others, and how many are validated."""

    samples: Positive
    other_samples: Positive
    validation_samples: Count


class Overhead(_Block):
    """Pairs of each program, and decode steps of each pair."""

    samples: Positive
    decode_steps: Positive


class Editing(_Block):
    """Blocks of a debugger's round trips."""

    blocks: Positive


class Durable(_Block):
    """Saves, and as many restores."""

    samples: Positive


class Disk(_Block):
    """Sessions, and host memory that does not hold all of them."""

    sessions: Positive
    host_arena_gib: Annotated[float, Field(gt=0)]


class Pairs(_Block):
    """Processes that compare forms of resumes, the blocks of each cell, and the breakpoints."""

    rounds: Annotated[int, Field(ge=1, le=1000)]
    blocks: Positive
    forms: Literal["all", "plain"] = "all"
    layers: Annotated[list[Positive], Field(min_length=1)]


class Load(_Block):
    """Resumes of random ones among so many sessions."""

    sessions: Positive
    resumes: Positive


class Capacity(_Block):
    """The caps of the memory wall."""

    sessions: Positive
    processes: Positive


class Size(_Block):
    """Of a prompt."""

    batch: Positive
    tokens: Positive


class Sweep(_Block):
    """Sizes of the prompt, breakpoints, and samples of each."""

    layers: list[Positive]
    samples: Positive
    sizes: list[Size]


class Wait(_Block):
    """Between pause and resume, and the blocks in which it is measured."""

    think_time_ms: Milliseconds
    blocks: Positive


class Thinking(_Block):
    """Breakpoints and waits."""

    layers: Annotated[list[Positive], Field(min_length=1)]
    waits: Annotated[list[Wait], Field(min_length=1)]


class Neighbour(_Block):
    """Blocks of windows, the neighbour's tokens in each, and the swaps where nobody else computes."""

    blocks: Positive
    tokens: Positive
    swaps: Positive


class Peers(BaseModel):
    """Which peers are run; other keys are their numbers of samples."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    run: list[Name]

    def samples(self, peer: str) -> int:
        """How many samples ``peer`` takes; raises ValueError where the study does not say."""
        count = (self.model_extra or {}).get(f"{peer}_samples")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"study.json does not say how many samples {peer} takes")
        return count


class Asked(_Block):
    """The whole study."""

    device: Literal["cuda", "cpu"]
    model: Model
    methods: list[Name]
    experiments: list[Name]
    latency_methods: list[Name]
    layers: list[Positive]
    rounds: Annotated[int, Field(ge=1, le=1000)]
    workloads: Annotated[list[Workload], Field(min_length=1)]
    measurement: Measurement
    coded: bool = False  # older studies do not have it
    pairs: Pairs
    overhead: Overhead | None = None
    editing: Editing | None = None
    durable: Durable | None = None
    disk: Disk | None = None
    load: list[Load] | None = None
    capacity: Capacity | None = None
    sweep: Sweep | None = None
    thinking: Thinking | None = None
    neighbour: Neighbour | None = None
    peers: Peers | None = None

    @model_validator(mode="after")
    def _each_once(self) -> "Asked":
        for key, values in (("methods", self.methods), ("layers", self.layers)):
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: one stands twice")
        return self

    @property
    def paused(self) -> Workload:
        """The workload that is paused where only one is: the first with a KV cache, or the first of all."""
        return next((one for one in self.workloads if one.kv_cache), self.workloads[0])

    @property
    def with_and_without_cache(self) -> list[Workload]:
        """The first workload without a KV cache and the first with one, as far as there are such."""
        first = {one.kv_cache: one for one in reversed(self.workloads)}
        return [first[kv_cache] for kv_cache in (False, True) if kv_cache in first]

    def workload(self, name: str) -> Workload:
        """The one of that name; raises ValueError if there is none."""
        for one in self.workloads:
            if one.name == name:
                return one
        raise ValueError(f"the study has no workload {name}")


def block(value: Block | None, key: str) -> Block:
    """``value``, which a record of its kind needs; raises ValueError if the study lacks it."""
    if value is None:
        raise ValueError(f"study.json has no {key}, and nothing says how much this record must hold")
    return value


def difference(part: Json, whole: Json) -> str | None:
    """The first key at which ``part``, what a job was told of a study, is not what ``whole`` says; None if nowhere.

    A job is told what it reads, so keys may be absent. The number of rounds may have grown since.
    """
    return _difference({key: value for key, value in part.items() if key != "rounds"}, whole)


def _difference(part: Any, whole: Any) -> str | None:
    if not isinstance(part, dict) or not isinstance(whole, dict):
        return None if part == whole else ""
    for key, value in part.items():
        inner = _difference(value, whole[key]) if key in whole else ""
        if inner is not None:
            return f"{key}.{inner}".rstrip(".")
    return None


def lacking(part: Json, needed: tuple[str, ...]) -> str | None:
    """The first of the dotted keys ``needed`` that ``part`` does not have; None if it has all."""
    for path in needed:
        inner: Any = part
        for key in path.split("."):
            if not isinstance(inner, dict) or key not in inner:
                return path
            inner = inner[key]
    return None
