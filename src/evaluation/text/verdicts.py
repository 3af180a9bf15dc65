r"""The verdicts of a run and the figures behind them, as a LaTeX macro each: ``verdicts.tex``, from ``claims.json``.

Names begin with the claim, its workload, its clock, and what both sides keep on the device:
\CFourSessionReadyVerdict, \CFourSessionReadyFrontierKeptVerdict. A figure has its own name behind that:
\CFiveSessionReadyRatio, with Low and High where it has an interval, not where it has a range. Figures of a single layer
are left out. How often a claim is decided, and how: \CFourVerdicts, \CFourSupported, \CFourRefuted, \CFourUndecided; of
all claims \AllVerdicts, \AllSupported and so on.

Decides nothing: :mod:`evaluation.claims.decide` does.
"""

import re
from collections.abc import Iterator, Sequence

from evaluation.analysis.material import Material
from evaluation.claims.claim import Verdict
from evaluation.records.runs import Json, read_object
from evaluation.text.latex import Latex
from evaluation.text.macro import Number, as_latex, camel, measured, plain, prefix_of

_OF_A_LAYER = re.compile(r"layer_[0-9]")
_ALL = "All"


def verdicts(claims: Sequence[Json]) -> list[Number]:
    """All of them, in the order of the claims."""
    return [*(number for claim in claims for number in _of_claim(claim)), *_counts(claims)]


def place(claim: Json) -> str:
    """What the macros of ``claim`` begin with: ``CFourSessionReady``."""
    keeps = f"{claim['keeps']}_kept" if claim.get("keeps") else None
    return "".join(camel(part) for part in (claim["id"], claim["workload"], claim["clock"], keeps) if part)


def _of_claim(claim: Json) -> Iterator[Number]:
    keys = {key: claim.get(key) for key in ("id", "workload", "clock", "keeps")}
    source = {"file": "claims.json", **keys}
    yield plain(f"{place(claim)}Verdict", claim["verdict"], {**source, "key": "verdict"})
    for key, figure in claim["figures"].items():
        if not _OF_A_LAYER.search(key):
            yield from _of_figure(f"{place(claim)}{camel(key)}", figure, {**source, "key": key})


def _of_figure(name: str, figure: Json, source: Json) -> Iterator[Number]:
    value, unit = figure["value"], figure["unit"]
    if isinstance(value, str):
        yield plain(name, value.replace("_", " "), source)
    elif isinstance(value, int):
        text = Latex(rf"$\geq$\,{value}" if figure.get("at_least") else value)
        yield Number(name=name, value=value, text=text, unit=unit, source=[source])
    else:
        yield measured(name, value, unit, source)
        if not figure.get("range"):
            yield from (
                measured(f"{name}{end.capitalize()}", figure[end], unit, source)
                for end in ("low", "high")
                if end in figure
            )


def _counts(claims: Sequence[Json]) -> Iterator[Number]:
    for name in (*dict.fromkeys(claim["id"] for claim in claims), _ALL):
        found = [claim["verdict"] for claim in claims if name in (claim["id"], _ALL)]
        source = {"file": "claims.json", "id": name, "key": "verdict"}
        yield plain(f"{camel(name)}Verdicts", len(found), source)
        yield from (plain(f"{camel(name)}{verdict.capitalize()}", found.count(verdict), source) for verdict in Verdict)


def files(material: Material, workload: str) -> list[str]:
    """``verdicts.tex``."""
    claims = read_object(material.outputs / "claims.json")["claims"]
    return [as_latex(verdicts(claims), material.name, prefix_of(material))]
