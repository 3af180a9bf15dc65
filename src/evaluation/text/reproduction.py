"""Sets this machine's run beside the authors': ``paper_figures/local/reproduction.md``, claim by claim, ratio by ratio.

Decides nothing about claims: it compares what :mod:`evaluation.text.claims` has written of either run, and the rows of
either summary. Ratios are taken within a process and should agree; times follow the machine, so each is set
beside what the published one becomes at this machine's measured rates. A functional run has neither.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evaluation.analysis.findings import Findings, ceiling
from evaluation.analysis.material import Material
from evaluation.analysis.metrics import CLOCKS
from evaluation.analysis.numerals import significant
from evaluation.analysis.summary import Row
from evaluation.analysis.variants import PRIMARY
from evaluation.claims.claim import Place
from evaluation.records.runs import Json, RunError, read_object
from evaluation.text.latex import markdown, markdown_table

_RATIO_TOLERANCE = 0.10  # of the published median, where the intervals do not overlap
_TIME_TOLERANCE = 0.25  # of what the rates make of the published median
_NO_PAIRS = "Not compared: one of the runs has no pairs."
_CEILINGS = {
    "pinned_h2d_gbps": "pinned copies to the device, GB/s",
    "pinned_d2h_gbps": "pinned copies to the host, GB/s",
    "pageable_h2d_gbps": "pageable copies to the device, GB/s",
    "matrix_tflops_bf16": "matrix products, TFLOP/s",
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs: its claims as written, its rows, and its machine."""

    claims: Json
    findings: Findings
    machine: Json

    @property
    def functional(self) -> bool:
        """Whether it says nothing about speed."""
        return bool(self.machine["functional"])


def page(here: Side, there: Side) -> str:
    """The whole page, as Markdown."""
    name = markdown(there.findings.run)
    lines = [f"# This machine beside the authors' run {name}", "", *_summary(here), ""]
    lines += ["## The machines", "", *markdown_table(("", "here", "published"), _machines(here, there)), ""]
    claims = markdown_table(("claim", "workload", "clock", "here", "published", ""), _claims(here, there))
    lines += ["## Claims", "", "Rules and figures: `claims.md` here, and of the published run one folder up.", ""]
    lines += [*claims, ""]
    if not here.functional:
        lines += ["## Ratios of pairs", "", *_ratio_rule()]
        columns = ("Djinn over offload by hand", "workload", "layer", "here", "published", "")
        ratios = list(_ratios(here, there))
        lines += ["", *(markdown_table(columns, ratios) if ratios else [_NO_PAIRS]), ""]
        lines += ["## Times, ready at the deepest layer", "", *_time_rule(), ""]
        columns = ("method", "workload", "here, ms", "published, ms", "expected here, ms", "")
        lines += [*markdown_table(columns, _times(here, there)), ""]
    return "\n".join(lines)


def _summary(here: Side) -> list[str]:
    decided = {claim["id"] for claim in here.claims["claims"] if claim["verdict"] != "undecided"}
    touched = ", ".join(sorted(decided)) or "none"
    left = ", ".join(sorted({claim["id"] for claim in here.claims["claims"]} - decided)) or "none"
    if here.functional:
        return [
            "**Functional CPU run: not a performance result.**",
            "",
            f"- It decides {touched}: every step works, and every resume is bit-exact.",
            f"- It cannot touch {left}: speed and a GPU's memory. So no ratio and no time is compared.",
        ]
    return [f"This run decides {touched}. It leaves undecided: {left}."]


def _machines(here: Side, there: Side) -> Iterable[tuple[str, ...]]:
    for words, path in {
        "GPU": ("gpu", "name"),
        "driver": ("gpu", "driver"),
        "CPU": ("host", "cpu"),
        "torch": ("software", "versions", "torch"),
        "transformers": ("software", "versions", "transformers"),
    }.items():
        yield words, *(_found(side.machine, path) for side in (here, there))
    for name, words in _CEILINGS.items():
        rates = [ceiling(side.machine, name) for side in (here, there)]
        yield words, *("--" if rate is None else significant(rate) for rate in rates)


def _found(machine: Json, path: tuple[str, ...]) -> str:
    value: object = machine
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else "--"


def _claims(here: Side, there: Side) -> Iterable[tuple[str, ...]]:
    mine, theirs = ({_about(one): one for one in side.claims["claims"]} for side in (here, there))
    for key in dict.fromkeys([*theirs, *mine]):
        both = mine.get(key), theirs.get(key)
        verdicts = [_verdict(one) for one in both]
        agreed = ""
        if not {"--", "undecided"}.intersection(verdicts):
            agreed = "same" if verdicts[0] == verdicts[1] else "differs"
        yield *key, *verdicts, agreed


def _about(claim: Json) -> tuple[str, str, str]:
    """Its number, its workload and its clock, with what is kept on the device."""
    place = Place(clock=claim["clock"], keeps=claim.get("keeps"))
    return claim["id"], claim["workload"] or "", place.clock_words


def _verdict(claim: Json | None) -> str:
    return "--" if claim is None else str(claim["verdict"])


def _ratio_rule() -> list[str]:
    return [
        "Either side of a pair ran in the same process on the same machine, so these should agree: the intervals "
        f"overlap, or the medians differ by no more than {100 * _RATIO_TOLERANCE:.0f} %."
    ]


def _ratios(here: Side, there: Side) -> Iterable[tuple[str, ...]]:
    for clock in CLOCKS:
        for workload in there.findings.workloads:
            for published in there.findings.series(workload, "djinn", clock.ratio):
                mine = here.findings.at(workload, "djinn", clock.ratio, published.breakpoint)
                if published.median is not None and mine is not None and mine.median is not None:
                    layer, verdict = str(published.layer), "agrees" if _agree(mine, published) else "differs"
                    yield clock.words, workload, layer, _interval(mine), _interval(published), verdict


def _agree(mine: Row, published: Row) -> bool:
    assert mine.median is not None
    assert published.median is not None
    bounds = mine.ci_low, mine.ci_high, published.ci_low, published.ci_high
    low, high, their_low, their_high = (float("nan") if bound is None else bound for bound in bounds)
    overlap = low <= their_high and their_low <= high
    return overlap or abs(mine.median - published.median) <= _RATIO_TOLERANCE * published.median


def _interval(row: Row) -> str:
    assert row.median is not None
    if row.ci_low is None or row.ci_high is None:
        return significant(row.median)
    return f"{significant(row.median)} ({significant(row.ci_low)} to {significant(row.ci_high)})"


def _time_rule() -> list[str]:
    return [
        "Times follow the machine: copies its link, recompute its matrix rate, and all of them its cores, for a resume "
        "begins on a core that slept. Expected is the published time at this machine's measured rates, within "
        f"{100 * _TIME_TOLERANCE:.0f} %; what differs by more is another machine, or a fault to look for."
    ]


def _times(here: Side, there: Side) -> Iterable[tuple[str, ...]]:
    layer = there.findings.deepest
    for method, rate in [(one.method, one.rate) for one in PRIMARY.values() if one.rate]:
        for workload in there.findings.workloads:
            rows = [side.findings.at(workload, method, "ready_ms", layer) for side in (here, there)]
            mine, published = (None if row is None else row.median for row in rows)
            my_rate, their_rate = (ceiling(side.machine, rate) for side in (here, there))
            if mine is None or published is None or not my_rate or not their_rate:
                continue  # not measured, or another model, whose deepest layer is another
            expected = published * their_rate / my_rate
            verdict = "as expected" if abs(mine - expected) <= _TIME_TOLERANCE * expected else "differs"
            times = [significant(ms) for ms in (mine, published, expected)]
            yield method.replace("_", " "), workload, *times, verdict


def _read_claims(path: Path) -> Json:
    claims = read_object(path)
    if "claims" not in claims:
        raise RunError(f"{path}: no claims as evaluation.text.claims writes them")
    return claims


def files(material: Material, workload: str) -> list[str]:
    """``reproduction.md``, from the claims of either run as they were written."""
    assert material.leading is not None
    here, there = (
        Side(claims=_read_claims(one.outputs / "claims.json"), findings=one.findings, machine=one.machine)
        for one in (material, material.leading)
    )
    return [page(here, there)]
