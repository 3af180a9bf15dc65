"""When the device came to a breakpoint, and how long nobody else could run from there."""

import pytest
import torch

from evaluation.measure import arrival
from evaluation.measure.arrival import Arrival, Sleeper
from evaluation.measure.programs import stop_at_layer


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr(arrival, "now_ms", lambda: now[0])
    return now


def test_the_longest_gap_is_between_begin_and_end(clock):
    """What came before does not count, and neither does what comes after; the last gap may be open."""
    sleeper = Sleeper()
    sleeper._note()
    for step, at in (("begin", 100.0), ("_note", 103.0), ("_note", 104.0), ("end", 109.0), ("_note", 200.0)):
        clock[0] = at
        getattr(sleeper, step)()
    assert sleeper.longest_ms == 5


def test_the_thread_notes_by_itself():
    """It wakes and notes until it is told to end."""
    with Sleeper() as sleeper:
        sleeper.begin()
        while not sleeper.longest_ms:
            pass
    assert not sleeper._thread.is_alive()


def test_an_arrival_is_stamped_while_armed(clock, subject, study):
    """At layer L of the pass that is watched; a pass before or after it changes nothing, and the hook comes off."""
    found = Arrival(subject, 3)
    sleeper = Sleeper()
    ids = torch.zeros(1, 4, dtype=torch.int64)
    try:
        with torch.no_grad():
            for now, arm in ((1.0, False), (2.0, True)):
                clock[0] = now
                if arm:
                    found.arm(sleeper)
                stop_at_layer(subject.model, 3, ids, False)
            assert found.disarm() == 2
            clock[0] = 3.0
            stop_at_layer(subject.model, 3, ids, False)
        assert found.disarm() == 2
        assert sleeper._last_ms == 2
    finally:
        found.remove()
    assert not subject.layers[2].mlp._forward_hooks
