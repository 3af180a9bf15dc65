"""An answer to each claim holds the verdicts that were decided, and the numbers by which they fell."""

from dataclasses import replace

import pytest

from evaluation.claims.claim import Claim, Deciding, Figure, Judgement, Place, Verdict
from evaluation.claims.decide import decide
from evaluation.claims.rules import STATEMENTS
from evaluation.records.runs import load_run
from evaluation.text.claims_short import answers, as_latex, as_markdown
from tests.evaluation.claims.decided import FEW, GOOD, LINES, SMALL
from tests.evaluation.layout import compiled

SUPPORTED, REFUTED, UNDECIDED = Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDECIDED


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose leading workload is called session; its claims are given by each test."""
    return load_run(SMALL.write(tmp_path_factory.mktemp("run") / "local"))


def claim(name, workload, clock, verdict, value=None, *, keeps=None, remark=""):
    """A decided claim; ``value`` is the ratio by which it fell, with an interval of 0.02 around it."""
    ratio = None if value is None else Figure(value=value, unit="ratio", low=value - 0.01, high=value + 0.01)
    judgement = Judgement(
        verdict=verdict,
        figures={},
        lead="",
        remark=remark,
        deciding=ratio and Deciding(figure=ratio, margin=1.05),
    )
    return Claim(
        statement=STATEMENTS[name], place=Place(workload=workload, clock=clock, keeps=keeps), judgement=judgement
    )


def told(run, *claims):
    """The one answer to ``claims``, as the page has it."""
    (line,) = [line for line in as_markdown(run, claims) if line.startswith("| C")]
    return line.split(" | ")[2].removesuffix(" |").replace("\\", "")


def test_verdicts_stand_with_their_clocks_and_numbers(run):
    """In the order of the clocks; the first with its interval."""
    claims = [
        claim("C4", "session", "ready", SUPPORTED, 1.03),
        claim("C4", "session", "first_kernel", REFUTED, 1.44),
        claim("C4", "session", "usable", SUPPORTED, 1.01),
    ]
    assert told(run, *claims) == "**yes**: ready 1.030 (1.020 to 1.040), usable 1.010; **no**: first kernel 1.440"


def test_a_workload_that_answers_otherwise_is_named(run):
    """The numbers are of the workload that leads; one that says the same is not named, nor is one without the clock."""
    claims = [
        claim("C4", "activation", "ready", SUPPORTED, 1.01),
        claim("C4", "session", "ready", SUPPORTED, 1.03),
        claim("C4", "session", "resident", UNDECIDED, 1.04),
        claim("C4", "decode", "ready", REFUTED, 1.44),
        claim("C4", "decode", "resident", SUPPORTED, 1.0),
    ]
    ready = "**yes**: ready 1.030 (1.020 to 1.040) [decode: no]"
    assert told(run, *claims) == f"{ready}; **undecided**: resident 1.040 [decode: yes]"


def test_a_clock_or_a_claim_of_another_workload_is_told_of_that(run):
    """A clock that the leading workload lacks names its own; a claim that is not about it at all has another."""
    elsewhere = claim("C3", "decode", "resident", SUPPORTED, 1.02)
    claims = claim("C3", "session", "ready", SUPPORTED, 1.0), elsewhere
    assert told(run, *claims) == "**yes**: ready 1.000 (0.990 to 1.010), resident 1.020 [decode]"
    assert told(run, elsewhere) == "**yes**: resident 1.020 (1.010 to 1.030)"
    assert "workload session (C3: decode), the first" in as_latex(run, [elsewhere])


def test_what_is_kept_on_the_device_is_told_apart(run):
    """Each policy has an interval of its own; one of which nothing was measured has the reason."""
    without = [claim("C4", "session", clock, SUPPORTED, 1.03) for clock in ("ready", "usable")]
    kept = [replace(one, place=replace(one.place, keeps="frontier")) for one in without]
    plain = "**yes**: ready 1.030 (1.020 to 1.040), usable 1.030"
    assert told(run, *without, *kept) == f"{plain}; with the frontier kept {plain}"
    unknown = [
        claim("C4", "session", clock, UNDECIDED, keeps="frontier", remark="Nobody asked.")
        for clock in ("ready", "usable")
    ]
    assert told(run, *without, *unknown) == f"{plain}; with the frontier kept **undecided**: Nobody asked"
    assert "\\newline with the frontier kept,\n\\textbf{undecided}: Nobody asked" in as_latex(run, [*without, *unknown])


def test_where_nothing_was_measured_a_shared_reason_is_the_answer(run):
    """Reasons that differ are for the tables; a clock without a number beside one that has one has a dash."""
    both = [claim("C4", "session", "ready", UNDECIDED, keeps=keeps, remark="No pairs.") for keeps in (None, "frontier")]
    assert told(run, *both) == "**undecided**: No pairs"
    other = claim("C4", "session", "usable", UNDECIDED, remark="No such clock.")
    assert told(run, *both, other) == "**undecided**"
    decided = claim("C4", "session", "ready", SUPPORTED, 1.03)
    assert told(run, decided, other) == "**yes**: ready 1.030 (1.020 to 1.040); **undecided**: usable --"
    assert "--: not measured." in as_latex(run, [decided, other])
    assert "--: not measured." not in as_latex(run, [decided])


def test_every_claim_of_a_run_has_a_row(tmp_path):
    """With the verdicts and the numbers of its records: here all are supported, and recompute takes a second."""
    run = load_run(GOOD.write(tmp_path / "local"))
    claims = decide(run, resamples=FEW)
    text = as_latex(run, claims)
    found = {one.id: [(part.verdict, part.text) for part in one.parts] for one in answers(run, claims)}
    assert list(found) == sorted(STATEMENTS)
    assert {verdict for parts in found.values() for verdict, _ in parts} == {"yes"}
    (fast, kept), (times,) = found["C4"], found["C5"]
    by_clock = {one.clock: one for one in claims if (one.id, one.workload) == ("C5", "session")}
    ready = by_clock["ready"].judgement.figures["ratio"]
    assert times[1].startswith(f"ready {ready.value:.0f} times ({ready.low:.0f} to {ready.high:.0f}), first kernel ")
    assert fast[1].startswith("ready 1.000 (")
    assert kept[1].startswith("ready 0.00 ms (")
    assert found["C6"] == [("yes", "Vanilla 25, Djinn >= 64")]
    assert found["C8"] == [("yes", f"{LINES} lines, in imports and run")]
    assert text.count("\\textbf{Yes}: ") == len(STATEMENTS)
    for name in STATEMENTS:
        assert text.count(f"\\textbf{{{name}}} & ") == 1


def test_a_functional_run_is_marked(tmp_path):
    """Beside the verdict, and in the caption."""
    functional = load_run(replace(SMALL, functional=True).write(tmp_path / "functional"))
    text = as_latex(functional, decide(functional))
    assert r"\textbf{Functional CPU run: not a performance result.}" in text
    assert text.count(r"\textbf{Undecided}: A functional run says nothing about speed") == 6
    for words in ("interval", "rise over"):
        assert words not in text


@pytest.mark.tex
@pytest.mark.parametrize("verdict", [SUPPORTED, UNDECIDED])
def test_it_fits_the_page(run, tmp_path, verdict):
    """With every clock in every workload at odds: nothing sticks out of the two columns, and the caption is short."""
    claims = [
        claim("C4", workload, clock, at_odds, 12.345, keeps=keeps)
        for keeps in (None, "frontier")
        for workload, at_odds in (("session", verdict), ("activation", REFUTED), ("decode", UNDECIDED))
        for clock in ("ready", "first_kernel", "usable", "next_token", "resident")
    ]
    said = compiled(tmp_path, short=as_latex(run, [claim("C2", "activation", "ready", REFUTED), *claims]))
    assert "Overfull" not in said
    assert int(said.partition("caption of ")[2][0]) <= 4
