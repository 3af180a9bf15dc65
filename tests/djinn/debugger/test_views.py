"""What each panel shows of the bench's values, in the width and height that it has."""

import re

import pytest
import torch

from djinn.core import Phase
from djinn.debugger import views
from djinn.debugger.values import Guess, Lens, SessionRow, Spread, StateRow, Token, Tokens


def lens(count=5):
    guesses = (
        Guess(token=Token(id=at, text=f"w{at}"), logit=9.5 - at, probability=0.5 / (at + 1)) for at in range(count)
    )
    return Lens(layer=3, label="logit lens, layer 3", guesses=tuple(guesses))


def tokens(text):
    return Tokens(sequences=((Token(id=1, text=text),),), texts=(text,))


def test_tokens_and_guesses_share_the_room():
    """With room all of both; with less the end of the tokens in two lines, and three guesses."""
    text = "".join(f"{at:03}" for at in range(60))
    lines = views.tokens(tokens(text), lens(), width=45, height=12)
    assert lines[:4] == [text[:45], text[45:90], text[90:135], text[135:]]
    assert lines[4:] == ["logit lens, layer 3"] + [f"{0.5 / (at + 1):7.4f} {9.5 - at:8.3f}  'w{at}'" for at in range(5)]
    lines = views.tokens(tokens(text), lens(), width=45, height=6)
    assert lines[:2] == [".." + text[-88:-45], text[-45:]]
    assert lines[2] == "logit lens, layer 3"
    assert len(lines) == 6


@pytest.mark.parametrize("height", [1, 2, 3, 40])
def test_what_is_missing_has_its_reason(height):
    """A note in the place of tokens or guesses, in any height."""
    lines = views.tokens(
        Tokens(note="none\n"), Lens(layer=1, label="logit lens", note="no norm"), width=30, height=height
    )
    assert lines == ["none\\n", "logit lens: no norm"][:height]


def test_of_a_long_prompt_only_the_end_is_laid_out(monkeypatch):
    """Of a million tokens no more than there is room for is escaped and wrapped, each time that the screen is drawn."""
    seen = []
    monkeypatch.setattr(views, "visible", lambda text: (seen.append(len(text)), text)[1])
    lines = views.tokens(tokens("ab " * 1_000_000), lens(), width=45, height=8)
    assert "".join(lines[:2]).startswith("..")
    assert "".join(lines[:2]).endswith("ab ab ")
    assert max(seen) <= 45 * 8 + 1


def test_a_state_without_numbers_says_so():
    """``...`` before they are computed, ``-`` where there are none; a long name keeps its end."""
    rows = [
        StateRow(name="hidden_states", shape=(1, 5, 8), dtype=torch.bfloat16, layer=None),
        StateRow(name="generate.some.function.mask", shape=(), dtype=torch.int64, layer=None, measured=True),
        StateRow(
            name="kv.1.keys",
            shape=(2, 3),
            dtype=torch.float32,
            layer=1,
            measured=True,
            norm=12.5,
            spread=Spread(least=0.5, median=1.0, most=2.0),
        ),
    ]
    head, first, second, third = views.state(rows, width=79)
    assert head.split() == ["name", "shape", "dtype", "norm", "spread:", "min", "med", "max"]
    assert first.split() == ["hidden_states", "1x5x8", "bfloat16", "...", "..."]
    assert second.split() == ["..ome.function.mask"[-19:], "()", "int64", "-", "-"] or second.split()[0].startswith(
        ".."
    )
    assert second.split()[0].endswith(".function.mask")
    assert third.split() == ["kv.1.keys", "2x3", "float32", "12.5", "0.5", "1", "2"]


def test_a_session_says_where_its_bytes_are():
    """Each tier with its bytes, in the same order; the selected one is marked; what is not there is a dash."""
    row = SessionRow(
        number=7,
        phase=Phase.IO_WAIT,
        said="io_wait",
        layer=4,
        stops=(9,),
        tier="device+host",
        device_bytes=1 << 20,
        host_bytes=3 << 10,
        disk_bytes=0,
        left_bytes=0,
        recorded_bytes=0,
        age_seconds=2.25,
        doing="-",
        durable=True,
        saved=True,
        label="from \x1b.djinn",
        named="mine",
        selected=True,
    )
    _, line = views.sessions([row], width=120)
    said = ["io_wait", "4", "device+host", "1.0 MiB + 3.0 KiB", "2.2 s", "-", "9", r"mine, saved, from \x1b.djinn"]
    assert re.split(r" {2,}", line) == [">", "7", *said]
