"""The debugger's screen: shows what the bench has, and sends it command lines; no function of its own.

A command runs on a thread, one at a time, so keys work meanwhile. When it has ended, or the selected session has come
to another stop, there is another look at it (``glances``). The timer reads the sessions' phases and sizes, which
touches no device, and redraws the panels that have changed.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import App, ComposeResult
from textual.events import DescendantBlur, DescendantFocus, Event, Key, Print
from textual.filter import LineFilter, NoColor
from textual.message import Message
from textual.widgets import Input, Static
from textual.worker import Worker, WorkerState, get_current_worker

from djinn.debugger import terminal
from djinn.debugger.bench import Bench
from djinn.debugger.board import STYLES, Board
from djinn.debugger.commands import COMMANDS
from djinn.debugger.glances import NOTHING, Look, glances, standing
from djinn.debugger.keys import bindings, help_page, hint, keys_line
from djinn.debugger.tables import cut
from djinn.debugger.values import Outcome
from djinn.debugger.widgets import DIALOGS, ERROR, CommandLine, Page, Panel, Question
from djinn.debugger.words import visible
from djinn.program.caller import CallerContext

_TIMER_SECONDS = 0.5
_ANSWERS = 500  # lines that are kept
_PAGE_LINES = 8  # an answer that is longer, and does not fit its panel, is shown as a page


def run(bench: Bench) -> None:
    """Show the screen of ``bench`` until the user quits. Raises :class:`djinn.DjinnError` where there is none."""
    terminal.check()
    Debugger(bench, colours=terminal.has_colours(), ascii=not terminal.has_blocks()).run(mouse=False)


class Told(Message):
    """A command that runs has a line of progress."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class Done(Message):
    """A command has ended."""

    def __init__(self, line: str, outcome: Outcome) -> None:
        super().__init__()
        self.line, self.outcome = line, outcome


class Looked(Message):
    """There is something new to show of the selected session."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look


class Debugger(App[None]):
    """The screen of ``bench``; without ``colours``, or with lines and bars in ``ascii``, if the terminal lacks them."""

    TITLE = "djinn debug"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_IN_MAXIMIZED_VIEW = "#command, #keys"
    AUTO_FOCUS = None
    CSS = f"{STYLES}{DIALOGS}#keys {{ height: 1; text-wrap: nowrap; }}"
    BINDINGS: ClassVar = bindings()

    def __init__(self, bench: Bench, *, colours: bool = True, ascii: bool = False) -> None:
        super().__init__(ansi_color=True)  # the terminal's own colours
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (76, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-high"), (36, "-tall")]
        self.bench = bench
        self._colours, self._ascii = colours, ascii
        self._caller = CallerContext(bench.runtime._device)  # commands run as if called here
        self._turn = threading.Lock()  # held by the thread that asks the bench for more than values of the moment
        self._busy: tuple[str, float] | None = None  # the command that runs, and since when
        self._progress = ""
        self._ahead: list[str] = []  # commands that were given meanwhile
        self._answers: deque[str] = deque(maxlen=_ANSWERS)
        self._printed = ""  # a line of the program's that has not ended
        self._begun_line = ""  # as it was at the last tick
        self._asked: object = None  # how the session stood at the last look
        self._look = NOTHING
        self._stays = False  # whether the command line keeps the focus
        self._board = Board(bench, ascii=ascii)
        self._command = CommandLine()
        self._keys = Static(id="keys", markup=False)
        self._last_shown = ""  # in that line
        self._is_to_draw = False

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return what is done to each line, such as to take its colours away."""
        return [*super().get_line_filters(), *([] if self._colours else [NoColor()])]

    def compose(self) -> ComposeResult:
        """Return the panels, the command line, and the line of keys."""
        yield self._board
        yield self._command
        yield self._keys

    def on_mount(self) -> None:
        """Begin to look, and to take what the program prints."""
        self.set_class(self._ascii, "-ascii")
        self.begin_capture_print(self)
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())  # the shell has written meanwhile
        self._board.sessions.focus()
        self.set_interval(_TIMER_SECONDS, self._tick)
        self._tick()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Look anew if the selected session has moved, or could not be read; nothing here waits or computes."""
        self.bench.sample()
        self._show_begun_line()
        stands = standing(self.bench)
        looking = any(worker.group == "look" and not worker.is_finished for worker in self.workers)
        unfinished = not self._look.whole and self.bench.is_free and not looking
        if self._busy is None and (stands != self._asked or unfinished):
            self._asked = stands
            self._look_again()
        self._draw()

    @work(thread=True, group="look", exclusive=True, exit_on_error=False)
    def _look_again(self) -> None:
        worker = get_current_worker()
        for look in glances(self.bench, turn=self._turn, given_up=lambda: worker.is_cancelled):
            self.post_message(Looked(look))

    @on(Looked)
    def _show_look(self, message: Looked) -> None:
        if message.look.mark == standing(self.bench):
            self._look = message.look
            self._draw()

    @on(Panel.Resized)
    @on(DescendantFocus)
    @on(DescendantBlur)
    @on(Input.Changed)
    def _draw(self) -> None:
        """Draw behind the messages that are here: often several ask for it, and the interpreter belongs to others."""
        if not self._is_to_draw:
            self._is_to_draw = True
            self.call_later(self._draw_once)

    def _draw_once(self) -> None:
        self._is_to_draw = False
        self._board.draw(self._look, self._answers)
        if (line := self._last_line()) != self._last_shown:
            self._last_shown = line
            self._keys.update(line, layout=False)

    def _last_line(self) -> str:
        """Say what runs, else what can be typed."""
        if self._busy is not None:
            line, since = self._busy
            said = self._progress or f"{line} ... {time.monotonic() - since:.0f} s"
            ahead = f"   then: {', '.join(self._ahead)}" if self._ahead else ""
            return cut(f"{said}   Ctrl-C stops waiting{ahead}", self.size.width)
        if self._command.has_focus:
            return hint(self._command.value, self.size.width)
        if self._answers and not self._board.shows_answers:
            return cut(self._answers[-1], self.size.width)
        return keys_line(self.size.width)

    def _tell(self, *lines: str) -> None:
        self._answers.extend(map(visible, lines))
        self._draw()

    def on_print(self, event: Print) -> None:
        """Show what the program prints, as lines of its own."""
        *lines, self._printed = (self._printed + event.text).replace("\r", "\n").split("\n")
        if told := [f"printed: {line}" for line in lines if line.strip()]:
            self._tell(*told)

    def _show_begun_line(self) -> None:
        """Show what the program has printed of a line, if it has not gone on with it since the last time."""
        if self._printed.strip() and self._printed == self._begun_line:
            self._tell(f"printed: {self._printed}")
            self._printed = ""
        self._begun_line = self._printed

    # -- what is done ------------------------------------------------------------------------------------------------

    def begin(self, line: str, *, confirmed: bool = False) -> None:
        """Do what ``line`` asks for on a thread; if one is at work, when that has ended."""
        if self._busy is not None:
            self._ahead.append(line)
            if line == "quit":
                self.bench.interrupt()
            self._draw()
            return
        if not confirmed:
            self._tell(f"> {line}")
        self.workers.cancel_group(self, "look")
        self._busy, self._progress = (line, time.monotonic()), ""
        self._perform(line, confirmed)
        self._draw()

    @work(thread=True, group="command", exit_on_error=False)
    def _perform(self, line: str, confirmed: bool) -> None:
        with self._turn, self._caller.entered():
            outcome = self.bench.do(line, confirmed=confirmed, say=self._say)
        self.post_message(Done(line, outcome))

    def _say(self, text: str) -> None:
        self.post_message(Told(text))

    @on(Told)
    def _show_progress(self, message: Told) -> None:
        self._progress = visible(message.text)
        self._draw()

    @on(Done)
    def _end(self, message: Done) -> None:
        """Show what a command has said; ask its question, or end."""
        self._busy, self._asked = None, None
        line, outcome = message.line, message.outcome
        if outcome.quits:
            self.exit()
        elif outcome.question:
            self.push_screen(Question(outcome.lines, outcome.question), lambda yes: self._answered(line, yes))
        elif len(outcome.lines) > max(_PAGE_LINES, self._board.answers.rows):
            self._tell(f"{len(outcome.lines)} lines, shown as a page")
            self.push_screen(Page(line, help_page() if line == "help" else outcome.lines))
        else:
            self._tell(*(f"{ERROR}{said}" if outcome.failed else said for said in outcome.lines))
        if outcome.failed or outcome.question:  # what was to follow it was meant for another outcome
            self._ahead = ["quit"] if "quit" in self._ahead and not outcome.question else []
        if self._ahead and not outcome.quits:
            self.begin(self._ahead.pop(0))
        self._tick()

    def _answered(self, line: str, yes: bool | None) -> None:
        if yes:
            self.begin(line, confirmed=True)
        else:
            self._tell("not done")

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show a fault of the debugger's own as a line, and go on: the sessions are worth more than the screen."""
        if event.state is WorkerState.ERROR:
            error = event.worker.error
            self._busy = None if event.worker.group == "command" else self._busy
            self._tell(f"{ERROR}the debugger itself failed: {type(error).__name__}: {error}")

    # -- keys --------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Say whether a key is one now: not in the command line, where it is a letter, and not in a dialog."""
        if action in ("key", "command", "zoom", "enter", "panel"):
            # has_focus would follow only after the next key
            return len(self.screen_stack) == 1 and (action in ("enter", "panel") or self.focused is not self._command)
        return True

    def action_key(self, name: str) -> None:
        """Do a command, or open the line for its argument."""
        command = next(each for each in COMMANDS if each.name == name)
        if command.arguments:
            self._open(f"{name} ", stays=False)
        else:
            self.begin(name)

    async def action_quit(self) -> None:
        """Do what ``q`` does: Textual has a key of its own for this, Ctrl-Q, which would not ask."""
        if len(self.screen_stack) == 1:
            self.begin("quit")

    def action_command(self) -> None:
        """Open the line for any command, and for the next ones."""
        self._open("", stays=True)

    def _open(self, text: str, *, stays: bool) -> None:
        self._stays = stays
        self._command.begin(text)

    async def on_event(self, event: Event) -> None:
        """See that keys of the command line act in the order in which they come, over a slow link many at once.

        Letters go to the line, which takes them a little later. Any other key waits for them.
        """
        is_new = isinstance(event, Key) and not event.is_printable and not event.is_forwarded
        if is_new and self.focused is self._command:  # asked of a key alone: an app that ends has no screen
            await self._command.catch_up()
        await super().on_event(event)

    def action_enter(self) -> None:
        """Do what the command line holds; elsewhere open it."""
        if self.focused is not self._command:
            self.action_command()
            return
        given = self._command.take()
        if line := given.lstrip(": "):  # the key of the line, from whom it is open already
            self.begin(line)
        if not given or not self._stays:
            self._left()

    @on(CommandLine.Shortened)
    def _shortened(self, message: CommandLine.Shortened) -> None:
        self._tell(f"{message.lines} lines were pasted, and only the first is in the command line")

    @on(CommandLine.Left)
    def _left(self) -> None:
        self._command.value = ""
        self.screen.set_focus(self._board.sessions)

    def action_panel(self, step: int) -> None:
        """Go to the next panel, or back; the command line, which is none, is left empty."""
        if self.focused is self._command:
            self._left()
        (self.screen.focus_next if step > 0 else self.screen.focus_previous)(Panel)

    def action_zoom(self) -> None:
        """Show the panel that has the focus alone, or all again."""
        if self.screen.maximized is None:
            self.screen.action_maximize()
        else:
            self.screen.minimize()

    def action_interrupt(self) -> None:
        """Stop waiting for the command that runs."""
        if self._busy is None:
            self._tell("nothing is waited for: q quits")
        else:
            self._ahead.clear()
            self.bench.interrupt()

    def action_redraw(self) -> None:
        """Draw all anew, where something else has written on the terminal."""
        self.refresh(repaint=True, layout=True)
