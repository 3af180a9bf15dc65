"""The commands: one table, and what each does to the sessions."""

import itertools
import re
import threading
import time

import pytest
import torch
from tests.programs import prefill

import djinn
from djinn.debugger import commands, files, patience
from djinn.debugger.bench import Bench
from djinn.debugger.commands import COMMANDS, find, help_lines
from djinn.debugger.values import Refused


def test_the_table_names_each_command_and_key_once():
    """A key is one character; a line of help fits a terminal of 80."""
    names, keys = [command.name for command in COMMANDS], [command.key for command in COMMANDS]
    assert len(set(names)) == len(names)
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {1}
    assert max(map(len, help_lines())) < 80


@pytest.mark.parametrize(
    ("line", "name", "argument"),
    [
        ("step", "step", ""),
        ("s", "step", ""),
        ("ste", "step", ""),
        ("  break  12 ", "break", "12"),
        ("edit expr h *  2", "edit expr", "h *  2"),
        ("edit e h[0] + 1", "edit expr", "h[0] + 1"),
        ("lens 3", "lens", "3"),
        ("lens layers 3 2", "lens layers", "3 2"),
        ("le l", "lens layers", ""),
        ("e h + 1", "edit expr", "h + 1"),
        ("save a file", "save", "a file"),
        ("a expr h * 2", "always", "expr h * 2"),
        ("ne all", "never", "all"),
        ("S x", "save", "x"),
    ],
)
def test_a_line_finds_its_command(line, name, argument):
    """By its name, its key or the beginning of its words; what follows is the argument as it was typed."""
    command, found = find(line)
    assert (command.name, found) == (name, argument)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("st", "'st' may be step or state or status"),
        ("edit", "'edit' may be edit scale or edit zero or edit add or edit expr"),
        ("fly 3", "there is no command fly: help lists them"),
    ],
)
def test_what_is_no_command_says_what_may_be_meant(line, said):
    """In one line."""
    with pytest.raises(Refused) as refused:
        find(line)
    assert str(refused.value) == said


def test_step_token_break_and_resume_go_where_they_say(bench, started, does, llama, input_ids):
    """A layer on, a decode step on, to the breakpoint, to the end; and the tokens are the plain run's."""
    session = started(2)
    assert "paused after layer 3" in does("step")
    assert does("token").startswith("session 1: paused after layer 3")
    assert bench.tokens().sequences[0][-1].id == plainly(llama, input_ids)[0, 24]
    assert does("break") == "no breakpoint: break L sets one"
    assert does("break 6") == "session 1 is to stop once after layer 6: resume"
    assert does("break") == "to stop after layer 6"
    assert "its breakpoint, layer 6, came first" in does("token")
    assert "paused after layer 1" in does("step")
    assert does("wait").startswith("session 1: io_wait after layer 1")
    assert does("resume").startswith("session 1: finished\nsequence 1 of 2, 28 tokens: the result")
    assert torch.equal(session.result(30), plainly(llama, input_ids))


def test_token_leaves_the_breakpoints(started, does):
    """One that comes first does not take that of this layer away, and a condition there is still to be tried."""
    started(3)
    does("break 2-3")
    assert "its breakpoint, layer 2, came first" in does("token")
    assert does("break") == "to stop after layer 3"
    assert "paused after layer 3" in does("resume")
    assert does("break") == "no breakpoint: break L sets one"
    does("break 3 4 if h.norm() > 1e9")
    assert does("token").startswith("session 1: paused after layer 3")
    assert does("break") == "to stop after each of layers 4 and 3, if h.norm() > 1e9"
    assert does("resume").startswith("session 1: finished")


def test_token_loses_no_hit_count(started, does, refuses):
    """That of the caller, at this layer or at another: the breakpoint would be set anew, or the layer passed."""
    for layer in (2, 3):
        session = started(layer)
        does(f"use {session.number}")
        session.break_at(3, visit=3)
        assert refuses("token") == "hit count 3 of breakpoint 3 would be lost: break 3 first"
        assert session.layer == layer
        does("break 3")
        assert ("layer 3, came first" in does("token")) is (layer == 2)


@pytest.mark.parametrize("before", ["", "break 4", "break 2", "break 2 4 if h.norm() > 1e9"])
def test_a_token_that_cannot_go_on_leaves_no_breakpoint(monkeypatch, started, does, refuses, before):
    """What was ahead is still ahead, with its condition; and what was not is not."""
    session = started(2)
    does("wait")
    if before:
        does(before)
    ahead, own = does("break"), session.breakpoint

    def full():
        raise djinn.DeviceMemoryFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(session, "resume", full)
        assert "no room" in refuses("token")
    assert (does("break"), session.breakpoint) == (ahead, own)
    assert "paused after layer 2" in does("token") or before == "break 4"


def test_a_resume_that_fails_leaves_no_breakpoint_of_a_standing_edit(monkeypatch, started, does, refuses):
    """It is ahead for a debugger that waits, alone."""
    session = started(2)
    does("always scale 0.5")
    does("wait")

    def full():
        raise djinn.DeviceMemoryFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(session, "resume", full)
        assert "no room" in refuses("resume")
    assert session.breakpoint is None


def test_wait_names_what_stays_on_the_device(started, does):
    """The ids are the caller's, and two tensors are held by the test."""
    session = started(2)
    held = [torch.empty(0).set_(item.storage) for item in session._residency.state.storages[:2]]
    told = does("wait").splitlines()[1]
    left = session.left_behind
    assert len(left) == 1 + len(held)
    nbytes = sum(line.nbytes for line in left) / 2**10
    assert told == f"{nbytes:.1f} KiB stay on the device, such as {left[0]}: left lists all"
    assert does("left").splitlines() == list(map(str, left))


def plainly(llama, input_ids):
    return llama.generate(input_ids, max_new_tokens=4, do_sample=False, eos_token_id=None)


def test_pause_stops_a_program_that_computes(bench, runtime, llama, input_ids, monkeypatch):
    """At its next layer."""
    monkeypatch.setattr(patience, "SAY_SECONDS", 0.01)
    inside, go_on = threading.Event(), threading.Event()

    def program():
        inside.set()
        go_on.wait(20)
        return prefill(llama, input_ids)

    runtime.open().start(program)
    inside.wait(20)
    outcome = bench.do("pause", say=lambda text: go_on.set())  # it is asked before it is waited for
    assert outcome.lines[0].startswith("session 1: paused after layer 1")


def test_a_wait_shows_progress_and_can_be_stopped(bench, runtime, llama, input_ids, monkeypatch):
    """A line a second; a stop or Ctrl-C returns to the prompt, and the session goes on as it does."""
    monkeypatch.setattr(patience, "SAY_SECONDS", 0.05)
    inside, go_on = threading.Event(), threading.Event()

    def program():
        prefill(llama, input_ids)
        inside.set()
        go_on.wait(20)
        return prefill(llama, input_ids)

    session = runtime.open(breakpoint=1).start(program)
    session.wait(30)
    session.break_at(5, visit=2)
    said = []

    def stops(text):
        said.append(text)
        bench.interrupt()

    outcome = bench.do("resume", say=stops)
    assert outcome.failed
    assert outcome.lines == ("interrupted: session 1 is running, to stop after layer 5: pause stops it",)
    assert len(said) == 1
    assert re.fullmatch(r"waiting for layer 5 \.\.\. \d s", said[0])

    def strikes(text):
        raise KeyboardInterrupt

    assert inside.wait(20)
    monkeypatch.setattr(session, "pause", lambda: None)
    assert bench.do("pause", say=strikes).lines == outcome.lines
    go_on.set()
    assert session.wait(30) is djinn.Phase.PAUSED
    assert session.layer == 5


def test_a_look_waits_for_who_computes(bench, runtime, started, monkeypatch, does):
    """With progress; a value that a front shows has a note instead."""
    monkeypatch.setattr(patience, "SAY_SECONDS", 0.05)
    started()
    go_on = threading.Event()
    other = runtime.open().start(go_on.wait, 20)
    while other.doing != "computing":
        time.sleep(0.001)  # not spinning: that would take the interpreter from who is waited for
    assert bench.lens().note == bench.tokens().note == "the device is busy: session 2 computes"
    said = []
    outcome = bench.do("lens", say=lambda text: said.append(text) or go_on.set())
    assert said[0].startswith("waiting for the device")
    assert outcome.lines[0].startswith("logit lens, layer 2")


def test_errors_are_lines(bench, runtime, started, refuses, monkeypatch):
    """Of commands that do not fit, of programs, and of any other code that runs: their type and message."""
    assert refuses("resume") == "there is no session"

    def program():
        raise ValueError("a value\nof two lines")

    failed = runtime.open().start(program)
    failed.wait(30)
    assert refuses("step") == "session 1 is failed, not paused: tokens shows what came out, use N selects another"
    assert bench.do("status").lines[0] == "session 1: failed with ValueError: a value"
    started()
    assert refuses("use 7") == "there is no session 7: there are 1, 2"
    assert refuses("use two") == "'two' is no whole number: type use N, a number that sessions shows"
    assert bench.do("use 2").lines[0].startswith("session 2: paused")
    assert refuses("break 9") == "ValueError: breakpoint 9 is not a layer of this model: 1 to 6"
    assert refuses("pause").startswith("IllegalMove: a session that is paused cannot be paused")
    assert refuses("save x.djinn").startswith("IllegalMove: session 2 was not recorded: open it with durable=True")
    assert refuses("lens 1 2 3") == "lens takes two numbers at most: how many tokens, and which sequence"
    assert refuses("step 5") == "step takes no argument"
    assert refuses("lens 5 3") == "logit lens, layer 2: there is no sequence 3: 1 to 2"
    assert refuses("restore none.djinn") == "there is no file none.djinn"
    monkeypatch.setattr(bench, "patient_tokens", lambda say: [].pop())
    assert refuses("tokens") == "IndexError: pop from empty list"


def test_a_saved_session_is_restored_and_ends_alike(bench, started, does, tmp_path):
    """Edits included. A file is replaced only when that was confirmed; the list tells where a session comes from."""
    path = tmp_path / "one.djinn"
    session = started(2, visit=2, durable=True)
    does("edit scale 2")
    assert not bench.rows()[0].saved
    assert does(f"save {path}").startswith(f"session 1 is saved in {path}: ")
    assert bench.rows()[0].saved
    before = path.read_bytes()
    does("edit scale 2")
    assert not bench.rows()[0].saved
    outcome = bench.do(f"save {path}")
    assert (outcome.lines, outcome.question) == ((), f"{path} is there already, and would be replaced. Save?")
    assert path.read_bytes() == before
    does(f"save {path}", confirmed=True)
    assert does(f"restore {path}").startswith("session 2: paused after layer 2")
    assert [(row.label, row.selected, row.saved) for row in bench.rows()] == [
        ("", False, True),
        ("from one.djinn", True, True),
    ]
    does("resume")
    other = bench.selected
    does("use 1")
    does("resume")
    assert other is not session
    assert torch.equal(other.result(30), session.result(30))


def test_a_session_whose_file_is_another_s_is_not_saved(bench, started, does, tmp_path):
    """Nor is one whose file has gone: quit names it."""
    path = tmp_path / "one.djinn"
    for number in (1, 2):
        started(2, durable=True)
        does(f"use {number}")
        does(f"save {path}", confirmed=True)
    assert [row.saved for row in bench.rows()] == [False, True]
    path.unlink()
    assert [row.saved for row in bench.rows()] == [False, False]


def test_a_fork_says_that_side_effects_happen_again(bench, started, monkeypatch):
    """Before, and in its first lines; it is selected, and labelled."""
    session, other = started(durable=True), started(durable=True)
    asked = bench.do("fork")
    assert asked.question == "Fork?"
    assert asked.lines[0] == "fork of session 1: its program runs again up to here"
    assert asked.lines[1] == "what it does beside calling the model, such as printing, happens again"
    monkeypatch.setattr(type(session), "fork", lambda self: other, raising=False)
    said = bench.do("fork", confirmed=True).lines
    assert said[0] == "session 2 is a fork of 1: edits of one do not reach the other"
    assert "side effects" in said[1]
    assert bench.rows()[1].label == "fork of 1"
    assert bench.selected is other


def test_quit_lists_what_would_be_lost(runtime, started, tmp_path):
    """What is parked and not saved as it is, where sessions end with the front; elsewhere nothing is."""
    session = started(2, durable=True)
    inside = Bench(runtime).do("quit")
    assert (inside.quits, inside.lines) == (True, ("1 session left parked",))
    owner = Bench(runtime, owns_runtime=True)
    asked = owner.do("quit")
    assert not asked.quits
    assert asked.question == "Quit without it?"
    assert asked.lines[0] == "lost with the end of the debugger: 1 session"
    assert asked.lines[1].startswith("  session 1: paused after layer 2")
    assert owner.do("quit", confirmed=True).quits
    owner.do(f"save {tmp_path / 'one.djinn'}")
    assert owner.do("quit") == commands.Outcome(quits=True)
    session.step(30)
    assert owner.do("quit").question
    session.cancel()
    session.wait(30)
    assert owner.do("quit").quits
    owner.close()


def test_the_rows_are_what_the_runtime_tells(bench, started, runtime):
    """Each number of each session, in every phase."""
    started(3)
    started(2, durable=True).io_wait()
    started(6, visit=9).result(30)
    for row, status, session in zip(bench.rows(), runtime.status(), runtime.sessions, strict=True):
        for name in ("number", "phase", "layer", "tier", "device_bytes", "host_bytes", "disk_bytes", "left_bytes"):
            assert getattr(row, name) == getattr(status, name), name
        assert row.recorded_bytes == session.recorded_bytes
        ahead = session.breakpoint is not None and session.phase is not djinn.Phase.FINISHED
        assert row.stops == ((session.breakpoint,) if ahead else ())
        assert 0 <= row.age_seconds <= status.age_seconds
        assert (row.doing, row.durable, row.selected) == (session.doing, session.is_durable, session.number == 1)


def test_the_state_has_the_numbers_of_plain_torch(bench, started, does):
    """Each tensor, measured once for a pause: after an edit it is measured again."""
    session = started(3, visit=2)
    assert {row.measured for row in bench.state()} == {False}
    does("state")
    for row in bench.state():
        tensor = session.state[row.name]
        assert (row.shape, row.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert row.measured
        assert row.norm == (pytest.approx(float(tensor.double().norm())) if tensor.is_floating_point() else None)
        if row.spread is not None:
            deviations = tensor.double().std(-1, correction=0)
            found = (row.spread.least, row.spread.median, row.spread.most)
            assert found == pytest.approx(
                [float(one) for one in (deviations.min(), deviations.median(), deviations.max())]
            )
    assert any(row.layer == 2 and row.name == "kv.2.keys" for row in bench.state())
    does("edit scale 3")
    assert {row.measured for row in bench.state()} == {False}
    does("state")
    assert bench.state()[0].norm == pytest.approx(float(session.state["hidden_states"].double().norm()))


@pytest.fixture
def told(bench):
    """Does a line that must fail, without a question; returns what it said, and the lines of progress before."""

    def do(line):
        before = []
        outcome = bench.do(line, say=before.append)
        assert outcome.failed
        assert not outcome.question
        return outcome.lines[0], before

    return do


def test_what_cannot_be_done_is_refused_before_it_is_asked_or_announced(
    bench, runtime, llama, input_ids, started, told, tmp_path
):
    """Fork and save of a session that was not recorded, or whose fork needs objects; restore of what is no session."""
    path, no_session = tmp_path / "one.djinn", tmp_path / "two.djinn"
    path.touch()
    no_session.write_text("none")
    started(2)
    not_recorded = "IllegalMove: session 1 was not recorded: open it with durable=True to {} it"
    assert told("fork") == (not_recorded.format("fork"), [])
    assert told(f"save {path}") == (not_recorded.format("save"), [])
    started(2, durable=True)
    bench.do("use 2")
    assert told(f"save {tmp_path}") == (
        f"DjinnError: {tmp_path} is no file that can be replaced: name another path",
        [],
    )
    for name, said in {
        "none.djinn": f"there is no file {tmp_path / 'none.djinn'}",
        "two.djinn": f"{no_session}: it is cut short, or no file of a session: ",
        ".": f"{tmp_path}: it is no plain file: ",
    }.items():
        line, before = told(f"restore {tmp_path / name}")
        assert line.startswith(said)
        assert before == []
    adopted = [torch.zeros(2)]
    own = runtime.open(breakpoint=2, durable=True, adopt=[adopted])
    own.start(lambda mine: prefill(llama, input_ids), adopted).wait(30)
    bench.do("use 3")
    line, before = told("fork")
    assert (line[:39], before) == ("IllegalMove: session 3 has adopted 1 ob", [])


def test_a_cancelled_session_is_said_to_be_cancelled(bench, started, does, refuses):
    """In the list, where it stands, and where a command wants a paused one; an error of its own is still one."""
    session = started(2)
    session.cancel()
    session.wait(30)
    assert (bench.rows()[0].said, session.phase) == ("cancelled", djinn.Phase.FAILED)
    assert does("sessions").splitlines()[1].startswith(">  1  cancelled    -           -")
    assert does("status").startswith("session 1: cancelled\n")
    assert refuses("step").startswith("session 1 is cancelled, not paused: ")
    assert does("tokens") == "no tokens are known of session 1, which is cancelled"


def test_a_session_gets_a_name_of_the_users_own(bench, started, does):
    """Beside where it comes from; alone the command takes it away."""
    started(2)
    assert does("name  base line") == "session 1 is called base line"
    assert "  base line" in does("sessions")
    bench.label(bench.selected, "fork of 7")
    assert (bench.rows()[0].named, bench.rows()[0].label) == ("base line", "fork of 7")
    assert does("name") == "session 1 has no name"
    assert bench.rows()[0].named == ""


@pytest.mark.parametrize("kind", ["pt", "npy", "safetensors"])
def test_a_tensor_is_copied_to_a_file_that_an_edit_reads(bench, started, does, tmp_path, kind):
    """Bit for bit, also out of IO_WAIT. A file is replaced only when that was confirmed."""
    session = started(2)
    path = tmp_path / f"a file.{kind}"
    before = session.state["hidden_states"].clone()
    does("wait")
    assert does(f"copy hidden_states {path}").startswith(f"hidden_states of session 1, shape [2, 24, 64], is in {path}")
    outcome = bench.do(f"copy kv.1.keys {path}")
    assert (outcome.lines, outcome.question) == ((), f"{path} is there already, and would be replaced. Copy?")
    does("edit scale 0")
    does(f"edit add {path}")
    assert torch.equal(session.state["hidden_states"], before)
    does(f"copy kv.1.keys {path}", confirmed=True)
    assert torch.equal(files.read(path), session.state["kv.1.keys"])
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_copy_that_fails_leaves_the_file_that_was_there(bench, started, monkeypatch, tmp_path):
    """Whole, and nothing beside it."""
    started(2)
    path = tmp_path / "there.pt"
    path.write_text("before")

    def breaks(file, name, tensor):
        file.write(b"half")
        if tensor.numel():
            raise OSError("no space")

    monkeypatch.setitem(files._WRITERS, ".pt", breaks)
    assert bench.do(f"copy hidden_states {path}", confirmed=True).lines == ("OSError: no space",)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("there.pt", "before")]


def test_what_cannot_be_copied_is_refused_before_it_is_asked(bench, started, told, tmp_path):
    """No name, none of the state, a file of another kind or that does not take the dtype, and no place for one."""
    session, there = started(2), tmp_path / "there.npy"
    there.touch()
    wanted = "type copy NAME PATH, for example copy hidden_states h.safetensors"
    for line, said in {
        "copy": wanted,
        "copy hidden_states": wanted,
        f"copy hidden {there}": "there is no tensor hidden in the state: state lists them",
        f"copy .2.keys {there}x": f"{there}x is no .pt, .npy or .safetensors file",
        f"copy ..2.values {there}x": f"{there}x is no .pt, .npy or .safetensors file",
        f"copy .. {there}": "there is no tensor .. in the state: state lists them",
        f"copy keys {there}": "keys may be kv.1.keys or kv.2.keys",
        f"copy hidden_states {there}.bin": f"{there}.bin is no .pt, .npy or .safetensors file",
        f"copy hidden_states {there}/x.pt": f"NotADirectoryError: there is no folder {there} to save in: make it first",
    }.items():
        assert told(line) == (said, [])
    with pytest.raises(
        Refused, match=r"a \.npy file does not take torch\.bfloat16, one in \.pt does: TypeError: Got unsupported"
    ):
        files.check_writable(there, torch.bfloat16)
    session.resume()
    assert told(f"copy hidden_states {there}")[0].startswith("session 1 is ")


def test_of_several_breakpoints_the_next_comes_first(bench, started, does, refuses):
    """In the order of the layers, around the model; each stops once. They are listed, and a fork has them too."""
    session = started(3, durable=True, new=6)
    assert does("break 5 2 6") == "session 1 is to stop once after each of layers 5, 6 and 2: resume"
    assert bench.rows()[0].stops == (5, 6, 2)
    assert "to stop after 5 6 2" in does("sessions")
    assert refuses("break 4 9") == "ValueError: breakpoint 9 is not a layer of this model: 1 to 6"
    assert refuses("break if h.any()").startswith("if stands between layers and an expression")
    assert refuses("break 5 if ").startswith("if stands between layers and an expression")
    assert "paused after layer 5" in does("resume")
    assert does("break") == "to stop after each of layers 6 and 2"
    assert session.breakpoint == 6
    does("fork", confirmed=True)
    assert [row.stops for row in bench.rows()] == [(6, 2), (6, 2)]
    for number in (1, 2):
        does(f"use {number}")
        assert "its breakpoint, layer 6, came first" in does("token")
        assert "paused after layer 1" in does("step")
        assert "paused after layer 2" in does("step")
        assert does("break") == "no breakpoint: break L sets one"
        assert "paused after layer 2" in does("token")
        does("break 3 4")
    session.break_at(6)  # another hand's stands alone
    does("use 1")
    assert does("break") == "to stop after layer 6"
    assert "paused after layer 6" in does("resume")
    assert does("resume").startswith("session 1: finished")


def test_a_range_is_all_of_its_layers(bench, started, does, refuses):
    """Among single ones, with a condition, and said as one; what is none is a line, and the breakpoints stay."""
    session = started(2)
    assert does("break 1 3-5 6-6") == "session 1 is to stop once after each of layers 3-6 and 1: resume"
    assert bench.rows()[0].stops == (3, 4, 5, 6, 1)
    assert "to stop after 3-6 1" in does("sessions")
    for line, said in {
        "break 5-3": "5-3 is no range: the lower layer comes first",
        "break 5-9999999999": "ValueError: breakpoint 9999999999 is not a layer of this model: 1 to 6",
        "break -3": "ValueError: breakpoint -3 is not a layer of this model: 1 to 6",
        "break 3-x": "'x' is no whole number: type break L, break L-L or break L L if EXPRESSION",
    }.items():
        assert refuses(line) == said
    for layer in (3, 4, 5, 6, 1):
        assert f"paused after layer {layer}" in does("resume")
    does("break 2-4 if False")
    assert does("resume").startswith("session 1: finished without stopping after any of layers 2-4, if False\n")
    assert session.phase is djinn.Phase.FINISHED


def test_a_condition_stops_where_it_holds(bench, started, does, refuses, monkeypatch):
    """It is tried at each visit of the layer. Where it does not hold, or fails, the breakpoint is still ahead."""
    started(1, new=8)
    monkeypatch.setattr(torch, "visits", itertools.count(1), raising=False)
    ahead = "to stop after each of layers 4 and 5, if next(torch.visits) == 5"
    assert does("break 4 5 if next(torch.visits) == 5").startswith(
        "session 1 is to stop once after each of layers 4 and 5"
    )
    assert does("break") == ahead
    assert "paused after layer 4" in does("resume")
    assert len(bench.tokens().sequences[0]) == 26
    assert does("break") == ahead.replace("each of layers 4 and 5", "layer 5")
    assert "paused after layer 5" in does("step")
    assert does("break") == ahead.replace("each of layers 4 and 5", "layer 5")
    does("break 2 if k")
    assert refuses("resume").endswith(
        "is paused after layer 2: the expression raised NameError: name 'k' is not defined"
    )
    assert does("break") == "to stop after layer 2, if k"
    monkeypatch.setattr(torch, "stops", bench.interrupt, raising=False)
    does("break 3 if torch.stops()")
    assert refuses("resume").startswith("interrupted: session 1 is paused after layer 3")
    assert does("break") == "to stop after layer 3, if torch.stops()"
    assert refuses("break 3 if h +").startswith("'h +' is no Python expression: ")
    does("break 3 if h > 0")
    assert "the expression raised RuntimeError: Boolean value of Tensor with more than one" in refuses("resume")
    does("break 3 if False")
    assert does("resume").startswith("session 1: finished without stopping after layer 3, if False\n")
    assert "to stop" not in does("sessions")
    for line in ("break 4", "break", "pause"):
        assert refuses(line) == "session 1 is finished: tokens shows what came out, use N selects another"
