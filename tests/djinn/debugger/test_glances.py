"""What a screen is given of a session, look by look: whole at last, or said not to be."""

import threading

import pytest

from djinn.debugger.glances import glances, standing
from djinn.debugger.looking import Busy
from djinn.debugger.values import Refused


def looks(bench, *, given_up=lambda: False):
    return list(glances(bench, turn=threading.Lock(), given_up=given_up))


def measured(look):
    return sum(row.measured for row in look.state)


def failing(bench, monkeypatch, error, *, behind):
    """After so many tensors that were measured the next one cannot be."""
    measure, names = bench.measure, []

    def fails(name):
        if len(names) == behind:
            raise error
        names.append(name)
        measure(name)

    monkeypatch.setattr(bench, "measure", fails)


def test_the_last_look_has_every_number(bench, started):
    """The first has none yet, and only the last is whole."""
    started(2)
    first, *_, last = looks(bench)
    assert measured(first) == 0
    assert measured(last) == len(last.state) > 2
    assert (first.whole, last.whole) == (False, True)
    assert last.mark == standing(bench)


@pytest.mark.parametrize(("error", "whole"), [(Busy(), False), (Refused("it would move"), True)])
def test_what_cannot_be_measured(bench, started, monkeypatch, error, whole):
    """The numbers so far are shown. Beside a program that computes more will come; what would move the state never."""
    started(2)
    failing(bench, monkeypatch, error, behind=2)
    last = looks(bench)[-1]
    assert measured(last) == 2
    assert last.whole is whole


def test_a_look_that_is_given_up(bench, started):
    """It ends before the next number, and shows no last one as if it were the state of now."""
    started(2)
    asked = []
    (only,) = looks(bench, given_up=lambda: asked.append(1) or len(asked) > 3)
    assert measured(only) == 0
    assert not only.whole
    assert sum(row.measured for row in bench.state()) == 3


def test_a_session_that_moves_behind_the_last_number(bench, started, monkeypatch):
    """What was measured was of another stop."""
    session = started(2)
    names = [row.name for row in bench.state()]
    measure = bench.measure

    def moves(name):
        measure(name)
        if name == names[-1]:
            session.step(30)

    monkeypatch.setattr(bench, "measure", moves)
    assert not any(look.whole for look in looks(bench))
