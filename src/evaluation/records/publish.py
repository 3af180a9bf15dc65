"""Puts a complete local run among the published ones, with checksums; the only tool that writes there.

A published run is ``machine.json``, ``study.json`` and the raw records of one study on one GPU, unchanged. With them go
what was measured besides (overhead, load, capacity, capabilities, sweep, durable, disk, peers), and what each job took
of the machine, in Snakemake's benchmark files. ``SHA256SUMS`` lists all. Functional, incomplete and mixed runs are
refused. The folder appears whole or not at all.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from evaluation.command import parser
from evaluation.command import run as run_command
from evaluation.records.atomic import write_text
from evaluation.records.runs import (
    BESIDE,
    CHECKSUMS,
    Json,
    Run,
    RunError,
    benchmark_path,
    is_own,
    load_run,
    pair_paths,
    read_object,
    record_paths,
    run_folder,
    sha256,
    side_records,
)

_WALL, _CODED = "capacity/djinn.json", "coded"
_NAME = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")


def publish(source: Path, published: Path, name: str, *, replace: bool = False) -> Path:
    """Copy the run in ``source`` to ``published / name`` and return that folder.

    Raises :class:`RunError`, and leaves ``published`` as it was, for a run that cannot be published. So it does for a
    name that is not letters, digits and single dashes, and for one that is taken, unless ``replace``.
    """
    if not _NAME.fullmatch(name):
        raise RunError(f"--name {name!r}: only letters, digits and single dashes between them")
    if is_own(name):
        raise RunError(f"--name {name!r}: that is what a machine's own runs are called everywhere")
    target = published / name
    if target.exists() and not replace:
        raise RunError(f"{target}: exists already; --replace to put this run in its place")
    run = load_run(source)
    check_publishable(source, run)
    _check_beside(source, published, name)
    published.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=published, prefix=f".{name}."))
    try:
        fresh, old = staging / name, staging / "replaced"
        beside = [source / name for name in ("machine.json", "study.json", *side_records(run.study))]
        records = [*(path for path in beside if path.exists()), *_needed(source, run)]
        costs = [benchmark_path(source, path) for path in records]
        _copy(source, fresh, [*records, *(path for path in costs if path.exists())])
        load_run(fresh)  # what was copied is what was checked
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(fresh, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
    finally:
        shutil.rmtree(staging)
    return target


def check_publishable(source: Path, run: Run) -> None:
    """Raise :class:`RunError` if ``run`` is functional, lacks a job, or has a record of nothing."""
    if run.functional:
        raise RunError(f"{source}: a functional run, made without a GPU, is not published")
    if missing := [path for path in _needed(source, run) if not path.exists()]:
        raise RunError(f"{missing[0]}: missing; the run is incomplete ({len(missing)} jobs)")
    if not _needed(source, run) and (absent := [name for name in side_records(run.study) if name not in run.beside]):
        raise RunError(f"{source / absent[0]}: missing; the run asks for nothing but such records")
    for name, record in run.beside.items():
        if not record["cells"]:
            raise RunError(f"{source / name}: holds no cell; measure it again, or leave it out")
    _check_coded(source, run)


def _check_coded(source: Path, run: Run) -> None:
    """Raise :class:`RunError` if the study asks for coded state, and what should be coded is not or is missing."""
    study = run.study
    if not study.get("coded") or not any(workload["kv_cache"] for workload in study["workloads"]):
        return
    wall = run.beside.get(_WALL)
    if wall is not None and all(cell["variant"] != _CODED for cell in wall["cells"]):
        raise RunError(f"{source / _WALL}: has no coded sessions, which the study asks for; measure it again")
    forms = [form for record in run.pairs for cell in record["cells"] for form in cell["forms"]]
    if any(form.get("codec") == "auto" and not form["buffer_bytes"] for form in forms):
        raise RunError(f"{source}: no kernel codes state here, and what is called coded is plain; djinn.coded: false")


def _check_beside(source: Path, published: Path, name: str) -> None:
    """Raise :class:`RunError` if it is called NAME-durable and is of another GPU or model than the run NAME."""
    other = published / name.removesuffix(BESIDE)
    if not name.endswith(BESIDE) or not other.exists():
        return
    ours, theirs = (
        (read_object(folder / "machine.json")["gpu"]["name"], read_object(folder / "study.json")["model"])
        for folder in (source, other)
    )
    if ours != theirs:
        raise RunError(f"--name {name}: this run is of {_words(ours)}, and {other} of {_words(theirs)}")


def _words(found: tuple[str, Json]) -> str:
    gpu, model = found
    return f"{gpu}, {', '.join(f'{key} {value}' for key, value in model.items())}"


def _needed(source: Path, run: Run) -> list[Path]:
    """The records without which a run is incomplete."""
    return [*record_paths(source, run.study), *pair_paths(source, run.study)]


def _copy(source: Path, target: Path, paths: Iterable[Path]) -> None:
    lines = []
    for path in sorted(paths, key=lambda path: path.relative_to(source).as_posix()):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        lines.append(f"{sha256(copy)}  {copy.relative_to(target).as_posix()}\n")
    write_text(target / CHECKSUMS, "".join(lines))


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for what is not published."""
    arguments = parser("records.publish", __doc__)
    arguments.add_argument("--name", required=True, help="of the machine, as h100-sxm-80gb: letters, digits, dashes")
    arguments.add_argument("--run", default="local", help="name of the run; default: local")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    arguments.add_argument("--replace", action="store_true", help="put this run in the place of one of the same name")
    given = arguments.parse_args()

    def command() -> None:
        source = run_folder(given.results, given.run)
        target = publish(source, given.results / "published", given.name, replace=given.replace)
        print(f"published {target}")
        for name in side_records(load_run(target).study):
            if not (target / name).exists():
                print(f"without {name}: it was not measured")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
