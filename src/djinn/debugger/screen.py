"""The debugger's screen: shows what the bench has in panels, and sends it command lines; no function of its own.

A command runs on a thread, one at a time, so keys work meanwhile. When it has ended, or the selected session has come
to another stop, a look is asked for (``glances``). The timer reads the sessions' phases and sizes, which touches no
device, and redraws the panels that have changed.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import App, ComposeResult
from textual.containers import Container
from textual.events import DescendantBlur, DescendantFocus, Print
from textual.message import Message
from textual.widgets import Input, Static
from textual.worker import Worker, WorkerState, get_current_worker

from djinn.core import Phase
from djinn.debugger import views
from djinn.debugger.bench import Bench
from djinn.debugger.commands import COMMANDS
from djinn.debugger.glances import NOTHING, Look, glances, standing
from djinn.debugger.keys import bindings, help_page, keys_line
from djinn.debugger.memory import history
from djinn.debugger.tables import visible
from djinn.debugger.values import Outcome
from djinn.debugger.widgets import CommandLine, Page, Panel, Question
from djinn.program.caller import CallerContext

_TIMER_SECONDS = 0.5
_ANSWERS = 500  # lines that are kept
_PAGE_LINES = 8  # an answer that is longer, and does not fit its panel, is shown as a page


class Debugger(App[None]):
    """The screen of ``bench``; :meth:`run` shows it until the user quits."""

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

    TITLE = "djinn debug"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Panel { border-top: solid ansi_bright_black; border-title-style: bold; scrollbar-size-vertical: 1; }
    Panel { scrollbar-gutter: stable; height: auto; }
    Panel:focus { border-top: heavy ansi_default; }
    Panel Static { text-wrap: nowrap; }
    Panel.wraps Static { text-wrap: wrap; }
    .-ascii Panel { border-top: ascii ansi_default; }
    #title { height: 1; text-style: bold; }
    #sessions { height: auto; min-height: 3; max-height: 25%; }
    #middle { layout: horizontal; height: 9; }
    #tokens { width: 1fr; height: 100%; }
    #memory { width: 34; height: 100%; margin-left: 1; }
    .-narrow #middle { layout: vertical; height: 10; }
    .-narrow #memory { width: 100%; height: 4; margin-left: 0; }
    .-narrow #tokens { width: 100%; height: 6; }
    #state { height: 1fr; min-height: 4; }
    #answers { height: 1fr; min-height: 4; }
    #command { height: 1; border: none; padding: 0; }
    #keys { height: 1; text-wrap: nowrap; }
    Question, Page { align: center middle; background: ansi_default; }
    .box { border: solid ansi_default; height: auto; max-height: 90%; width: 90%; padding: 0 1; }
    .box VerticalScroll { height: auto; max-height: 100%; }
    .-ascii .box { border: ascii ansi_default; }
    """
    BINDINGS: ClassVar = bindings()

    def __init__(self, bench: Bench, *, first: Sequence[str] = ()) -> None:
        super().__init__(ansi_color=True)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (76, "-normal")]
        self.bench = bench
        self._caller = CallerContext(bench.runtime._device)  # commands run as if called here
        self._turn = threading.Lock()  # held by the thread that asks the bench for more than values of the moment
        self._busy: tuple[str, float] | None = None  # the command that runs, and since when
        self._progress = ""
        self._answers: deque[str] = deque(first, maxlen=_ANSWERS)
        self._printed = ""  # a line of the program's that has not ended
        self._asked: object = None  # the mark of the last look that was asked for
        self._look = NOTHING
        self._stays = False  # whether the command line keeps the focus
        runtime = bench.runtime
        model = f"{type(runtime._model).__name__}, {bench.depth} layers, on {runtime._device}"
        self._title = Static(f"djinn debug  {model}", id="title", markup=False)
        self._sessions = Panel("sessions", id="sessions")
        self._tokens = Panel("tokens", id="tokens")
        self._memory = Panel("device memory", id="memory")
        self._state = Panel("state", id="state")
        self._said = Panel("answers", id="answers", wraps=True)
        self._command = CommandLine()
        self._keys = Static(id="keys", markup=False)

    def compose(self) -> ComposeResult:
        """Return the panels from top to bottom."""
        yield self._title
        yield self._sessions
        with Container(id="middle"):
            yield self._tokens
            yield self._memory
        yield self._state
        yield self._said
        yield self._command
        yield self._keys

    def on_mount(self) -> None:
        """Begin to look, and to take what the program prints."""
        if not (getattr(sys.__stderr__, "encoding", None) or "").lower().startswith("utf"):
            self.add_class("-ascii")
        self.begin_capture_print(self)
        self.set_interval(_TIMER_SECONDS, self._tick)
        self._tick()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Read the sessions, and ask for a look if the selected one has moved; nothing here waits or computes."""
        self.bench.sample()
        mark, runs = standing(self.bench), any(row.phase is Phase.RUNNING for row in self.bench.rows())
        unfinished = not self._look.whole and not runs and not self._looking
        if self._busy is None and (mark != self._asked or unfinished):
            self._asked = mark
            self._look_again()
        self._draw()

    @property
    def _looking(self) -> bool:
        return any(worker.group == "look" and not worker.is_finished for worker in self.workers)

    @work(thread=True, group="look", exclusive=True, exit_on_error=False)
    def _look_again(self) -> None:
        worker = get_current_worker()
        for look in glances(self.bench, turn=self._turn, given_up=lambda: worker.is_cancelled):
            self.post_message(self.Looked(look))

    @on(Looked)
    def _show_look(self, message: Looked) -> None:
        if message.look.mark == standing(self.bench):
            self._look = message.look
            self._draw()

    def _draw(self) -> None:
        """Bring every panel up to date; one that would show the same is left alone."""
        rows, look = self.bench.rows(), self._look
        panel = self._sessions
        panel.show(views.sessions(rows, width=panel.columns), head=True)
        session = self.bench.selected
        number = "" if session is None else f" of session {session.number}"
        panel = self._tokens
        lines = views.tokens(look.tokens, look.lens, width=panel.columns, height=panel.rows)
        panel.show(lines, title=f"tokens{number}, and logit lens")
        panel = self._memory
        panel.show(
            history(self.bench.memory(), width=panel.columns, height=panel.rows, ascii=self.has_class("-ascii")),
            title="device memory  w: IO_WAIT",
        )
        panel = self._state
        where = f" after layer {session.layer}" if session is not None and look.state else ""
        panel.show(views.state(look.state, width=panel.columns), head=True, title=f"state{number}{where}")
        self._said.show(list(self._answers), at_end=True)
        self._keys.update(self._last_line())

    def _last_line(self) -> str:
        """Say what runs, else what the keys do."""
        if self._busy is not None:
            line, since = self._busy
            seconds = time.monotonic() - since
            return f"{self._progress or line}, {seconds:.0f} s   Ctrl-C stops waiting"
        if self._command.has_focus:
            return "Enter: do it   Escape: back to the keys   Up: earlier lines"
        return keys_line(self.size.width)

    @on(Panel.Resized)
    @on(DescendantFocus)
    @on(DescendantBlur)
    def _draw_anew(self) -> None:
        self._draw()

    def _tell(self, *lines: str) -> None:
        self._answers.extend(map(visible, lines))
        self._draw()

    def on_print(self, event: Print) -> None:
        """Show what the program prints, as lines of its own."""
        *lines, self._printed = (self._printed + event.text).replace("\r", "\n").split("\n")
        self._tell(*(f"printed: {line}" for line in lines if line.strip()))

    # -- what is done ------------------------------------------------------------------------------------------------

    def begin(self, line: str, *, confirmed: bool = False) -> None:
        """Do what ``line`` asks for on a thread, unless one is at work."""
        if self._busy is not None:
            self._tell(f"still at {self._busy[0]}: Ctrl-C stops waiting for it")
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
        self.post_message(self.Done(line, outcome))

    def _say(self, text: str) -> None:
        self.post_message(self.Told(text))

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
        elif len(outcome.lines) > max(_PAGE_LINES, self._said.rows):
            self._page(line, outcome.lines)
        else:
            self._tell(*(f"error: {said}" if outcome.failed else said for said in outcome.lines))
        self._tick()

    def _page(self, line: str, lines: Sequence[str]) -> None:
        self._tell(f"{len(lines)} lines, shown as a page")
        self.push_screen(Page(line, help_page() if line == "help" else [*map(visible, lines)]))

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
            self._tell(f"error: the debugger itself failed: {type(error).__name__}: {error}")

    # -- keys --------------------------------------------------------------------------------------------------------

    def action_key(self, name: str) -> None:
        """Do a command, or open the line for its argument."""
        command = next(each for each in COMMANDS if each.name == name)
        if command.arguments:
            self._open(f"{name} ", stays=False)
        else:
            self.begin(name)

    def action_command(self) -> None:
        """Open the line for any command."""
        self._open("", stays=True)

    def _open(self, text: str, *, stays: bool) -> None:
        self.screen.minimize()
        self._stays = stays
        self._command.begin(text)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        line = event.value.strip()
        self._command.keep(line)
        if line:
            self.begin(line)
        if not line or not self._stays:
            self._sessions.focus()

    @on(CommandLine.Left)
    def _left(self) -> None:
        self._sessions.focus()

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
            self.bench.interrupt()

    def action_redraw(self) -> None:
        """Draw all anew, where something else has written on the terminal."""
        self.refresh(repaint=True, layout=True)


def run(bench: Bench) -> None:
    """Show the screen of ``bench`` until the user quits."""
    Debugger(bench).run(mouse=False)
