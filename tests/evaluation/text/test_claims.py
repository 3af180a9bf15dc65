"""The claims as they are written: all of them, the same bytes each time, in LaTeX that compiles."""

import json
import re
from dataclasses import replace

import pytest

from evaluation.claims.claim import Figure, numerals, printed
from evaluation.claims.decide import decide
from evaluation.claims.memo import expectations
from evaluation.claims.rules import FIXED, KEY, digest
from evaluation.records.runs import load_run
from evaluation.text import claims_short
from evaluation.text.claims import as_json, as_latex, as_markdown
from tests.evaluation.claims.decided import FEW, GOOD, SMALL
from tests.evaluation.layout import compiled
from tests.evaluation.papers import Results


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """A run, its claims and the memo's expectations."""
    run = load_run(GOOD.write(tmp_path_factory.mktemp("run") / "local"))
    claims = decide(run, resamples=FEW)
    return run, claims, expectations(run, claims)


def test_the_command_writes_what_was_decided_the_same_twice(tmp_path):
    """The JSON, read again, is the claims; a second run changes no byte."""
    results = Results.make(tmp_path, SMALL)
    files = ["claims.json", "claims.md", "claims.tex", "claims_short.tex"]
    assert results.draw("claims") == 0
    first = [results.drawn(file) for file in files]
    assert results.draw("claims") == 0
    assert [results.drawn(file) for file in files] == first
    run = results.run()
    claims = decide(run)
    memo = expectations(run, claims)
    assert json.loads(first[0]) == as_json(run, claims, memo)
    texts = [as_markdown(run, claims, memo), as_latex(run, claims), claims_short.as_latex(run, claims)]
    assert [text.decode() for text in first[1:]] == texts


def test_a_damaged_run_is_one_message_and_no_file(tmp_path, capsys):
    """Status 2, as with every output."""
    results = Results.make(tmp_path, SMALL)
    (results.folder / "study.json").write_text("{")
    assert results.draw("claims") == 2
    assert not (tmp_path / "figures").exists()
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_each_entry_states_claim_rule_figures_and_verdict(findings):
    """The keys of the design, the memo's value where it has one, figures with units."""
    run, claims, memo = findings
    written = as_json(run, claims, memo)
    assert len(written["claims"]) == len(claims)
    for entry in written["claims"]:
        keys = ["id", "claim", "rule", "clock", "workload", "verdict", "figures", "expected", "remark"]
        assert [key for key in entry if key != "keeps"] == keys
        assert entry["figures"]
        assert all({"value", "unit"} <= set(figure) for figure in entry["figures"].values())
    by_clock = {(entry["id"], entry["clock"]): entry["expected"] for entry in written["claims"]}
    assert "800 ms" in by_clock["C1", "ready"]
    assert by_clock["C1", "first_kernel"] is None
    assert written["expectations"][1]["memo"] == "5 ms"


def test_markdown_holds_every_verdict_and_every_sentence(findings):
    """One row per claim, and the memo's values with what differs."""
    run, claims, memo = findings
    page = as_markdown(run, claims, memo)
    assert page.count("**supported**") == len(claims)
    assert "Pairs have 6 processes" in page
    assert "The memo is the note with which this project began" in page
    for one in memo:
        assert not one.differs or re.sub(r"([|<>_])", r"\\\1", one.sentence) in page


def test_what_the_frontier_is_kept_for_is_named(findings):
    """A verdict of its own beside that of what swaps everything, in all three files."""
    run, claims, memo = findings
    kept = [entry for entry in as_json(run, claims, memo)["claims"] if entry.get("keeps")]
    assert {(entry["id"], entry["keeps"]) for entry in kept} == {("C4", "frontier")}
    assert "| activation | ready, frontier kept | **supported** | 0.00 ms (0.00 to 0.00) at L39 |" in as_markdown(
        *findings
    )
    assert "activation & ready, kept & " in as_latex(run, claims)


def test_the_page_says_whether_the_rules_are_those_of_the_study(findings):
    """By their digest, in all three files."""
    run, claims, memo = findings
    for then, words in ((digest(), "is of the rules that"), ("0" * 64, "is of other rules")):
        asked = replace(run, study={**run.study, KEY: then})
        told = as_json(asked, claims, memo)["rules"]
        assert told == {"sha256": digest(), "of_the_study": then}
        assert FIXED in as_markdown(asked, claims, memo)
        for text in (as_markdown(asked, claims, memo), as_latex(asked, claims)):
            assert words in text


def test_numbers_show_what_their_interval_needs():
    """Three digits, or more where the ends would else be one; caps and words as they are."""
    assert numerals(Figure(value=0.99950, unit="", low=0.99934, high=0.99959)) == ("0.9995", "0.9993", "0.9996")
    assert printed(Figure(value=110.801, unit="ms", low=110.62, high=111.1)) == "110.8 ms (110.6 to 111.1)"
    assert printed(Figure(value=1.06, unit="ratio", low=1.06, high=1.06)) == "1.060 (1.060 to 1.060)"
    assert printed(Figure(value=-0.5, unit="%", low=-1.5, high=0.5)) == "-0.50 % (-1.50 to 0.50)"
    assert printed(Figure(value=1e-17, unit="%", low=-0.2, high=0.25)) == "0.000 % (-0.200 to 0.250)"
    assert printed(Figure(value=1.5, unit="ms", low=1, high=2, range=True)) == "1.50 ms (range 1.00 to 2.00)"
    assert printed(Figure(value=64, unit="sessions", at_least=True)) == ">= 64 sessions"
    assert printed(Figure(value="exact", unit="")) == "exact"


def test_latex_prints_ranges_and_caps(findings):
    """With its own signs for dash, minus and at least."""
    run, claims, _ = findings
    text = as_latex(run, claims)
    assert r"$R^2$ 1.0000 (1.0000--1.0000)" in text
    assert r"Vanilla 25, Djinn $\geq$\,64" in text
    assert r" \% ($-$" in text
    assert "unctional" not in text


def test_a_functional_run_is_marked_everywhere(tmp_path):
    """In each of the three files."""
    run = load_run(replace(GOOD, functional=True, samples=2).write(tmp_path / "local"))
    claims = decide(run)
    memo = expectations(run, claims)
    assert "**Functional CPU run" in as_markdown(run, claims, memo)
    assert r"\textbf{Functional CPU run: not a performance result.}" in as_latex(run, claims)
    assert as_json(run, claims, memo)["functional"] is True


def hostile(findings):
    """The same with a workload and a run named by the characters of LaTeX and Markdown."""
    run, claims, memo = findings
    name = r"50%_{x}\input&#$~^|<b>"
    run = replace(run, name=name)
    claims = [replace(claim, place=replace(claim.place, workload=name)) for claim in claims]
    return run, claims, [replace(one, workload=one.workload and name) for one in memo]


def test_text_from_records_is_escaped(findings):
    """It prints as it is spelled and runs nothing."""
    run, claims, memo = hostile(findings)
    assert r"50\%\_\{x\}\textbackslash{}input\&\#\$\textasciitilde{}" in as_latex(run, claims)
    page = as_markdown(run, claims, memo)
    assert r"\|\<b\>" in page
    tables = re.findall(r"(?m)(?:^\|.*\n)+", page)
    assert len(tables) == 10
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.tex
@pytest.mark.parametrize("spoil", [False, True], ids=["as measured", "hostile names"])
def test_latex_compiles_and_fits_one_column(findings, tmp_path, spoil):
    """Two columns of 241 pt; nothing sticks out unless a name of a workload does."""
    said = compiled(tmp_path, claims=as_latex(*(hostile(findings) if spoil else findings)[:2]))
    assert spoil or "Overfull" not in said
