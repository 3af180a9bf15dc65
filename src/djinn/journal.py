"""The journal: what the runtime tells ``logging.getLogger("djinn")``, by a thread of its own.

A handler is the user's code. It may be slow, and may ask for ``status()``. So nothing is handed to logging where it
happens: not under a lock, not on the way of a RESUME, not where an interrupt would split a step. A line is put into a
queue, and the thread hands it on, with the time at which it happened. Nothing is queued for a level that is off.

INFO: moves, RESUMEs and evictions. WARNING: most of a session's state stayed on the device; an error that nobody asked
for. DEBUG: each tensor that stayed, and copies that failed and are tried again.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable

from djinn.interrupts import Hands
from djinn.resumes import Resume
from djinn.state.storages import LeftBehind
from djinn.wording import mebibytes

_log = logging.getLogger("djinn")
_log.addHandler(logging.NullHandler())  # silent, unless the user's program asks for lines

_MUCH_BYTES = 1 << 20  # less than this is worth no warning


class Journal:
    """The queue of lines of one runtime, and the thread that hands them to logging."""

    def __init__(self) -> None:
        self._hands = Hands("djinn-log")

    def start(self) -> None:
        """Start the thread. Raises ``RuntimeError`` if the system refuses."""
        self._hands.start()

    def listens(self, level: int) -> bool:
        """Whether lines of this ``level`` are wanted."""
        return _log.isEnabledFor(level)

    def note(self, level: int, text: str, *values: object) -> None:
        """Queue the line ``text % values``; the values must be plain, for they are read later."""
        if _log.isEnabledFor(level):
            self._hands.posting(functools.partial(_hand_on, level, time.time(), text, values))()

    def resumed(self, number: int, read: Callable[[], Resume]) -> None:
        """Note a RESUME of session ``number`` that has brought back everything; ``read`` it only if that is wanted."""
        if not self.listens(logging.INFO):
            return
        resume = read()
        assert resume.ready_seconds is not None
        assert resume.resident_seconds is not None
        self.note(
            logging.INFO,
            "session %d: resumed with %s, ready after %.3f ms, all on the device after %.3f ms",
            number,
            mebibytes(resume.nbytes),
            resume.ready_seconds * 1e3,
            resume.resident_seconds * 1e3,
        )

    def left_behind(self, number: int, left: Iterable[LeftBehind], *, taken_bytes: int) -> None:
        """Note what session ``number`` has ``left`` on the device, when ``taken_bytes`` were swapped out."""
        lines = sorted(left, key=lambda line: -line.nbytes)
        left_bytes = sum(line.nbytes for line in lines)
        if left_bytes >= max(taken_bytes, _MUCH_BYTES):
            self.note(
                logging.WARNING,
                "session %d: %s of state stay on the device, %s were swapped out; the largest is %s",
                number,
                mebibytes(left_bytes),
                mebibytes(taken_bytes),
                str(lines[0]),
            )
        for line in lines if self.listens(logging.DEBUG) else ():
            self.note(logging.DEBUG, "session %d: stays on the device: %s", number, str(line))

    def drain(self, timeout: float) -> None:
        """Wait until all lines so far are handed on, at most ``timeout`` seconds."""
        self._hands.drain(timeout)

    def close(self) -> None:
        """End the thread after the lines so far."""
        self._hands.close()


def _hand_on(level: int, when: float, text: str, values: tuple[object, ...]) -> None:
    record = _log.makeRecord(_log.name, level, "djinn", 0, text, values, None)
    record.created, record.msecs = when, when % 1 * 1e3
    _log.handle(record)
