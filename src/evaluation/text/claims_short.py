"""An answer to each claim in about a line: ``claims_short.tex``, a row each across both columns; needs booktabs.

An answer holds the verdicts of one workload, the one that leads, as ``Yes: ready 1.03 (1.01 to 1.05); no: first kernel
1.44``. The first clock has its interval. A workload that answers otherwise stands in brackets behind the clock. Every
verdict of every workload is in the tables of :mod:`evaluation.text.claims`, for an appendix. Decides nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from evaluation.analysis.leading import leading_workload
from evaluation.claims.claim import Claim, Verdict
from evaluation.records.runs import Run
from evaluation.text.latex import environment, markdown, markdown_table, ranged

_WORDS = {Verdict.SUPPORTED: "yes", Verdict.REFUTED: "no", Verdict.UNDECIDED: "undecided"}
_UNMEASURED = "--"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one verdict is about: clocks and numbers, or a reason.

    ``keeps``: the first part of those where that is kept on the device.
    """

    verdict: str
    text: str
    keeps: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a claim's verdicts come to in ``workload``, verdict by verdict."""

    id: str
    claim: str
    workload: str | None
    parts: list[Part]


def answers(run: Run, claims: Iterable[Claim]) -> list[Answer]:
    """One for each claim, in the order of ``claims``; of another workload where it is not about the leading one."""
    leading = leading_workload(run.study)
    found = []
    for _, group in groupby(claims, key=lambda claim: claim.id):
        verdicts = list(group)
        first = verdicts[0]
        told = leading if any(claim.workload == leading for claim in verdicts) else first.workload
        found.append(Answer(id=first.id, claim=first.statement.words, workload=told, parts=_told(verdicts, told)))
    return found


def _told(claims: Sequence[Claim], told: str | None) -> list[Part]:
    """The parts of one claim; what is kept on the device parts them where anything was measured."""
    if not any(claim.judgement.deciding for claim in claims):
        return list(_parts(claims, told, ""))
    policies = dict.fromkeys(claim.place.keeps for claim in claims)
    by_policy = ([claim for claim in claims if claim.place.keeps == keeps] for keeps in policies)
    return [part for keeps, group in zip(policies, by_policy, strict=True) for part in _parts(group, told, keeps or "")]


def _parts(claims: Sequence[Claim], told: str | None, keeps: str) -> Iterator[Part]:
    """Of the verdicts where the same is kept on the device."""
    ranked = sorted(claims, key=lambda claim: claim.workload != told)  # its clocks in their order, then any other
    by_clock = {clock: [c for c in claims if c.clock == clock] for clock in dict.fromkeys(c.clock for c in ranked)}
    heads = [next((c for c in group if c.workload == told), group[0]) for group in by_clock.values()]
    first = next((head for head in heads if head.judgement.deciding is not None), None)
    for verdict in dict.fromkeys(head.verdict for head in heads):
        mine = [head for head in heads if head.verdict is verdict]
        if first is None:
            text = mine[0].judgement.lead or _reason(mine)
        else:
            text = ", ".join(_clock(head, by_clock[head.clock], told, whole=head is first) for head in mine)
        yield Part(verdict=_WORDS[verdict], text=text, keeps=keeps)
        keeps = ""


def _reason(claims: Iterable[Claim]) -> str:
    """Why none of ``claims`` has a number, if they say the same."""
    first, *others = {claim.judgement.remark for claim in claims}
    return "" if others else first.removesuffix(".")


def _clock(head: Claim, claims: Iterable[Claim], told: str | None, *, whole: bool) -> str:
    """One clock with its number, ``whole`` with the interval, and in brackets who answers otherwise than ``head``."""
    deciding = head.judgement.deciding
    number = _UNMEASURED if deciding is None else str(deciding) if whole else deciding.alone
    notes = [head.workload] if head.workload and head.workload != told else []
    notes += [f"{claim.workload}: {_WORDS[claim.verdict]}" for claim in claims if claim.verdict is not head.verdict]
    words = f"{(head.clock or '').replace('_', ' ')} {number}"
    return f"{words} [{', '.join(notes)}]" if notes else words


def as_markdown(run: Run, claims: Iterable[Claim]) -> list[str]:
    """The lines of a table of the answers, their verdicts in bold, and what they are about."""
    rows = [(one.id, one.claim, "; ".join(map(_bold, one.parts))) for one in answers(run, claims)]
    return [
        f"Of the workload {markdown(leading_workload(run.study))}, or else of the first that a claim is about. A "
        "workload that answers otherwise stands in brackets.",
        "",
        *markdown_table(("", "claim", "answer"), rows),
    ]


def _bold(part: Part) -> str:
    kept = f"with the {part.keeps} kept " if part.keeps else ""
    return f"{kept}**{part.verdict}**{f': {part.text}' if part.text else ''}"


def as_latex(run: Run, claims: Iterable[Claim]) -> str:
    """The table, a row for each claim."""
    claims = list(claims)
    found, leading = answers(run, claims), leading_workload(run.study)
    parts = [part for answer in found for part in answer.parts]
    return (
        environment()
        .get_template("claims_short.tex.j2")
        .render(
            run=run.name,
            functional=run.functional,
            workload=leading,
            others=", ".join(f"{one.id}: {one.workload}" for one in found if one.workload not in (leading, None)),
            answers=found,
            numbers=any(claim.judgement.deciding for claim in claims),
            ranged=ranged,
            brackets=any("[" in part.text for part in parts),
            gaps=any(_UNMEASURED in part.text for part in parts),
        )
    )
