"""The keys of the screen: those of the commands, those of the screen itself, and how both are said."""

import textwrap
from collections.abc import Sequence

from textual.binding import Binding, BindingType

from djinn.debugger.commands import COMMANDS, Command
from djinn.debugger.tables import cut

_PAGE = 74  # characters of a line of the help
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
    (":", "type any command; Escape goes back to the keys, Up brings back earlier lines"),
    ("Tab", "go to the next panel: arrows and Page Down scroll it, z shows it alone, and all again"),
    ("Ctrl-C", "stop waiting for what runs: the session goes on, and nothing is lost"),
    ("Ctrl-L", "draw the screen anew"),
    ("Ctrl-Z", "stop the process, programs too; the shell's fg goes on"),
)


def bindings() -> list[BindingType]:
    """Return a binding for each command, and those of the screen itself.

    With ``priority`` the application does a key before it looks at the next one. So what follows at once, as over a
    slow link, goes to the line that the key has opened, and is not taken for keys.
    """
    return [
        *(Binding(each.key, f"key('{each.name}')", show=False, priority=True) for each in COMMANDS),
        Binding(":", "command", show=False, priority=True),
        Binding("enter", "enter", show=False, priority=True),
        Binding("z", "zoom", show=False, priority=True),
        Binding("tab", "panel(1)", show=False, priority=True),
        Binding("shift+tab", "panel(-1)", show=False, priority=True),
        Binding("ctrl+l", "redraw", show=False),
        Binding("ctrl+z", "suspend_process", show=False),
        Binding("ctrl+c", "interrupt", show=False),
    ]


def keys_line(width: int) -> str:
    """Return the keys in one line of at most ``width``, the most wanted that fit."""
    kept: list[str] = []
    for said in _WANTED:
        if len("  ".join((*kept, said, *_ENDS))) > width:
            break
        kept.append(said)
    return "  ".join((*kept, *_ENDS))


def hint(line: str, width: int) -> str:
    """Return what the command that ``line`` begins takes and does; where it may be several, their forms."""
    fitting = [each for each in COMMANDS if _fits(each, line)]
    if not line.strip() or not fitting:
        return cut("Enter does it   Escape: back to the keys   Up: earlier lines", width)
    if len(fitting) == 1:
        return cut(f"{_form(fitting[0])}: {fitting[0].help}", width)
    return cut("   ".join(map(_form, fitting)), width)


def _fits(command: Command, line: str) -> bool:
    return command.name.startswith(line.strip()) or line.startswith(f"{command.name} ")


def _form(command: Command) -> str:
    return f"{command.name} {command.arguments}".strip()


def help_page() -> Sequence[str]:
    """Return what the help shows: each command with its key, and the keys of the screen itself."""
    forms = {each: _form(each) for each in COMMANDS}
    space = max(map(len, forms.values()))
    rows = [(f"{each.key:<7}{form:<{space}}  ", each.help) for each, form in forms.items()]
    rows += [("", ""), *((f"{key:<7}", said) for key, said in _OWN), ("", "")]
    rows += [("", "The key of a command that takes an argument opens the line for it.")]
    wrapped = (
        textwrap.wrap(said, _PAGE, initial_indent=begin, subsequent_indent=" " * len(begin)) or [""]
        for begin, said in rows
    )
    return [line for lines in wrapped for line in lines]
