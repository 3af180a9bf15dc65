"""Writes the claims of a run as they were decided, in four files.

``claims.json`` holds everything. ``claims.md`` has it to be read, with every rule, the answers of
:mod:`evaluation.text.claims_short`, and a sentence on each value of the memo that differs. ``claims.tex`` has every
verdict in tables of one column, for an appendix; ``claims_short.tex`` has the answers. Decides nothing. The same
records give the same bytes: numbers are kept to six digits, for the last ones of a fit depend on the processor.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from evaluation.analysis.material import Material
from evaluation.analysis.power import HEAD, Power, powers, shown
from evaluation.analysis.statistics import ENOUGH
from evaluation.claims.claim import Claim, Figure, printed
from evaluation.claims.decide import OF_EVERY_RUN, PLAN, decide
from evaluation.claims.memo import Expectation, expectations
from evaluation.claims.rules import FIXED, KEY, digest
from evaluation.records.atomic import json_text
from evaluation.records.runs import Json, Run, is_own
from evaluation.text import claims_short
from evaluation.text.latex import environment, markdown, markdown_table, ranged

_FUNCTIONAL = "Functional CPU run: not a performance result."
_POWER = (
    "Shares of simulated runs that would decide, from the spreads which the pairs measured: supported at a true ratio "
    "of 1 at every layer, refuted at 1.12. The spread is a process's, the interval the widest of a run."
)
_MEMO = (
    "The memo is the note with which this project began: it asked for the study, and said what its author expected "
    "before anything was measured."
)
_DIGEST = "The digest of rules, margins and what fixes an interval is in study.json."
_NOT_COMPARED = "--"
_LINES_OF_A_COLUMN = 57  # in the letters of the claims' tables, with room for the caption
_LINES_OF_A_HEAD = 2


def expected(claim: Claim) -> str | None:
    """What the memo says of ``claim``; it knows one clock, ready."""
    return claim.statement.memo if claim.clock in (None, "ready") else None


def processes(run: Run) -> str:
    """What the intervals of ``run`` hold, by how often each layer was measured in a process of its own."""
    rounds, pairs = run.study["rounds"], run.study.get("pairs")
    beside = ""
    if pairs:
        beside = (
            f" Pairs have {pairs['rounds']} processes, each over all of their layers, in {_sittings(run)}; "
            "intervals resample sittings, then processes."
        )
    if rounds == 1:
        return (
            "Each layer was measured in one process: intervals hold what varies within it, not what differs between "
            f"processes, which may look like depth.{beside}"
        )
    if rounds < ENOUGH:
        return f"Each layer was measured in {rounds} processes: that is a range and no interval.{beside}"
    return f"Each layer was measured in {rounds} processes, which the intervals resample.{beside}"


def _sittings(run: Run) -> str:
    count = len(set(run.pair_sittings.values()))
    return "one sitting" if count == 1 else f"{count} sittings"


def rules_of(run: Run) -> str:
    """Since when the rules stand, and whether those of the study of ``run`` are the ones that decided here."""
    here, then = digest(), run.study[KEY]
    if then == here:
        return f"{FIXED} {_DIGEST} That of this run, {here[:12]}, is of the rules that decided here."
    return (
        f"{FIXED} {_DIGEST} That of this run, {then[:12]}, is of other rules than those that decided here, {here[:12]}."
    )


def as_json(run: Run, claims: Iterable[Claim], memo: Iterable[Expectation]) -> Json:
    """Everything, in the order in which it was decided."""
    return {
        "run": run.name,
        "functional": run.functional,
        "intervals": processes(run),
        "rules": {"sha256": digest(), "of_the_study": run.study[KEY]},
        "claims": [
            {
                "id": claim.id,
                "claim": claim.statement.words,
                "rule": claim.statement.rule,
                "clock": claim.clock,
                "workload": claim.workload,
                **({"keeps": claim.place.keeps} if claim.place.keeps else {}),
                "verdict": str(claim.verdict),
                "figures": {name: _figure(figure) for name, figure in claim.judgement.figures.items()},
                "expected": expected(claim),
                "remark": claim.judgement.remark,
            }
            for claim in claims
        ],
        "expectations": [
            {**vars(one), "measured": None if one.measured is None else _figure(one.measured)} for one in memo
        ],
    }


def _figure(figure: Figure) -> Json:
    """Value and unit, and what else the figure has."""
    kept = {name: value for name, value in vars(figure).items() if value not in (None, False) or name == "value"}
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in kept.items()}


def as_markdown(run: Run, claims: Iterable[Claim], memo: Sequence[Expectation], power: Sequence[Power] = ()) -> str:
    """A page of tables: the answers, each claim, ``power``, the memo's values with a sentence where one differs."""
    page = [f"# Claims, decided from the run {markdown(run.name)}", ""]
    if run.functional:
        page += [f"**{_FUNCTIONAL}**", ""]
    page += ["Written by `evaluation.paper`; do not edit. Intervals are of 95 %.", processes(run), rules_of(run), ""]
    claims = list(claims)
    page += ["## In short", "", *claims_short.as_markdown(run, claims), ""]
    for _, group in groupby(claims, key=lambda claim: claim.id):
        page += _section(list(group))
    if power:
        page += ["## What so many processes decide of C4", "", _POWER, ""]
        page += [*markdown_table(HEAD, [shown(row) for row in power]), ""]
    page += [
        "## What the memo expected",
        "",
        _MEMO,
        "",
        *markdown_table(("", "workload", "memo", "measured", "differs"), _rows(memo)),
        "",
    ]
    sentences = [
        f"- {markdown(one.quantity)}{f' ({markdown(one.workload)})' if one.workload else ''}: {markdown(one.sentence)}"
        for one in memo
        if one.differs
    ]
    return "\n".join([*page, *sentences]) + "\n"


def _section(claims: Sequence[Claim]) -> list[str]:
    first = claims[0]
    rows = [
        (
            claim.workload or "",
            claim.place.clock_words,
            f"**{claim.verdict}**",
            claim.judgement.lead,
            claim.judgement.remark,
            "; ".join(f"{name} {printed(figure)}" for name, figure in claim.judgement.figures.items()),
        )
        for claim in claims
    ]
    return [
        f"## {first.id}: {first.statement.words}",
        "",
        f"Rule: {markdown(first.statement.rule)}.",
        f"The memo: {first.statement.memo}.",
        "",
        *markdown_table(("workload", "clock", "verdict", "decided by", "remark", "all figures"), rows),
        "",
    ]


def _rows(memo: Iterable[Expectation]) -> list[tuple[str, ...]]:
    answers = {None: "not compared", True: "yes", False: "no"}
    return [(one.quantity, one.workload or "", one.memo, _measured(one), answers[one.differs]) for one in memo]


def _measured(one: Expectation) -> str:
    return _NOT_COMPARED if one.measured is None else printed(one.measured)


def as_latex(run: Run, claims: Iterable[Claim]) -> str:
    """Every verdict, in tables of one column each, which holds so many lines."""
    groups = [list(group) for _, group in groupby(claims, key=lambda claim: claim.id)]
    return (
        environment()
        .get_template("claims.tex.j2")
        .render(
            run=run.name,
            functional=_FUNCTIONAL if run.functional else "",
            processes=processes(run),
            rules=rules_of(run).removeprefix(f"{FIXED} "),
            tables=[[_entry(group) for group in table] for table in _tables(groups)],
        )
    )


def _tables(groups: Sequence[Sequence[Claim]]) -> list[list[Sequence[Claim]]]:
    """``groups`` of claims in as few tables as their columns hold, about as long each; one group is never parted."""
    fewest = len(_parted(groups, _LINES_OF_A_COLUMN))
    tables = (_parted(groups, lines) for lines in range(_LINES_OF_A_COLUMN + 1))
    return next(found for found in tables if len(found) <= fewest)


def _parted(groups: Sequence[Sequence[Claim]], lines: int) -> list[list[Sequence[Claim]]]:
    """``groups`` in tables of at most ``lines``, or of one group."""
    found: list[list[Sequence[Claim]]] = []
    left = 0
    for group in groups:
        taken = len(group) + _LINES_OF_A_HEAD
        if taken > left:
            found.append([])
            left = lines
        found[-1].append(group)
        left -= taken
    return found


def _entry(group: Sequence[Claim]) -> Json:
    """A claim and its verdicts, as the template sets them."""
    rows = [
        {
            "workload": claim.workload or "",
            "clock": claim.place.clock_words.replace(f"{claim.place.keeps} kept", "kept"),
            "figure": ranged(claim.judgement.lead),
            "verdict": str(claim.verdict),
        }
        for claim in group
    ]
    return {"id": group[0].id, "words": group[0].statement.words, "rows": rows}


def files(material: Material, workload: str) -> list[str]:
    """``claims.json``, ``claims.md``, ``claims.tex`` and ``claims_short.tex``."""
    beside_another = material.leading is not None and not is_own(material.name)
    claims = decide(material.run, OF_EVERY_RUN if beside_another else PLAN)
    memo = expectations(material.run, claims)
    power = [] if material.run.functional else powers(material.run)
    page = as_markdown(material.run, claims, memo, power)
    tables = as_latex(material.run, claims), claims_short.as_latex(material.run, claims)
    return [json_text(as_json(material.run, claims, memo)), page, *tables]
