"""Carries a paused session to another machine, where it goes on exactly or is refused by name.

``save FOLDER`` pauses a session in the middle of the model and writes what is to be carried. That is its file, the
study, and the digest of what the program computes without a pause. ``restore FOLDER``, there, makes the same weights,
restores and finishes the session, and prints what came of it. The exit status is 0 where all bits are those of both
machines' uninterrupted runs, 1 where some differ, and 2 where the session is refused, with the reason. Random weights
are drawn on the device: those of a CPU are others, and a model of other weights is refused. Nothing is timed.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

import djinn
from evaluation import command
from evaluation.command import Refusal
from evaluation.experiments.durable import Side, sha256_of
from evaluation.measure.edits import edited_workload
from evaluation.measure.harness import NotBitExact
from evaluation.measure.job import build_subject
from evaluation.measure.programs import equal
from evaluation.records.atomic import write_json
from evaluation.study.devices import choose_device, visible_gpu
from evaluation.study.plan import Study, Workload
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve

_ABOUT = "carried.json"


class Refused(Refusal):
    """The session cannot go on here; the message is the runtime's."""


def save(folder: Path, study: Study, tokens: int) -> None:
    """Pause a session with a prompt of ``tokens`` and write what is to be carried into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    workload = replace(edited_workload(study), tokens=tokens)
    side = Side(build_subject(study), study, folder)
    expected = side.uninterrupted(workload)
    session = side.session(workload, expected[0], durable=True)
    session.prepare()
    session.save(folder)
    session.resume()
    session.finish()
    side.runtime.close()
    write_json(
        folder / _ABOUT,
        {"study": study.to_json(), "tokens": tokens, "threads": torch.get_num_threads(), "sha256": sha256_of(expected)},
    )


def restore(folder: Path, device: str, *, allow_other: bool) -> str:
    """Go on with what was carried here; what came of it, in words.

    Raises :class:`Refused`, and :class:`NotBitExact` where a bit differs.
    """
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    study = Study.from_json(about["study"]).but(device=choose_device(device, visible_gpu()))
    workload: Workload = replace(edited_workload(study), tokens=about["tokens"])
    side = Side(build_subject(study), study, folder)
    torch.set_num_threads(about["threads"])  # another number is another setting, which a restore refuses
    expected = side.uninterrupted(workload)
    session = side.session(workload, expected[0], durable=True)
    try:
        session.restore(folder, allow_other=allow_other)
        session.resume()
        found = session.finish()
    except djinn.NotRestored as refusal:
        raise Refused(f"refused: {refusal}") from refusal
    finally:
        side.runtime.close()
    differing = [
        whose
        for whose, same in {
            "here": equal(found, expected),
            "there": sha256_of(found) == about["sha256"],
        }.items()
        if not same
    ]
    if differing:
        raise NotBitExact(f"carried: it differs from the uninterrupted run {' and '.join(differing)}")
    return f"exact: every bit of workload {workload.name}, {workload.tokens} tokens, after layer {side.layer}"


def main() -> int:
    """Command line; returns the exit status."""
    arguments = command.parser("experiments.carried", __doc__)
    verbs = arguments.add_subparsers(dest="verb", required=True)
    saving = verbs.add_parser("save", help="pause a session, and write it into FOLDER")
    restoring = verbs.add_parser("restore", help="go on with what FOLDER holds")
    for one in (saving, restoring):
        one.add_argument("folder", type=Path, metavar="FOLDER")
    saving.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    saving.add_argument("--tokens", type=int, default=16, help="of the prompt (default 16)")
    restoring.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: auto")
    restoring.add_argument("--allow-other", action="store_true", help="try on another GPU, driver or version as well")
    given = arguments.parse_args()
    return command.run(lambda: _do(given))


def _do(given: argparse.Namespace) -> None:
    with torch.no_grad():
        if given.verb == "save":
            save(given.folder, resolve(load_config(given.config)).only("durable"), given.tokens)
            print(f"to be carried: {given.folder}")
        else:
            print(restore(given.folder, given.device, allow_other=given.allow_other))


if __name__ == "__main__":
    sys.exit(main())
