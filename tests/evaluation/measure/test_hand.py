"""Logits on their way to the caller: what he gets, when, and that nobody waits for ever."""

import threading

import pytest
import torch

from evaluation.measure.hand import Hand

FIRST, SECOND, THIRD = (torch.randn(2, tokens, 5) for tokens in (4, 1, 1))


@pytest.fixture
def hand():
    return Hand(FIRST, 2)


def test_the_last_token_s_logits_arrive_in_host_memory(hand):
    """Of as many passes as are wanted, each with its time, in their order."""
    hand.open(aside=False)
    for logits in (FIRST, SECOND, THIRD):
        hand.give(logits)
    assert [torch.equal(a, b) for a, b in zip(hand.logits, (FIRST[:, -1:], SECOND), strict=True)] == [True, True]
    assert len(hand.times_ms) == 2
    assert hand.times_ms == sorted(hand.times_ms)


def test_what_comes_before_the_resume_is_nobody_s_business(hand):
    """A pass before it hands over nothing, and waits for nobody."""
    hand.give(FIRST)
    hand.open(aside=True)
    hand.close()
    hand.give(FIRST)
    assert hand.logits == []


def test_a_program_on_another_thread_waits_until_its_logits_are_taken(hand):
    """It computes on when the caller asks for the next."""
    done = []

    def program():
        for number, logits in enumerate((FIRST, SECOND, THIRD)):
            hand.give(logits)
            done.append(number)

    hand.open(aside=True)
    thread = threading.Thread(target=program)
    thread.start()
    seen = []
    for _ in hand.take():
        thread.join(0.02)
        seen.append((list(done), len(hand.times_ms)))
    thread.join()
    assert seen == [([], 1), ([0], 2)]
    assert done == [0, 1, 2]
    assert torch.equal(hand.logits[1], SECOND)


def test_the_caller_learns_of_a_program_that_ends_early(hand):
    """It takes what there was."""

    def program():
        hand.give(FIRST)
        hand.end()

    hand.open(aside=True)
    thread = threading.Thread(target=program)
    thread.start()
    assert len(list(hand.take())) == 1
    thread.join()


def test_a_caller_that_gives_up_lets_the_program_go(hand):
    """Whatever it has failed with."""
    hand.open(aside=True)
    thread = threading.Thread(target=hand.give, args=(FIRST,))
    thread.start()
    hand.close()
    thread.join()
    assert not thread.is_alive()


def test_a_failure_leaves_nothing_for_the_next_resume(hand):
    """The end of a program that nobody waited for is not taken for that of the next."""
    hand.open(aside=True)
    hand.end()
    hand.close()
    hand.open(aside=True)
    thread = threading.Thread(target=hand.give, args=(SECOND,))
    thread.start()
    assert next(hand.take()) is None
    hand.close()
    thread.join()
    assert torch.equal(hand.logits[0], SECOND)
