"""The definition of ``config.yaml``: its keys, their defaults and what is allowed, and the messages for what is not.

Everything that is wrong is said before anything runs, in one message that names the key.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from evaluation.study.block import Block, ConfigError, block
from evaluation.study.keys import (
    SAMPLES,
    Capacity,
    Count,
    Disk,
    Durable,
    Editing,
    Load,
    Measurement,
    ModelChoice,
    Neighbour,
    Number,
    Overhead,
    PairCounts,
    Samples,
    Size,
    Sweep,
    Tokens,
    Wait,
    Workload,
    distinct,
)
from evaluation.study.message import below, explain
from evaluation.study.plan import READS

_EVALUATION = Path(__file__).parents[1]
_DEPTH, _SIZE = 20, 10_000  # of a configuration: how deep lists and maps may nest, and how many values they hold


def methods() -> list[str]:
    """The methods that there are: modules ``methods/benchmark_METHOD.py``."""
    return sorted(path.stem.removeprefix("benchmark_") for path in (_EVALUATION / "methods").glob("benchmark_*.py"))


def peers() -> list[str]:
    """The peers that there are: modules ``peers/PEER.py``."""
    return sorted(path.stem for path in (_EVALUATION / "peers").glob("*.py") if not path.stem.startswith("_"))


def experiments() -> list[str]:
    """What can be measured besides latency over depth: the kinds of job that there are, all peers as one."""
    return [*(kind for kind in READS if kind not in ("measure", *peers())), "peers"]


def _known(kind: str, names: tuple[str, ...], known: list[str]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in known]:
        about = {"name": repr(unknown[0]), "kind": kind, "known": ", ".join(known)}
        raise PydanticCustomError("unknown", "{name} is not {kind}. Allowed: {known}", about)
    return distinct(names)


def _different(rows: tuple[Wait, ...]) -> tuple[Wait, ...]:
    distinct(tuple(row.think_time_ms for row in rows))
    return rows


_Names = tuple[str, ...]
_Methods = Annotated[_Names, AfterValidator(lambda names: _known("a method", names, methods()))]
_Peers = Annotated[_Names, AfterValidator(lambda names: _known("a peer", names, peers()))]
_Experiments = Annotated[
    _Names, AfterValidator(lambda names: _known("an experiment besides latency over depth", names, experiments()))
]
_Layers = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(distinct)]


@block
class Model(ModelChoice):
    """Which model is measured: one of these names."""

    name: Literal["auto", "llama-2-70b", "llama-2-13b", "llama-2-7b", "llama-2-tiny"] = Field(
        default="auto", description="auto, llama-2-70b, llama-2-13b, llama-2-7b or llama-2-tiny"
    )


@block
class Row(Workload):
    """A workload, whose name is used in the names of files and macros."""

    name: str = Field(pattern="^[a-z][a-z0-9]*$", description="lower-case letters and digits, beginning with a letter")


@block
class Djinn(Block):
    """The runtime's settings."""

    host_arena_gib: Number = Field(default=2, gt=0, description="GiB of host memory that Djinn reserves, above 0")
    load_host_arena_gib: Number = Field(
        default=105,
        gt=0,
        description="the same for the sessions of load and capacity, above 0",
    )
    coded: bool = Field(default=True, description="true or false: whether pairs and capacity have coded state, too")


class PeerCounts(BaseModel):
    """How many samples each peer takes: a key ``PEER_samples`` for each that there is."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[int, Field(ge=2, le=10**6, description="samples, from 2")]] = Field(
        init=False
    )
    defaults: ClassVar[Mapping[str, int]] = {}
    otherwise: ClassVar[int] = 2

    @property
    def samples(self) -> dict[str, int]:
        """The counts by peer."""
        return {key.removesuffix(SAMPLES): count for key, count in self.__pydantic_extra__.items()}

    @model_validator(mode="after")
    def _one_of_each_peer(self) -> Self:
        counts = self.__pydantic_extra__
        known = [f"{peer}{SAMPLES}" for peer in peers()]
        if unknown := [key for key in counts if key not in known]:
            known += type(self).model_fields
            raise PydanticCustomError("unknown_key", "{key}", {"key": unknown[0], "known": known})
        for key in known:
            counts.setdefault(key, self.defaults.get(key.removesuffix(SAMPLES), self.otherwise))
        return self


class PeerKeys(PeerCounts):
    """What a user would pick instead: which peers are run, and their counts."""

    defaults: ClassVar[Mapping[str, int]] = {"memory_saver": 10}  # a process that goes as a whole takes 15 s
    otherwise: ClassVar[int] = 6
    run: _Peers = Field(
        default_factory=lambda: tuple(peers()),
        description="a list without repetition of peers, each a module src/evaluation/peers/PEER.py; empty for none",
    )


@block
class PairKeys(PairCounts):
    """The comparison of forms of resumes in one process."""

    layers: Literal["auto"] | _Layers = Field(
        default="auto",
        description="auto (the study's and the model's last two, in a functional run only these), or a list "
        "without repetition of layers from 1",
    )


@block
class ThinkingKeys(Block):
    """The clocks over the wait between pause and resume."""

    layers: Literal["auto"] | _Layers = Field(
        default="auto", description="auto (the middle of the depth), or a list without repetition of layers from 1"
    )
    waits: Annotated[tuple[Wait, ...], AfterValidator(_different)] = Field(
        min_length=1, description="a list of rows {think_time_ms, blocks}"
    )


@block
class Functional(Block):
    """What replaces the rest on a machine without a GPU: everything works, whatever the speed."""

    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="as rounds")
    tokens: Tokens = Field(default=64, description="tokens of every workload, from 2")
    samples: Samples = Field(default=3, description="as measurement.samples")
    other_samples: Samples = Field(default=2, description="as measurement.other_samples")
    warmup_samples: int = Field(default=1, ge=0, le=10**6, description="as measurement.warmup_samples")
    validation_samples: Count = Field(default=1, description="as measurement.validation_samples")
    think_time_ms: Number = Field(default=2, description="as measurement.think_time_ms")
    overhead: Overhead = Overhead(samples=4, decode_steps=4)
    editing: Editing = Editing(blocks=1)
    durable: Durable = Durable(samples=2)
    disk: Disk = Disk(sessions=6, host_arena_gib=0.001)
    pairs: PairKeys = PairKeys(rounds=2, blocks=1)
    load: tuple[Load, ...] = Field(
        default=(Load(sessions=1, resumes=2), Load(sessions=4, resumes=8)), min_length=1, description="as load"
    )
    capacity: Capacity = Capacity(sessions=4, processes=1)
    sweep: Sweep = Sweep(layers=(1, 10), samples=2, sizes=(Size(batch=1, tokens=16), Size(batch=2, tokens=16)))
    thinking: ThinkingKeys = ThinkingKeys(waits=(Wait(think_time_ms=0, blocks=1), Wait(think_time_ms=10, blocks=1)))
    neighbour: Neighbour = Neighbour(blocks=1, tokens=4, swaps=2)
    peers: PeerCounts = Field(default_factory=PeerCounts)


@block
class Config(Block):
    """The study's configuration: every key that config.yaml may hold. Units stand in the names."""

    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="auto (the GPU if there is one), cuda or cpu"
    )
    model: Model = Model()
    methods: _Methods = Field(
        default=("vanilla", "recompute", "manual_offload", "djinn"),
        min_length=1,
        description="a list without repetition of methods, each a module src/evaluation/methods/benchmark_METHOD.py",
    )
    experiments: Literal["all"] | _Experiments = Field(
        default="all",
        description="all, or a list of rows of READS in study/plan.py, as pairs or capacity, and peers: what is "
        "measured besides latency over depth",
    )
    latency_methods: Literal["all"] | _Methods = Field(
        default="all", description="all, or a list: those of methods whose latency over depth is measured"
    )
    layers: Literal["auto", "three"] | _Layers = Field(
        default="auto",
        description="auto (layer 1, each quarter of the depth and the last but one; in a functional run each half), "
        "three (the first, the middle and the last but one), or a list without repetition of layers from 1",
    )
    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="how often each job is repeated, from 1"
    )
    order_seed: int = Field(
        default=20261123, ge=-(2**62), le=2**62, description="a whole number; seeds the order of jobs"
    )
    strict: bool = Field(
        default=False, description="true (a job stops on a throttled or shared GPU, and writes no record) or false"
    )
    workloads: tuple[Row, ...] = Field(
        default=(
            Row(name="activation", batch=1, tokens=2048, kv_cache=False),
            Row(name="session", batch=1, tokens=2048, kv_cache=True),
            Row(name="decode", batch=1, tokens=2048, kv_cache=True, decode_step=1),
        ),
        min_length=1,
        description="a list of rows {name, batch, tokens, kv_cache} and, to pause in a decode step, decode_step",
    )
    measurement: Measurement = Measurement()
    djinn: Djinn = Djinn()
    pairs: PairKeys = PairKeys(rounds=8, blocks=1)
    overhead: Overhead = Overhead(samples=30, decode_steps=16)
    editing: Editing = Editing(blocks=3)
    durable: Durable = Durable(samples=3)
    disk: Disk = Disk(sessions=50, host_arena_gib=48)
    load: tuple[Load, ...] = Field(
        default=(
            Load(sessions=1, resumes=60),
            *(Load(sessions=sessions, resumes=12) for sessions in (8, 16, 32)),
            Load(sessions=64, resumes=500),
        ),
        min_length=1,
        description="a list of rows {sessions, resumes}",
    )
    capacity: Capacity = Capacity(sessions=90, processes=8)
    sweep: Sweep = Sweep(
        layers=(1, 10),
        samples=6,
        sizes=(*(Size(batch=1, tokens=tokens) for tokens in (128, 512, 2048)), Size(batch=4, tokens=2048)),
    )
    thinking: ThinkingKeys = ThinkingKeys(
        waits=(
            *(Wait(think_time_ms=wait, blocks=3) for wait in (0, 5, 25, 100, 200)),
            *(Wait(think_time_ms=wait, blocks=1) for wait in (1000, 4000)),
        )
    )
    neighbour: Neighbour = Neighbour(blocks=4, tokens=64, swaps=8)
    peers: PeerKeys = Field(default_factory=PeerKeys)
    functional: Functional = Functional()
    run: str = Field(
        default="local",
        pattern="^local(-[a-z0-9]+)*$",
        description="local, or local- and a name of lower-case letters, digits and dashes: results/RUN has the records",
    )
    paper_runs: Annotated[_Names, AfterValidator(distinct)] = Field(
        default=(),
        description="a list without repetition of published runs, folders of results/published/, that paper_figures/ "
        "is drawn from; the first leads",
    )


def check(config: Mapping[str, Any]) -> Config:
    """``config`` with the defaults filled in; raises :class:`ConfigError` for what is not allowed."""
    check_plain(config)
    if "paper_run" in config:
        raise ConfigError("config: paper_run is a list now, called paper_runs. Write paper_runs: [NAME, ...]")
    definition = TypeAdapter(Config)
    try:
        return definition.validate_json(json.dumps(config))
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), definition.json_schema())) from None


def check_paper_runs(wanted: Sequence[str], published: Sequence[str]) -> None:
    """Raise :class:`ConfigError` unless all the ``wanted`` runs are ``published``."""
    if unknown := [name for name in wanted if name not in published]:
        allowed = ", ".join(published) or "none, as results/published/ is empty"
        raise ConfigError(f"config: paper_runs: {unknown[0]!r} is no published run. Allowed: {allowed}")


def check_plain(config: object) -> None:
    """Raise :class:`ConfigError` unless ``config`` holds what JSON knows, is no endless list and of a sensible size."""
    left, seen = [(config, "")], 0
    while left:
        value, place = left.pop()
        seen += 1
        where = f"config: {place or 'the configuration'}"
        if seen > _SIZE or place.count(".") > _DEPTH:
            key = place.split(".", maxsplit=1)[0]
            raise ConfigError(f"config: {key}: too deep or too long, as a list is that an alias puts into itself")
        if isinstance(value, Mapping):
            if strange := [key for key in value if not isinstance(key, str)]:
                raise ConfigError(f"{where}: {strange[0]!r} is no key. Allowed: text; in YAML it may need quotes")
            left += [(part, below(place, key)) for key, part in value.items()]
        elif isinstance(value, list):
            left += [(part, below(place, index)) for index, part in enumerate(value)]
        elif isinstance(value, int) and value.bit_length() > 63:
            raise ConfigError(f"{where}: a number of more than 18 digits is too large")
        elif value is not None and not isinstance(value, str | int | float):
            raise ConfigError(
                f"{where}: a {type(value).__name__} is no text, number, list or map, nor true, false or null"
            )
