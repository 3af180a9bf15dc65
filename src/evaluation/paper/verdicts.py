"""Prints what a run decided in a few lines, how long its jobs took, and where to look.

Reads ``claims.json`` as it was written, and Snakemake's benchmark files. Decides nothing.
"""

import sys
from collections.abc import Iterator

from evaluation.analysis.material import Material
from evaluation.claims.claim import Place, Verdict
from evaluation.command import parser, run
from evaluation.paper.arguments import add_options, material_of
from evaluation.records.runs import Json, pair_paths, read_object, record_paths, side_records
from evaluation.text.experiments import Cost


def lines(material: Material) -> Iterator[str]:
    """What is printed of the run, a line for each claim and verdict."""
    claims: list[Json] = read_object(material.outputs / "claims.json")["claims"]
    functional = " (functional CPU run: not a performance result)" if material.functional else ""
    yield f"The run {material.name}{functional}:"
    for name in dict.fromkeys(claim["id"] for claim in claims):
        of_claim = [claim for claim in claims if claim["id"] == name]
        yield f"  {name}: {of_claim[0]['claim']}"
        for verdict in Verdict:
            places = [_place(claim) for claim in of_claim if claim["verdict"] == verdict]
            if places:
                yield f"    {verdict}{': ' if any(places) else ''}{'; '.join(filter(None, places))}"
    folder, study = material.folder, material.study
    records = [*record_paths(folder, study), *pair_paths(folder, study)]
    cost = Cost.of(folder, [*records, *(folder / place for place in side_records(study))])
    if cost.seconds is not None:
        yield f"{cost.timed} of {cost.asked} jobs took {cost.seconds / 60:.1f} minutes."
    yield f"Rules, figures and reasons: {material.outputs / 'claims.md'}; what each job took: experiments.md there."


def _place(claim: Json) -> str:
    place = Place(workload=claim["workload"], clock=claim["clock"], keeps=claim.get("keeps"))
    return ", ".join(filter(None, (place.workload, place.clock_words)))


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for a run that was not decided."""
    arguments = parser("paper.verdicts", __doc__)
    add_options(arguments)
    given = arguments.parse_args()
    return run(lambda: print("\n".join(lines(material_of(given)))))


if __name__ == "__main__":
    sys.exit(main())
