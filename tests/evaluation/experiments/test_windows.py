"""A window ends with the neighbour's last token, whatever either session does behind it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from evaluation.experiments import windows
from evaluation.experiments.others import Other
from evaluation.experiments.windows import Side, Windows
from evaluation.study.plan import Neighbour

TOKENS = 3
PATIENCE = 5  # seconds, after which a test fails that waits for what never comes


class Straddling(Other):
    """Its second swap begins before the neighbour's last token, and ends behind it."""

    host_bytes = 1

    def __init__(self, log):
        self.log, self.second, self.behind = log, threading.Event(), threading.Event()

    def start(self):
        self.steps = 1

    def sizes(self):
        return [1]

    def pause(self):
        """At once."""

    def aim(self):
        self.steps += 1

    def aim_at_the_end(self):
        """At once."""

    def resume(self):
        if self.steps == 3:
            self.second.set()
            assert self.behind.wait(PATIENCE)
            time.sleep(0.02)

    def step(self):
        self.log.append("a step")

    def finish(self):
        return []


@pytest.fixture
def taken(monkeypatch):
    """A window of swaps, in which the neighbour's program ends late; and the order of steps and comparisons."""
    log = []
    other = Straddling(log)

    def program(*args, give, **kwargs):
        for number in range(1 + TOKENS):
            if number == TOKENS:
                assert other.second.wait(PATIENCE)
            give(torch.zeros(1, 1, 2))
        return []

    def start(program):
        going = threads.submit(program)

        def wait():
            other.behind.set()
            time.sleep(0.1)  # meanwhile a session that was not told that it is over goes on
            return going.result(PATIENCE)

        return wait

    def compared(found, least, who):
        log.append(who)

    monkeypatch.setattr(windows, "generate_greedily", program)
    reference = SimpleNamespace(check=compared, input_ids=None)
    side = Side(method="a", variant="b", model=None, start=start, aside=nullcontext, other=lambda: other)
    study = SimpleNamespace(neighbour=Neighbour(blocks=1, tokens=TOKENS, swaps=1))
    taking = Windows(side, study, reference, reference, 1)
    with ThreadPoolExecutor(max_workers=1) as threads:
        window = taking.take("swaps")
        taking.close()
    return window, log


def test_no_swap_begins_behind_the_last_token(taken):
    """The one that had begun is in the record, and says that it ended behind the window."""
    window, _ = taken
    assert len(window["token_ms"]) == TOKENS
    assert window["steps"] == len(window["resumes"]) == 2
    first, second = (swap["ended_ms"] for swap in window["resumes"])
    assert 0 <= first <= window["step_ends_ms"][0] <= sum(window["token_ms"]) < second <= window["step_ends_ms"][1]


def test_nothing_is_compared_while_the_other_session_computes(taken):
    """A comparison copies, and would be in the way."""
    _, log = taken
    assert log == ["a step", "a step", "the neighbour (a)", "the other session (a)"]
