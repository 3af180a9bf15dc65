"""The four clocks: in which order a resume is timed, and that a hook counts only what comes after it."""

import pytest
import torch

from evaluation.measure.clocks import Clocks


@pytest.mark.parametrize("aside", [False, True])
def test_a_resume_is_timed_after_the_think_time(subject, aside):
    """The wait is last before the request and in no clock; a later arrival is the clock resident."""
    done = []

    def forward():
        done.append("finish")
        return [subject.model(torch.ones(1, 4, dtype=torch.int64)).logits]

    clocks = Clocks(subject, 3)
    try:
        reading, _ = clocks.time_resume(
            think=lambda: done.append("think"),
            resume=lambda: done.append("resume"),
            wait_resident=lambda: done.append("resident"),
            aside=aside,
            finish=forward,
        )
    finally:
        clocks.remove()
    assert done[:2] == ["think", "resume"]
    assert sorted(done[2:]) == ["finish", "resident"]
    assert 0 < reading.ready_ms <= reading.first_kernel_ms <= reading.result_ms
    assert reading.ready_ms <= reading.resident_ms


def test_what_a_resume_computes_itself_is_not_the_first_kernel(subject):
    """A recompute runs layer L+1's norm and the head before ``ready``: the clocks mean what comes after."""
    tokens = torch.ones(1, 4, dtype=torch.int64)
    clocks = Clocks(subject, 3)
    try:
        reading, _ = clocks.time_resume(
            think=lambda: None,
            resume=lambda: subject.model(tokens),
            wait_resident=None,
            aside=False,
            finish=lambda: [subject.model(tokens).logits],
        )
    finally:
        clocks.remove()
    assert reading.resident_ms == reading.ready_ms < reading.first_kernel_ms
