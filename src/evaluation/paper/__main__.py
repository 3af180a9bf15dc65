"""Draws and writes the outputs of a run, all of them or those that are named, with one reading of the run.

``--run`` is a name: ``local``, or that of a published run. Its tables must be there: ``python -m
evaluation.analysis.aggregate --run RUN`` writes them.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.analysis.material import Material
from evaluation.command import Refusal, parser, run
from evaluation.paper.outputs import OUTPUTS
from evaluation.paper.plan import Plan, outputs_folder
from evaluation.records.atomic import write_bytes
from evaluation.study.config import check, load_config


def draw(material: Material, wanted: Sequence[str]) -> None:
    """Write the ``wanted`` outputs of a run, or all that it has, into its folder.

    Raises :class:`Refusal` for a name that is unknown, before anything is written, and for what cannot be drawn.
    """
    plan = Plan.found(material.results, material.name)
    known = {
        name: (output, workload)
        for output in OUTPUTS
        for name, workload in output.names(plan, leading=material.leading is not None).items()
    }
    if unknown := [name for name in wanted if name not in known]:
        raise Refusal(f"run {material.name} has no output {unknown[0]!r}. Allowed: {', '.join(known)}")
    for name in wanted or known:
        output, workload = known[name]
        contents = importlib.import_module(f"evaluation.{output.module}").files(material, workload)
        for file, content in zip(output.written(name), contents, strict=True):
            write_bytes(material.outputs / file, content if isinstance(content, bytes) else content.encode())


def material_of(results: Path, figures: Path, name: str, leading: str | None) -> Material:
    """The run ``name`` beside the ``leading`` one, which has the folder ``figures`` for itself."""
    first = None
    if leading not in (None, name):
        first = Material(name=leading, results=results, outputs=outputs_folder(figures, leading, leading))
    return Material(name=name, results=results, outputs=outputs_folder(figures, name, leading), leading=first)


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for what cannot be drawn."""
    arguments = parser("paper", __doc__)
    arguments.add_argument("--run", required=True, help="name of the run: local, or that of a published one")
    arguments.add_argument("names", nargs="*", metavar="NAME", help="an output, as crossover or claims; default: all")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    arguments.add_argument("--figures", type=Path, default=Path("paper_figures"), help="default: paper_figures")
    arguments.add_argument(
        "--leading", help="the run that the paper is drawn from, or nothing; default: the first of paper_runs"
    )
    given = arguments.parse_args()

    def command() -> None:
        leading = given.leading
        if leading is None:
            leading = check(load_config(Path("config.yaml")))["paper_run"]
        draw(material_of(given.results, given.figures, given.run, leading or None), given.names)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
