"""Takes the records of a former piece of a run into this checkout, so that the run goes on where it stopped.

A piece is measured on a machine that is had for a while and comes bare each time. Its records are a folder: a copy of
``results/RUN``. One is taken if the sources here measured it, for what this study asks for, with the driver and the
packages that measure the rest. Its schema must hold, and it must belong to what is here already. Every other is named
with the reason. Records of several sittings make one run, but latency over depth is of one. It is taken from another
sitting than this machine's only as a whole, for what is left would be measured in this one.

Snakemake goes by times and by what it noted itself, and has noted nothing in a fresh checkout. So ``snakemake studies``
writes first what each kind of job is given. What is taken afterwards is newer, and newer than the sources: no job of it
is planned again. What is here already is kept.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evaluation.command import parser
from evaluation.command import run as run_command
from evaluation.records.fields import checked
from evaluation.records.json_file import Json, RunError, read_object
from evaluation.records.kinds import Measured, kind_at
from evaluation.records.provenance import sitting, source_sha256, surroundings
from evaluation.records.runs import (
    benchmark_path,
    is_own,
    pair_paths,
    record_paths,
    run_folder,
    side_records,
    sitting_of,
)
from evaluation.records.together import asked_by, check_together
from evaluation.study.devices import visible_gpu
from evaluation.study.plan import Study

_MACHINE = "machine.json"
_HERE = {"driver": "another driver", "versions": "other packages"}  # what must be alike in all records of a run


@dataclass(frozen=True, kw_only=True)
class Carried:
    """The places that were taken, that were here already, and that were refused, each with the reason."""

    taken: list[str]
    kept: list[str]
    refused: dict[str, str]


def carry(former: Path, run: Path, *, now: str | None, here: Json | None = None) -> Carried:
    """Copy what belongs to the run in the folder ``run`` from the folder ``former``; ``now`` is this machine's sitting.

    ``here`` is what records measured on this machine would say of its driver and packages; None where none could be.
    Raises :class:`RunError` if neither of them has been probed, if ``run`` does not say yet what is to be measured, or
    if ``former`` holds nothing of that.
    """
    probed = next((folder for folder in (run, former) if (folder / _MACHINE).exists()), None)
    if probed is None:
        raise RunError(f"--from {former}: no {_MACHINE} in it or here; name a copy of a folder results/RUN")
    if not (run / "study.json").exists() or not (run / "studies").is_dir():
        raise RunError(f"{run}: does not say yet what is to be measured; snakemake --cores 1 studies")
    study = read_object(run / "study.json")
    if (asked := former / "study.json").exists() and (device := read_object(asked).get("device")) != study["device"]:
        raise RunError(f"--from {former}: measured on {device}, and what is to be measured here on {study['device']}")
    places = [path.relative_to(run).as_posix() for path in (*record_paths(run, study), *pair_paths(run, study))]
    places += side_records(study)
    if not any((former / place).exists() for place in places):
        raise RunError(f"--from {former}: no record of this run in it; name a copy of a folder results/RUN")
    kept = {place: read_object(run / place) for place in places if (run / place).exists()}
    found, refused = _found(former, run, [place for place in places if place not in kept], here)
    found = _whole(places, kept, found, now, refused)
    machine = read_object(probed / _MACHINE)
    together = dict(kept)
    for place, record in found.items():
        try:
            # The raw ones lead, as where the whole run is read.
            both = {one: {**together, place: record}[one] for one in places if one in together or one == place}
            check_together(former, study, asked_by(run, study), machine, both)
        except RunError as error:
            refused[place] = _reason(error, former, place)
        else:
            together[place] = record
    # Once more, for one that was refused here has left the others of its sitting incomplete.
    taken = _whole(places, kept, {place: one for place, one in together.items() if place not in kept}, now, refused)
    if taken and probed is former:
        _copy(former / _MACHINE, run / _MACHINE)
    for place in taken:
        if (cost := benchmark_path(former, former / place)).exists():
            _copy(cost, benchmark_path(run, run / place))
        _copy(former / place, run / place)
    return Carried(taken=list(taken), kept=list(kept), refused=refused)


def _found(former: Path, run: Path, places: list[str], here: Json | None) -> tuple[dict[str, Json], dict[str, str]]:
    """The records in ``former`` that are right by themselves, and why the others are not."""
    sources, found, refused = source_sha256(), {}, {}
    strict = read_object(run / "study.json").get("strict", False)
    for place in places:
        try:
            if not (former / place).exists():
                continue
            record = read_object(former / place)
            checked(kind_at(place), record)
            if record["provenance"]["source_sha256"] != sources:
                raise RunError("measured by other sources than those here")
            if other := [
                words for what, words in _HERE.items() if here and record["provenance"].get(what) != here[what]
            ]:
                raise RunError(f"measured with {' and '.join(other)} than what measures the rest here")
            if strict and not (record["provenance"].get("conditions") or {}).get("strict"):
                raise RunError("measured without strict, which this study asks for")
            if record["study"] != _part(run, str(record.get("peer", record.get("kind", "measure")))):
                raise RunError("measured for another study: what its job read is not what this study says")
        except ValueError as error:
            refused[place] = _reason(error, former, place)
        else:
            found[place] = record
    return found, refused


def _part(run: Path, kind: str) -> Json:
    """What a record of a ``kind`` of job says of the study in the folder ``run``."""
    return Study.from_json(read_object(run / "studies" / f"{kind}.json")).part(kind)


def _whole(
    places: list[str], kept: dict[str, Json], found: dict[str, Json], now: str | None, refused: dict[str, str]
) -> dict[str, Json]:
    """``found`` without what would leave latency over depth in two sittings, which is added to ``refused``.

    That is what is of another sitting than ``now``, if not all is of that one.
    """
    of_depth = [place for place in places if kind_at(place) is Measured]
    sittings = {place: sitting_of(record) for place, record in {**kept, **found}.items() if place in of_depth}
    count = Counter(sittings.values())
    torn = {
        place: f"of another sitting, which has {count[its]} of the {len(of_depth)} records of raw/METHOD; all need one"
        for place, its in sittings.items()
        if place in found and its != now and count[its] < len(of_depth)
    }
    refused.update(torn)
    return {place: record for place, record in found.items() if place not in torn}


def _reason(error: ValueError, former: Path, place: str) -> str:
    return str(error).removeprefix(f"{former / place}: ")


def _copy(source: Path, target: Path) -> None:
    """Under the time of now; the last of the files of a job is its record."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.rename(target)


def _said(former: Path, carried: Carried) -> Iterator[str]:
    yield f"{len(carried.taken)} records taken, {len(carried.kept)} here already, {len(carried.refused)} refused"
    yield from (f"refused {former / place}: {reason}" for place, reason in carried.refused.items())


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message if nothing can be taken."""
    arguments = parser("records.carry", __doc__)
    arguments.add_argument("--from", dest="former", type=Path, required=True, help="a copy of the folder results/RUN")
    arguments.add_argument("--run", default="local", help="name of the run; default: local")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    given = arguments.parse_args()

    def command() -> None:
        if not is_own(given.run):
            raise RunError(f"--run {given.run}: published runs are never added to; local, or local-NAME")
        gpu, folder = visible_gpu(), run_folder(given.results, given.run)
        functional = read_object(folder / "study.json")["device"] == "cpu" if (folder / "study.json").exists() else True
        gpu = None if functional else gpu
        here = surroundings(gpu) if functional or gpu is not None else None
        now = sitting(None if gpu is None else gpu.uuid)
        print("\n".join(_said(given.former, carry(given.former, folder, now=now, here=here))))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
