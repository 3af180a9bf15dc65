"""What will be measured, resolved for one machine: ``study.json`` and, but for the rounds, part of every record.

Made of a configuration by :mod:`evaluation.study.config`.
"""

import dataclasses
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.command import Refusal
from evaluation.study.architectures import LLAMA_2, Architecture, from_checkpoint


class ConfigError(Refusal):
    """Something in the configuration cannot be run; the message names the key and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model, in which precision."""

    name: str
    path: str | None
    dtype: str
    attention: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a session computes before the breakpoint: a prefill of ``batch`` x ``tokens``.

    The breakpoint falls into that prefill, or into decode step ``decode_step`` (from 1) after it.
    """

    name: str
    batch: int
    tokens: int
    kv_cache: bool
    decode_step: int = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How often and under which conditions samples are taken."""

    samples: int
    other_samples: int
    warmup_samples: int
    validation_samples: int
    think_time_ms: float
    decode_steps: int


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """How an uninterrupted run under Djinn is compared with the bare model."""

    samples: int
    decode_steps: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """Resumes of random ones among ``sessions`` that are paused at once."""

    sessions: int
    resumes: int


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The caps of the memory wall: paused sessions, and vanilla sessions with weights of their own."""

    sessions: int
    processes: int


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a prompt."""

    batch: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Sizes at which recompute and offload are compared, at which breakpoints, with how many samples."""

    layers: tuple[int, ...]
    samples: int
    sizes: tuple[Size, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Sweep":
        """From the configuration, or from a study's JSON."""
        sizes = tuple(Size(**size) for size in plain["sizes"])
        return cls(layers=tuple(plain["layers"]), samples=plain["samples"], sizes=sizes)


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What a user would pick instead: which of them are run, and with how many samples."""

    run: tuple[str, ...]
    memory_saver_samples: int
    process_checkpoint_samples: int

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Peers":
        """From the configuration, or from a study's JSON."""
        return cls(**{**plain, "run": tuple(plain["run"])})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process and one record."""

    method: str
    layer: int
    round: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A configuration resolved for one machine: no ``auto`` is left."""

    device: str
    model: ModelChoice
    methods: tuple[str, ...]
    layers: tuple[int, ...]
    rounds: int = 1  # a job is not told
    order_seed: int
    workloads: tuple[Workload, ...]
    measurement: Measurement
    host_arena_gib: float
    overhead: Overhead
    load: tuple[Load, ...]
    load_host_arena_gib: float
    capacity: Capacity
    sweep: Sweep
    peers: Peers

    @property
    def functional(self) -> bool:
        """Whether this run shows that everything works, on a CPU, and nothing about speed."""
        return self.device == "cpu"

    @property
    def architecture(self) -> Architecture:
        """The sizes of the model."""
        return architecture_of(self.model.name, self.model.path)

    def jobs(self) -> list[Job]:
        """Every job, in the order of measurement: round by round, shuffled, so that drift does not look like depth."""
        shuffle = random.Random(self.order_seed).shuffle
        jobs = []
        for number in range(1, self.rounds + 1):
            of_round = [
                Job(method=method, layer=layer, round=number) for method in self.methods for layer in self.layers
            ]
            shuffle(of_round)
            jobs += of_round
        return jobs

    def seen_by_a_job(self) -> dict[str, Any]:
        """What a job depends on and its record holds, as JSON: all but the number of rounds, which may grow later."""
        plain = self.to_json()
        del plain["rounds"]
        return plain

    def to_json(self) -> dict[str, Any]:
        """As plain dictionaries and lists."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Study":
        """The inverse of :meth:`to_json`, and of :meth:`seen_by_a_job` for one round."""
        return cls(
            **{
                **plain,
                "model": ModelChoice(**plain["model"]),
                "methods": tuple(plain["methods"]),
                "layers": tuple(plain["layers"]),
                "workloads": tuple(Workload(**workload) for workload in plain["workloads"]),
                "measurement": Measurement(**plain["measurement"]),
                "overhead": Overhead(**plain["overhead"]),
                "load": tuple(Load(**row) for row in plain["load"]),
                "capacity": Capacity(**plain["capacity"]),
                "sweep": Sweep.of(plain["sweep"]),
                "peers": Peers.of(plain["peers"]),
            }
        )


def architecture_of(name: str, path: str | None) -> Architecture:
    """The sizes of the model ``name``, or of the checkpoint at ``path``; raises :class:`ConfigError`."""
    if path is None:
        return LLAMA_2[name]
    try:
        return from_checkpoint(Path(path))
    except ValueError as error:
        raise ConfigError(f"config: model.path: {error}") from error
