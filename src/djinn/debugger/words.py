"""How the values of the bench are said in lines of at most 80 characters where that is possible; no colour, ASCII."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby

from djinn.debugger.memory import history
from djinn.debugger.values import Lens, MemorySample, SessionRow, StateRow, Tokens
from djinn.wording import counted, mebibytes, sized

_WIDTH = 79
_NAME_WIDTH = 29
_SESSIONS = "{:1}{:>3}  {:<9}{:>5}  {:>10} {:>10} {:>10} {:>8}  {}"


def visible(text: str) -> str:
    """Return ``text`` with control characters escaped, so that nothing in it moves the cursor."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def spans(layers: Iterable[int]) -> list[str]:
    """Return ``layers`` in their order; three and more that follow each other are one word, such as ``16-30``."""
    words: list[str] = []
    for _, run in groupby(enumerate(layers), key=lambda item: item[1] - item[0]):
        names = [str(layer) for _, layer in run]
        words += [f"{names[0]}-{names[-1]}"] if len(names) > 2 else names
    return words


def error_line(error: BaseException) -> str:
    """Return the type of ``error`` and the first line of its message; without that, if it cannot say it."""
    try:
        text = str(error).strip().partition("\n")[0]
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a class of the user's own
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def session_lines(rows: Sequence[SessionRow]) -> list[str]:
    """Return a table of sessions; ``>`` marks the selected one."""
    if not rows:
        return ["there is no session"]
    lines = [_SESSIONS.format("", "no", "phase", "layer", "device", "host", "disk", "age", "").rstrip()]
    for row in rows:
        notes = [
            row.named,
            row.doing if row.doing != "-" else "",
            f"to stop after {' '.join(spans(row.stops))}" if row.stops else "",
            ("saved" if row.saved else "durable") if row.durable else "",
            row.label,
        ]
        sizes = (sized(size) for size in (row.device_bytes, row.host_bytes, row.disk_bytes))
        age = f"{row.age_seconds:.1f} s"
        mark, layer = ">" if row.selected else "", "-" if row.layer is None else row.layer
        said = ", ".join(filter(None, notes))
        lines.append(_SESSIONS.format(mark, row.number, row.said, layer, *sizes, age, said).rstrip())
    return lines


def token_lines(tokens: Tokens) -> list[str]:
    """Return the sequences: their text, or their ids without a tokenizer; and the note."""
    lines = [tokens.note] if tokens.note else []
    for index, sequence in enumerate(tokens.sequences, start=1):
        lines.append(f"sequence {index} of {len(tokens.sequences)}, {counted(len(sequence), 'token')}: {tokens.source}")
        said = repr(tokens.texts[index - 1]) if tokens.texts else " ".join(token.text for token in sequence)
        lines += textwrap.wrap(said, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return lines


def lens_lines(lens: Lens) -> list[str]:
    """Return the guesses, a line for each."""
    if lens.note:
        return [f"{lens.label}: {lens.note}"]
    return [lens.label] + [
        f"  {guess.probability:8.4f}  logit {guess.logit:9.3f}  {guess.token.id:>6}  {guess.token.text!r}"
        for guess in lens.guesses
    ]


def layers_lines(lenses: Sequence[Lens]) -> list[str]:
    """Return the guesses of several layers, a line for each layer: probability and token."""
    first, last = lenses[0].layer, lenses[-1].layer
    lines = [lenses[0].label.replace(f"layer {first}", f"layers {first} to {last}", 1)]
    for lens in lenses:
        said = [f"  {guess.probability:8.4f}  {guess.token.text!r}" for guess in lens.guesses]
        lines.append(f"{lens.layer:>4}" + ("".join(said) or f"  {lens.note}"))
    return lines


def state_lines(rows: Sequence[StateRow]) -> list[str]:
    """Return a table of the state: name, shape, dtype, norm, and the least, median and largest spread of a token."""
    if not rows:
        return ["there is no paused session to look into"]
    width = min(max(len(row.name) for row in rows), _NAME_WIDTH)
    lines = [f"{'name':<{width}} {'shape':<13} {'dtype':<8} {'norm':>9}  spread: least median most"]
    for row in rows:
        dtype = str(row.dtype).removeprefix("torch.")
        shape = "x".join(map(str, row.shape)) or "()"
        name = row.name if len(row.name) <= width else f"..{row.name[2 - width :]}"
        lines.append(f"{name:<{width}} {shape:<13} {dtype:<8} {norm_text(row):>9}  {spread_text(row)}".rstrip())
    return lines


def norm_text(row: StateRow) -> str:
    """Return the norm in four digits; ``-`` if there is none, ``...`` if it has not been computed."""
    if not row.measured:
        return "..."
    return "-" if row.norm is None else f"{row.norm:.4g}"


def spread_text(row: StateRow) -> str:
    """Return the three numbers of the spread, likewise."""
    if not row.measured:
        return "..."
    spread = row.spread
    return "-" if spread is None else f"{spread.least:.4g} {spread.median:.4g} {spread.most:.4g}"


def memory_lines(samples: Sequence[MemorySample]) -> list[str]:
    """Return the device memory over time, drawn in characters."""
    if not samples:
        return ["no sample was taken yet"]
    last, most = samples[-1], max(sample.nbytes for sample in samples)
    seconds = last.seconds - samples[0].seconds
    taken = counted(len(samples), "sample")
    return [
        f"device memory: {mebibytes(last.nbytes)} now, {mebibytes(most)} at most in {taken} over {seconds:.0f} s",
        *history(samples, width=_WIDTH, height=7),
        "w: a session in IO_WAIT, r: one computes, b: both",
        *(["of one that computes: the state of its last stop"] if any(one.held_bytes for one in samples) else []),
    ]
