"""The command that shows how a mutant fails a job knows every mutant, and tells one that gets by."""

import inspect
import sys

import pytest

from evaluation.methods.offloads import PinnedOffload
from tests.evaluation import catch, mutants
from tests.evaluation.measuring import shallow  # noqa: F401 - a fixture


@pytest.fixture
def status(monkeypatch):
    def run(*names):
        monkeypatch.setattr(sys, "argv", ["catch", *names])
        return catch.main()

    return run


def test_every_mutant_can_be_seen():
    """By its name, with what it does wrong."""
    found = {name for name, one in vars(mutants).items() if (inspect.getdoc(one) or "").startswith("Mutant: ")}
    assert found == catch.MUTANTS.keys()


def test_the_job_passes_without_the_mutant_and_fails_with_it(status, capsys):
    """What the job says is printed, and the runtime is as it was afterwards."""
    assert status("skip_history") == 0
    told, as_it_is, with_mutant, last = capsys.readouterr().out.splitlines()
    assert told == "skip_history in place of Djinn: brings back the frontier, and never the rest."
    assert as_it_is == "  as it is    exit status 0, a record"
    assert "exit status 1, error: not bit-exact:" in with_mutant
    assert last == "caught, each of them"
    mutant = catch.MUTANTS["skip_history"]
    assert getattr(*mutant.place) is not mutant.stand_in


def test_one_that_gets_by_is_named(status, capsys, monkeypatch):
    """A mutant that does nothing wrong writes its record."""
    harmless = catch.Mutant(says="does as it should", original=PinnedOffload, kind=PinnedOffload)
    monkeypatch.setitem(catch.MUTANTS, "Harmless", harmless)
    assert status("Harmless") == 1
    assert capsys.readouterr().out.endswith("not caught: Harmless\n")


def test_an_unknown_name_is_refused(status, capsys):
    """With those that there are."""
    with pytest.raises(SystemExit):
        status("Nobody")
    assert "no mutant is called Nobody; there are NothingBack" in capsys.readouterr().err
