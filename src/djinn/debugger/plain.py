"""The front of lines: reads commands from a stream, and writes what they say to another; for pipes and screen readers.

A prompt is shown on a terminal only. The end of the input quits without a question, and says what was lost.
"""

import sys
from typing import TextIO

from djinn.debugger.bench import Bench
from djinn.debugger.values import Outcome

_PROMPT = "(djinn) "


def run(bench: Bench, *, lines: TextIO | None = None, out: TextIO | None = None) -> None:
    """Do what the ``lines`` say until ``quit`` or their end; by default those of the standard input and output."""
    front = _Front(bench, lines or sys.stdin, out or sys.stdout)
    front.greet()
    while not front.ended:
        try:
            front.turn()
        except KeyboardInterrupt:
            front.interrupted()


class _Front:
    """Reads and does one line at a time."""

    def __init__(self, bench: Bench, lines: TextIO, out: TextIO) -> None:
        self._bench = bench
        self._lines = lines
        self._out = out
        self._asks = lines.isatty()
        self.ended = False

    def greet(self) -> None:
        """Say what is there."""
        self._tell(self._bench.do("sessions"))
        self.say("help lists the commands, quit ends")

    def turn(self) -> None:
        """Read a line and do it."""
        line = self._read(_PROMPT)
        if line is None:
            for lost in self._bench.would_be_lost():
                self.say(f"the input has ended, and lost is {lost}")
            self.ended = True
            return
        outcome = self._bench.do(line, say=self.say)
        self._tell(outcome)
        if outcome.question:
            answer = self._read(f"{outcome.question} [y/N] ")
            if (answer or "").strip().lower() not in ("y", "yes"):
                self.say("not done")
                return
            outcome = self._bench.do(line, confirmed=True, say=self.say)
            self._tell(outcome)
        self.ended = outcome.quits

    def interrupted(self) -> None:
        """Say, on a line of its own, how to end."""
        if self._asks:
            self._out.write("\n")
        self.say("interrupted: quit ends the debugger")

    def say(self, text: str) -> None:
        """Write a line, in the characters that the stream has."""
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self._out.flush()

    def _tell(self, outcome: Outcome) -> None:
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
            self._out.write(prompt if self._asks else prompt + "\n")
            self._out.flush()
        line = self._lines.readline()
        return line.rstrip("\n") if line else None
