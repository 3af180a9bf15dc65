"""One measuring job as a command: a process of its own that writes one JSON record.

A sample job measures one method at one breakpoint; the others are of a whole run, of a method, or of a peer. The exit
status is 0 where the record is written; 1 where a session was not bit-exact; 2 where the request cannot be run.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from evaluation import command
from evaluation.measure.cell import Record, first_line
from evaluation.measure.conditions import Surroundings
from evaluation.measure.models import Subject, build, outline
from evaluation.measure.workloads import Variants, measure
from evaluation.records.kinds import write_record
from evaluation.records.lock import held, run_of
from evaluation.records.provenance import command as provenance_command
from evaluation.records.provenance import provenance
from evaluation.study.config import methods, peers
from evaluation.study.plan import ConfigError, Study
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve

Report = Callable[[str], None]
Subjects = Callable[[], Subject]  # builds the model, for when it is wanted


def run_job(name: str, description: str | None, variants: Variants) -> int:
    """Measure method ``name`` at the breakpoint of the command line; returns the exit status."""
    parser = _parser(f"methods.benchmark_{name}", description)
    parser.add_argument("--layer", type=int, required=True, help="breakpoint L: pause after decoder layer L, 1 to N")
    _add_round(parser)
    arguments = parser.parse_args()
    layer: int = arguments.layer

    def take(study: Study, subject: Subjects, report: Report) -> Record:
        if not 1 <= layer <= study.architecture.layers:
            raise ConfigError(f"--layer {layer}: {study.model.name} has layers 1 to {study.architecture.layers}")
        return {"cells": measure(subject(), study, layer, variants=variants, report=report)}

    about = {"method": name, "layer": layer, "round": arguments.round}
    return _run(f"{name} layer {layer}", "measure", arguments, about, take)


def run_round_job(name: str, description: str | None, take: Callable[[Subject, Study, int, Report], Record]) -> int:
    """Measure what is repeated in a process per round; ``take`` is given the round, and returns what it found."""
    parser = _parser(f"experiments.{name}", description)
    _add_round(parser)
    arguments = parser.parse_args()
    number: int = arguments.round
    about = {"kind": name, "round": number}
    return _run(
        f"{name} round {number}",
        name,
        arguments,
        about,
        lambda study, subject, report: take(subject(), study, number, report),
    )


def _add_round(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", type=int, default=1, help="which repetition this is (default 1)")


def run_side_job(name: str, description: str | None, take: Callable[[Subject, Study, Report], Record]) -> int:
    """Measure what is measured once per run; ``take`` returns ``cells``, and the result is the exit status."""
    arguments = _parser(f"experiments.{name}", description).parse_args()
    return _run(name, name, arguments, {"kind": name}, lambda study, subject, report: take(subject(), study, report))


def run_unbuilt_job(name: str, description: str | None, take: Callable[[Study, Subjects, Report], Record]) -> int:
    """The same for what must not have a model from the start."""
    return _run(name, name, _parser(f"experiments.{name}", description).parse_args(), {"kind": name}, take)


def run_method_job(name: str, description: str | None, take: Callable[[str, Study, Subjects, Report], Record]) -> int:
    """The same for what is measured once per method."""
    arguments = _naming("method", methods(), f"experiments.{name}", description)
    method: str = arguments.method
    return _run(
        name,
        name,
        arguments,
        {"kind": name},
        lambda study, subject, report: {"method": method, **take(method, study, subject, report)},
    )


def run_peer_job(name: str, description: str | None, take: Callable[[str, Study, Report], Record]) -> int:
    """The same for what a user would pick instead; a peer builds its model in a process of its own."""
    arguments = _naming("peer", peers(), name, description)
    peer: str = arguments.peer
    return _run(
        name,
        peer,
        arguments,
        {"kind": name},
        lambda study, subject, report: {"peer": peer, **take(peer, study, report)},
    )


def _naming(option: str, known: Sequence[str], module: str, description: str | None) -> argparse.Namespace:
    parser = _parser(module, description)
    parser.add_argument(f"--{option}", required=True, choices=known, help=f"one of {', '.join(known)}", metavar="NAME")
    return parser.parse_args()


def _parser(module: str, description: str | None) -> argparse.ArgumentParser:
    parser = command.parser(module, description)
    parser.add_argument("--out", type=Path, required=True, help="where the JSON record goes")
    parser.add_argument("--study", type=Path, help="a resolved study.json; default: resolve --config on this machine")
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    parser.add_argument(
        "--strict", type=int, choices=(0, 1), help="1: stop on a throttled or shared GPU; default: as the study says"
    )
    return parser


def _run(
    title: str,
    kind: str,
    arguments: argparse.Namespace,
    about: Record,
    take: Callable[[Study, Subjects, Report], Record],
) -> int:
    """Write the record of a ``kind`` of job: ``about``, what every record holds, and what ``take`` returns.

    In a run one job measures at a time; a second one waits, and says for whom.
    """
    built: list[Subject] = []

    def job() -> None:
        whole = _study(arguments)
        strict = whole.present().get("strict", False) if arguments.strict is None else bool(arguments.strict)
        study = whole.only(kind)

        def subject() -> Subject:
            built.append(build_subject(study))
            return built[0]

        with _alone(arguments.out), _Progress(title) as report, torch.no_grad():
            surroundings = Surroundings(study.device, strict=strict)  # before this process uses the GPU
            origin = provenance(study.device)
            found = take(study, subject, report)
            origin["conditions"] = surroundings.after(computes=bool(built))
        described = (built[0] if built else outline(study)).describe(study)
        shared = {"study": study.part(kind), "model": described, "provenance": origin}
        write_record(arguments.out, {"schema": 1, **about, **shared, **found})

    return command.run(job)


def _alone(record: Path) -> AbstractContextManager[None]:
    """The lock of the run that ``record`` is written into; a record elsewhere is a person's own, and waits for none."""
    run = run_of(record)
    return nullcontext() if run is None else held(run, provenance_command(), _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _study(arguments: argparse.Namespace) -> Study:
    if arguments.study is None:
        return resolve(load_config(arguments.config))
    try:
        plain = json.loads(arguments.study.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--study {arguments.study}: it is no JSON: {first_line(error)}") from error
    return Study.from_json(plain)


def build_subject(study: Study) -> Subject:
    """The model of ``study`` on its device; raises :class:`ConfigError` if the device has no room for it."""
    try:
        return build(study)
    except torch.OutOfMemoryError as error:
        message = "the model does not fit the device, or another process holds its memory"
        raise ConfigError(f"{message}: {first_line(error)}") from error


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
