"""The keys of the screen: those of the commands, those of the screen itself, and how both are said."""

from collections.abc import Sequence

from textual.binding import Binding, BindingType

from djinn.debugger.commands import COMMANDS, help_lines

_TEXTUAL = {"?": "question_mark"}  # what Textual calls a key
_ENDS = ("? help", "q quit")
_WANTED = (  # where the last line is too short for all, the last of these are said in the help alone
    "b break",
    "s layer",
    "t token",
    "r resume",
    "w IO_WAIT",
    "e edit",
    "f fork",
    ": command",
    "S save",
    "R restore",
    "u use",
    "p pause",
    "Tab panel",
    "z zoom",
)
_OWN = (
    ":       type any command; Escape goes back to the keys, Up brings back earlier lines",
    "Tab     go to the next panel: arrows and Page Down scroll it, z shows it alone, and all again",
    "Ctrl-C  stop waiting for what runs: the session goes on, nothing is lost",
    "Ctrl-L  draw the screen anew",
)


def bindings() -> list[BindingType]:
    """Return a binding for each command, and those of the screen itself."""
    return [
        *(Binding(_TEXTUAL.get(each.key, each.key), f"key('{each.name}')", show=False) for each in COMMANDS),
        Binding("colon,enter", "command", show=False),
        Binding("z", "zoom", show=False),
        Binding("ctrl+l", "redraw", show=False),
        Binding("ctrl+c", "interrupt", show=False),
        Binding("ctrl+q", "key('quit')", show=False),
    ]


def keys_line(width: int) -> str:
    """Return the keys in one line of at most ``width``, as many as fit."""
    kept: list[str] = []
    for said in _WANTED:
        if len("  ".join((*kept, said, *_ENDS))) <= width:
            kept.append(said)
    return "  ".join((*kept, *_ENDS))


def help_page() -> Sequence[str]:
    """Return what the help shows: each command with its key, and the keys of the screen itself."""
    lines = [f"{each.key}  {line}" for each, line in zip(COMMANDS, help_lines(), strict=True)]
    return [*lines, "", *_OWN, "", "The key of a command that takes an argument opens the line for it."]
