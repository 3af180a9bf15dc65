"""What will be measured, resolved for one machine: ``study.json``, and in every record the part that its job reads.

Made of a configuration by :mod:`evaluation.study.resolve`. Its blocks are :mod:`evaluation.study.keys`.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

from evaluation.study.architectures import LLAMA_2, Architecture, from_checkpoint
from evaluation.study.block import Block, ConfigError, block, plain
from evaluation.study.keys import (
    Capacity,
    Disk,
    Durable,
    Editing,
    Load,
    Measurement,
    ModelChoice,
    Neighbour,
    Overhead,
    Pairs,
    Peers,
    Size,
    Sweep,
    Thinking,
    Wait,
    Workload,
)
from evaluation.study.message import Json

__all__ = [
    "READS",
    "Capacity",
    "ConfigError",
    "Disk",
    "Durable",
    "Editing",
    "Job",
    "Load",
    "Measurement",
    "ModelChoice",
    "Neighbour",
    "Overhead",
    "Pairs",
    "Peers",
    "Size",
    "Study",
    "Sweep",
    "Thinking",
    "Wait",
    "Workload",
    "architecture_of",
]

# What each kind of job reads of the study, peers by name. A change of anything else does not measure it again. Whether
# the study is strict is not among it, and a job is told by an option: it decides whether there is a record, not what is
# in it.
_MODEL = ("device", "model")
_SESSION = (*_MODEL, "workloads", "measurement.think_time_ms", "measurement.decode_steps")
_TIMED = (*_SESSION, "measurement.warmup_samples", "measurement.validation_samples")
READS = {
    "measure": (*_TIMED, "measurement.samples", "measurement.other_samples", "host_arena_gib"),
    "pairs": (*_TIMED, "pairs.blocks", "pairs.forms", "pairs.layers", "host_arena_gib", "coded", "order_seed"),
    "capacity": (
        *(*_MODEL, "workloads", "measurement.decode_steps"),
        *("capacity", "load_host_arena_gib", "coded", "order_seed"),
    ),
    "capabilities": (*_SESSION, "host_arena_gib"),
    "editing": (*_SESSION, "editing", "host_arena_gib", "order_seed"),
    "durable": (
        *(*_MODEL, "workloads", "methods"),
        *("measurement.decode_steps", "durable", "peers.run", "host_arena_gib"),
    ),
    "disk": (*_SESSION, "disk", "order_seed"),
    "load": (*_SESSION, "load", "load_host_arena_gib", "order_seed"),
    "overhead": (*_MODEL, "workloads", "overhead"),
    "sweep": (*(key for key in _TIMED if key != "workloads"), "sweep"),
    "thinking": (
        *(key for key in _TIMED if key != "measurement.think_time_ms"),
        *("thinking", "host_arena_gib", "order_seed"),
    ),
    "neighbour": (*_MODEL, "workloads", "measurement.decode_steps", "neighbour", "host_arena_gib", "order_seed"),
    "memory_saver": (*_TIMED, "peers.memory_saver_samples"),
    "process_checkpoint": (*_SESSION, "measurement.warmup_samples", "peers.process_checkpoint_samples"),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process and one record."""

    method: str
    layer: int
    round: int


@block
class Study(Block):
    """A configuration resolved for one machine: no ``auto`` is left. A job is given the part that it reads."""

    device: str
    model: ModelChoice
    methods: tuple[str, ...]
    experiments: tuple[str, ...]
    latency_methods: tuple[str, ...]
    layers: tuple[int, ...]
    rounds: int
    order_seed: int
    strict: bool
    workloads: tuple[Workload, ...]
    measurement: Measurement
    host_arena_gib: int | float
    coded: bool
    pairs: Pairs
    overhead: Overhead
    editing: Editing
    durable: Durable
    disk: Disk
    load: tuple[Load, ...]
    load_host_arena_gib: int | float
    capacity: Capacity
    sweep: Sweep
    thinking: Thinking
    neighbour: Neighbour
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
                Job(method=method, layer=layer, round=number)
                for method in self.latency_methods
                for layer in self.layers
            ]
            shuffle(of_round)
            jobs += of_round
        return jobs

    def for_job(self, kind: str) -> Json:
        """What a job of ``kind`` is given: the keys that it reads, the kind, and where the checkpoint lies."""
        picked: Json = {"kind": kind}
        for path in READS[kind]:
            outer, _, inner = path.rpartition(".")
            owner, target = (getattr(self, outer), picked.setdefault(outer, {})) if outer else (self, picked)
            target[inner] = plain(getattr(owner, inner))
        return picked

    def only(self, kind: str) -> "Study":
        """The study as a job of ``kind`` sees it: to read a key that the job should not need raises, by its name."""
        return Study.from_json(self.for_job(kind))

    def part(self, kind: str) -> Json:
        """What the record of a job of ``kind`` says of the study."""
        return _published(self.for_job(kind))

    def published(self) -> Json:
        """All that is there, as ``study.json`` has it."""
        return _published(self.to_json())

    def to_json(self) -> Json:
        """As a child process of a job is given it, the kind of job included."""
        kind, _ = getattr(self, "_about", ("", ""))
        return {**({"kind": kind} if kind else {}), **super().to_json()}

    @classmethod
    def from_json(cls, given: Json, about: tuple[str, str] = ("", "")) -> "Study":
        """The inverse of :meth:`to_json` and :meth:`for_job`: to read a key that is absent raises, by its name."""
        if not isinstance(given, dict):
            raise ConfigError("study: the file is not a JSON object")
        return super().from_json({key: given[key] for key in given if key != "kind"}, (given.get("kind", ""), ""))


def _published(given: Json) -> Json:
    """Without the kind, and of a checkpoint somewhere else on this machine only the name of its folder."""
    found = {key: value for key, value in given.items() if key != "kind"}
    path = found.get("model", {}).get("path")
    if path is not None and os.path.isabs(path):
        found["model"] = {**found["model"], "path": os.path.basename(os.path.normpath(path))}
    return found


def architecture_of(name: str, path: str | None) -> Architecture:
    """The sizes of the model ``name``, or of the checkpoint at ``path``; raises :class:`ConfigError`."""
    if path is None:
        return LLAMA_2[name]
    try:
        return from_checkpoint(Path(path))
    except ValueError as error:
        raise ConfigError(f"config: model.path: {error}") from error
