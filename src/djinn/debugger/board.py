"""The panels of the screen, and what stands in each. Shows values that it is given, and reads nothing that waits."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.widgets import Static

from djinn.debugger import views
from djinn.debugger.bench import Bench
from djinn.debugger.glances import Look, standing
from djinn.debugger.memory import history
from djinn.debugger.values import StateRow
from djinn.debugger.widgets import Panel

STYLES = """
Board { height: 1fr; }
Panel { border-top: solid ansi_cyan; border-title-color: ansi_default; border-title-style: bold; }
Panel { scrollbar-size-vertical: 1; scrollbar-gutter: stable; scrollbar-color: ansi_cyan; }
Panel { scrollbar-background: ansi_default; scrollbar-background-hover: ansi_default; }
Panel:focus { border-top: heavy ansi_cyan; border-title-style: bold reverse; }
#memory Static { color: ansi_green; }
Panel Static { text-wrap: nowrap; text-overflow: clip; }
Panel .head { dock: top; height: 1; display: none; }
Panel.wraps Static { text-wrap: wrap; text-overflow: fold; }
.-ascii Panel { border-top: ascii ansi_cyan; scrollbar-visibility: hidden; }
.-ascii Panel:focus { border-top: ascii ansi_cyan; }
#title { height: 1; text-style: bold; }
#sessions { height: 4; max-height: 25%; }
#middle { layout: horizontal; height: 9; }
#tokens { width: 1fr; height: 100%; }
#memory { width: 34; height: 100%; margin-left: 1; }
.-narrow #middle { layout: vertical; height: 11; }
.-narrow #memory { width: 100%; height: 5; margin-left: 0; }
.-narrow #tokens { width: 100%; height: 6; }
.-tall #middle { height: 11; }
.-low #middle { height: 6; }
Screen.-low.-narrow #memory { display: none; }
Screen.-maximized-view { hatch: none; align: left top; }
Panel.-maximized { width: 100% !important; height: 1fr !important; max-height: 100% !important; margin: 0 !important; }
#state { height: 1fr; min-height: 4; }
#answers { height: 1fr; min-height: 3; }
"""


class Board(Vertical):
    """The panels of ``bench`` from top to bottom; :meth:`draw` brings them up to date."""

    def __init__(self, bench: Bench, *, ascii: bool) -> None:
        super().__init__()
        self._bench = bench
        self._ascii = ascii
        self._tabulated: tuple[tuple[StateRow, ...] | None, int, list[str]] = None, 0, []
        runtime = bench.runtime
        model = f"{type(runtime._model).__name__}, {bench.depth} layers, on {runtime._device}"
        self._title = Static(f"djinn debug  {model}", id="title", markup=False)
        self.sessions = Panel("sessions", id="sessions")
        self.tokens = Panel("tokens", id="tokens")
        self.memory = Panel("device memory  w: IO_WAIT", id="memory")
        self.state = Panel("state", id="state")
        self.answers = Panel("answers", id="answers", wraps=True)

    def compose(self) -> ComposeResult:
        """Return the panels."""
        yield self._title
        yield self.sessions
        with Container(id="middle"):
            yield self.tokens
            yield self.memory
        yield self.state
        yield self.answers

    @property
    def shows_answers(self) -> bool:
        """Whether the last answer is seen; a low terminal may have no line for it."""
        if self.screen.maximized is self.answers:
            return True
        region = self.answers.content_region
        return region.height > 0 and self.region.contains_region(region)

    def draw(self, look: Look, answers: Sequence[str]) -> None:
        """Bring every panel up to date; one that would show the same is left alone."""
        bench, stands = self._bench, standing(self._bench)
        rows = bench.rows()
        chosen = next((at for at, row in enumerate(rows) if row.selected), None)
        self.sessions.styles.height = max(len(rows), 1) + 2
        self.sessions.show(views.sessions(rows, width=self.sessions.columns), head=True, seen=chosen)
        shown = look.mark or stands  # another session may be selected, and not looked at yet
        whose = "" if shown is None else f" of session {shown[0]}"
        whose += "" if shown == stands else " at its last stop"
        panel = self.tokens
        lines = views.tokens(look.tokens, look.lens, width=panel.columns, height=panel.rows)
        first = f", sequence 1 of {len(look.tokens.sequences)}" if len(look.tokens.sequences) > 1 else ""
        panel.show(lines, title=f"tokens{whose}{first}")
        panel = self.memory
        panel.show(history(bench.memory(), width=panel.columns, height=panel.rows, ascii=self._ascii))
        panel = self.state
        panel.show(self._state_lines(look, panel.columns), head=True, title=f"state{whose}{_after(look)}")
        self.answers.show(answers)

    def _state_lines(self, look: Look, width: int) -> list[str]:
        """Return the table of the state; that of the last time if it would be the same, as at most ticks."""
        state, columns, lines = self._tabulated
        if state is not look.state or columns != width:
            lines = views.state(look.state, width=width)
            self._tabulated = look.state, width, lines
        return lines


def _after(look: Look) -> str:
    return f", after layer {look.lens.layer}" if look.lens.layer is not None else ""
