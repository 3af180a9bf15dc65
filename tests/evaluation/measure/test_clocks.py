"""The five clocks: in which order a resume is timed, and that a hook counts only what comes after it."""

import threading

import pytest
import torch

from evaluation.measure.clocks import Clocks
from evaluation.measure.hand import Hand

TOKENS = torch.ones(1, 4, dtype=torch.int64)


@pytest.fixture
def hand(subject):
    return Hand(subject.model(TOKENS).logits, 1)


@pytest.mark.parametrize("aside", [False, True])
def test_a_resume_is_timed_after_the_think_time(subject, hand, aside):
    """The wait is last before the request and in no clock; a later arrival is the clock resident."""
    done = []

    def forward():
        logits = subject.model(TOKENS).logits
        hand.give(logits)
        done.append("finish")
        return [logits]

    program = threading.Thread(target=forward)

    def resume():
        done.append("resume")
        if aside:
            program.start()

    clocks = Clocks(subject, 3)
    try:
        reading, _ = clocks.time_resume(
            think=lambda: done.append("think"),
            resume=resume,
            wait_resident=lambda: done.append("resident"),
            aside=aside,
            hand=hand,
            finish=program.join if aside else forward,
        )
    finally:
        clocks.remove()
    assert done[:2] == ["think", "resume"]
    assert sorted(done[2:]) == ["finish", "resident"]
    assert 0 < reading.ready_ms <= min(reading.usable_ms, reading.resident_ms)
    assert 0 < reading.first_kernel_ms <= reading.usable_ms
    assert reading.next_token_ms is None


def test_what_a_resume_computes_itself_is_not_the_first_kernel(subject, hand):
    """A recompute runs layer L+1's norm and the head before ``ready``: the clocks mean what comes after."""

    def forward():
        logits = subject.model(TOKENS).logits
        hand.give(logits)
        return [logits]

    clocks = Clocks(subject, 3)
    try:
        reading, _ = clocks.time_resume(
            think=lambda: None,
            resume=lambda: subject.model(TOKENS),
            wait_resident=None,
            aside=False,
            hand=hand,
            finish=forward,
        )
    finally:
        clocks.remove()
    assert reading.resident_ms == reading.ready_ms < reading.first_kernel_ms


def test_an_error_on_the_way_is_raised(subject, hand):
    """Of the resume itself, and of what waits for the state; nobody waits for ever."""

    def fail():
        raise RuntimeError("no room")

    clocks = Clocks(subject, 3)
    about = {"think": lambda: None, "aside": False, "hand": hand, "finish": lambda: []}
    try:
        for resume, wait in ((fail, lambda: None), (lambda: None, fail)):
            with pytest.raises(RuntimeError, match="no room"):
                clocks.time_resume(resume=resume, wait_resident=wait, **about)
    finally:
        clocks.remove()
    for thread in [one for one in threading.enumerate() if one.name == "resident-clock"]:
        thread.join(10)
        assert not thread.is_alive()
