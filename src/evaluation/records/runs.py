"""Reads a run: one machine, one study, and the raw records of its jobs, all of which belong together.

A run is a folder with ``machine.json``, ``study.json``, ``raw/{method}/layer_{L}/round_{R}.json`` and
``raw/pairs/round_{R}.json``, and with what was measured besides (:func:`side_records`); a published one has
``SHA256SUMS`` as well. Whatever is damaged, mixed or tampered with is refused by name here, so that nothing downstream
has to ask. Reads JSON as dictionaries. Does not compute anything, and does not ask whether the run is complete:
:mod:`evaluation.records.publish` does.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from evaluation.records.json_file import Json, RunError, read_json, read_object
from evaluation.records.together import asked_by, check_together

__all__ = [
    "BESIDE",
    "CHECKSUMS",
    "Json",
    "Run",
    "RunError",
    "asks_for",
    "benchmark_path",
    "durable_run",
    "is_own",
    "latency_methods",
    "load_run",
    "pair_paths",
    "read_json",
    "read_object",
    "record_paths",
    "run_folder",
    "run_of_table",
    "sha256",
    "side_records",
    "sitting_of",
    "verify_checksums",
]

CHECKSUMS = "SHA256SUMS"
BESIDE = "-durable"  # ends the name of a run that has what another one lacks: see durable_run
_RUN_NAME = re.compile(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*")
_PAIRED = {"manual_offload", "djinn"}  # what is compared in one process
# The tables of what NAME-durable is made for, each with its record.
_DURABLE = {"durable": "durable.json", "kills": "durable.json", "disk": "disk.json"}
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. ``records`` are in the order of the study: methods, layers, rounds; ``beside`` by their paths in it.

    ``pairs`` are in the order of their rounds.
    """

    name: str
    machine: Json
    study: Json
    records: list[Json]
    pairs: list[Json]
    beside: dict[str, Json]

    @property
    def functional(self) -> bool:
        """Whether this run was made without a GPU, so that its times mean nothing."""
        return bool(self.machine["functional"])

    @property
    def pair_sittings(self) -> dict[int, str | None]:
        """The sitting of each round of the pairs, see :func:`sitting_of`."""
        return {record["round"]: sitting_of(record) for record in self.pairs}


def load_run(directory: str | Path) -> Run:
    """Read and check the run in ``directory``; its name is the folder's.

    Only the records that ``study.json`` asks for are read: what an earlier study left in the folder of a
    local run is not part of this one. Raises :class:`RunError` for a file that is missing, not JSON or not as
    its schema says, and for records that do not belong together. A published run must have its checksums.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run")
    published = (folder / CHECKSUMS).exists() or folder.resolve().parent.name == "published"
    if published:
        verify_checksums(folder)
    study = read_object(folder / "study.json")
    asked = asked_by(folder, study)
    machine = read_object(folder / "machine.json")
    wanted, pairs = record_paths(folder, study), pair_paths(folder, study)
    if published and (strays := sorted(set((folder / "raw").rglob("*.json")) - {*wanted, *pairs})):
        raise RunError(f"{strays[0]}: study.json does not ask for this record")
    present = [path for path in wanted if path.exists()]
    if wanted and not present:
        raise RunError(f"{folder / 'raw'}: holds no record that study.json asks for")
    raw = {path.relative_to(folder).as_posix(): read_object(path) for path in present}
    paired = {path.relative_to(folder).as_posix(): read_object(path) for path in pairs if path.exists()}
    beside = {name: read_object(folder / name) for name in side_records(study) if (folder / name).exists()}
    if not (records := {**raw, **paired, **beside}):
        raise RunError(f"{folder}: holds no record that study.json asks for")
    check_together(folder, study, asked, machine, records)
    return Run(
        name=folder.resolve().name,
        machine=machine,
        study=study,
        records=list(raw.values()),
        pairs=list(paired.values()),
        beside=beside,
    )


def sitting_of(record: Json) -> str | None:
    """Which sitting ``record`` was measured in; None if it could not tell."""
    found: str | None = record["provenance"].get("sitting")
    return found


def run_folder(results: Path, name: str) -> Path:
    """Where the run ``name`` lies below ``results``, an own or a published one. Raises :class:`RunError`."""
    if not _RUN_NAME.fullmatch(name):
        raise RunError(f"run {name!r}: not a name; local, or one of {results / 'published'}")
    return results / name if is_own(name) else results / "published" / name


def is_own(name: str) -> bool:
    """Whether a run of this name is this machine's own: ``local``, or ``local-`` and a name for another study."""
    return name == "local" or name.startswith("local-")


def durable_run(results: Path, name: str, record: str = "durable.json") -> str:
    """The run that tells of the run ``name`` what ``record`` does: what a kill of the process leaves.

    That is itself, or NAME-durable if that one is published: measured later, for the record that NAME lacks. Else it is
    the only published run of such a name and of the same model, be it of another machine. Whoever draws from it names
    it.
    """
    if is_own(name) or ((folder := run_folder(results, name)) / record).exists():
        return name
    if (run_folder(results, name + BESIDE) / record).exists():
        return name + BESIDE
    model = read_object(folder / "study.json")["model"]
    there = [
        path.parent.name
        for path in (results / "published").glob(f"*{BESIDE}/{record}")
        if read_object(path.with_name("study.json"))["model"] == model
    ]
    return there[0] if len(there) == 1 else name


def run_of_table(results: Path, name: str, table: str) -> str:
    """The run whose rows are drawn as ``table`` of the run ``name``: see :func:`durable_run`."""
    return durable_run(results, name, _DURABLE[table]) if table in _DURABLE else name


def record_paths(folder: Path, study: Json) -> list[Path]:
    """Where the records of ``study`` belong under ``folder``: one of each method, layer and round."""
    try:
        return [
            folder / "raw" / method / f"layer_{layer}" / f"round_{number}.json"
            for method in latency_methods(study)
            for layer in study["layers"]
            for number in range(1, study["rounds"] + 1)
        ]
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / 'study.json'}: methods, layers or rounds are missing or malformed") from error


def latency_methods(study: Json) -> list[str]:
    """The methods whose latency over depth ``study`` asks for."""
    return list(study["latency_methods"])


def pair_paths(folder: Path, study: Json) -> list[Path]:
    """Where the records of the pairs belong in ``folder``: one of each round, if Djinn and copies by hand are run."""
    if not set(study["methods"]) >= _PAIRED or not asks_for(study, "pairs"):
        return []
    return [folder / "raw" / "pairs" / f"round_{number}.json" for number in range(1, study["pairs"]["rounds"] + 1)]


def side_records(study: Json) -> list[str]:
    """Paths in a run of what is measured once per run, per method or per peer.

    Waits and neighbours compare Djinn with copies by hand. A study of before an experiment was there lacks its block.
    """
    of_methods = [f"{kind}/{method}.json" for kind in ("capacity", "capabilities") for method in study["methods"]]
    of_peers = [f"peers/{peer}.json" for peer in study.get("peers", {}).get("run", ())]
    of_djinn = ["overhead.json", "load.json"] if "djinn" in study["methods"] else []
    of_both = ("thinking", "neighbour") if set(study["methods"]) >= _PAIRED else ()
    together = [f"{kind}.json" for kind in of_both if kind in study]
    if of_djinn:
        together += [f"{kind}.json" for kind in ("editing", "durable", "disk") if kind in study]
    places = [*of_djinn, "sweep.json", *together, *of_methods, *of_peers]
    return [place for place in places if asks_for(study, place.partition("/")[0].removesuffix(".json"))]


def asks_for(study: Json, experiment: str) -> bool:
    """Whether ``experiment`` is part of ``study``."""
    return experiment in study["experiments"]


def benchmark_path(folder: Path, record: Path) -> Path:
    """Where Snakemake notes what the job that wrote ``record``, a file of the run ``folder``, took of the machine."""
    return (folder / "benchmarks" / record.relative_to(folder)).with_suffix(".tsv")


def verify_checksums(folder: Path) -> None:
    """Raise :class:`RunError` at the first file under ``folder`` that differs from its ``SHA256SUMS``."""
    listing = folder / CHECKSUMS
    if not listing.exists():
        raise RunError(f"{listing}: a published run needs its checksums")
    expected = {}
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = _CHECKSUM_LINE.fullmatch(line)
        if match is None:
            raise RunError(f"{listing}: line {number} is not a checksum and a path")
        expected[match[2]] = match[1]
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    del found[CHECKSUMS]
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise RunError(f"{folder / name}: missing, though {CHECKSUMS} lists it")
        if name not in expected:
            raise RunError(f"{folder / name}: not in {CHECKSUMS}")
        if sha256(found[name]) != expected[name]:
            raise RunError(f"{folder / name}: changed since it was published ({CHECKSUMS} differs)")


def sha256(path: Path) -> str:
    """Digest of the file at ``path``, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
