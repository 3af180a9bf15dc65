"""Draws and writes the outputs of a run, all of them or those that are named, with one reading of the run.

Its tables must be there: ``python -m evaluation.analysis.aggregate --run RUN`` writes them.
"""

import importlib
import sys
from collections.abc import Sequence

from evaluation.analysis.material import Material
from evaluation.command import Refusal, parser, run
from evaluation.paper.arguments import add_options, material_of
from evaluation.paper.outputs import OUTPUTS
from evaluation.paper.plan import Plan
from evaluation.records.atomic import write_bytes


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
        print(f"{material.outputs}: {', '.join(output.written(name))}")


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for what cannot be drawn."""
    arguments = parser("paper", __doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", help="an output, as crossover or claims; default: all")
    add_options(arguments)
    given = arguments.parse_args()
    return run(lambda: draw(material_of(given), given.names))


if __name__ == "__main__":
    sys.exit(main())
