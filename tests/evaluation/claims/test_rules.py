"""The digest of the rules: it stands in the study of a run, and any word or margin changes it."""

import json
from dataclasses import replace

import pytest

from evaluation.analysis import margins, resampling, statistics
from evaluation.claims import rules
from evaluation.claims.decide import PLAN


@pytest.mark.parametrize(
    ("module", "name"),
    [(statistics, "CONFIDENCE"), (statistics, "ENOUGH"), (statistics, "TAIL_OF_PROCESSES"), (resampling, "TAIL")],
)
def test_the_digest_changes_with_what_fixes_an_interval(monkeypatch, module, name):
    """A wider or narrower interval decides otherwise, as another margin does."""
    first = rules.digest()
    monkeypatch.setattr(module, name, getattr(module, name) / 2)
    assert rules.digest() != first


def test_the_digest_changes_with_any_word_or_margin(monkeypatch):
    """And is the same for the same rules."""
    first = rules.digest()
    assert first == rules.digest()
    seen = {first}
    monkeypatch.setattr(margins, "AS_FAST_UP_TO", 1.2)
    seen.add(rules.digest())
    for name in ("words", "rule", "memo"):
        changed = replace(rules.STATEMENTS["C4"], **{name: "otherwise"})
        monkeypatch.setitem(rules.STATEMENTS, "C4", changed)
        seen.add(rules.digest())
    assert len(seen) == 5


def test_every_claim_that_is_decided_is_in_the_digest():
    """The statements of the plan are those that were digested."""
    assert {entry.statement.id: entry.statement for entry in PLAN} == rules.STATEMENTS


def test_a_study_is_written_with_the_digest(capsys, monkeypatch):
    """All else as it stands."""
    monkeypatch.setattr("sys.argv", ["rules", '{"rounds": 2}'])
    assert rules.main() == 0
    assert json.loads(capsys.readouterr().out) == {"rounds": 2, rules.KEY: rules.digest()}
