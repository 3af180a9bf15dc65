"""Prints what a run decided in a few lines, how long its jobs took, where to look, and what to type next.

Reads ``claims.json`` as it was written, and Snakemake's benchmark files. Decides nothing.
"""

import sys
import textwrap
from collections import Counter
from collections.abc import Iterator

from evaluation.analysis.material import Material
from evaluation.claims.claim import Place, Verdict
from evaluation.command import parser, run
from evaluation.paper.arguments import add_options, material_of
from evaluation.paper.outlook import duration
from evaluation.records.runs import Json, is_own, pair_paths, read_object, record_paths, side_records
from evaluation.text.experiments import Cost

_WIDTH = 80


def lines(material: Material) -> Iterator[str]:
    """What is printed of the run."""
    yield from decided(material)
    yield from _next(material)


def decided(material: Material) -> Iterator[str]:
    """Of each claim its commonest verdict, and where there is another one; how long the jobs took."""
    claims: list[Json] = read_object(material.outputs / "claims.json")["claims"]
    functional = " (functional CPU run: not a performance result)" if material.functional else ""
    yield f"The run {material.name}{functional}:"
    for name in dict.fromkeys(claim["id"] for claim in claims):
        of_claim = [claim for claim in claims if claim["id"] == name]
        (commonest, count), *_ = Counter(claim["verdict"] for claim in of_claim).most_common()
        often = f" in {count} of {len(of_claim)}" if count < len(of_claim) else ""
        yield from _wrapped(f"  {name} {commonest}{often}: ", of_claim[0]["claim"])
        for verdict in Verdict:
            if verdict != commonest and (places := _places(claim for claim in of_claim if claim["verdict"] == verdict)):
                yield from _wrapped(f"     {verdict}: ", places)
    folder, study = material.folder, material.study
    records = [*record_paths(folder, study), *pair_paths(folder, study)]
    cost = Cost.of(folder, [*records, *(folder / place for place in side_records(study))])
    if cost.seconds is not None:
        yield f"{cost.timed} of {cost.asked} jobs took {duration(cost.seconds)}."


def _places(claims: Iterator[Json]) -> str:
    """By workload: ``session (ready, usable); decode (ready)``."""
    found: dict[str, list[str]] = {}
    for claim in claims:
        place = Place(workload=claim["workload"], clock=claim["clock"], keeps=claim.get("keeps"))
        found.setdefault(place.workload or "", []).append(place.clock_words.replace(",", " with"))
    clocks = {workload: f" ({', '.join(words)})" if any(words) else "" for workload, words in found.items()}
    return "; ".join(f"{workload}{words}" for workload, words in clocks.items()).strip()


def _wrapped(begin: str, text: str) -> list[str]:
    return textwrap.wrap(begin + text, _WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False)


def _next(material: Material) -> Iterator[str]:
    """Where to look first, and the next command."""
    about = {"reproduction.md": "this run beside the authors'", "claims.md": "rules, figures, reasons"}
    pages = [material.outputs / page for page in about if (material.outputs / page).exists()]
    for begin, page in zip(("Look first at", "Then at"), pages, strict=False):
        yield f"{begin} {page}: {about[page.name]}."
    if is_own(material.name):
        which = "" if material.name == "local" else f"RUNS={material.name} "
        yield f"All tables and figures in one page: {which}make report"
    if material.functional:
        yield "Speed is measured by the same command on a machine with a GPU."


def main() -> int:
    """Command line; returns the exit status: 0, or 2 with a message for a run that was not decided."""
    arguments = parser("paper.verdicts", __doc__)
    add_options(arguments)
    given = arguments.parse_args()
    return run(lambda: print("\n".join(lines(material_of(given)))))


if __name__ == "__main__":
    sys.exit(main())
