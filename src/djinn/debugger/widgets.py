"""The widgets of the screen: panels with a title that scroll, a command line with a history, and two dialogs."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import ScrollableContainer, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Paste, Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from djinn.debugger.words import visible

ERROR = "error: "  # the begin of a line that says what went wrong
DIALOGS = """
#command { height: 1; border: none; padding: 0; }
Question, Page { align: center middle; background: ansi_default; }
.box { border: solid ansi_default; height: auto; max-height: 100%; width: 100%; max-width: 100; padding: 0 1; }
.page { border-left: none; border-right: none; padding: 0; }
.page ScrollableContainer { height: auto; max-height: 100%; scrollbar-size: 1 1; scrollbar-color: ansi_cyan; }
.page ScrollableContainer { scrollbar-background: ansi_default; }
.page Static { width: auto; text-wrap: nowrap; }
.box VerticalScroll { height: auto; max-height: 100%; }
.box VerticalScroll { scrollbar-size-vertical: 1; scrollbar-color: ansi_cyan; scrollbar-background: ansi_default; }
.-ascii .box { border: ascii ansi_default; }
.-ascii .page { border-left: none; border-right: none; }
.-ascii .box VerticalScroll, .-ascii .page ScrollableContainer { scrollbar-visibility: hidden; }
"""


class Panel(VerticalScroll):
    """Lines below a title. They scroll when the panel has the focus; it asks for new ones when its size changes.

    Where it ``wraps`` they follow their end, unless the user scrolls, and the title says how many are above.
    """

    ALLOW_MAXIMIZE = True

    class Resized(Message):
        """The panel has another size."""

    def __init__(self, title: str, *, id: str, wraps: bool = False) -> None:
        super().__init__(id=id, classes="wraps" if wraps else None)
        self.border_title = self._title = title
        self._wraps = wraps
        self._lines: tuple[str, ...] = ()
        self._wanted: tuple[int | None, int] = None, 0  # the line that is to be seen, in how many
        self._head = Static(markup=False, classes="head")  # is not scrolled
        self._body = Static(markup=False)

    def compose(self) -> ComposeResult:
        """Return the head and what scrolls below it."""
        yield self._head
        yield self._body

    @property
    def columns(self) -> int:
        """The columns that a line may take."""
        return max(self.scrollable_content_region.width, 1)

    @property
    def rows(self) -> int:
        """The lines that are seen at once."""
        return max(self.scrollable_content_region.height, 1)

    def show(
        self, lines: Sequence[str], *, head: bool = False, title: str | None = None, seen: int | None = None
    ) -> None:
        """Show these ``lines``, the first as a ``head`` that stays, so that line ``seen`` is seen, from 0 behind it.

        Nothing is drawn where they are shown already.
        """
        if title is not None:
            self._title = title
            self._say_what_is_above()
        if tuple(lines) == self._lines:
            return
        moves = self._wraps or len(lines) != len(self._lines) or head != self._head.display
        self._lines = tuple(lines)
        shown = [Content(line).stylize("ansi_red" if line.startswith(ERROR) else "") for line in lines]
        self._head.display = head
        if head:
            self._head.update(shown.pop(0).stylize("bold"), layout=moves)
        self._body.update(Content("\n").join(shown), layout=moves)  # laying out takes longer than drawing
        if self._wraps:
            self.call_after_refresh(self._say_what_is_above)  # to follow their end is no scrolling to Textual
        if (wanted := (seen, self.rows)) != self._wanted:  # else the user may scroll elsewhere
            self._wanted = wanted
            if seen is not None and not 0 <= seen - self.scroll_offset.y < self.rows - head:
                self.scroll_to(y=seen, animate=False)

    @property
    def text(self) -> str:
        """What it shows."""
        return "\n".join(self._lines)

    def on_mount(self) -> None:
        """Let lines that wrap follow their end."""
        if self._wraps:
            self.anchor()

    def on_resize(self, event: Resize) -> None:
        """Ask for lines that fit."""
        self.post_message(self.Resized())
        self._say_what_is_above()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Say what is above now."""
        super().watch_scroll_y(old_value, new_value)
        self._say_what_is_above()

    def _say_what_is_above(self) -> None:
        above = round(self.scroll_offset.y) if self._wraps else 0
        title = f"{self._title}, {above} more above" if above > 0 else self._title
        if title != self.border_title:
            self.border_title = title


def _input_bindings() -> Iterator[Binding]:
    """Yield the keys that edit a line, with priority, but for Enter and Ctrl-C, which do something else here."""
    for binding in Input.BINDINGS:
        assert isinstance(binding, Binding)
        if binding.action not in ("submit", "copy"):
            yield replace(binding, priority=True)


class CommandLine(Input, inherit_bindings=False):
    """The line for a command: the arrows bring back earlier ones, Escape leaves it."""

    # With priority they are done when they come, and not behind letters that come later: see ``Debugger.on_event``.
    BINDINGS: ClassVar = [
        *_input_bindings(),
        Binding("up", "earlier", show=False, priority=True),
        Binding("down", "later", show=False, priority=True),
        Binding("escape", "leave", show=False, priority=True),
        Binding("ctrl+c", "app.interrupt", show=False, priority=True),
    ]

    class Shortened(Message):
        """Of several ``lines`` that were pasted the first is taken."""

        def __init__(self, lines: int) -> None:
            super().__init__()
            self.lines = lines

    class Left(Message):
        """The user has left the line without a command."""

    def __init__(self) -> None:
        super().__init__(id="command", placeholder="a key, or : and a command", compact=True, select_on_focus=False)
        self._history: list[str] = []
        self._at = 0

    def begin(self, text: str) -> None:
        """Put ``text`` into the line, for the user to go on with."""
        self.value = text
        self.cursor_position = len(text)
        self.screen.set_focus(self)  # at once: focus() comes behind the next key

    async def catch_up(self) -> None:
        """Wait until the letters that are on their way are in the line."""
        read = asyncio.Event()
        if self.call_later(read.set):  # behind them
            await read.wait()

    def take(self) -> str:
        """Return the line, and leave it empty."""
        line, self.value = self.value.strip(), ""
        if line and line not in self._history[-1:]:
            self._history.append(line)
        self._at = len(self._history)
        return line

    def _on_paste(self, event: Paste) -> None:
        """Tell what the input, which takes the first line behind this, leaves out."""
        lines = event.text.rstrip().splitlines()
        if len(lines) > 1:
            self.post_message(self.Shortened(len(lines)))

    def action_earlier(self) -> None:
        """Show the command before."""
        self._go(-1)

    def action_later(self) -> None:
        """Show the command behind."""
        self._go(1)

    def action_leave(self) -> None:
        """Leave the line empty."""
        self.value = ""
        self.post_message(self.Left())

    def _go(self, step: int) -> None:
        self._at = min(max(self._at + step, 0), len(self._history))
        self.value = self._history[self._at] if self._at < len(self._history) else ""
        self.cursor_position = len(self.value)


class Question(ModalScreen[bool]):
    """A question and lines that it is about; ``y`` is yes, anything that usually says no is no."""

    BINDINGS: ClassVar = [
        Binding("y", "answer(True)", show=False),
        Binding("n,escape,q,enter,ctrl+c", "answer(False)", show=False),
    ]

    def __init__(self, lines: Sequence[str], question: str) -> None:
        super().__init__()
        self._question, self._said = question, [visible(line) for line in lines]

    def compose(self) -> ComposeResult:
        """Return the box."""
        with Vertical(classes="box"):
            yield Static(f"{self._question}  y: yes   n: no\n", markup=False)
            with VerticalScroll():
                yield Static("\n".join(self._said), markup=False)

    def on_mount(self) -> None:
        """Let the arrows scroll."""
        self.query_one(VerticalScroll).focus()

    def action_answer(self, yes: bool) -> None:
        """Close it with the answer."""
        self.dismiss(yes)


class Page(ModalScreen[None]):
    """Lines to read, which scroll in both directions."""

    BINDINGS: ClassVar = [Binding("escape,q,enter,ctrl+c,question_mark", "close", show=False)]

    def __init__(self, title: str, lines: Sequence[str]) -> None:
        super().__init__()
        self._title, self._said = title, [visible(line) for line in lines]

    def compose(self) -> ComposeResult:
        """Return the box."""
        with Vertical(classes="box page") as box:
            box.border_title = Content(self._title)
            box.border_subtitle = "Escape closes"
            with ScrollableContainer():
                yield Static("\n".join(self._said), markup=False)

    def on_mount(self) -> None:
        """Let the arrows scroll."""
        self.query_one(ScrollableContainer).focus()

    def action_close(self) -> None:
        """Close it."""
        self.dismiss()
