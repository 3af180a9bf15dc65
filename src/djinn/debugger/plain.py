"""The front of lines: reads commands from a stream, and writes what they say to another; for pipes and screen readers.

A prompt is shown on a terminal only. The end of the input quits without a question, and says what was lost.
"""

import sys
from typing import TextIO

from djinn.core import DjinnError
from djinn.debugger.bench import Bench
from djinn.debugger.values import Outcome
from djinn.debugger.words import visible

_PROMPT = "(djinn) "


def run(bench: Bench, *, lines: TextIO | None = None, out: TextIO | None = None) -> bool:
    """Do what the ``lines`` say until ``quit`` or their end; by default those of the standard input and output.

    Returns whether none of them failed, which is for scripts: on a terminal that is seen. Raises :class:`OutputLost`,
    and :class:`djinn.DjinnError` where a standard stream is closed.
    """
    front = _Front(bench, *streams(lines, out))
    front.greet()
    while not front.ended:
        try:
            front.turn()
        except KeyboardInterrupt:
            front.interrupted()
    return not front.failed


class OutputLost(OSError):
    """What was said could not be written."""


def streams(lines: TextIO | None, out: TextIO | None) -> tuple[TextIO, TextIO]:
    """Return where commands are read and answers written. Raises :class:`djinn.DjinnError` for a closed one."""
    lines, out = lines or sys.stdin, out or sys.stdout
    if lines is None:
        raise DjinnError("standard input is closed, and commands are read from it")
    if out is None:
        raise DjinnError("standard output is closed, and answers are written to it")
    return lines, out


class _Front:
    """Reads and does one line at a time."""

    def __init__(self, bench: Bench, lines: TextIO, out: TextIO) -> None:
        self._bench = bench
        self._lines = lines
        self._out = out
        self._asks = lines.isatty()
        self.ended = False
        self.failed = False  # whether a command of a script has

    def greet(self) -> None:
        """Say what is there."""
        self._tell(self._bench.do("sessions"))
        self.say("help lists the commands, quit ends")

    def turn(self) -> None:
        """Read a line and do it."""
        line = self._read(_PROMPT)
        if line is None:
            lost = self._bench.would_be_lost()
            for line in [f", and lost is {one}" for one in lost] or [""]:  # without a word it would seem to do nothing
                self.say(f"the input has ended{line}")
            self.ended = True
            return
        outcome = self._bench.do(line, say=self.say)
        self._tell(outcome)
        if outcome.question:
            answer = self._read(f"{outcome.question} [y/N] ")
            answer = (answer or "").strip()
            if answer.lower() not in ("y", "yes"):
                clear = answer.lower() in ("", "n", "no")
                self.say("not done" if clear else f"not done: {answer} was the answer, and only y is yes")
                return
            outcome = self._bench.do(line, confirmed=True, say=self.say)
            self._tell(outcome)
        self.ended = outcome.quits

    def interrupted(self) -> None:
        """Say, on a line of its own, how to end."""
        if self._asks:
            self._write("\n")
        self.say("interrupted: quit ends the debugger")

    def say(self, text: str) -> None:
        """Write a line, in the characters that the stream has; nothing in it moves a terminal's cursor."""
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._write(visible(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error

    def _tell(self, outcome: Outcome) -> None:
        self.failed |= outcome.failed and not self._asks
        for line in outcome.lines:
            self.say(line)

    def _read(self, prompt: str) -> str | None:
        """Return the next line; None at the end. The prompt of a question is written to a pipe too."""
        if self._asks and self._lines is sys.stdin and self._out is sys.stdout:
            try:
                return input(prompt)  # by which a terminal's keys for editing work, where readline is loaded
            except EOFError:
                return None
        if self._asks or prompt is not _PROMPT:
            self._write(prompt if self._asks else prompt + "\n")
        line = self._lines.readline()
        return line.rstrip("\n") if line else None
