"""One benchmark job as a command: one method at one breakpoint, in a process of its own, into one JSON record."""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jsonschema
import torch
from tqdm import tqdm

from evaluation.measure.harness import NotBitExact, Record, Variants, measure
from evaluation.measure.models import Subject, build, outline
from evaluation.records.atomic import write_json
from evaluation.records.provenance import provenance
from evaluation.study.config import methods, peers
from evaluation.study.devices import DeviceError
from evaluation.study.plan import ConfigError, Study
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve

Report = Callable[[str], None]


def run_job(name: str, description: str | None, variants: Variants, partners: Variants = lambda workload: []) -> int:
    """Parse the command line, measure method ``name``, write the record; returns the exit status.

    0: the record is written. 1: a sample was not bit-exact, and nothing is written. 2: the request cannot be run.
    """
    arguments = _parse(name, description)
    try:
        study = _study(arguments).only("measure")
        if not 1 <= arguments.layer <= study.architecture.layers:
            raise ConfigError(
                f"--layer {arguments.layer}: {study.model.name} has layers 1 to {study.architecture.layers}"
            )
        record = _measure(name, arguments, study, variants, partners)
    except NotBitExact as error:
        print(f"error: not bit-exact: {error}; no record is written", file=sys.stderr)
        return 1
    except (ConfigError, DeviceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    check_record(record)
    write_json(arguments.out, record)
    return 0


def run_side_job(name: str, description: str | None, take: Callable[[Subject, Study, Report], Record]) -> int:
    """The same for what is measured once per run and not per method and layer; ``take`` returns ``cells``."""
    arguments = _parser(f"experiments.{name}", description).parse_args()
    return _run_beside(name, name, arguments, lambda study, subject, report: take(subject(), study, report))


def run_method_job(
    name: str, description: str | None, take: Callable[[str, Study, Callable[[], Subject], Report], Record]
) -> int:
    """The same for what is measured once per method; ``take`` is given what builds the model, for when it wants it."""
    parser = _parser(f"experiments.{name}", description)
    parser.add_argument("--method", required=True, help="as in the configuration: vanilla, djinn, ...")
    arguments = parser.parse_args()

    def one(study: Study, subject: Callable[[], Subject], report: Report) -> Record:
        return {"method": arguments.method, **take(arguments.method, study, subject, report)}

    return _run_beside(name, name, arguments, one, named=("method", arguments.method, methods()))


def run_peer_job(name: str, description: str | None, take: Callable[[str, Study, Report], Record]) -> int:
    """The same for what a user would pick instead; a peer builds its model in a process of its own."""
    parser = _parser(name, description)
    parser.add_argument("--peer", required=True, help="as in the configuration: memory_saver, process_checkpoint")
    arguments = parser.parse_args()

    def one(study: Study, subject: Callable[[], Subject], report: Report) -> Record:
        return {"peer": arguments.peer, **take(arguments.peer, study, report)}

    return _run_beside(name, arguments.peer, arguments, one, named=("peer", arguments.peer, peers()))


def _run_beside(
    name: str,
    kind: str,
    arguments: argparse.Namespace,
    take: Callable[[Study, Callable[[], Subject], Report], Record],
    named: tuple[str, str, list[str]] | None = None,
) -> int:
    built: list[Subject] = []

    def subject() -> Subject:
        built.append(build_subject(study))
        return built[0]

    try:
        if named is not None and named[1] not in named[2]:
            raise ConfigError(f"--{named[0]} {named[1]}: no such {named[0]}. Allowed: {', '.join(named[2])}")
        study = _study(arguments).only(kind)
        origin = provenance(study.device)
        with _Progress(name) as report, torch.no_grad():
            cells = take(study, subject, report)
    except NotBitExact as error:
        print(f"error: not bit-exact: {error}; no record is written", file=sys.stderr)
        return 1
    except (ConfigError, DeviceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    described = (built[0] if built else outline(study)).describe(study)
    shared = {"study": study.part(kind), "model": described, "provenance": origin}
    write_json(arguments.out, {"schema": 1, "kind": name, **shared, **cells})
    return 0


def check_record(record: Record) -> None:
    """Raise ``jsonschema.ValidationError`` if ``record`` is not what ``record.schema.json`` describes."""
    schema = json.loads(resources.files("evaluation.records").joinpath("record.schema.json").read_text())
    jsonschema.validate(record, schema)


def _parser(module: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m evaluation.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where the JSON record goes")
    parser.add_argument("--study", type=Path, help="a resolved study.json; default: resolve --config on this machine")
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    return parser


def _parse(name: str, description: str | None) -> argparse.Namespace:
    parser = _parser(f"methods.benchmark_{name}", description)
    parser.add_argument("--layer", type=int, required=True, help="breakpoint L: pause after decoder layer L, 1 to N")
    parser.add_argument("--round", type=int, default=1, help="which repetition this is (default 1)")
    return parser.parse_args()


def _study(arguments: argparse.Namespace) -> Study:
    if arguments.study is not None:
        return Study.from_json(json.loads(arguments.study.read_text()))
    return resolve(load_config(arguments.config))


def _measure(name: str, arguments: argparse.Namespace, study: Study, variants: Variants, partners: Variants) -> Record:
    origin = provenance(study.device)
    subject = build_subject(study)
    with _Progress(f"{name} layer {arguments.layer}") as report:
        cells = measure(subject, study, arguments.layer, variants=variants, partners=partners, report=report)
    return {
        "schema": 1,
        "method": name,
        "layer": arguments.layer,
        "round": arguments.round,
        "study": study.part("measure"),
        "model": subject.describe(study),
        "provenance": origin,
        "cells": cells,
    }


def build_subject(study: Study) -> Subject:
    """The model of ``study`` on its device; raises :class:`ConfigError` if the device has no room for it."""
    try:
        return build(study)
    except torch.OutOfMemoryError as error:
        message = "the model does not fit the device, or another process holds its memory"
        raise ConfigError(f"{message}: {str(error).splitlines()[0]}") from error


class _Progress:
    """A progress bar on a terminal; in a log, a line whenever something else begins."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar = tqdm(desc=title, unit="sample") if sys.stderr.isatty() else None
        self._last = ""

    def __enter__(self) -> Callable[[str], None]:
        return self._report

    def _report(self, line: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.update()
        elif line != self._last:
            print(f"{self._title}: {line}", file=sys.stderr, flush=True)
        self._last = line

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()
