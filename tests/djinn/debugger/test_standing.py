"""A standing edit is a plain hook from its visit on, bit for bit; nobody stops for it once the debugger has left."""

import itertools
import threading
from contextlib import ExitStack

import pytest
import torch
from tests.programs import prefill

import djinn
from djinn.debugger import patience
from djinn.debugger.bench import Bench

VECTOR = torch.linspace(-1, 1, 64)
MADE = "edited {} after layer {}"


def zeroed(h):
    h = h.clone()
    h[:, -1] = 0
    return h


EDITS = {
    "scale 0.5": lambda h: h * 0.5,
    "zero -1": zeroed,
    "add vector.pt": lambda h: h + VECTOR,
    "e torch.where(h > 0, h, 0.1 * h)": lambda h: torch.where(h > 0, h, 0.1 * h),
}


@pytest.fixture
def opened(runtime, llama, input_ids):
    """Starts ``generate`` of six tokens with its scores, parked after a layer; returns the session."""

    def start(layer=2, *, visit=1, durable=False):
        session = runtime.open(breakpoint=layer, visit=visit, durable=durable)
        session.start(generated, llama, input_ids).wait(30)
        return session

    return start


def generated(llama, input_ids):
    return llama.generate(
        input_ids,
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        output_scores=True,
        return_dict_in_generate=True,
    )


def hooked(llama, program, *hooks):
    """The value of ``program`` with plain hooks: of each the layer, at which of its visits, and the change."""
    with ExitStack() as stack:
        for layer, visits, change in hooks:
            seen = itertools.count(1)

            def hook(module, args, output, *, seen=seen, visits=visits, change=change):
                return change(output) if next(seen) in visits else None

            stack.callback(llama.model.layers[layer - 1].register_forward_hook(hook).remove)
        return program()


def same(one, other):
    return torch.equal(one.sequences, other.sequences) and all(map(torch.equal, one.scores, other.scores))


def halved(h):
    return h * 0.5


def doubled(h):
    return h * 2


@pytest.mark.parametrize("line", EDITS)
def test_a_standing_edit_is_a_hook_from_its_visit_on(
    bench, opened, does, llama, input_ids, line, tmp_path, monkeypatch
):
    """From the second on, of six; the layer is no breakpoint of the session meanwhile, nor is it one afterwards."""
    monkeypatch.chdir(tmp_path)
    torch.save(VECTOR, "vector.pt")
    session = opened(2, visit=2)
    assert does(f"always {line}").endswith("so it is at every later visit of layer 2: never ends that")
    assert session.breakpoint is None
    assert bench.rows()[0].stops == ()
    said = does("resume").splitlines()
    assert said[:2] == ["session 1: finished", MADE.format("4 times", 2)]
    expected = hooked(llama, lambda: generated(llama, input_ids), (2, range(2, 7), EDITS[line]))
    assert same(session.result(30), expected)
    assert not same(expected, generated(llama, input_ids))


def test_among_breakpoints_the_next_stop_is_whatever_comes_first(opened, does, llama, input_ids):
    """Edits of two layers, of one several in their order; a breakpoint on such a layer stops behind the edit."""
    session = opened(2)
    does("always scale 0.5")
    does("always expr h + 1")
    assert "paused after layer 3" in does("step")
    does("break 5 2 4")
    assert "paused after layer 4" in does("resume")
    does("always scale 2")
    does("wait")
    assert does("always").splitlines() == [
        "after layer 2: scaled by 0.5",
        "after layer 2: replaced by h + 1, which was executed as Python",
        "after layer 4: scaled by 2",
    ]
    assert "paused after layer 5" in does("resume")
    said = does("resume").splitlines()
    assert said[0].startswith("session 1: paused after layer 2")
    assert said[1] == MADE.format("1 time", 2)
    assert does("break") == "no breakpoint: break L sets one"
    for layer in (3, 4, 5):
        assert f"paused after layer {layer}" in does("step")
    said = does("token").splitlines()
    assert said[0].startswith("session 1: paused after layer 5")
    assert said[1:] == [MADE.format("1 time", 2), MADE.format("1 time", 4)]
    does("never all")
    assert does("always") == "no standing edit: always EDIT makes one"
    does("resume")
    expected = hooked(
        llama,
        lambda: generated(llama, input_ids),
        (2, range(1, 4), lambda h: h * 0.5 + 1),
        (4, range(1, 4), doubled),
    )
    assert same(session.result(30), expected)


def test_a_condition_sees_the_edit(opened, does):
    """As behind a hook."""
    opened(2, visit=2)
    does("always expr torch.zeros_like(h)")
    does("break 2 if not h.any()")
    assert MADE.format("1 time", 2) in does("resume")
    does("break 2 if h.any()")
    assert does("resume").splitlines()[:2] == [
        "session 1: finished without stopping after layer 2, if h.any()",
        MADE.format("3 times", 2),
    ]


def test_one_that_fails_later_stops_there(bench, opened, does, refuses, llama, input_ids):
    """In a line, with nothing changed. The session may go on without, and stops at the next visit again."""
    session = opened(2)
    does("always scale 0.5")
    does("always zero 5")
    why = "its standing edit was not made: there is no position 5: the hidden states have 1, 0 to 0"
    for _ in range(2):
        assert refuses("resume") == f"session 1 is paused after layer 2: {why}"
        assert session.phase is djinn.Phase.PAUSED
    does("break 4")
    assert "paused after layer 4" in does("resume")
    assert does("never all") == "session 1 has no standing edit after layer 2 now"
    assert does("resume").startswith("session 1: finished\nsequence")

    def first(h):
        h = h * 0.5
        h[:, 5] = 0
        return h

    assert same(session.result(30), hooked(llama, lambda: generated(llama, input_ids), (2, [1], first)))


def test_an_interrupt_in_an_edit_leaves_it_to_the_next_command(
    bench, opened, does, refuses, llama, input_ids, monkeypatch
):
    """Nothing of it is written; the next command that wants the session parked makes it first."""
    calls = itertools.count(1)

    def stops():
        if next(calls) == 3:
            bench.interrupt()
            threading.Event().wait(0.5)

    monkeypatch.setattr(torch, "stops", stops, raising=False)
    session = opened(2)
    does("always expr [torch.stops(), h * 0.5][1]")
    assert refuses("resume").startswith("interrupted: session 1 is paused after layer 2")
    before = session.state["hidden_states"].clone()
    assert session.breakpoint is None
    does("lens")
    assert torch.equal(session.state["hidden_states"], before * 0.5)
    assert does("resume").splitlines()[1] == MADE.format("5 times", 2)
    assert next(calls) == 8  # six visits, and what was interrupted
    assert same(session.result(30), hooked(llama, lambda: generated(llama, input_ids), (2, range(1, 7), halved)))


def test_an_interrupt_behind_a_step_finds_it_done(bench, opened, does, refuses, llama, input_ids, monkeypatch):
    """An edit that is written is not made again; a stop that is set is no breakpoint, and breakpoints stay."""

    def strikes_behind(method):
        strikes = iter([True])

        def function(*arguments):
            method(*arguments)
            if next(strikes, False):
                raise KeyboardInterrupt

        return function

    session = opened(2)
    does("always scale 0.5")
    does("step")
    does("break 2 if False")
    monkeypatch.setattr(bench._looks, "write", strikes_behind(bench._looks.write))
    assert refuses("resume").startswith("interrupted: session 1 is paused after layer 2")
    monkeypatch.setattr(session, "_serve", strikes_behind(session._serve))
    assert refuses("resume").startswith("interrupted: session 1 is paused after layer 2")
    assert does("break") == "to stop after layer 2, if False"
    assert does("resume").startswith("session 1: finished without stopping after layer 2, if False")
    assert same(session.result(30), hooked(llama, lambda: generated(llama, input_ids), (2, range(1, 7), halved)))


@pytest.fixture
def between(bench, runtime, llama, input_ids, monkeypatch):
    """Has a program with a standing edit after layer 2 wait in front of its second visit; returns how to let it go."""
    monkeypatch.setattr(patience, "SAY_SECONDS", 0.05)
    inside, go_on = threading.Event(), threading.Event()

    def program():
        first = prefill(llama, input_ids)
        inside.set()
        go_on.wait(20)
        return first, prefill(llama, input_ids)

    session = runtime.open(breakpoint=2).start(program)
    session.wait(30)

    def begin(*lines):
        for line in ("always scale 0.5", *lines):
            assert not bench.do(line).failed
        (said,) = bench.do("resume", say=lambda text: inside.wait(20) and bench.interrupt()).lines
        assert said == "interrupted: session 1 is running, to stop after layer 2: pause stops it"
        return session, go_on.set

    yield begin
    go_on.set()


def test_an_interrupted_wait_misses_no_visit(between, does, llama, input_ids):
    """The session stops there by itself, and the edit is made before it goes on."""
    session, goes_on = between()
    goes_on()
    assert session.wait(30) is djinn.Phase.PAUSED
    assert does("resume").splitlines()[:2] == ["session 1: finished", MADE.format("1 time", 2)]
    expected = hooked(llama, lambda: prefill(llama, input_ids), (2, [1], halved))
    assert all(map(torch.equal, session.result(30), (expected, expected)))


@pytest.mark.parametrize("edited", [True, False])
@pytest.mark.parametrize("holds", [True, False])
def test_an_interrupted_wait_misses_no_condition(between, does, holds, edited, llama, input_ids):
    """The session stops there by itself, and the next command to go on tries the condition first."""
    session, goes_on = between(*([] if edited else ["never all"]), f"break 2 if {holds}")
    goes_on()
    assert session.wait(30) is djinn.Phase.PAUSED
    assert does("break") == f"to stop after layer 2, if {holds}"
    if holds:
        assert does("resume").startswith("session 1: paused after layer 2")
        assert session.phase is djinn.Phase.PAUSED
        assert does("break") == "no breakpoint: break L sets one"
    assert does("resume").startswith("session 1: finished")
    expected = hooked(llama, lambda: prefill(llama, input_ids), (2, [1] if edited else [], halved))
    assert torch.equal(session.result(30)[1], expected)


def test_a_pause_at_another_layer_leaves_no_stop_behind(between, does, llama, input_ids):
    """The session is at rest: only a debugger that waits stops for an edit."""
    session, goes_on = between()
    threading.Timer(0.2, goes_on).start()
    assert does("pause").startswith("session 1: paused after layer 1")
    assert session.breakpoint is None
    assert MADE.format("1 time", 2) in does("resume")
    expected = hooked(llama, lambda: prefill(llama, input_ids), (2, [1], halved))
    assert torch.equal(session.result(30)[1], expected)


@pytest.mark.parametrize("line", ["quit", "never", "never all"])
def test_without_the_debugger_nothing_stops_for_an_edit(bench, between, line, llama, input_ids):
    """Also where the program computes when it ends, or when the edit does."""
    session, goes_on = between()
    assert not bench.do(line).failed
    if line == "quit":
        bench.close()
    assert session.breakpoint is None
    goes_on()
    assert session.wait(30) is djinn.Phase.FINISHED
    assert torch.equal(session.result(30)[1], prefill(llama, input_ids))


def test_the_end_of_one_leaves_the_others(between, does, llama, input_ids):
    """At rest none is a stop; while the program computes, behind an interrupt, the next one still is."""
    session, goes_on = between("step", "always scale 2", "never", "step", "always scale 2")
    assert does("never") == "session 1 has no standing edit after layer 4 now"
    assert session.breakpoint == 2
    goes_on()
    assert session.wait(30) is djinn.Phase.PAUSED
    assert MADE.format("1 time", 2) in does("resume")
    assert torch.equal(session.result(30)[1], hooked(llama, lambda: prefill(llama, input_ids), (2, [1], halved)))


def test_at_rest_no_standing_edit_is_a_stop(opened, does):
    """So a fork, a saved file and another hand's resume know of none; also behind ``never`` where others stay."""
    session = opened(2)
    for line in ("always scale 0.5", "step", "always scale 2", "never"):
        does(line)
        assert session.breakpoint is None
    assert does("always") == "after layer 2: scaled by 0.5"


def test_a_breakpoint_behind_it_stays_when_the_debugger_ends(bench, between):
    """Of both kinds that is the one which somebody asked for."""
    session, goes_on = between("break 5", "resume", "break 5")
    bench.close()
    assert session.breakpoint == 5
    goes_on()
    assert session.wait(30) is djinn.Phase.PAUSED
    assert session.layer == 5


def test_sessions_and_forks_have_their_own(bench, opened, does, llama, input_ids):
    """A fork goes on without; what was edited before stays so."""
    one, two = opened(2, durable=True), opened(3)
    does("always scale 0.5")
    does("token")
    does("fork", confirmed=True)
    assert does("always") == "no standing edit: always EDIT makes one"
    does("use 2")
    does("always scale 2")
    for number, said in ((3, "sequence"), (1, MADE.format("4 times", 2)), (2, MADE.format("5 times", 3))):
        does(f"use {number}")
        assert does("resume").splitlines()[1].startswith(said)
    fork = bench.select(3)
    for session, hook in (
        (one, (2, range(1, 7), halved)),
        (two, (3, range(1, 7), doubled)),
        (fork, (2, [1, 2], halved)),
    ):
        assert same(session.result(30), hooked(llama, lambda: generated(llama, input_ids), hook))


def test_a_long_wait_says_how_it_goes(bench, opened, does, monkeypatch):
    """Every second, though it stops more often; and it can be stopped between two visits."""
    monkeypatch.setattr(patience, "SAY_SECONDS", 0)
    opened(2)
    does("always scale 0.5")
    told = []
    outcome = bench.do("resume", say=lambda text: told.append(text) or bench.interrupt())
    assert outcome.lines[0].startswith("interrupted: session 1 is ")
    assert told[0].startswith("waiting for the end")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("always scale", "always takes scale, zero, add, expr, and what that takes: for example always scale 2"),
        ("always fly 3", "always takes scale, zero, add, expr, and what that takes: for example always scale 2"),
        ("always zero 24", "there is no position 24: the hidden states have 24, 0 to 23"),
        ("never", "no standing edit of this layer: always lists them"),
        ("never all", "no standing edit: always lists them"),
        ("never 3", "type never for this layer, or never all"),
    ],
)
def test_what_cannot_stand_is_a_line(bench, opened, does, refuses, line, said):
    """And nothing stands then: an edit that fails at once is none."""
    opened(2)
    assert refuses(line) == said
    assert does("always") == "no standing edit: always EDIT makes one"


def test_a_hit_count_of_another_hand_is_not_lost(runtime, started, does, refuses):
    """For the session's one breakpoint would be set anew."""
    session = started(2)
    session.break_at(4, visit=3)
    assert refuses("always scale 2") == "hit count 3 of breakpoint 4 would be lost: break 4 first"
    does("break 4")
    does("always scale 2")
    assert "paused after layer 4" in does("resume")


def test_the_edits_end_with_their_bench(runtime, started):
    """Another one finds none."""
    started(2)
    first = Bench(runtime)
    assert not first.do("always scale 2").failed
    first.close()
    second = Bench(runtime)
    assert second.do("always").lines == ("no standing edit: always EDIT makes one",)
    assert second.do("resume").lines[0] == "session 1: finished"
    second.close()
