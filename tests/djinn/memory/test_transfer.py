"""The order in which the engine copies, waits and frees, seen by a stand-in for CUDA streams."""

import sys
import threading
import time

import pytest
import torch
from tests.djinn.late_link import LateMark
from tests.programs import equal, greedy, parked

from djinn.debugger.bench import Bench
from djinn.memory import transfer
from djinn.memory.lanes import Mark
from djinn.memory.restore import Restore
from djinn.program.program import Program
from djinn.session import Session

pytestmark = pytest.mark.usefixtures("without_climb")
LAYER = 3


def test_nothing_is_freed_before_its_copy_has_ended(late_runtime, llama, input_ids, link, monkeypatch):
    """Each storage leaves the device after its own copy, while later ones may still be under way."""
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    resize = torch.UntypedStorage.resize_

    def noting(storage, nbytes):
        link.log.append(("free", storage.data_ptr()))
        return resize(storage, nbytes)

    with monkeypatch.context() as patched:
        patched.setattr(torch.UntypedStorage, "resize_", noting)
        session.io_wait()
    freed = [line[1] for line in link.log if line[0] == "free"]
    assert len(freed) == len(session.storage_sizes) > 8
    for address in freed:
        assert link.log.index(("emptied", address)) < link.log.index(("free", address))
    assert link.log.index(("free", freed[0])) < link.log.index(("emptied", freed[-1]))


def resume(session, link):
    """What the lanes were told by RESUME itself: the engine goes on when that returns."""
    restore, told = session._residency.restore, []
    open_latch, flies = restore.open_latch, bool(restore.frontier)

    def returning():
        told.extend(link.log)
        del restore.send_rest
        restore.send_rest()
        open_latch()

    if flies:
        restore.send_rest, restore.open_latch = lambda: None, returning
    del link.log[:]
    session.resume()
    return told if flies else list(link.log)


def test_the_frontier_is_first_on_the_wire(late_runtime, llama, input_ids, link):
    """Its copies come before all else, on the program's own lane, and the history's lane waits for their end."""
    expected = greedy(llama, input_ids, 1)
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    frontier = [item.nbytes for item in session._residency.state.frontier]
    session.io_wait()
    first = [entry.item.nbytes for entry in session._residency.restore.history[0].entries]
    told = resume(session, link)
    assert told[: len(frontier)] == [("fill", "program", nbytes) for nbytes in frontier]
    assert told[len(frontier)] == ("wait", "behind", "program")
    assert told[len(frontier) + 1 :] == [("fill", "behind", nbytes) for nbytes in first]  # and no more: it has landed
    assert equal(session.result(30), expected)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("front", [False, True])
def test_a_resume_keeps_the_interpreter(late_runtime, llama, input_ids, link, monkeypatch, front, beside):
    """Until it waits for the frontier; beside a front it polls, for a screen would hold it for milliseconds."""
    expected = greedy(llama, input_ids, 1)
    told, polled, open_latch = [], [], Restore.open_latch
    link.arrive()
    monkeypatch.setattr(LateMark, "synchronize_at_once", lambda mark, _: (polled.append(mark), mark.synchronize()))
    monkeypatch.setattr(Restore, "open_latch", lambda restore: (told.extend(link.at_once), open_latch(restore)))
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    ready = session._residency.restore.ready
    begun, end = threading.Event(), threading.Event()
    other = late_runtime.open().start(lambda: beside and (begun.set(), end.wait(30)))
    assert begun.wait(30) if beside else other.result(30) is False
    bench = Bench(late_runtime) if front else None
    del link.log[:], link.at_once[:]
    session.resume()
    assert polled == [ready] * front
    end.set()
    assert equal(session.result(30), expected)
    assert len(told) > 3
    assert all(told)
    assert ("follow", "in", "program") in link.log or not beside
    if bench is not None:
        bench.close()


def test_what_follows_the_frontier_goes_as_soon_as_it_has_memory(late_runtime, llama, input_ids, link, monkeypatch):
    """While the frontier is in flight; no more than keeps the link busy until somebody else submits."""
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    restore, allocate = session._residency.restore, transfer._allocate
    batches, frontier = list(restore.history), len(restore.frontier)
    assert len(batches) > 3

    def noting(entries):
        allocate(entries)
        link.log.extend(("allocated", entry.item.nbytes) for entry in entries)

    monkeypatch.setattr(transfer, "_allocate", noting)
    monkeypatch.setattr(link, "has_room", lambda nbytes: link.log.append(("asked", nbytes)) is None)
    monkeypatch.setattr(transfer, "_ASK_FROM", len(batches) - 1)
    monkeypatch.setattr(transfer, "_BEFORE_ASKING", 1)
    monkeypatch.setattr(transfer, "_AHEAD_BYTES", sum(batch.nbytes for batch in batches[:2]))
    with monkeypatch.context() as patched:
        patched.setattr(LateMark, "ended", False)
        told = resume(session, link)
    expected = []
    for batch in batches[:2]:
        sizes = [entry.item.nbytes for entry in batch.entries]
        expected += [("allocated", nbytes) for nbytes in sizes] + [("fill", "behind", nbytes) for nbytes in sizes]
        if batch is batches[0]:
            expected.append(("asked", sum(other.nbytes for other in batches[1:])))
    at_once = told[2 * frontier + 1 :]
    assert at_once[: len(expected)] == expected
    assert [line for line in at_once if line[0] == "fill"] == [line for line in expected if line[0] == "fill"]
    assert equal(session.result(30), greedy(llama, input_ids, 1))


@pytest.mark.parametrize("room", [True, False])
def test_memory_that_another_session_has_used_meanwhile(late_runtime, llama, input_ids, link, monkeypatch, room):
    """Whoever takes the turn while RESUME asks for room is waited for by what is copied into memory made later."""
    link.arrive()
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    computing, end, others = threading.Event(), threading.Event(), []

    def has_room(nbytes):
        others.append(late_runtime.open().start(lambda: (computing.set(), end.wait(30))))
        assert computing.wait(30)
        link.log.append(("asked", "behind"))
        return room

    monkeypatch.setattr(transfer, "_ASK_FROM", 1)
    monkeypatch.setattr(transfer, "_BEFORE_ASKING", 1)
    monkeypatch.setattr(link, "has_room", has_room)
    with monkeypatch.context() as patched:
        patched.setattr(LateMark, "ended", False)
        told = [line[0] for line in resume(session, link) if line[1] == "behind"]
    end.set()
    assert "follow" not in told[: told.index("asked")]
    assert told[told.index("asked") + 1 :][:2] == ["follow", "fill"]
    assert equal(session.result(30), greedy(llama, input_ids, 1))
    others[0].result(30)


def test_nobody_sends_for_the_rest_before_the_program_departs(runtime, llama, input_ids, monkeypatch):
    """An interrupt may still undo the swap-in, and the engine would copy into memory that is gone."""
    session = parked(runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    bring_back, brought = transfer.TransferEngine._bring_back, []

    def interrupted(session, steps):
        session._residency.restore.send_rest()  # as whoever waits in wait_resident() does
        raise KeyboardInterrupt

    monkeypatch.setattr(
        transfer.TransferEngine, "_bring_back", lambda *arguments: (brought.append(1), bring_back(*arguments))
    )
    with monkeypatch.context() as patched:
        patched.setattr(Session, "_let_go", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.resume()
    assert brought == []
    waiting = threading.Thread(target=session.wait_resident)
    waiting.start()
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 1))
    waiting.join(30)
    assert brought == [1]
    assert not waiting.is_alive()


def test_what_may_be_undone_is_not_sent_for(runtime, llama, input_ids, monkeypatch):
    """Whoever has read it before the program departs might post what was undone meanwhile."""
    session, read = parked(runtime, LAYER, greedy, llama, input_ids, 1), []
    session.io_wait()
    with monkeypatch.context() as patched:
        follow_up = property(read.append, lambda restore, value: None)
        patched.setattr(Restore, "follow_up", follow_up, raising=False)
        session._residency.restore.send_rest()
    assert read == []
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 1))


@pytest.mark.parametrize(("least", "under_way"), [(99, 1), (199, 1), (200, 2)])
def test_the_engine_submits_no_more_than_keeps_the_link_busy(
    late_runtime, llama, input_ids, link, monkeypatch, least, under_way
):
    """A batch when little is under way, or one large batch. RESUME has submitted the first."""
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    batches, wait = list(session._residency.restore.history), LateMark.synchronize
    expected = ["fill"] * sum(len(batch.entries) for batch in batches[: under_way + 1])
    for landed, batch in zip(batches, batches[under_way + 1 :], strict=False):
        expected += [landed.mark] + ["fill"] * len(batch.entries)
    assert len(batches) > 3

    def waiting(mark):
        if threading.current_thread().name == "djinn-transfer":
            link.log.append((mark,))
        wait(mark)

    for batch in batches:
        batch.moved_bytes = 100
    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(transfer, "_STRETCH_BYTES", 1)
    monkeypatch.setattr(transfer, "_LEAST_BYTES", least)
    monkeypatch.setattr(LateMark, "synchronize", waiting)
    session.resume()
    session.result(30)
    assert [line[0] for line in link.log if isinstance(line[0], LateMark) or line[:2] == ("fill", "behind")] == expected


def test_the_engine_goes_on_in_the_frontier_s_flight(late_runtime, llama, input_ids, monkeypatch):
    """While RESUME waits for the frontier, which nobody needs the interpreter for."""
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    restore, wait, submitted = session._residency.restore, LateMark.synchronize, []
    assert len(restore.history) > 2

    def waiting(mark):
        if mark is restore.ready:
            until = time.monotonic() + 5
            while restore._missing and time.monotonic() < until:
                time.sleep(0.001)
            submitted.append(not restore._missing)
        wait(mark)

    monkeypatch.setattr("djinn.memory.restore._LATCH_SECONDS", 30)  # or the program would send for the rest
    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(LateMark, "synchronize", waiting)
    session.resume()
    assert submitted == [True]
    assert equal(session.result(30), greedy(llama, input_ids, 1))


@pytest.mark.parametrize("keep", ["nothing", "frontier"])
def test_the_engine_goes_on_when_the_program_has_made_memory(late_runtime, llama, input_ids, monkeypatch, keep):
    """Before the program computes; with a kept frontier behind its first layer, for nothing is under way before."""
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait(keep=keep)
    told, send, leave = [], Restore.send_rest, Program.leave_part

    def sending(restore):
        if restore.departed and restore.follow_up is not None:
            told.append("sent")
        send(restore)

    def leaving(program):
        told.append("left")
        leave(program)

    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(transfer, "_ASK_FROM", 1)
    monkeypatch.setattr(Restore, "send_rest", sending)
    monkeypatch.setattr(Program, "leave_part", leaving)
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 1))
    assert told[:2] == (["sent", "left"] if keep == "nothing" else ["left", "sent"])
    assert told.count("sent") == 1


def test_the_marks_of_a_resume_are_made_at_the_pause(late_runtime, llama, input_ids):
    """To make one takes longer, and lets go of the interpreter."""
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    restore = session._residency.restore
    marks = [restore.ready, *(batch.mark for batch in restore.history)]
    assert len(marks) > 2
    assert all(mark.lane is not None for mark in marks)
    session.resume()
    session.result(30)


def test_marks_that_cannot_be_made_at_the_pause_are_made_later(late_runtime, llama, input_ids, link, monkeypatch):
    """The pause does not fail for them, so no host memory is lost."""
    expected = greedy(llama, input_ids, 1)
    prepare, tried = late_runtime._engine.prepare, []

    def refuse(mark):
        tried.append(mark)
        raise RuntimeError("no event")

    def failing(restore):
        with monkeypatch.context() as patched:
            patched.setattr(link.lanes["out"], "record", refuse)
            prepare(restore)

    monkeypatch.setattr(late_runtime._engine, "prepare", failing)
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    session.io_wait()
    assert tried
    session.resume()
    assert equal(session.result(30), expected)
    link.arrive()
    session.close()
    assert late_runtime.arena.reserved_bytes == 0


class Flight(Mark):
    """A copy that arrives when it has been looked at so often."""

    def __init__(self, looks):
        self.looks, self.waits = looks, 0

    @property
    def ended(self):
        self.looks -= 1
        return self.looks < 0

    def synchronize(self):
        self.waits += 1


def test_a_wait_that_keeps_the_interpreter():
    """Nobody else computes until the copy has arrived; if that takes too long, the wait is any other's."""
    over, turns = threading.Event(), []

    def draw():
        while not over.wait(0):
            turns.append(1)
            time.sleep(1e-4)

    other = threading.Thread(target=draw)
    before = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        other.start()
        while not turns:
            time.sleep(0.001)
        flight, late = Flight(10_000), Flight(10**9)
        count = len(turns)
        flight.synchronize_at_once(60)
        kept = len(turns) - count
        late.synchronize_at_once(0.01)
    finally:
        over.set()
        sys.setswitchinterval(before)
        other.join()
    assert (kept, flight.looks, flight.waits) == (0, -1, 0)
    assert late.waits == 1
    assert late.looks > 0


def test_beside_a_program_that_computes_the_frontier_overtakes_it(late_runtime, llama, input_ids, link, monkeypatch):
    """It comes on a lane of its own, for which the program's waits before it computes."""
    expected = greedy(llama, input_ids, 1)
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1)
    frontier = [item.nbytes for item in session._residency.state.frontier]
    session.io_wait()
    begun, end = threading.Event(), threading.Event()
    other = late_runtime.open().start(lambda: (begun.set(), end.wait(30)))
    assert begun.wait(30)
    allocate = transfer._allocate

    def noting(entries):
        allocate(entries)
        link.log.extend(("allocated", "behind") for entry in entries if not entry.item.in_frontier)

    monkeypatch.setattr(transfer, "_allocate", noting)
    told = resume(session, link)
    fills = [("fill", "in", nbytes) for nbytes in frontier]
    assert told[: len(fills) + 1] == [("follow", "in", "program"), *fills]  # its memory may have been the other's
    behind = [line[0] for line in told if line[1] == "behind"]
    assert behind.index("follow") < behind.index("fill")
    assert "allocated" in behind[: behind.index("follow")]
    assert "allocated" not in behind[behind.index("follow") :]
    assert ("wait", "program", "in") not in told
    end.set()
    assert equal(session.result(30), expected)
    assert ("wait", "program", "in") in link.log
    other.result(30)


def test_a_kept_frontier_moves_nothing_before_the_program_goes_on(late_runtime, llama, input_ids, link):
    """RESUME tells the lanes nothing; the history follows, and a layer waits for its own part alone."""
    expected = greedy(llama, input_ids, 1)
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1, visit=2)
    session.io_wait(keep="frontier")
    assert resume(session, link) == []
    assert equal(session.result(30), expected)
    later = [line[:2] for line in link.log if line[0] in ("follow", "fill")]
    assert later[:2] == [("follow", "behind"), ("fill", "behind")]


def test_a_layer_waits_for_its_own_kv(late_runtime, llama, input_ids, link):
    """In a decode step layer L+2 is computed when its KV has arrived, and that of L+3 has not."""
    seen = []
    session = parked(late_runtime, LAYER, greedy, llama, input_ids, 1, visit=2)
    session.io_wait()
    behind = link.lanes["behind"]
    handles = [
        layer.self_attn.q_proj.register_forward_hook(lambda *_, number=number: seen.append((number, behind.done)))
        for number, layer in enumerate(llama.model.layers, start=1)
    ]
    try:
        session.resume()
        session.result(30)
    finally:
        for handle in handles:
            handle.remove()
    done = dict(seen)
    assert done[LAYER + 1] <= 1, (seen, link.log)  # the wait for the frontier
    assert done[LAYER + 1] < done[LAYER + 2] < done[LAYER + 3], (seen, link.log)
