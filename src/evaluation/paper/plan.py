"""What a run holds, or will hold when it has been measured: what decides which outputs it has."""

from dataclasses import dataclass
from pathlib import Path

from evaluation.records.runs import (
    Json,
    RunError,
    benchmark_path,
    durable_run,
    is_own,
    pair_paths,
    read_object,
    record_paths,
    run_folder,
    run_of_table,
    side_records,
)

_DURABLE = "durable.json"
TABLES = (
    "summary",
    "capacity",
    "capabilities",
    "sweep",
    "load",
    "overhead",
    "peers",
    "pairs",
    "thinking",
    "neighbour",
    "editing",
    "durable",
    "kills",
    "disk",
)
_NEEDED = ("methods", "experiments", "latency_methods", "layers", "rounds", "workloads", "pairs")  # of a study


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run holds, or will hold when it has been measured.

    ``beside`` are the paths of the side records in its ``folder``.
    """

    name: str
    results: Path
    study: Json
    functional: bool
    beside: tuple[str, ...]

    @classmethod
    def found(cls, results: Path, name: str) -> "Plan":
        """Of a run that is there; raises :class:`RunError` without a probe, or a study that says what to do."""
        folder = run_folder(results, name)
        if not folder.is_dir():
            raise RunError(f"{folder}: no such run")
        study, machine = (read_object(folder / file) for file in ("study.json", "machine.json"))
        if lacking := [key for key in _NEEDED if key not in study]:
            raise RunError(f"study.json of run {name}: {lacking[0]} is missing")
        beside = tuple(path for path in side_records(study) if (folder / path).exists())
        return cls(name=name, results=results, study=study, functional=bool(machine.get("functional")), beside=beside)

    @property
    def folder(self) -> Path:
        """Where its records lie."""
        return run_folder(self.results, self.name)

    @property
    def timed(self) -> bool:
        """Whether it times resumes: if not, it was made for some record besides alone, and has little to draw."""
        return bool(self.study.get("latency_methods", True) or pair_paths(self.folder, self.study))

    @property
    def about(self) -> list[Path]:
        """What says of which machine and study it is."""
        return [self.folder / "machine.json", self.folder / "study.json"]

    @property
    def records(self) -> list[Path]:
        """Everything that was measured of it; of a published run every file, as each is in its checksums."""
        if not is_own(self.name):
            return sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [*self.about, *self.jobs]

    @property
    def jobs(self) -> list[Path]:
        """The record of each job."""
        raw = [*record_paths(self.folder, self.study), *pair_paths(self.folder, self.study)]
        return [*raw, *(self.folder / path for path in self.beside)]

    @property
    def costs(self) -> list[Path]:
        """Snakemake's benchmark files, one of each job."""
        return [benchmark_path(self.folder, path) for path in self.jobs]

    @property
    def tables(self) -> list[Path]:
        """What the aggregation makes of the records."""
        return [self.table(name) for name in TABLES]

    def table(self, name: str) -> Path:
        """One of them."""
        return self.results / "tables" / self.name / f"{name}.csv"

    def drawn_from(self, name: str) -> Path:
        """The table that its outputs read under this name, which may be of the run that stands for it."""
        return self.results / "tables" / run_of_table(self.results, self.name, name) / f"{name}.csv"

    @property
    def killed(self) -> bool:
        """Whether it says what a kill of the process leaves, or another run does for it."""
        return _DURABLE in self.beside or durable_run(self.results, self.name) != self.name

    @property
    def checked(self) -> Path:
        """Stands for all records: it is written when each of them has been read and checked."""
        return self.table("summary")

    def workloads(self, *, kv_cache: bool, decode: bool) -> list[str]:
        """Names of those with these properties, in the order of the study."""
        return [
            one["name"]
            for one in self.study["workloads"]
            if (one["kv_cache"], bool(one.get("decode_step"))) == (kv_cache, decode)
        ]


def outputs_folder(figures: Path, run: str | None, leading: str | None) -> Path:
    """Where the outputs of ``run`` go: those of the ``leading`` one into ``figures`` itself."""
    return figures if run is None or run == leading else figures / run
