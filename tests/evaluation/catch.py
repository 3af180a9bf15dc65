"""Runs a mutant, a resume that restores too little or too late, as a job of the study, and shows how the job fails.

``python -m tests.evaluation.catch NAME ...`` in the root of the checkout takes those of these names, without a name all
of :mod:`tests.evaluation.mutants`. The job is a round of the pairs as ``config.yaml`` has it for a machine without a
GPU, of one form, in the middle of the depth. First it runs as it is, and must write its record. Then the mutant takes
the place of what was measured, and the job must write none. The exit status is 1 if a mutant gets by.
"""

import argparse
import contextlib
import gc
import io
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

from djinn.state.ownership import Ownership
from evaluation.experiments.pairs import take
from evaluation.measure.job import run_round_job
from evaluation.methods.benchmark_djinn import Djinn
from evaluation.methods.benchmark_recompute import KvOffload
from evaluation.study.read import load_config
from evaluation.study.resolve import resolve
from tests.evaluation.mutants import BY_HAND, OF_THE_RUNTIME, take_little

NOT_EXACT = 1  # the exit status of a job with a sample that differs


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """``kind`` is measured in place of ``original``; or the runtime's attribute ``place`` is ``stand_in`` meanwhile."""

    says: str  # what it does wrong
    original: type
    kind: type
    place: tuple[object, str] | None = None
    stand_in: object = None

    def standing(self):
        """A context in which it has its place."""
        return contextlib.nullcontext() if self.place is None else mock.patch.object(*self.place, self.stand_in)


def _says(docstring):
    return " ".join(docstring.split(":", 1)[1].split())


MUTANTS = {kind.__name__: Mutant(says=_says(kind.__doc__), original=kind.__bases__[0], kind=kind) for kind in BY_HAND}
MUTANTS |= {
    function.__name__: Mutant(
        says=_says(function.__doc__), original=Djinn, kind=Djinn, place=(owner, name), stand_in=function
    )
    for owner, name, function in [*OF_THE_RUNTIME, (Ownership, "externally_referenced", take_little)]
}


def job(kind, study, folder):
    """Measure ``kind`` alone: the job's exit status, the last line that it printed, and whether there is a record."""
    if study.device == "cuda":
        gc.collect()  # the last job's model lies in cycles, and a GPU may have no room for two
    settings, record, printed = folder / "settings.json", folder / "record.json", io.StringIO()
    settings.write_text(json.dumps(study.to_json()))
    record.unlink(missing_ok=True)
    command = ["pairs", "--study", str(settings), "--out", str(record)]
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", command),
    ):
        status = run_round_job("pairs", None, partial(take, forms=lambda where: [kind]))
    return status, printed.getvalue().splitlines()[-1], record.exists()


def shortened(study, kind):
    """One block in the middle of the depth; a token is run again only before a decode step."""
    workloads = [one for one in study.workloads if one.decode_step or not issubclass(kind, KvOffload)]
    pairs = replace(study.pairs, layers=(study.architecture.layers // 2,), blocks=1)
    return replace(study, workloads=tuple(workloads), pairs=pairs)


def caught(mutant, study, folder):
    """Run the job as it is and with ``mutant`` in it, and print what either says; whether only the latter fails."""
    study = shortened(study, mutant.kind)
    status, said, written = job(mutant.original, study, folder)
    fair = status == 0 and written
    print(f"  as it is    exit status {status}, {'a record' if written else said}")
    with mutant.standing():
        status, said, written = job(mutant.kind, study, folder)
    print(f"  the mutant  exit status {status}, {'a record' if written else said}", flush=True)
    return fair and status == NOT_EXACT and not written


def main():
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.evaluation.catch", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MUTANTS)}; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the study's model, on the GPU")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in MUTANTS]:
        parser.error(f"no mutant is called {unknown[0]}; there are {', '.join(MUTANTS)}")
    study = resolve({**load_config(Path("config.yaml")), "device": given.device})
    escaped = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or MUTANTS:
            print(f"{name} in place of {MUTANTS[name].original.__name__}: {MUTANTS[name].says}")
            if not caught(MUTANTS[name], study, Path(folder)):
                escaped.append(name)
    print(f"not caught: {', '.join(escaped)}" if escaped else "caught, each of them")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
