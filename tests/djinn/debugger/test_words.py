"""Lines say the numbers of the values, and fit a terminal of 80."""

import pytest
import torch

import djinn
from djinn.debugger import words
from djinn.debugger.values import Guess, Lens, SessionRow, Spread, StateRow, Token, Tokens


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [
        (0, "-"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 10, "1.5 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_bytes_are_said_in_the_unit_that_fits(nbytes, said):
    """In powers of 1024."""
    assert words.sized(nbytes) == said


def test_a_session_is_a_line():
    """Its number, phase, layer, bytes in each tier, age, and what else is known."""
    row = SessionRow(
        number=12,
        phase=djinn.Phase.IO_WAIT,
        said="io_wait",
        layer=15,
        stops=(20,),
        tier="host+disk",
        device_bytes=0,
        host_bytes=3 << 20,
        disk_bytes=1 << 31,
        left_bytes=8,
        recorded_bytes=9,
        age_seconds=61.25,
        doing="-",
        durable=True,
        saved=True,
        label="fork of 1",
        named="mine",
        selected=True,
    )
    head, line = words.session_lines([row])
    assert head.split() == ["no", "phase", "layer", "device", "host", "disk", "age"]
    assert line.split(maxsplit=11) == [
        *([">", "12", "io_wait", "15", "-", "3.0", "MiB", "2.0", "GiB", "61.2", "s"]),
        "mine, to stop after 20, saved, fork of 1",
    ]
    assert words.session_lines([]) == ["there is no session"]


def test_a_state_is_a_line():
    """Its norm in four digits and its spread; a long name keeps its end."""
    spread = Spread(least=0.123456, median=1.5, most=2000.0)
    rows = [
        StateRow(
            name="hidden_states",
            shape=(2, 5, 7),
            dtype=torch.bfloat16,
            layer=None,
            measured=True,
            norm=1234.56,
            spread=spread,
        ),
        StateRow(
            name="GenerationMixin._sample.model_kwargs.position_ids",
            shape=(2,),
            dtype=torch.int64,
            layer=None,
            measured=True,
        ),
        StateRow(name="kv.1.keys", shape=(2,), dtype=torch.float32, layer=1),
    ]
    _, first, second, third = words.state_lines(rows)
    assert first.split() == ["hidden_states", "2x5x7", "bfloat16", "1235", "0.1235", "1.5", "2000"]
    assert second.split() == ["..e.model_kwargs.position_ids", "2", "int64", "-", "-"]
    assert third.split() == ["kv.1.keys", "2", "float32", "...", "..."]
    assert max(map(len, (first, second, third))) < 80


def test_guesses_and_tokens_are_lines():
    """Control characters of a text are escaped; a note stands in place of what is not there."""
    guess = Guess(token=Token(id=7, text="\x1b[2J"), logit=1.25, probability=0.5)
    lines = words.lens_lines(Lens(layer=3, label="logit lens, layer 3", guesses=(guess,)))
    assert lines == ["logit lens, layer 3", "    0.5000  logit     1.250       7  '\\x1b[2J'"]
    assert words.lens_lines(Lens(layer=3, label="logit lens", note="none")) == ["logit lens: none"]
    tokens = Tokens(sequences=((Token(id=7, text="\n"),),), texts=("\n",), source="x.input_ids")
    assert words.token_lines(tokens) == ["sequence 1 of 1, 1 token: x.input_ids", "  '\\n'"]
    assert words.token_lines(Tokens(note="none")) == ["none"]
