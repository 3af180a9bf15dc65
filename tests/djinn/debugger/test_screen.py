"""The screen shows what the bench has, and sends it lines: driven by Textual's pilot, without a terminal."""

import asyncio
import re
import threading

import pytest
import torch
from tests.programs import greedy
from textual.events import Key, Paste

import djinn
from djinn.debugger import terminal
from djinn.debugger.bench import Bench
from djinn.debugger.commands import COMMANDS
from djinn.debugger.glances import standing
from djinn.debugger.screen import Debugger, run
from djinn.debugger.values import Outcome
from djinn.debugger.widgets import Panel
from djinn.debugger.words import norm_text, spread_text


@pytest.fixture(autouse=True)
def _timer(monkeypatch):
    """The timer waits: on a busy machine a tick that comes by itself would change what a test sees."""
    monkeypatch.setattr("djinn.debugger.screen._TIMER_SECONDS", 3600)


def drive(app, script, *, size=(80, 24)):
    """Run ``script(pilot)`` on ``app``; return what it returns."""

    async def within():
        async with app.run_test(size=size) as pilot:
            await settled(pilot)
            return await script(pilot)

    return asyncio.run(asyncio.wait_for(within(), 60))


async def settled(pilot):
    """Wait until no command runs, and all there is to show is shown."""
    app = pilot.app
    while app._running and (app._busy is not None or not app._look.whole or app._look.mark != standing(app.bench)):
        app._tick()
        await pilot.pause(0.01)
    await pilot.pause()


async def ended(pilot):
    """Wait until no command runs, and what it has said is shown."""
    while pilot.app._busy is not None:
        await pilot.pause(0.01)
    await pilot.pause()


async def press(pilot, *keys):
    await pilot.press(*keys)
    await settled(pilot)


def at_once(pilot, *keys):
    """Press keys without waiting for what they do."""
    for key in keys:
        name = {" ": "space", ":": "colon"}.get(key, key)
        pilot.app.post_message(Key(name, key if len(key) == 1 else None))


async def give(pilot, line):
    """Type ``line`` into the command line, and leave that."""
    await pilot.press("colon")
    pilot.app.focused.value = line
    await pilot.press("enter", "escape")
    await settled(pilot)


def seen(app):
    """What is on the screen, line by line."""
    return ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]


def text(app):
    return "\n".join(seen(app))


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_small_terminal_shows_every_panel(bench, started):
    """In 80 x 24: the session, its tokens, the labelled lens, its state with numbers, memory with IO_WAIT, the keys."""
    session = started(3, durable=True)

    async def script(pilot):
        await press(pilot, "w")
        return seen(pilot.app)

    lines = drive(Debugger(bench), script)
    assert len(lines) == 24
    assert {len(line) for line in lines} == {80}
    whole = "\n".join(lines)
    assert re.search(r">\s+1  io_wait\s+3  host\s+\d+\.\d KiB\s+\d\.\d s  -", whole)
    assert bench.tokens().texts[0][-12:] in whole
    assert "logit lens, layer 3: model.norm and lm_he" in whole
    for guess in bench.lens().guesses[:3]:
        assert re.search(rf"{guess.probability:.4f}\s+{guess.logit:.3f}  '{guess.token.text}'", whole)
    (row,) = (row for row in bench.state() if row.name == "hidden_states")
    assert re.search(rf"hidden_states +2x24x64 +float32 +{re.escape(norm_text(row))}  {spread_text(row)}", whole)
    assert "device memory  w: IO_WAIT" in whole
    assert re.search(r"\|[ .rb]*w+", whole)
    assert "session 1: io_wait after layer 3" in whole
    assert lines[-1].strip() == "b break  s layer  t token  r resume  w IO_WAIT  e edit  f fork  ? help  q quit"
    assert session.phase is djinn.Phase.IO_WAIT


def test_the_numbers_are_those_of_plain_torch(bench, started, llama, input_ids):
    """Norm, spread, probability and logit on the screen are what torch computes from the same tensor."""
    started(3)
    found = {}

    def note(module, args, output):
        found.setdefault("h", (output if isinstance(output, torch.Tensor) else output[0]).clone())

    async def script(pilot):
        return text(pilot.app)

    whole = drive(Debugger(bench), script, size=(120, 40))
    with llama.model.layers[2].register_forward_hook(note), torch.no_grad():
        llama(input_ids)
    hidden = found["h"].double()
    spread = hidden.std(-1, correction=0)
    shown = re.search(r"hidden_states +2x24x64 +float32 +(\S+) +(\S+) (\S+) (\S+)", whole).groups()
    exact = [float(number) for number in (hidden.norm(), spread.min(), spread.median(), spread.max())]
    assert [float(number) for number in shown] == pytest.approx(exact, rel=5e-3)
    logits = llama.lm_head(llama.model.norm(found["h"][0, -1:]))[0]
    for one in logits.topk(5).indices.tolist():
        assert re.search(rf"{logits.softmax(-1)[one]:.4f} +{logits[one]:.3f}  '<{one}>'", whole)


def test_a_panel_that_would_show_the_same_is_left_alone(bench, started, monkeypatch):
    """A second drawing of the same values updates no widget but the ages of the sessions."""
    started(2)

    async def script(pilot):
        updated = []
        for widget in (*(panel._body for panel in pilot.app.query(Panel)), pilot.app._keys):
            name = widget.id or widget.parent.id
            monkeypatch.setattr(widget, "update", lambda *_, name=name, layout: updated.append((name, layout)))
        monkeypatch.setattr(bench._ring, "take", lambda: None)
        for _ in range(2):
            pilot.app._tick()
            await pilot.pause(0.2)
        return updated

    assert set(drive(Debugger(bench), script)) == {("sessions", False)}  # nothing is laid out anew


@pytest.mark.parametrize("sizes", [((120, 40), (60, 40)), ((80, 24), (60, 24))])
def test_a_narrower_screen_scrolls_no_further_than_its_lines(bench, started, sizes):
    """Lines that were too long for it for a moment have not been folded into more."""
    started(2)

    async def script(pilot):
        await pilot.resize_terminal(*sizes[1])
        for _ in range(10):
            await pilot.pause(0.05)
        panels = [panel for panel in pilot.app.query(Panel) if not panel._wraps]
        return [(panel.id, len(panel._lines) - panel._head.display, panel._body.size.height) for panel in panels]

    for name, lines, height in drive(Debugger(bench), script, size=sizes[0]):
        assert height == lines, name


def test_what_comes_together_is_drawn_once(bench, started, monkeypatch):
    """Each drawing takes the interpreter from the programs: one for all messages, and none for half a line."""
    started(2)

    async def script(pilot):
        drawn = []
        draw = pilot.app._board.draw
        monkeypatch.setattr(pilot.app._board, "draw", lambda *args: (drawn.append(1), draw(*args)))
        for number in range(5):
            pilot.app._tell(f"answer {number}")
        await pilot.pause()
        print("one", "two", end="")
        await pilot.pause()
        told = len(drawn)
        print()
        await pilot.pause()
        return told, len(drawn), pilot.app._board.answers.text

    told, in_all, answers = drive(Debugger(bench), script)
    assert (told, in_all) == (1, 2)
    assert all(f"answer {number}" in answers for number in range(5))
    assert "printed: one two" in answers


def test_the_timer_computes_nothing(bench, started, monkeypatch):
    """Once a stop is shown, no piece of work goes to the device until a command or another stop asks for it."""
    started(2)

    async def script(pilot):
        pieces = []
        piece = bench._looker.piece
        monkeypatch.setattr(bench._looker, "piece", lambda function: (pieces.append(1), piece(function))[1])
        for _ in range(5):
            pilot.app._tick()
            await pilot.pause(0.01)
        idle = len(pieces)
        await press(pilot, "s")
        return idle, len(pieces)

    idle, stepped = drive(Debugger(bench), script)
    assert idle == 0
    assert stepped > 0


def test_a_session_that_moves_by_itself_is_shown(bench, started, monkeypatch):
    """Nobody gives a command: the timer finds that the program is at another stop."""
    session = started(2)
    monkeypatch.setattr("djinn.debugger.screen._TIMER_SECONDS", 0.01)

    async def script(pilot):
        title = pilot.app._board.state
        before = title.border_title
        session.step(30)
        while title.border_title != "state of session 1, after layer 3":  # or the test's time is up
            await pilot.pause(0.01)
        return before

    assert drive(Debugger(bench), script) == "state of session 1, after layer 2"


def test_another_size_is_another_layout_of_the_same(bench, started):
    """No size breaks it, not even one of a single cell; narrow ones keep every panel; the first comes back."""
    started(2)

    async def script(pilot):
        found = {}
        for size in ((80, 24), (60, 24), (20, 6), (1, 1), (3, 40), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.05)
            lines = seen(pilot.app)
            assert (len(lines), {len(line) for line in lines}) == (size[1], {size[0]})
            found.setdefault(size, []).append("\n".join(lines))
        return found

    found = drive(Debugger(bench), script)
    first, last = (re.sub(r"\d+\.\d s|#|\d+ s|[.:▁▂▃▄▅▆▇█]", "", one) for one in found[80, 24])
    assert first.split() == last.split()
    for panel in ("sessions", "tokens of session 1", "logit lens", "device memory", "state of session 1", "answers"):
        assert panel in found[60, 24][0]
        assert panel in found[200, 60][0]
    assert "hidden_states" in found[60, 24][0]


def test_where_there_is_no_room_for_answers_the_last_line_has_them(bench, started):
    """A command that fails must not look like one that was never done."""
    started(2)

    async def script(pilot):
        await give(pilot, "use 7")
        low = seen(pilot.app)
        await pilot.resize_terminal(80, 24)
        await settled(pilot)
        return low, seen(pilot.app)

    low, high = drive(Debugger(bench), script, size=(60, 8))
    assert low[-1].strip() == "error: there is no session 7: there are 1"
    assert "error: there is no session 7: there are 1" in "\n".join(high[:-1])
    assert high[-1].startswith("b break")


@pytest.mark.parametrize("how", ["the terminal", "NO_COLOR"])
def test_without_colours_nothing_is_lost(bench, started, monkeypatch, how):
    """No cell has a colour, and the text is that of the coloured screen."""
    started(2)
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")

    async def script(pilot):
        await give(pilot, "nonsense")
        strips = pilot.app.screen._compositor.render_strips()
        filters = pilot.app.get_line_filters()
        segments = [segment for strip in strips for segment in strip]
        for one in filters:
            segments = one.apply(segments, pilot.app.screen.styles.background)
        styles = [segment.style for segment in segments if segment.style is not None]
        colours = {colour.name for style in styles for colour in (style.color, style.bgcolor) if colour}
        return colours, text(pilot.app)

    colours, whole = drive(Debugger(bench, colours=how != "the terminal"), script)
    assert colours == {"default"}
    assert "error: there is no command nonsense" in whole


def test_a_terminal_without_blocks_gets_ascii(bench, started):
    """Every character on the screen is ASCII: lines, bars, and what marks a cut."""
    started(2)

    async def script(pilot):
        await press(pilot, "question_mark")
        page = text(pilot.app)
        await pilot.press("escape")
        return page + text(pilot.app)

    assert drive(Debugger(bench, ascii=True), script).isascii()


# -- what is done ------------------------------------------------------------------------------------------------------


def test_every_key_sends_its_command(bench, monkeypatch):
    """The key of a command does it, and where that takes an argument opens the line for it: nothing else is sent."""
    sent = []

    def do(line, *, confirmed=False, say=None):
        sent.append(line)
        return Outcome()

    monkeypatch.setattr(bench, "do", do)
    keys = {"?": "question_mark", "*": "asterisk", "+": "plus"}

    async def script(pilot):
        for command in COMMANDS:
            await pilot.press(keys.get(command.key, command.key))
            if command.arguments:
                assert pilot.app.focused.value == f"{command.name} "
                await pilot.press("7", "enter")
            await settled(pilot)

    drive(Debugger(bench), script)
    assert sent == [f"{command.name} 7" if command.arguments else command.name for command in COMMANDS]


def test_a_session_is_led_to_its_end_by_keys(bench, started, llama, input_ids):
    """Step, break, IO_WAIT, edit and resume by keys: the result is that of a plain hook, bit for bit."""
    session = started(2)

    async def script(pilot):
        await press(pilot, "s")
        assert session.layer == 3
        await press(pilot, "b", "5", "enter")
        await press(pilot, "r")
        assert session.layer == 5
        await press(pilot, "w")
        assert session.phase is djinn.Phase.IO_WAIT
        await press(pilot, "e", *"h*2", "enter")
        await press(pilot, "r")
        return "\n".join(pilot.app._answers)

    assert "session 1: finished" in drive(Debugger(bench), script)
    calls = []

    def double(module, args, output):
        calls.append(1)
        return output * 2 if len(calls) == 1 else output

    with llama.model.layers[4].register_forward_hook(double):
        expected = llama.generate(input_ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(session.result(), expected)


def test_commands_may_be_typed_ahead(bench, started):
    """Keys that are pressed while a command runs are done in their order; an error forgets what was to follow."""
    session = started(1)

    async def script(pilot):
        await press(pilot, "s", "s", "s")
        assert session.layer == 4
        pilot.app.begin("edit scale x")
        pilot.app.begin("step")
        await settled(pilot)
        assert session.layer == 4

    drive(Debugger(bench), script)


def test_what_follows_a_key_at_once_is_its_argument(bench, started):
    """Keys that come in one piece, as over a slow link: what opens the line takes all that follows, to the Enter."""
    session = started(1)

    async def script(pilot):
        at_once(pilot, *"esss", "enter")
        while len(pilot.app._answers) < 2:
            await pilot.pause(0.01)
        at_once(pilot, ":", *"use 1", "enter", *"use 7", "enter")
        while len(pilot.app._answers) < 6:
            await pilot.pause(0.01)
        await pilot.press("escape")
        at_once(pilot, *"b3", "enter", *"b2", "enter")
        while len(pilot.app._answers) < 8:
            await pilot.pause(0.01)
        await settled(pilot)
        return list(pilot.app._answers)

    answers = drive(Debugger(bench), script)
    assert [line for line in answers if line.startswith(">")] == [
        *("> edit expr sss", "> use 1", "> use 7"),
        *("> break 3", "> break 2"),
    ]
    assert "NameError" in answers[1]
    assert session.layer == 1


@pytest.mark.parametrize(
    ("keys", "done"),
    [
        ([":", *"use 12", "backspace", "enter"], ["use 1"]),
        ([":", *"use 2", "ctrl+u", *"use 1", "enter"], ["use 1"]),
        ([":", *"se 1", "home", "u", "enter"], ["use 1"]),
        ([":", *"use 1", "enter", "up", "enter"], ["use 1", "use 1"]),
        ([":", *"use 7", "escape", ":", *"use 1", "enter"], ["use 1"]),
        ([":", *"break", "tab", ":", *"use 1", "enter"], ["use 1"]),
    ],
    ids=lambda value: " ".join(value) if value[0] == ":" else "",
)
def test_keys_that_edit_the_line_act_in_their_order(bench, started, keys, done):
    """Also where all come at once, with letters before and behind them."""
    started(1)

    async def script(pilot):
        at_once(pilot, *keys)
        while len(commands(pilot.app)) < len(done):
            await pilot.pause(0.01)
        await settled(pilot)
        return commands(pilot.app)

    def commands(app):
        return [line[2:] for line in app._answers if line.startswith(">")]

    assert drive(Debugger(bench), script) == done


def test_the_answers_say_how_much_of_them_is_above(bench, started):
    """An answer of several lines shows its last ones in a small terminal; what was not seen can be scrolled to."""
    started(1)

    async def script(pilot):
        panel = pilot.app._board.answers
        titles = [panel.border_title]
        pilot.app._tell(*map(str, range(9)))
        while panel.border_title == titles[0]:
            await pilot.pause(0.01)
        titles.append(panel.border_title)
        panel.focus()
        await pilot.press("up")
        while panel.border_title == titles[1]:
            await pilot.pause(0.01)
        return *titles, panel.border_title, panel.rows

    before, end, scrolled, rows = drive(Debugger(bench), script)
    assert before == "answers"
    assert 0 < rows < 8
    assert end == f"answers, {9 - rows} more above"
    assert scrolled == f"answers, {8 - rows} more above"


def test_tab_goes_round_the_panels(bench, started):
    """There and back, and never into the command line, where keys are letters."""
    started(1)

    async def script(pilot):
        def focused():
            return pilot.app.focused.id

        forth = [focused()]
        for _ in range(5):
            await pilot.press("tab")
            forth.append(focused())
        await pilot.press("shift+tab")
        return forth, focused()

    forth, back = drive(Debugger(bench), script)
    assert forth == ["sessions", "tokens", "memory", "state", "answers", "sessions"]
    assert back == "answers"


def test_what_is_pasted_is_one_command(bench, started):
    """Of several lines the first; that the others are left out is said. A colon in front is the key of the line."""
    started(1)

    async def script(pilot):
        await pilot.press("colon")
        pilot.app.post_message(Paste(":use 1\nuse 7\n"))
        await pilot.pause()
        await press(pilot, "enter")
        return list(pilot.app._answers)

    answers = drive(Debugger(bench), script)
    assert answers[0].startswith("2 lines were pasted, and only the first is in the command line")
    assert answers[1:] == ["> use 1", "session 1: paused after layer 1, 0.0 MiB on the device"]


def test_a_saved_session_is_restored_as_if_from_here(bench, started, tmp_path):
    """Save and restore run on another thread, and yet in the modes of the caller, such as no_grad."""
    session = started(2, durable=True)
    path = tmp_path / "one.djinn"

    async def script(pilot):
        await give(pilot, f"save {path}")
        await give(pilot, f"restore {path}")
        await give(pilot, "resume")
        return text(pilot.app)

    whole = drive(Debugger(bench), script)
    assert "error" not in whole
    assert re.search(r">\s+2  finished", whole)
    session.resume()
    other = next(one for one in bench.runtime.sessions if one.number == 2)
    assert torch.equal(session.result(30), other.result())


def test_the_lens_of_all_layers_is_shown_behind_its_question(bench, started):
    """Its key opens the line; the answer has a line for each layer, and the session stays selected where it was."""
    session = started(4, durable=True)

    async def script(pilot):
        await press(pilot, "L", "enter")
        question = text(pilot.app)
        await press(pilot, "y")
        return question, text(pilot.app)

    question, shown = drive(Debugger(bench), script, size=(80, 40))
    assert "Fork?" in question
    assert [bool(re.search(rf"^ *{layer}  +0\.\d{{4}}  '<\d+>'", shown, re.M)) for layer in (4, 5, 6)] == [True] * 3
    assert re.search(r"> +1 +paused +4 ", shown)
    assert bench.runtime.sessions == (session,)


def test_a_fork_says_first_that_side_effects_happen_again(bench, started):
    """Before it is done, in a question, where no is no; and on the first screen of the fork, which is selected."""
    session = started(2, durable=True)

    async def script(pilot):
        await press(pilot, "f")
        question = text(pilot.app)
        await press(pilot, "n")
        refused = text(pilot.app)
        await press(pilot, "f")
        await press(pilot, "y")
        first = text(pilot.app)
        await give(pilot, "edit scale 2")
        await press(pilot, "r")
        return question, refused, first

    question, refused, first = drive(Debugger(bench), script)
    assert re.search(r"happens\s+again", question)
    assert "Fork?" in question
    assert "not done" in refused
    assert "fork of 1" not in refused
    assert re.search(r"> +2 +paused +2 .*fork of 1", first)
    assert "side effects up to here have happened again" in first
    _, fork = bench.runtime.sessions
    session.resume()
    assert not torch.equal(session.result(30), fork.result())


@pytest.mark.parametrize(
    ("key", "owns", "answer", "stays"),
    [("q", True, "n", True), ("ctrl+q", True, "n", True), ("q", True, "y", False), ("q", False, None, False)],
)
def test_quit_asks_if_something_would_be_lost(runtime, started, key, owns, answer, stays):
    """It lists what; without a loss it ends at once. The session is not touched either way."""
    session = started(2)
    bench = Bench(runtime, owns_runtime=owns)

    async def script(pilot):
        await pilot.press(key)
        await ended(pilot)
        if answer is not None:
            assert "session 1: paused after layer 2" in text(pilot.app)
            assert "y: yes" in text(pilot.app)
            await pilot.press(answer)
            await ended(pilot)
        return pilot.app._exit

    assert drive(Debugger(bench), script) is not stays
    bench.close()
    assert session.phase is djinn.Phase.PAUSED


def test_errors_are_lines(bench, started):
    """Of a command that there is not, of the user's own code, of a layer that there is not; the screen goes on."""
    session = started(2)

    async def script(pilot):
        for line in ("nonsense", "edit expr 1/0", "break 99", "use 7"):
            await give(pilot, line)
        await press(pilot, "s")
        return "\n".join(pilot.app._answers), text(pilot.app)

    answers, whole = drive(Debugger(bench), script)
    for said in ("no command nonsense", "ZeroDivisionError", "99", "no session 7"):
        assert re.search(f"error: .*{said}", answers)
    assert "Traceback" not in whole
    assert session.layer == 3


def test_a_fault_of_the_debugger_is_a_line_too(bench, started, monkeypatch):
    """The sessions outlive it, and the next command is done."""
    session = started(2)
    do = bench.do

    async def script(pilot):
        monkeypatch.setattr(bench, "do", lambda *args, **kwargs: {}["missing"])
        await pilot.press("s")
        await ended(pilot)
        monkeypatch.setattr(bench, "do", do)
        await press(pilot, "s")
        return "\n".join(pilot.app._answers)

    assert "error: the debugger itself failed: KeyError: 'missing'" in drive(Debugger(bench), script)
    assert session.layer == 3


def test_ctrl_c_stops_waiting_and_nothing_else(runtime, bench, llama, input_ids):
    """While a program waits for something the screen answers to keys; Ctrl-C ends the wait, and the session goes on."""
    gate = threading.Event()

    def program():
        first = greedy(llama, input_ids, 0)
        gate.wait(30)
        return first

    session = runtime.open(breakpoint=2).start(program)
    session.wait(30)

    async def script(pilot):
        await pilot.press("r")
        while session.phase is not djinn.Phase.RUNNING:
            await pilot.pause(0.01)
        await pilot.press("tab")
        assert pilot.app.focused.id == "tokens"
        assert "Ctrl-C stops waiting" in seen(pilot.app)[-1]
        await pilot.press("ctrl+c")
        await ended(pilot)
        assert session.phase is djinn.Phase.RUNNING
        gate.set()
        session.wait(30)
        return "\n".join(pilot.app._answers)

    assert "error: interrupted: session 1 is running" in drive(Debugger(bench), script)
    assert torch.equal(session.result()[0], llama(input_ids).logits)


def test_ctrl_z_suspends_and_the_return_draws_anew(bench, started, monkeypatch):
    """Also from the command line, and when nothing has changed meanwhile: the shell has written on the terminal."""
    started()
    done = []
    monkeypatch.setattr(Debugger, "action_suspend_process", lambda app: done.append("suspended"))
    monkeypatch.setattr(Debugger, "action_redraw", lambda app: done.append("drawn"))

    async def script(pilot):
        await press(pilot, "ctrl+z", "colon", "ctrl+z")
        pilot.app.app_resume_signal.publish(pilot.app)
        await pilot.pause()

    drive(Debugger(bench), script)
    assert done == ["suspended", "suspended", "drawn"]


def test_what_the_program_prints_is_shown_as_lines(runtime, bench, llama, input_ids):
    """Whole lines, with control characters made visible, so that nothing moves the cursor."""

    def program():
        llama(input_ids)
        print("half ", end="")
        print("a line\x1b[2J")
        return llama(input_ids).logits

    session = runtime.open(breakpoint=2).start(program)
    session.wait(30)

    async def script(pilot):
        await press(pilot, "r")
        return text(pilot.app)

    assert r"printed: half a line\x1b[2J" in drive(Debugger(bench), script)


def test_a_line_that_has_not_ended_is_shown(bench, started):
    """A moment later, once: a program may wait there, or end."""
    started(2)

    async def script(pilot):
        print("dots ...", end="")
        await pilot.pause()
        pilot.app._tick()
        begun = text(pilot.app)
        print("...", end="")
        await pilot.pause()
        for _ in range(3):
            pilot.app._tick()
            await pilot.pause()
        return begun, text(pilot.app)

    begun, shown = drive(Debugger(bench), script)
    assert "printed:" not in begun
    assert shown.count("printed: dots ......") == 1


def test_a_session_that_was_not_looked_at_has_no_other_s_state(runtime, bench, started, llama, input_ids):
    """Until there is a look at it, the panels name the session that they show."""
    started(2)
    inside, go_on = threading.Event(), threading.Event()

    def program():
        inside.set()
        go_on.wait(30)
        return llama(input_ids).logits

    async def script(pilot):
        runtime.open(breakpoint=3).start(program)
        assert inside.wait(30)
        bench.select(2)
        pilot.app._draw()
        await pilot.pause()
        shown = pilot.app._board.state.border_title, pilot.app._board.tokens.border_title
        go_on.set()
        runtime.sessions[1].wait(30)
        pilot.app._tick()
        await settled(pilot)
        return shown, pilot.app._board.state.border_title

    shown, then = drive(Debugger(bench), script)
    assert shown[0] == "state of session 1 at its last stop, after layer 2"
    assert shown[1].startswith("tokens of session 1 at its last stop")
    assert then == "state of session 2, after layer 3"


def test_answers_that_are_shown_alone_leave_the_keys(bench, started, does):
    """The last line has the last answer where that has no room elsewhere."""
    started(2)

    async def script(pilot):
        await press(pilot, "s")
        lines = []
        for panel in (pilot.app._board.answers, pilot.app._board.state):
            panel.focus()
            await press(pilot, "z")
            await settled(pilot)
            lines.append(pilot.app._last_line())
            await press(pilot, "z")
        return lines

    alone, elsewhere = drive(Debugger(bench), script)
    assert "paused after" not in alone
    assert "paused after layer 3" in elsewhere


def test_the_help_names_every_command_and_key(bench, started):
    """As a page that scrolls, and closes."""
    started(2)

    async def script(pilot):
        await press(pilot, "question_mark")
        page, first = pilot.app.screen, text(pilot.app)
        await pilot.press("pagedown")
        await pilot.pause(0.05)
        assert text(pilot.app) != first
        await pilot.press("escape")
        return page._said, type(pilot.app.screen) is type(page)

    lines, stays = drive(Debugger(bench), script)
    for command in COMMANDS:
        assert any(line.startswith(f"{command.key} ") and command.name in line for line in lines)
    assert any(line.startswith("Ctrl-C") for line in lines)
    assert max(map(len, lines)) <= 76
    assert not stays


def test_the_command_line_says_what_is_wanted_and_remembers(bench, started):
    """The last line has the form of what is being typed; Up brings the command before; Escape leaves it undone."""
    session = started(2)

    async def script(pilot):
        await give(pilot, "lens 2")
        await pilot.press("colon", *"edit z")
        hint = seen(pilot.app)[-1]
        await pilot.press("up")
        earlier = pilot.app.focused.value
        await pilot.press("escape", "s")
        await settled(pilot)
        return hint, earlier

    hint, earlier = drive(Debugger(bench), script)
    assert hint.startswith("edit zero POSITION: set a position to zero")
    assert earlier == "lens 2"
    assert session.layer == 3


def test_a_panel_can_be_seen_alone(bench, started):
    """Zoom shows all of the state, and all panels again."""
    started(2)

    async def script(pilot):
        await pilot.press("tab", "tab", "tab", "z")
        await pilot.pause(0.05)
        alone = text(pilot.app)
        await pilot.press("z")
        await pilot.pause(0.05)
        return alone, text(pilot.app)

    alone, together = drive(Debugger(bench), script)
    assert "kv.2.values" in alone
    assert "device memory" not in alone
    assert "device memory" in together


def test_a_question_about_many_sessions_is_seen(runtime, bench, llama, input_ids):
    """It stands above the list of what would be lost, however long that is.

    The selected session is on the screen, below the head of the list. Who scrolls the list stays where he is while the
    ages change.
    """
    for _ in range(24):
        runtime.open(breakpoint=1).start(llama, input_ids, use_cache=False).wait(30)
    bench.owns_runtime = True

    async def script(pilot):
        await give(pilot, "use 20")
        chosen = seen(pilot.app)[2:6]
        await pilot.press("up", "up", "up")
        pilot.app._tick()
        await pilot.pause(0.05)
        scrolled = seen(pilot.app)[2:6]
        await press(pilot, "q")
        return chosen, scrolled, text(pilot.app)

    chosen, scrolled, question = drive(Debugger(bench), script)
    assert chosen[0].startswith(head := "   no  phase   layer  tier")
    assert any(re.match(r"> +20 +paused", row) for row in chosen[1:])
    assert scrolled[0].startswith(head)
    assert [int(row.split()[0]) for row in scrolled[1:]] == [17, 18, 19]
    assert "y: yes" in question
    assert "24 sessions" in question


# -- terminals ---------------------------------------------------------------------------------------------------------


class Terminal:
    """A standard stream that says of itself that it is a terminal."""

    encoding = "utf-8"

    def __init__(self, *, is_one=True):
        self.is_one = is_one

    def isatty(self):
        return self.is_one


@pytest.mark.parametrize(("name", "is_one", "why"), [("dumb", True, "TERM=dumb"), ("xterm", False, "needs a terminal")])
def test_where_there_is_no_screen_one_line_says_so(bench, monkeypatch, name, is_one, why):
    """It names the terminal, and the front of lines."""
    for stream in ("__stdin__", "__stderr__"):
        monkeypatch.setattr(f"sys.{stream}", Terminal(is_one=is_one))
    monkeypatch.setenv("TERM", name)
    with pytest.raises(djinn.DjinnError, match=f"{why}.*--plain") as caught:
        run(bench)
    assert "\n" not in str(caught.value)


def test_another_thread_is_told_that_it_has_no_screen(bench):
    """Signals of the terminal go to the main thread."""
    caught = []

    def elsewhere():
        with pytest.raises(djinn.DjinnError, match="needs the main thread.*--plain") as error:
            run(bench)
        caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(30)
    assert caught


def test_what_a_terminal_lacks_is_not_used(monkeypatch):
    """Colours by NO_COLOR and by what the terminal says; blocks by its encoding and its name."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("curses.setupterm", lambda fd: None)
    monkeypatch.setattr("sys.__stderr__", type("Stream", (Terminal,), {"fileno": lambda self: 2})())
    for colours, has in ((-1, False), (0, False), (8, True), (256, True)):
        monkeypatch.setattr("curses.tigetnum", lambda name, colours=colours: colours)
        assert terminal.has_colours() is has
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.has_colours()
    for name, encoding, has in (("xterm", "utf-8", True), ("xterm", "iso8859-1", False), ("linux", "utf-8", False)):
        monkeypatch.setenv("TERM", name)
        monkeypatch.setattr(Terminal, "encoding", encoding)
        assert terminal.has_blocks() is has
