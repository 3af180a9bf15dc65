"""Reads a run: one machine, one study, and the raw records of its jobs, all of which belong together.

A run is a folder with ``machine.json``, ``study.json`` and ``raw/{method}/layer_{L}/round_{R}.json``, and with what was
measured besides (:func:`side_records`); a published one has ``SHA256SUMS`` as well. Whatever is damaged, mixed or
tampered with is refused by name here, so that nothing downstream has to ask. Reads JSON as dictionaries, so that runs
published by older versions stay readable. Does not compute anything, and does not ask whether the run is complete:
:mod:`evaluation.records.publish` does.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from evaluation.command import Refusal

Json = dict[str, Any]

CHECKSUMS = "SHA256SUMS"
_PEERS = "peers/"
_RUN_NAME = re.compile(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*")
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")

_SOURCE = "source digest"
# What all records of a run share, and how a message calls it.
_SHARED: dict[str, Callable[[Json], object]] = {
    "device (GPU or CPU)": lambda record: record["provenance"]["device"],
    "device name": lambda record: record["provenance"]["device_name"],
    _SOURCE: lambda record: record["provenance"]["source_sha256"],
    "package versions": lambda record: record["provenance"]["versions"],
    "model": lambda record: record["model"],
}


class RunError(Refusal):
    """A run cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. ``records`` are in the order of the study: methods, layers, rounds; ``beside`` by their paths in it."""

    name: str
    machine: Json
    study: Json
    records: list[Json]
    beside: dict[str, Json]

    @property
    def functional(self) -> bool:
        """Whether this run was made without a GPU, so that its times mean nothing."""
        return bool(self.records[0]["provenance"]["device"] == "cpu")


def load_run(directory: str | Path) -> Run:
    """Read and check the run in ``directory``; its name is the folder's.

    Only the records that ``study.json`` asks for are read: what an earlier study left in the folder of a
    local run is not part of this one. Raises :class:`RunError` for a file that is missing, not JSON or not as
    the schema says, for records that do not belong together, and for a published run that differs from its
    checksums.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run")
    published = (folder / CHECKSUMS).exists() or folder.resolve().parent.name == "published"
    if published:
        verify_checksums(folder)
    study = read_object(folder / "study.json")
    machine = read_object(folder / "machine.json")
    wanted = record_paths(folder, study)
    if published and (strays := sorted(set((folder / "raw").rglob("*.json")) - set(wanted))):
        raise RunError(f"{strays[0]}: study.json does not ask for this record")
    present = [path for path in wanted if path.exists()]
    if not present:
        raise RunError(f"{folder / 'raw'}: holds no record that study.json asks for")
    records = _read_records(present)
    _check_together(folder, study, machine, dict(zip(present, records, strict=True)))
    beside = {name: read_object(folder / name) for name in side_records(study) if (folder / name).exists()}
    for name, record in beside.items():
        _check_study(folder, study, folder / name, record)
    _check_beside(folder, beside, present[0], records[0])
    return Run(name=folder.resolve().name, machine=machine, study=study, records=records, beside=beside)


def run_folder(results: Path, name: str) -> Path:
    """Where the run ``name`` lies below ``results``: this machine's own is called local. Raises :class:`RunError`."""
    if not _RUN_NAME.fullmatch(name):
        raise RunError(f"run {name!r}: not a name; local, or one of {results / 'published'}")
    return results / "local" if name == "local" else results / "published" / name


def record_paths(folder: Path, study: Json) -> list[Path]:
    """Where the records of ``study`` belong under ``folder``: one of each method, layer and round."""
    try:
        return [
            folder / "raw" / method / f"layer_{layer}" / f"round_{number}.json"
            for method in study["methods"]
            for layer in study["layers"]
            for number in range(1, study["rounds"] + 1)
        ]
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / 'study.json'}: methods, layers or rounds are missing or malformed") from error


def side_records(study: Json) -> list[str]:
    """Paths in a run of what is measured once per run, per method or per peer; older studies have no peers."""
    of_methods = [f"{kind}/{method}.json" for kind in ("capacity", "capabilities") for method in study["methods"]]
    of_djinn = ["overhead.json", "load.json"] if "djinn" in study["methods"] else []
    of_peers = [f"{_PEERS}{peer}.json" for peer in study.get("peers", {}).get("run", ())]
    return [*of_djinn, "sweep.json", *of_methods, *of_peers]


def benchmark_path(folder: Path, record: Path) -> Path:
    """Where Snakemake notes what the job that wrote ``record``, a file of the run ``folder``, took of the machine."""
    return (folder / "benchmarks" / record.relative_to(folder)).with_suffix(".tsv")


def verify_checksums(folder: Path) -> None:
    """Raise :class:`RunError` at the first file under ``folder`` that differs from its ``SHA256SUMS``."""
    listing = folder / CHECKSUMS
    if not listing.exists():
        raise RunError(f"{listing}: a published run needs its checksums")
    expected = {}
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
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


def read_json(path: Path) -> object:
    """The JSON value in the file at ``path``; NaN and infinity are refused, as JSON has neither."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not JSON")

    try:
        value: object = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError as error:
        raise RunError(f"{path}: missing") from error
    except ValueError as error:  # broken UTF-8 is one, broken JSON another
        raise RunError(f"{path}: not readable as JSON: {error}") from error
    return value


def read_object(path: Path) -> Json:
    """The JSON object in the file at ``path``; raises as :func:`read_json` does."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise RunError(f"{path}: not a JSON object")
    return value


def _read_records(paths: list[Path]) -> list[Json]:
    schema = json.loads(
        resources.files("evaluation.records").joinpath("record.schema.json").read_text(encoding="utf-8")
    )
    validator = jsonschema.Draft202012Validator(schema)
    records = []
    for path in paths:
        record = read_object(path)
        error = jsonschema.exceptions.best_match(validator.iter_errors(record))
        if error is not None:
            raise RunError(f"{path}: not a valid record: {error.json_path}: {_shortened(error.message)}")
        records.append(record)
    return records


def _shortened(message: str, length: int = 200) -> str:
    """Without the middle: a message may quote a whole record."""
    return message if len(message) <= length else f"{message[: length // 2]} ... {message[-length // 2 :]}"


def _check_together(folder: Path, study: Json, machine: Json, records: dict[Path, Json]) -> None:
    """Raise :class:`RunError` unless all of it was made by one study on one machine from one source."""
    first_path, first = next(iter(records.items()))
    for path, record in records.items():
        own = f"{record['method']}/layer_{record['layer']}/round_{record['round']}.json"
        if path != folder / "raw" / own:
            raise RunError(f"{path}: holds the record of {own}")
        _check_study(folder, study, path, record)
        _check_shared(path, record, first_path, first)
        repeated = next(_repeated_cells(record), None)
        if repeated is not None:
            raise RunError(f"{path}: two cells of workload and variant {repeated}")
    device = first["provenance"]["device"]
    if bool(machine.get("functional")) != (device == "cpu"):
        raise RunError(f"{folder / 'machine.json'}: mixed run: the records are from a {device} device, this is not")


def _check_study(folder: Path, study: Json, path: Path, record: Json) -> None:
    """Raise :class:`RunError` unless ``record`` was measured as ``study`` says: its own study is a part of that.

    A round may be added to a run: what was measured before knows of fewer.
    """
    if "study" not in record:
        raise RunError(f"{path}: not a valid record: it lacks 'study'")
    if not _is_part({**record["study"], "rounds": study["rounds"]}, study):
        raise RunError(f"{path}: mixed run: another study than {folder / 'study.json'}; measure it again")


def _is_part(part: object, whole: object) -> bool:
    if not (isinstance(part, dict) and isinstance(whole, dict)):
        return part == whole
    return all(key in whole and _is_part(value, whole[key]) for key, value in part.items())


def _check_beside(folder: Path, beside: dict[str, Json], first_path: Path, first: Json) -> None:
    """Raise :class:`RunError` unless what was measured besides belongs to the records, of which ``first`` is one.

    No claim is decided by a peer: what changed for peers alone need not cost a whole run. So their records may be of
    another state of the sources, of one among themselves; :mod:`evaluation.text.experiments` prints which.
    """
    peers = [name for name in beside if name.startswith(_PEERS)]
    for name, record in beside.items():
        _check_shared(folder / name, record, first_path, first, but_for=_SOURCE if name in peers else None)
    for name in peers:
        _check_shared(folder / name, beside[name], folder / peers[0], beside[peers[0]])


def _check_shared(path: Path, record: Json, first_path: Path, first: Json, but_for: str | None = None) -> None:
    for what, value_of in _SHARED.items():
        if what == but_for:
            continue
        try:
            same = value_of(record) == value_of(first)
        except KeyError as error:
            raise RunError(f"{path}: not a valid record: it lacks {error}") from error
        if not same:
            raise RunError(f"{path}: mixed run: another {what} than {first_path}; measure both again")


def _repeated_cells(record: Json) -> Iterator[tuple[str, str]]:
    seen = set()
    for cell in record["cells"]:
        key = (cell["workload"], cell["variant"])
        if key in seen:
            yield key
        seen.add(key)
