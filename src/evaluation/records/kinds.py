"""One schema for each kind of record: what it holds, where it lies in its run, and what its study asks of it.

A record is checked by itself when it is written, and against its study when it is read. Both raise ValueError with one
line. What records say of each other is checked in :mod:`evaluation.records.together`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluation.records.asked import Asked, block
from evaluation.records.atomic import write_json
from evaluation.records.cells import Cell, check_unique
from evaluation.records.disk import Disk
from evaluation.records.durable import Durable
from evaluation.records.editing import Editing
from evaluation.records.fields import Name, Positive, Strict, Text, checked
from evaluation.records.json_file import Json
from evaluation.records.kinds_beside import CapabilityCell, OverheadCell, Wall
from evaluation.records.load import Load
from evaluation.records.neighbour import Neighbour
from evaluation.records.pairs import Pairs
from evaluation.records.record import Record
from evaluation.records.said import said
from evaluation.records.thinking import Thinking
from evaluation.records.wording import without_folders


class Measured(Record):
    """One method at one breakpoint: every workload and variant, every raw sample."""

    needed = ("workloads", "measurement.samples", "measurement.validation_samples")

    method: Name
    layer: Positive  # breakpoint: after this decoder layer returned
    round: Positive
    cells: Annotated[list[Cell], Field(min_length=1)]

    @property
    def place(self) -> str:
        """Below the folder of the method and of the layer."""
        return f"raw/{self.method}/layer_{self.layer}/round_{self.round}.json"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_unique([(cell.workload, cell.variant) for cell in self.cells], "workload and variant")
        if self.layer > self.model.layers:
            raise ValueError(f"layer {self.layer} of a model of {self.model.layers}")
        return self

    def _asked(self, study: Asked) -> None:
        counts = study.measurement
        for workload in study.workloads:
            primary = [cell.variant for cell in self.cells if cell.workload == workload.name and cell.headline]
            if len(primary) != 1:
                many = "no headline cell" if not primary else f"{len(primary)} headline cells"
                raise ValueError(f"{many} of workload {workload.name}")
        for cell in self.cells:
            study.workload(cell.workload)
            samples = counts.samples if cell.headline or cell.drawn else counts.other_samples
            cell.asked(samples, counts.validation_samples)


class _Beside(Record):
    kind: str

    @property
    def place(self) -> str:
        return f"{self.kind}.json"


class Overhead(_Beside):
    """An uninterrupted run under Djinn beside the bare model."""

    needed = ("overhead", "workloads")
    kind: Literal["overhead"]
    cells: list[OverheadCell]

    def _asked(self, study: Asked) -> None:
        wanted = block(study.overhead, "overhead")
        if self.cells and [cell.name for cell in self.cells] != ["prefill", "decode"]:
            raise ValueError("the cells are prefill and decode")
        for cell in self.cells:
            if cell.tokens != study.workloads[0].tokens:
                raise ValueError(f"{cell.name}: {cell.tokens} tokens, the workload has {study.workloads[0].tokens}")
            if len(cell.pairs) != wanted.samples:
                raise ValueError(f"{cell.name}: {len(cell.pairs)} pairs of the {wanted.samples} that are asked for")
            if cell.name == "decode" and any(len(pair.passes.bare_ms) != wanted.decode_steps for pair in cell.pairs):
                raise ValueError(f"decode: not every pair has {wanted.decode_steps} passes")


class SweepCell(Cell):
    """A cell of one size of the prompt and one layer."""

    batch: Positive
    tokens: Positive
    layer: Positive
    method: Literal["recompute", "manual_offload"]


class Sweep(_Beside):
    """Recompute and copies over sizes of the prompt."""

    needed = ("sweep", "measurement.validation_samples")
    kind: Literal["sweep"]
    cells: list[SweepCell]

    def _asked(self, study: Asked) -> None:
        wanted = block(study.sweep, "sweep")
        places = {(size.batch, size.tokens, layer) for size in wanted.sizes for layer in wanted.layers}
        found: dict[tuple[int, int, int], set[tuple[str, str]]] = {}
        for cell in self.cells:
            where = f"{cell.batch}x{cell.tokens}, layer {cell.layer}"
            if (cell.batch, cell.tokens, cell.layer) not in places:
                raise ValueError(f"the study does not ask for {where}")
            if cell.workload != f"{cell.batch}x{cell.tokens}":
                raise ValueError(f"{where}: the workload is {cell.workload}")
            cell.asked(wanted.samples, study.measurement.validation_samples)
            found.setdefault((cell.batch, cell.tokens, cell.layer), set()).add((cell.method, cell.variant))
        check_unique([(c.workload, c.layer, c.method, c.variant) for c in self.cells], "size, layer and variant")
        if found and (found.keys() != places or len({frozenset(kinds) for kinds in found.values()}) > 1):
            raise ValueError("not every size and layer has every variant")


class _OfMethod(_Beside):
    method: Name

    @property
    def place(self) -> str:
        return f"{self.kind}/{self.method}.json"


class Capacity(_OfMethod):
    """The memory wall of one method."""

    needed = ("capacity",)
    kind: Literal["capacity"]
    cells: list[Wall]

    def _asked(self, study: Asked) -> None:
        check_unique([cell.variant for cell in self.cells], "variant")
        caps = block(study.capacity, "capacity")
        for cell in self.cells:
            cell.asked(caps.processes if cell.variant == "own_process" else caps.sessions)


class Capabilities(_OfMethod):
    """What becomes of an edit under one method, in the middle of the model."""

    needed = ("workloads",)
    kind: Literal["capabilities"]
    workload: Text
    layer: Positive
    cells: list[CapabilityCell]

    def _asked(self, study: Asked) -> None:
        check_unique([cell.variant for cell in self.cells], "variant")
        if self.workload != study.paused.name or self.layer != max(1, self.model.layers // 2):
            raise ValueError(f"workload {self.workload} after layer {self.layer}: not what is edited in this study")
        if len({len(cell.resume_ms) for cell in self.cells}) > 1:
            raise ValueError("the variants have different numbers of samples")


class Package(Strict):
    """What a peer is made of; no version: it is not installed."""

    name: Name
    version: Text | None


class Peer(_Beside):
    """What a user would pick instead, at the deepest layer."""

    needed = ("workloads",)
    kind: Literal["peers"]
    peer: Name
    layer: Positive
    package: Package
    configuration: Text
    cells: list[Cell]

    @property
    def place(self) -> str:
        """By the peer's name."""
        return f"peers/{self.peer}.json"

    def _asked(self, study: Asked) -> None:
        if self.layer != self.model.layers:
            raise ValueError(f"layer {self.layer}: a peer is measured at the deepest, {self.model.layers}")
        check_unique([cell.workload for cell in self.cells], "workload")
        samples = block(study.peers, "peers").samples(self.peer)
        for cell in self.cells:
            study.workload(cell.workload)
            cell.asked(samples, min(cell.validation_samples, study.measurement.validation_samples))


_KINDS: dict[str, type[Record]] = {
    "load.json": Load,
    "overhead.json": Overhead,
    "sweep.json": Sweep,
    "thinking.json": Thinking,
    "neighbour.json": Neighbour,
    "editing.json": Editing,
    "durable.json": Durable,
    "disk.json": Disk,
    "capacity": Capacity,
    "capabilities": Capabilities,
    "peers": Peer,
    "raw": Measured,
    "pairs": Pairs,
}


def kind_at(place: str) -> type[Record]:
    """The kind of the record that lies at ``place`` in a run."""
    outer, _, inner = place.partition("/")
    return Pairs if inner.startswith("pairs/") else _KINDS[outer]


def check_record(record: Json) -> Record:
    """``record`` as the kind that it says it is; raises ValueError with one line that says where it is wrong."""
    by_name = {name.removesuffix(".json"): kind for name, kind in _KINDS.items()}
    kind = record.get("kind", "raw")
    if not isinstance(kind, str) or kind not in by_name:
        raise ValueError("kind: there is no such kind of record")
    return checked(by_name[kind], record)


def write_record(path: Path, record: Json) -> None:
    """Write ``record`` to ``path``, without the folders of this machine, and print what it holds.

    Raises ValueError as :func:`check_record`.
    """
    published = without_folders(record)
    check_record(published)
    write_json(path, published)
    print(*said(published), f"In {path}", sep="\n")
