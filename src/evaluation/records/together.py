"""Checks that what a run holds was made by one study on one machine from one source, and nothing twice.

Raises :class:`RunError` with the name of the file. What a record says by itself is checked in
:mod:`evaluation.records.kinds`.
"""

import json
from collections.abc import Callable
from pathlib import Path

from evaluation.records.asked import Asked, difference, lacking
from evaluation.records.fields import checked, validated
from evaluation.records.json_file import Json, RunError
from evaluation.records.kinds import Measured, kind_at
from evaluation.records.machine import Machine, check_machine
from evaluation.records.wording import one_line, without_folders

_PEERS = "peers/"
_SOURCE = "source digest"
# What all records of a run share, and how a message calls it.
_SHARED: dict[str, Callable[[Json], object]] = {
    "device (GPU or CPU)": lambda record: record["provenance"]["device"],
    "device name": lambda record: record["provenance"]["device_name"],
    "driver": lambda record: record["provenance"].get("driver"),
    _SOURCE: lambda record: record["provenance"]["source_sha256"],
    "package versions": lambda record: record["provenance"]["versions"],
    "model": lambda record: record["model"],
}


def asked_by(folder: Path, study: Json) -> Asked:
    """What ``study``, the ``study.json`` of the run in ``folder``, asks for."""
    try:
        return validated(Asked, study)
    except ValueError as error:
        raise RunError(f"{folder / 'study.json'}: {error}") from error


def check_together(folder: Path, study: Json, asked: Asked, machine: Json, records: dict[str, Json]) -> None:
    """Check ``records``, by their places in the run ``folder``, one by one and with each other; the raw ones lead."""
    for place, record in records.items():
        _check_alone(folder, place, record, study, asked)
    lead = next(iter(records))
    peers = [place for place in records if place.startswith(_PEERS)]
    for place, record in records.items():
        # No claim is decided by a peer, so what changed for peers alone need not cost a whole run: their records may be
        # of another state of the sources, of one among themselves. evaluation.text.experiments prints which.
        _check_shared(folder, place, record, lead, records[lead], but_for=_SOURCE if place in peers else None)
        if place in peers:
            _check_shared(folder, place, record, peers[0], records[peers[0]])
    _check_sitting(folder, records)
    _check_variants(folder, records)
    _check_copies(folder, records)
    _check_machine(folder, machine, lead, records[lead])


def _check_alone(folder: Path, place: str, record: Json, study: Json, asked: Asked) -> None:
    kind = kind_at(place)
    try:
        found = checked(kind, record)
    except ValueError as error:
        raise RunError(f"{folder / place}: not a valid record: {error}") from error
    if found.place != place:
        raise RunError(f"{folder / place}: holds the record of {found.place}")
    if (key := difference(record["study"], without_folders(study))) is not None:
        raise RunError(f"{folder / place}: mixed run: another study than {folder / 'study.json'} ({one_line(key)})")
    if (key := lacking(record["study"], kind.needed)) is not None:
        raise RunError(f"{folder / place}: not a valid record: study.{key} is missing")
    try:
        found.check_asked(asked)
    except ValueError as error:
        raise RunError(f"{folder / place}: {one_line(str(error))}") from error


def _check_shared(
    folder: Path, place: str, record: Json, first_place: str, first: Json, but_for: str | None = None
) -> None:
    for what, value_of in _SHARED.items():
        if what != but_for and value_of(record) != value_of(first):
            raise RunError(
                f"{folder / place}: mixed run: another {what} than {folder / first_place}; measure both again"
            )


def _check_sitting(folder: Path, records: dict[str, Json]) -> None:
    """One line over depth is of one sitting; what is compared within a process may be of several."""
    of_depth = {
        place: record["provenance"].get("sitting") for place, record in records.items() if kind_at(place) is Measured
    }
    first = next(iter(of_depth), "")
    if odd := next((place for place, sitting in of_depth.items() if sitting != of_depth[first]), None):
        raise RunError(
            f"{folder / odd}: mixed run: another sitting than {folder / first}; another GPU or boot would look like "
            "depth, so measure all of raw/METHOD again in one"
        )


def _check_variants(folder: Path, records: dict[str, Json]) -> None:
    """Every record of a method has the same cells."""
    of_method: dict[str, set[tuple[str, str]]] = {}
    for place, record in records.items():
        if kind_at(place) is not Measured:
            continue
        cells = {(cell["workload"], cell["variant"]) for cell in record["cells"]}
        if odd := sorted(cells ^ of_method.setdefault(record["method"], cells)):
            raise RunError(
                f"{folder / place}: workload and variant {odd[0]} are not in every record of {record['method']}"
            )


def _check_copies(folder: Path, records: dict[str, Json]) -> None:
    """No record has the samples of another: two processes never take the same times."""
    seen: dict[str, str] = {}
    for place, record in records.items():
        samples = [found for cell in record["cells"] if (found := cell.get("samples") or cell.get("blocks"))]
        if not samples:
            continue
        other = seen.setdefault(json.dumps(samples, sort_keys=True), place)
        if other != place:
            raise RunError(f"{folder / place}: holds the samples of {folder / other}")


def _check_machine(folder: Path, machine: Json, place: str, record: Json) -> None:
    path = folder / "machine.json"
    try:
        found: Machine = check_machine(machine)
    except ValueError as error:
        raise RunError(f"{path}: not a valid probe: {error}") from error
    device, name = record["provenance"]["device"], record["provenance"]["device_name"]
    if found.functional != (device == "cpu"):
        raise RunError(f"{path}: mixed run: the records are from a {device} device, this is not")
    if device == "cuda" and not found.is_called(name):
        raise RunError(f"{path}: mixed run: a {found.gpu.name}, and {folder / place} is of a {one_line(name)}")
    driver, probed = record["provenance"].get("driver"), found.gpu.driver
    if isinstance(driver, str) and isinstance(probed, str) and driver != probed:
        raise RunError(
            f"{path}: mixed run: driver {probed}, and {folder / place} is of {one_line(driver)}; probe again"
        )
