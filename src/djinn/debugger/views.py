"""What each panel of the screen shows, as lines that fit its width. Pure functions of the bench's values."""

from collections.abc import Sequence

from djinn.debugger.tables import Column, cut, table, tail
from djinn.debugger.values import Lens, SessionRow, StateRow, Tokens
from djinn.debugger.words import norm_text, spans, spread_text, visible
from djinn.wording import sized

_SESSIONS = (
    Column(head=""),
    Column(head="no", right=True),
    Column(head="phase"),
    Column(head="layer", right=True),
    Column(head="tier"),
    Column(head="bytes", right=True, rank=1),
    Column(head="age", right=True, rank=3),
    Column(head="turn", rank=2),
    Column(head="stop", right=True, rank=5, least=5),
    Column(head="note", rank=4, least=8),
)
_STATE = (
    Column(head="name"),
    Column(head="shape"),
    Column(head="dtype", rank=2),
    Column(head="norm", right=True),
    Column(head="spread: min med max", rank=1),
)
_TEXT_ROWS = 2  # of the tokens, at least
_GUESS_ROWS = 4  # the label of the lens and three guesses


def sessions(rows: Sequence[SessionRow], *, width: int) -> list[str]:
    """Return the table of sessions; ``>`` marks the selected one."""
    return table(_SESSIONS, [_session(row) for row in rows], width=width)


def _session(row: SessionRow) -> tuple[str, ...]:
    sizes = [size for size in (row.device_bytes, row.host_bytes, row.disk_bytes) if size]
    notes = [row.named, ("saved" if row.saved else "durable") if row.durable else "", row.label]
    return (
        ">" if row.selected else " ",
        str(row.number),
        row.said,
        "-" if row.layer is None else str(row.layer),
        row.tier,
        " + ".join(map(sized, sizes)) or "-",
        f"{row.age_seconds:.1f} s",
        row.doing,
        " ".join(spans(row.stops)) or "-",
        visible(", ".join(filter(None, notes))),
    )


def tokens(found: Tokens, lens: Lens, *, width: int, height: int) -> list[str]:
    """Return the end of the tokens so far, and below it what the layer would say next, in ``height`` lines.

    Where there is little room, the tokens get two lines at least, and the guesses three.
    """
    note = [cut(visible(found.note), width)] if found.note else []
    said = _tokens(found, width=width, most=width * height + 1)
    guesses = _guesses(lens, width=width)
    rows = max(height - len(guesses) - len(note), min(_TEXT_ROWS, height - _GUESS_ROWS), 1)
    if len(said) > rows:
        said = tail("".join(said), width=width, rows=rows)
    return [*note, *said, *guesses][:height]


def _tokens(found: Tokens, *, width: int, most: int) -> list[str]:
    """Return the tokens in lines; of long ones the last ``most`` characters, which are more than there is room for."""
    if not found.sequences:
        return [] if found.note else [cut("no tokens yet", width)]
    text = found.texts[0] if found.texts else " ".join(token.text for token in found.sequences[0][-most:])
    return tail(visible(text[-most:]), width=width, rows=most)


def _guesses(lens: Lens, *, width: int) -> list[str]:
    """Return the label of the lens and its guesses: probability, logit, token; or why there are none."""
    if lens.note:
        return [cut(visible(f"{lens.label}: {lens.note}"), width)]
    lines = [
        f"{guess.probability:7.4f} {guess.logit:8.3f}  {visible(repr(guess.token.text))}" for guess in lens.guesses
    ]
    return [cut(line, width) for line in (lens.label, *lines)]


def state(rows: Sequence[StateRow], *, width: int) -> list[str]:
    """Return the table of the state."""
    if not rows:
        return [cut("no paused session is selected", width)]
    cells = [
        (
            "".join(tail(visible(row.name), width=max(width * 2 // 7, 13), rows=1)),
            "x".join(map(str, row.shape)) or "()",
            str(row.dtype).removeprefix("torch."),
            norm_text(row),
            spread_text(row),
        )
        for row in rows
    ]
    return table(_STATE, cells, width=width)
