"""Signals from outside: pause, cancel, timeouts, idle state that leaves or stays, and what a person can print."""

import contextvars
import threading
import time

import pytest
import torch
from tests.programs import equal, greedy, parked, prefill, spoil

import djinn
from djinn.memory import transfer

pytestmark = pytest.mark.usefixtures("without_climb")


def test_pause_stops_at_the_next_layer(runtime, llama, input_ids):
    """A program without a breakpoint is stopped in the middle, swapped out, and is bit-equal to its end."""
    expected = greedy(llama, input_ids, 40)
    session = runtime.open().start(greedy, llama, input_ids, 40)
    pauses = 0
    while session.wait(0.02) is djinn.Phase.RUNNING and pauses < 5:
        session.pause()
        if session.wait(30) is not djinn.Phase.PAUSED:
            break
        pauses += 1
        assert 1 <= session.layer <= runtime.depth
        session.io_wait()
        spoil(session.storage_sizes)
        session.resume()
    assert pauses > 0
    assert equal(session.result(30), expected)
    with pytest.raises(djinn.IllegalMove, match="finished cannot be paused"):
        session.pause()


def test_every_layer_of_a_call_can_be_a_breakpoint(runtime, llama, input_ids):
    """A session that parks after each layer in turn is bit-equal."""
    session = runtime.open(breakpoint=1).start(greedy, llama, input_ids, 2)
    for layer in range(1, runtime.depth + 1):
        assert session.wait(30) is djinn.Phase.PAUSED
        assert session.layer == layer
        session.io_wait()
        spoil(session.storage_sizes)
        if layer < runtime.depth:
            session.break_at(layer + 1)
        session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 2))


def test_a_breakpoint_is_set_while_nobody_computes(runtime, llama, input_ids):
    """Layers that are not there and sessions that have ended are refused by name."""
    session = parked(runtime, 2, prefill, llama, input_ids)
    with pytest.raises(ValueError, match="breakpoint 7 is not a layer of this model: 1 to 6"):
        session.break_at(7)
    session.resume()
    session.result(30)
    with pytest.raises(djinn.IllegalMove, match="finished"):
        session.break_at(3)


def test_cancel_unwinds_the_program(runtime, llama, input_ids):
    """A cancelled program runs its finally blocks and goes no further; result() says so; memory is given back."""
    seen = []

    def program(model, tokens):
        try:
            return prefill(model, tokens)
        finally:
            seen.append("finally")

    for swapped in (False, True):
        session = parked(runtime, 3, program, llama, input_ids)
        if swapped:
            session.io_wait()
        session.cancel()
        with pytest.raises(djinn.SessionCancelled):
            session.result(30)
        assert session.phase is djinn.Phase.FAILED
        assert runtime.arena.reserved_bytes == 0
        session.close()
    assert seen == ["finally", "finally"]
    with pytest.raises(djinn.IllegalMove, match="never started"):
        runtime.open().cancel()


def test_timeouts(runtime, llama, input_ids):
    """wait() gives the phase after its time, result() and close() raise, and nothing is lost by it."""
    go = threading.Event()

    def program(model, tokens):
        go.wait(30)
        return prefill(model, tokens)

    session = runtime.open(breakpoint=2).start(program, llama, input_ids)
    assert session.wait(0.01) is djinn.Phase.RUNNING
    with pytest.raises(TimeoutError, match=r"0\.01 seconds"):
        session.result(0.01)
    go.set()
    assert session.wait(30) is djinn.Phase.PAUSED
    with pytest.raises(djinn.IllegalMove, match="paused has no result"):
        session.result(30)
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))

    begun, stuck = threading.Event(), threading.Event()
    other = runtime.open().start(lambda: begun.set() or stuck.wait(30))
    assert begun.wait(30)
    with pytest.raises(TimeoutError, match="next layer"):
        other.close(timeout=0.01)
    stuck.set()
    other.close()


def test_result_of_a_session_that_parks_again_is_refused(runtime, llama, input_ids):
    """Who waits for the result is told when the session parks instead of ending."""
    session = parked(runtime, 2, prefill, llama, input_ids)
    session.break_at(4)
    session.resume()
    with pytest.raises(djinn.IllegalMove, match="paused has no result"):
        session.result(30)
    session.resume()
    session.result(30)


def test_idle_state_stays_until_it_is_wanted(runtime, llama, input_ids):
    """Without force nothing is copied, an early RESUME is free, and edits of it survive being swapped out."""
    expected = greedy(llama, input_ids, 2)
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait(force=False)
    assert session.phase is djinn.Phase.IO_WAIT
    assert session.host_bytes == 0
    assert session.device_bytes == sum(session.storage_sizes)
    session.resume()
    assert equal(session.result(30), expected)

    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    wanted = session.storage_sizes[-1] + 1
    session.io_wait(force=False)
    assert runtime.make_room(wanted) == sum(session.storage_sizes[-2:])
    assert session.host_bytes == sum(session.storage_sizes[-2:])
    spoil(session.storage_sizes[-2:])
    session.state["hidden_states"][:] *= 1  # state in IO_WAIT is the host's: reading it swaps out the rest
    assert session.device_bytes == 0
    session.resume()
    assert equal(session.result(30), expected)


def test_least_recently_parked_leaves_first(llama, input_ids):
    """A budget for idle state is kept by swapping out who has waited longest; frontiers leave last of all."""
    with djinn.Runtime(llama, host_memory_bytes=32 << 20, idle_device_bytes=0) as runtime:
        first = parked(runtime, 3, prefill, llama, input_ids)
        size = sum(first.storage_sizes)
        first.io_wait(force=False)
        assert first.device_bytes == 0
        second = parked(runtime, 3, prefill, llama, input_ids)
        frontier = sum(item.nbytes for item in second._residency.state.frontier)
        runtime._idle_device_bytes = size + frontier
        second.io_wait(force=False)
        third = parked(runtime, 3, prefill, llama, input_ids)
        third.io_wait(force=False)
        assert (second.device_bytes, third.device_bytes) == (frontier, size)
        for session in (third, first, second):
            session.resume()
            assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_a_resume_without_room_evicts_others(runtime, llama, input_ids, monkeypatch):
    """Device memory that a resume lacks is taken from sessions that wait."""
    idle = parked(runtime, 3, greedy, llama, input_ids, 2)
    idle.io_wait(force=False)
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    allocate = transfer._allocate

    def refuse(entries):
        if idle.device_bytes:
            raise torch.OutOfMemoryError("out of memory")
        allocate(entries)

    monkeypatch.setattr(transfer, "_allocate", refuse)
    session.resume()
    assert idle.device_bytes == 0
    monkeypatch.undo()
    idle.resume()
    for one in (session, idle):
        assert equal(one.result(30), greedy(llama, input_ids, 2))


def test_a_resume_without_room_does_not_evict_itself(runtime, llama, input_ids, monkeypatch):
    """A session that lost a part of its state keeps the rest while it asks for room, and loses nothing by it."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait(force=False)
    runtime.make_room(sum(session.storage_sizes[1:]))  # some of the frontier too: else RESUME would not ask for room
    stayed = session.device_bytes
    assert stayed == session.storage_sizes[0]

    def refuse(entries):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(transfer, "_allocate", refuse)
    with pytest.raises(djinn.DeviceMemoryFull):
        session.resume()
    assert session.device_bytes == stayed
    monkeypatch.undo()
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 2))


def test_status_is_a_table_a_person_can_read(runtime, llama, input_ids):
    """Each session is a row: phase, layer, tier, bytes, age; closed ones are not shown."""
    closed = parked(runtime, 1, prefill, llama, input_ids)
    closed.close()
    running = runtime.open()
    paused = parked(runtime, 2, prefill, llama, input_ids)
    waiting = parked(runtime, 3, prefill, llama, input_ids)
    waiting.io_wait()
    rows = runtime.status()
    assert [(row.phase.value, row.layer, row.tier) for row in rows] == [
        ("created", None, "-"),
        ("paused", 2, "device"),
        ("io_wait", 3, "host"),
    ]
    assert rows[1].device_bytes == sum(paused.storage_sizes)
    assert rows[2].host_bytes == sum(waiting.storage_sizes)
    assert all(0 <= row.age_seconds < 30 for row in rows)
    lines = str(rows).splitlines()
    assert lines[0].split() == ["session", "phase", "layer", "tier", "device", "host", "left", "age", "doing"]
    last = lines[0].index("doing")
    assert all(line[last - 2 : last] == "  " and line[last] != " " for line in lines[:-1])
    assert lines[-1] == "host memory: 0.0 MiB of 32.0 MiB in use"
    assert running.phase is djinn.Phase.CREATED


def test_the_view_shows_what_there_is_before_anything_is_copied(runtime, llama, input_ids):
    """Names, shapes, dtypes and layers are known without a copy; printing shows them; the view ends with the pause."""
    session = parked(runtime, 2, greedy, llama, input_ids, 1)
    session.io_wait(force=False)
    view = session.state
    entries = {entry.name: entry for entry in view.entries}
    assert entries["hidden_states"].shape == (2, 24, 64)
    assert entries["kv.2.keys"].layer == 2
    assert entries["hidden_states"].layer is None
    row = next(line for line in repr(view).splitlines() if line.startswith("kv.1.values"))
    assert row.split(maxsplit=2) == ["kv.1.values", "torch.float32", "[2, 2, 24, 16]  layer 1"]
    assert session.host_bytes == 0
    session.resume()
    with pytest.raises(djinn.IllegalMove, match="void"):
        view["hidden_states"]
    session.result(30)


NOTE = contextvars.ContextVar("note", default="none")


def test_surroundings_of_the_call_reach_the_program(runtime, llama, input_ids):
    """Context variables, autocast and default device are the caller's at the call, and stay after a pause."""

    def program(model, tokens):
        found = []
        for _ in range(2):
            found.append((NOTE.get(), torch.is_autocast_enabled("cpu"), torch.get_default_device().type))
            model(tokens, use_cache=False)
        return found

    NOTE.set("the caller's")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        session = parked(runtime, 2, program, llama, input_ids)
    NOTE.set("later")
    session.io_wait()
    session.resume()
    assert session.result(30) == [("the caller's", True, "meta")] * 2


def test_random_state_is_the_call_s(runtime, llama, input_ids):
    """Each of two sessions draws as if it were alone, and the caller's own numbers are not disturbed."""

    def program(model, tokens, seed):
        torch.manual_seed(seed)
        first = torch.rand(3)
        prefill(model, tokens)
        return torch.cat([first, torch.rand(3)])

    expected = [program(llama, input_ids, seed) for seed in (1, 2)]
    torch.manual_seed(5)
    own = torch.rand(6)
    torch.manual_seed(5)
    found = [torch.rand(3)]
    sessions = [parked(runtime, 2, program, llama, input_ids, seed) for seed in (1, 2)]
    found.append(torch.rand(3))
    for session in sessions:
        session.resume()
    assert equal([session.result(30) for session in sessions], expected)
    assert torch.equal(torch.cat(found), own)
    torch.manual_seed(5)
    inherited = runtime.open().start(torch.rand, 6)
    assert torch.equal(inherited.result(30), own)


def test_sixty_four_sessions(llama, input_ids):
    """64 sessions at different layers are paused at once and resumed out of order, each bit-equal."""
    with djinn.Runtime(llama, host_memory_bytes=64 << 20) as runtime:
        inputs = [(input_ids + shift) % 128 for shift in range(64)]
        sessions = [parked(runtime, 1 + index % 6, greedy, llama, ids, 1) for index, ids in enumerate(inputs)]
        for session in sessions:
            session.io_wait()
        assert {row.tier for row in runtime.status()} == {"host"}
        for index in sorted(range(64), key=lambda index: index * 37 % 64):
            sessions[index].resume()
        for session, ids in zip(sessions, inputs, strict=True):
            assert equal(session.result(30), greedy(llama, ids, 1))
            session.close()


def test_signals_from_many_threads(runtime, llama, input_ids):
    """Of many threads that signal the same session at once each signal is served by one; the others are refused."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    refused = []

    def signal(what):
        try:
            what()
        except djinn.IllegalMove as error:
            refused.append(error)

    for what in (session.io_wait, session.resume):
        threads = [threading.Thread(target=signal, args=(what,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(refused) == 14
    assert equal(session.result(30), greedy(llama, input_ids, 2))


def test_close_while_the_history_is_on_its_way(runtime, llama, input_ids, monkeypatch):
    """Closing a session whose restore is still running waits for it and gives everything back."""
    bring_back = transfer.TransferEngine._bring_back

    def late(engine, restore):
        time.sleep(0.2)
        bring_back(engine, restore)

    monkeypatch.setattr(transfer.TransferEngine, "_bring_back", late)
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    session.resume()
    session.close(30)
    assert runtime.arena.reserved_bytes == 0


def test_who_waits_for_all_state_notices_that_more_of_it_has_left(runtime, llama, input_ids):
    """The frontier leaves behind the rest, and what is waited for is another copy then."""
    session = parked(runtime, 3, greedy, llama, input_ids, 1)
    session.io_wait(keep="frontier")
    waiting = threading.Thread(target=session.wait_resident, daemon=True)
    waiting.start()
    time.sleep(0.05)
    assert runtime.make_room(1 << 30) > 0
    session.resume()
    session.result(30)
    waiting.join(10)
    assert not waiting.is_alive()
