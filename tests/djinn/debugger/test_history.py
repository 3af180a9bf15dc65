"""Device memory over time is drawn as it was, and IO_WAIT is seen in it without a colour."""

import pytest

from djinn.core import Phase
from djinn.debugger.memory import history
from djinn.debugger.values import MemorySample


def sample(seconds, nbytes, *phases):
    return MemorySample(seconds=seconds, nbytes=nbytes, phases=tuple(enumerate(phases, start=1)))


def test_bars_stand_where_the_time_was():
    """Three seconds of 2 MiB, three in IO_WAIT without any, then 1 MiB: each a tenth of the 30 seconds drawn."""
    samples = [
        *(sample(second, 2 << 20, Phase.PAUSED) for second in (0, 1, 2)),
        *(sample(second, 0, Phase.IO_WAIT) for second in (3, 4, 5)),
        *(sample(second, 1 << 20, Phase.RUNNING) for second in (6, 7, 8, 9)),
    ]
    lines = history(samples, width=40, height=6)
    assert lines == (
        "  2.0 MiB|                     ###",
        "         |                     ###",
        "         |                     ###   ###",
        "        0|                     ###   ###",
        "         |                     ...wwwrrr",
        "          -30 s                      now",
    )


def test_what_was_not_sampled_was_as_before():
    """Between two samples the first holds; before the first there is nothing."""
    lines = history([sample(0, 1 << 20, Phase.PAUSED), sample(29.9, 0, Phase.IO_WAIT)], width=40, height=4)
    assert lines[0] == "  1.0 MiB|" + "#" * 29
    assert lines[2] == "         |" + "." * 29 + "w"


def test_a_short_wait_is_not_overlooked():
    """Of many samples in a column one in IO_WAIT is marked, and so is the largest value."""
    samples = [sample(second / 10, (second == 7) << 20, Phase.PAUSED) for second in range(10)]
    samples.insert(5, sample(0.45, 0, Phase.IO_WAIT))
    lines = history(samples, width=20, height=3)
    assert lines[1].endswith("|         w")
    assert lines[0].endswith("|         #")


def test_both_at_once_and_blocks():
    """``b`` where one session computes and another waits; blocks show eighths."""
    samples = [sample(0, 8, Phase.IO_WAIT, Phase.RUNNING), sample(29.9, 3, Phase.PAUSED)]
    lines = history(samples, width=18, height=3, ascii=False)
    assert lines[0].endswith("|" + "\u2588" * 7 + "\u2583")
    assert lines[1].endswith("|bbbbbbb.")


@pytest.mark.parametrize("seconds", [29, 100, 500, 5000])
def test_a_longer_history_is_drawn_closer(seconds):
    """All of it, up to an hour; the axis says how long, and no line is too wide."""
    samples = [sample(second, second, Phase.PAUSED) for second in range(seconds)]
    lines = history(samples, width=40, height=5)
    assert {29: "-30 s", 100: "-2 min", 500: "-10 min", 5000: "-60 min"}[seconds] in lines[-1]
    assert max(map(len, lines)) <= 40


def test_nothing_is_drawn_of_nothing():
    """No sample, or no byte, in any size."""
    for width, height in ((1, 1), (8, 2), (30, 4)):
        for samples in ([], [sample(0, 0, Phase.PAUSED)]):
            assert all("#" not in line and len(line) <= width for line in history(samples, width=width, height=height))
