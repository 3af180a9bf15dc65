"""What the terminal can do: whether text can be placed on it, and whether it has colours and block characters."""

import os
import sys
import threading

from djinn.core import DjinnError

_LINES = "type --plain, or djinn.debug(runtime, plain=True), for lines"
_FEW_GLYPHS = ("linux", "vt")  # the begin of the names of terminals whose fonts lack most blocks


def check() -> None:
    """Raise :class:`djinn.DjinnError` if no screen can be shown here."""
    if threading.current_thread() is not threading.main_thread():
        raise DjinnError(f"the screen needs the main thread: {_LINES}")
    name = os.environ.get("TERM", "")
    if not (sys.__stdin__ and sys.__stdin__.isatty() and sys.__stderr__ and sys.__stderr__.isatty()):
        raise DjinnError(f"the screen needs a terminal, and standard input or error is none: {_LINES}")
    if name in ("", "dumb", "unknown"):
        raise DjinnError(f"the screen cannot place text on this terminal (TERM={name}): {_LINES}")


def has_colours() -> bool:
    """Whether the terminal has colours; one that nobody has described is taken to have them."""
    if os.environ.get("NO_COLOR"):
        return False
    try:
        import curses  # noqa: PLC0415 - some Pythons lack it
    except ImportError:
        return True
    if sys.__stderr__ is None:
        return True
    try:
        curses.setupterm(fd=sys.__stderr__.fileno())
    except (curses.error, OSError):
        return True
    return curses.tigetnum("colors") >= 8


def has_blocks() -> bool:
    """Whether lines and blocks can be drawn, and not only ASCII."""
    encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"
    return encoding.lower().startswith("utf") and not os.environ.get("TERM", "").startswith(_FEW_GLYPHS)
