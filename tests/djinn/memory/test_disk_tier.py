"""The disk below the host arena: more sessions than host memory holds, each exact, whatever the disk does."""

import copy
import errno
import gc
import os
import signal
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.interrupt import Interrupt
from tests.programs import equal, greedy, without_climb
from torch import nn

import djinn
from djinn.durable import session_file
from djinn.memory import spill_file, transfer

HERE = Path(__file__).parents[3]
DEPTH, STOP = 8, 6
X = torch.linspace(-1, 1, 4096).reshape(512, 8)
STATE_BYTES = 8 * X.nbytes  # at the breakpoint: hidden states, the input of the layer, and what is kept
PAUSED, IO_WAIT, CLOSED = djinn.Phase.PAUSED, djinn.Phase.IO_WAIT, djinn.Phase.CLOSED


@pytest.fixture(autouse=True)
def _without_climb(monkeypatch):
    without_climb(monkeypatch)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(DEPTH)]).eval()


def program(model, x, seen=None):
    kept = []
    try:
        for layer in model:
            x = layer(x * 1)
            kept.append(x * 2)
        return torch.stack([x, *kept])
    finally:
        if seen is not None:
            seen.append(kept[0].clone())


def runtime_of(model, folder, *, fit=2, **options):
    """A runtime whose arena holds the state of ``fit`` sessions."""
    return djinn.Runtime(
        model, host_memory_bytes=fit * STATE_BYTES + 512, layers=list(model), disk_folder=folder, **options
    )


@pytest.fixture
def runtime(model, tmp_path):
    with runtime_of(model, tmp_path) as runtime:
        yield runtime
        for session in runtime.sessions:
            session.close(10)
        runtime.disk.check_integrity()
        assert (runtime.disk.used_bytes, runtime.arena.reserved_bytes) == (0, 0)
    assert os.listdir(tmp_path) == []


def parked(runtime, model, shift=1, *more, **options):
    session = runtime.open(breakpoint=STOP, **options).start(program, model, X * shift, *more)
    assert session.wait(10) is PAUSED
    assert sum(session.storage_sizes) == STATE_BYTES
    return session


def waiting(runtime, model, count):
    """Sessions in IO_WAIT; the last two that were swapped out are in host memory, and all others on the disk."""
    sessions = [parked(runtime, model, shift) for shift in range(1, count + 1)]
    for session in sessions:
        session.io_wait()
    return sessions


def on_disk(sessions):
    assert all({session.disk_bytes, session.host_bytes} == {0, STATE_BYTES} for session in sessions)
    return [session.number for session in sessions if session.disk_bytes]


def ends(session, model, shift=1):
    session.resume()
    return torch.equal(session.result(10), program(model, X * shift))


def raising(error):
    def refuse(*args, **kwargs):
        raise error

    return refuse


FULL = OSError(errno.ENOSPC, "No space left on device")


# -- more sessions than the arena holds --------------------------------------------------------------------------------


def test_six_sessions_in_an_arena_for_two(runtime, model):
    """The least recently used are on the disk; each result is exact, and no file is left behind."""
    sessions = waiting(runtime, model, 6)
    assert on_disk(sessions) == [1, 2, 3, 4]
    runtime.disk.check_integrity()
    for shift, session in enumerate(sessions, start=1):
        assert session.device_bytes == 0
        assert ends(session, model, shift)


def test_generation_with_a_cache(llama, input_ids, tmp_path):
    """In decode steps of a model with KV; each is edited, and the file is safetensors with right digests."""
    steps = 3
    with djinn.Runtime(llama, host_memory_bytes=400 << 10, disk_folder=tmp_path) as runtime:
        sessions = [runtime.open(breakpoint=3, visit=2).start(greedy, llama, input_ids, steps) for _ in range(6)]
        for session in sessions:
            session.wait(30)
            session.io_wait()
        assert sum(session.disk_bytes > 0 for session in sessions) >= 2
        (file, *_) = runtime.disk.folder.glob("*.djinn")
        document, tensors = session_file.read(file)
        assert document["format"] == "spilled"
        loaded = load_file(file)
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
        for session in sessions:
            session.resume()
            assert equal(session.result(30), greedy(llama, input_ids, steps))


def test_who_was_used_last_stays(runtime, model):
    """Reading state is use; so is being read back."""
    sessions = waiting(runtime, model, 2)
    sessions[0].state["hidden_states"].sum()
    sessions += waiting(runtime, model, 1)
    assert on_disk(sessions) == [2]
    sessions[1].state["hidden_states"].sum()
    assert on_disk(sessions) == [1]


def test_spilled_sessions_are_edited(runtime, model):
    """They are read back for that; a tensor that was handed out before is still the session's."""
    sessions = waiting(runtime, model, 4)
    hidden = [session.state["hidden_states"] for session in sessions]
    assert on_disk(sessions) == [1, 2]
    for _ in range(2):
        for tensor in hidden:
            tensor.add_(1)
    plain = [runtime.open(breakpoint=STOP).start(program, model, X * shift) for shift in range(1, 5)]
    for session, expected in zip(sessions, plain, strict=True):
        expected.wait(10)
        expected.state["hidden_states"] += 1
        expected.state["hidden_states"] += 1
        for one in (session, expected):
            one.resume()
        assert torch.equal(session.result(10), expected.result(10))


def test_what_has_no_values_is_asked_without_the_disk(runtime, model, monkeypatch):
    """Names, shapes and the device; the file is not touched."""
    session = waiting(runtime, model, 3)[0]
    monkeypatch.setattr(spill_file.SpillFile, "read", raising(AssertionError("read")))
    hidden = session.state["hidden_states"]
    assert (hidden.shape, hidden.device.type, next(iter(session.state))) == (X.shape, "cpu", "hidden_states")
    assert on_disk([session]) == [1]


def test_an_array_keeps_its_session_in_host_memory(runtime, model):
    """What is written through it is found, however many others need the room."""
    first, second = waiting(runtime, model, 2)
    array = first.state["hidden_states"].numpy()
    others = waiting(runtime, model, 2)
    assert on_disk([first, second, *others]) == [2, 3]
    array[:] = 0
    del array
    others += waiting(runtime, model, 1)
    assert on_disk([first]) == [1]
    assert not first.state["hidden_states"].any()


def test_two_sessions_in_one_operator(runtime, model):
    """Both are read back for it."""
    sessions = waiting(runtime, model, 4)
    first, second = (session.state["hidden_states"] for session in sessions[:2])
    assert not torch.equal(first, second)
    assert on_disk(sessions) == [3, 4]


def test_two_sessions_in_one_operator_where_one_fits(model, tmp_path):
    """An error that says what to do, and no endless exchange."""
    with runtime_of(model, tmp_path, fit=1) as runtime:
        sessions = waiting(runtime, model, 2)
        first, second = (session.state["hidden_states"] for session in sessions)
        with pytest.raises(djinn.HostMemoryFull, match=r"beside the others that are used at once: clone\(\)"):
            torch.equal(first, second)
        assert not torch.equal(first.clone(), second)
        for shift, session in enumerate(sessions, start=1):
            assert ends(session, model, shift)


def test_a_kept_frontier(runtime, model):
    """The history is on the disk; the frontier leaves the device later, and all of it comes back."""
    sessions = [parked(runtime, model, shift) for shift in range(1, 5)]
    for session in sessions:
        session.io_wait(keep="frontier")
    first = sessions[0]
    kept = first.device_bytes
    assert kept + first.disk_bytes == STATE_BYTES
    assert runtime.make_room(1 << 30) == 4 * kept
    assert all(session.device_bytes == 0 for session in sessions)
    assert first.host_bytes + first.disk_bytes == STATE_BYTES
    for shift, session in enumerate(sessions, start=1):
        assert ends(session, model, shift)


def test_what_could_never_come_back_stays_on_the_device(model, tmp_path):
    """A session whose parts fit one after another and not all at once; nothing of it is lost."""
    with (
        runtime_of(model, tmp_path, fit=0, host_memory_bytes=7 * X.nbytes)
        if False
        else djinn.Runtime(
            model, host_memory_bytes=STATE_BYTES - 512, layers=list(model), disk_folder=tmp_path
        ) as runtime
    ):
        session = parked(runtime, model)
        session.io_wait(keep="frontier")
        other = parked(runtime, model, 2)
        other.io_wait(keep="frontier")
        assert session.disk_bytes
        assert runtime.make_room(1 << 30) == 0
        assert ends(session, model)
        assert ends(other, model, 2)


def test_idle_state_goes_through_host_memory_to_the_disk(model, tmp_path):
    """Sessions that wait on the device are evicted, and others spilled for them."""
    with runtime_of(model, tmp_path, idle_device_bytes=0) as runtime:
        sessions = [parked(runtime, model, shift) for shift in range(1, 6)]
        for session in sessions:
            session.io_wait(force=False)
        assert [session.device_bytes for session in sessions] == [0] * 5
        assert on_disk(sessions) == [1, 2, 3]
        for shift, session in enumerate(sessions, start=1):
            assert ends(session, model, shift)


def test_a_spilled_session_goes_on_in_steps(runtime, model):
    """Each step swaps it out again."""
    session, *others = waiting(runtime, model, 3)
    for _ in range(2):
        assert session.step(10) is PAUSED
        session.io_wait()
        for other in others:
            other.state["hidden_states"].sum()
        assert session.host_bytes < session.disk_bytes
    assert ends(session, model)


def test_spilled_sessions_are_saved(model, tmp_path):
    """Straight from the disk, though arena and disk are full, and the files lead to the same results."""
    (tmp_path / "saved").mkdir()
    with runtime_of(model, tmp_path, disk_bytes=3 * STATE_BYTES) as runtime:
        sessions = [parked(runtime, model, shift, durable=True) for shift in range(1, 5)]
        for session in sessions:
            session.io_wait()
        with pytest.raises(djinn.HostMemoryFull):
            parked(runtime, model).io_wait()
        assert on_disk(sessions) == [1, 2]
        told = runtime.save_all(tmp_path / "saved")
        assert [one.number for one in told if one.path] == [1, 2, 3, 4]
        assert on_disk(sessions) == [1, 2]
        for shift, session in enumerate(sessions, start=1):
            session.close()
            with runtime.restore(tmp_path / "saved" / f"{shift}.djinn", program, model, X * shift) as restored:
                assert ends(restored, model, shift)


def test_status(runtime, model, tmp_path):
    """Bytes for each session and in all, and the room that is left; without a disk nothing is said of one."""
    sessions = waiting(runtime, model, 3)
    table = runtime.status()
    assert [row.disk_bytes for row in table] == [STATE_BYTES, 0, 0]
    assert [row.tier for row in table] == ["disk", "host", "host"]
    (file,) = runtime.disk.folder.glob("*.djinn")
    assert (table.disk_folder, table.disk_bytes) == (runtime.disk.folder, file.stat().st_size)
    assert 0 < table.disk_free_bytes <= os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize + (64 << 20)
    assert "disk" in str(table).splitlines()[0].split()
    assert f"in {runtime.disk.folder}, which has room for " in str(table)
    assert repr(sessions[0]) == "<Session 1: io_wait after layer 6, 0.1 MiB on the disk>"
    assert "of host memory in use, 0.1 MiB on the disk>" in repr(runtime)


def test_without_a_disk_nothing_is_said_of_one(model):
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as runtime:
        assert runtime.disk is None
        assert "disk" not in str(runtime.status()) + repr(runtime)
        assert runtime.status().disk_folder is None


def test_wrong_arguments(model, tmp_path):
    """They are refused before anything is taken, and the message says what to pass."""
    for error, words, options in (
        (TypeError, "is no path", {"disk_folder": 3}),
        (NotADirectoryError, "make it first", {"disk_folder": tmp_path / "absent"}),
        (ValueError, "without disk_folder", {"disk_bytes": 1 << 20}),
        (ValueError, "at least 1", {"disk_folder": tmp_path, "disk_bytes": 0}),
        (TypeError, "whole number", {"disk_folder": tmp_path, "disk_bytes": 1e9}),
    ):
        with pytest.raises(error, match=words):
            djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model), **options)
    assert os.listdir(tmp_path) == []


# -- a disk that is full or fails --------------------------------------------------------------------------------------


def test_a_limit_that_is_reached(model, tmp_path):
    """The session that asks stays PAUSED, the others are where they were; when one is closed there is room."""
    with runtime_of(model, tmp_path, disk_bytes=int(2.5 * STATE_BYTES)) as runtime:
        sessions = waiting(runtime, model, 4)
        assert runtime.status().disk_free_bytes < STATE_BYTES
        late = parked(runtime, model, 5)
        with pytest.raises(
            djinn.HostMemoryFull, match=r"arena of .* no room .* of session 3 cannot go to .*disk_bytes="
        ):
            late.io_wait()
        assert (late.phase, late.device_bytes) == (PAUSED, STATE_BYTES)
        assert on_disk(sessions) == [1, 2]
        with pytest.raises(djinn.HostMemoryFull, match="disk_bytes="):
            sessions[0].resume()
        assert (sessions[0].phase, on_disk(sessions)) == (IO_WAIT, [1, 2])
        sessions[1].close(10)  # which needs no room in the arena
        late.io_wait()
        for shift, session in ((4, sessions[3]), (1, sessions[0]), (3, sessions[2]), (5, late)):
            assert ends(session, model, shift)


@pytest.mark.parametrize("call", ["pwrite", "open"])
def test_a_write_that_fails(runtime, model, monkeypatch, call):
    """What the system says is told, nothing is lost, and the next attempt works."""
    sessions = waiting(runtime, model, 2)
    late = parked(runtime, model, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, raising(FULL))
        with pytest.raises(djinn.HostMemoryFull, match=r"session 1 cannot go to .*No space left on device"):
            late.io_wait()
    assert (late.phase, on_disk(sessions), runtime.disk.used_bytes) == (PAUSED, [], 0)
    runtime.disk.check_integrity()
    late.io_wait()
    for shift, session in enumerate([*sessions, late], start=1):
        assert ends(session, model, shift)


def test_making_room_on_the_device_with_a_full_disk(runtime, model, monkeypatch):
    """As much as possible is freed."""
    sessions = [parked(runtime, model, shift) for shift in (1, 2, 3)]
    for session in sessions:
        session.io_wait(force=False)
    monkeypatch.setattr(os, "pwrite", raising(FULL))
    assert runtime.make_room(1 << 30) == 2 * STATE_BYTES
    assert [session.device_bytes for session in sessions] == [0, 0, STATE_BYTES]


def alter(session):
    """Alter the last byte of its state on the disk; a function that puts it back."""
    (spill,) = session._residency.spilled
    path, part = spill.file.path, spill.file.parts[-1]
    whole = path.read_bytes()
    place = part.offset + part.nbytes - 1
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    return lambda: path.write_bytes(whole)


USES = {
    "resume": lambda session, folder: session.resume(),
    "step": lambda session, folder: session.step(10),
    "read": lambda session, folder: session.state["hidden_states"].sum(),
    "edit": lambda session, folder: session.state["hidden_states"].zero_(),
    "save": lambda session, folder: session.save(folder / "saved.djinn"),
}


@pytest.mark.parametrize("how", ["altered", "gone"])
@pytest.mark.parametrize("use", USES)
def test_a_read_that_fails(model, tmp_path, monkeypatch, use, how):
    """The error names the file and the session, which stays where it is; when the disk is well again it goes on."""
    folder = tmp_path / "tier"
    folder.mkdir()
    with runtime_of(model, folder) as runtime:
        first, second, third = (parked(runtime, model, shift, durable=True) for shift in (1, 2, 3))
        for session in (first, second, third):
            session.io_wait()
        with monkeypatch.context() as patch:
            if how == "altered":
                repair, said = alter(first), "altered: state/7/"
            else:
                repair, said = (lambda: None), "Input/output error"
                patch.setattr(os, "preadv", raising(OSError(errno.EIO, "Input/output error")))
            errors = []
            for _ in range(2):
                with pytest.raises(
                    djinn.DiskFailed, match=rf"session 1 in .*/1\.djinn could not be read: .*{said}"
                ) as kept:
                    USES[use](first, tmp_path)
                errors.append(kept)
                assert (first.phase, first.disk_bytes) == (IO_WAIT, STATE_BYTES)
            repair()
        assert first.step(10) is PAUSED
        assert first.left_behind == ()  # though the errors are kept
        for shift, session in enumerate((first, second, third), start=1):
            assert ends(session, model, shift)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_program_that_ends_has_its_state_back(runtime, model, how):
    """From the disk, without room in the arena."""
    seen = []
    first = parked(runtime, model, 1, seen)
    first.io_wait()
    others = waiting(runtime, model, 2)
    arrays = [other.state["hidden_states"].numpy() for other in others]  # they cannot be spilled
    assert on_disk([first, *others]) == [1]
    if how == "cancel":
        first.cancel()
        with pytest.raises(djinn.SessionCancelled):
            first.result(10)
    first.close(10)
    assert torch.equal(seen[0], model[0](X) * 2)
    assert runtime.disk.used_bytes == 0
    del arrays


def test_a_program_that_ends_while_the_disk_fails(runtime, model, monkeypatch):
    """It finds zeros, and nobody's bytes; the error says so, and an adopted cache is lost by name."""
    monkeypatch.setattr(transfer, "_ATTEMPT_SECONDS", 0)
    seen, cache = [], [torch.ones(3)]

    def caching(*args):
        cache.append(model[0](X) * 1)
        return program(*args)

    first = runtime.open(breakpoint=STOP, adopt=[cache]).start(caching, model, X, seen)
    first.wait(10)
    first.io_wait()
    others = waiting(runtime, model, 2)
    assert first.disk_bytes
    alter(first)
    first.cancel()
    with pytest.raises(djinn.DiskFailed, match="session 1 .* altered"):
        first.result(10)
    assert torch.equal(seen[0], torch.zeros(512, 8))
    assert runtime.disk.used_bytes == 0
    first.close(10)
    for shift, other in enumerate(others, start=1):
        assert ends(other, model, shift)


def test_the_disk_fails_for_a_moment_at_the_end(runtime, model, monkeypatch):
    """It is tried again, and the program finds its state."""
    monkeypatch.setattr(transfer, "_ATTEMPT_SECONDS", 0)
    seen, failures = [], [1, 2, 3]
    first = parked(runtime, model, 1, seen)
    first.io_wait()
    waiting(runtime, model, 2)
    preadv = os.preadv

    def failing(*call):
        if failures:
            failures.pop()
            raise OSError(errno.EIO, "Input/output error")
        return preadv(*call)

    monkeypatch.setattr(os, "preadv", failing)
    first.close(10)
    assert torch.equal(seen[0], model[0](X) * 2)


# -- others meanwhile --------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """A disk that works when it is let go; ``asked`` tells that it has work."""

    class Disk:
        def __init__(self):
            self.asked, self.free = threading.Event(), threading.Event()
            for name in ("pwrite", "preadv"):
                monkeypatch.setattr(os, name, self.slow(getattr(os, name)))

        def slow(self, call):
            def transfer(*args):
                self.asked.set()
                assert self.free.wait(30)
                return call(*args)

            return transfer

    disk = Disk()
    yield disk
    disk.free.set()


SIGNALS = {
    "resume": lambda session: session.resume(),
    "step": lambda session: session.step(10),
    "edit": lambda session: session.state["hidden_states"].zero_(),
    "array": lambda session: kept.append(session.state["hidden_states"].numpy()),
    "cancel": lambda session: session.cancel(),
    "close": lambda session: session.close(10),
}
kept = []


@pytest.mark.parametrize("name", SIGNALS)
def test_a_slow_disk_holds_nobody_up(runtime, model, disk, name):
    """A session that is being spilled takes every signal at once, others too; then it is not spilled."""
    first, second = waiting(runtime, model, 2)
    late, other = parked(runtime, model, 3), parked(runtime, model, 4)
    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(late.io_wait)
        assert disk.asked.wait(10)
        SIGNALS[name](first)
        assert second.state["hidden_states"].shape == X.shape
        other.resume()
        other.result(10)
        assert not swapping.done()
        disk.free.set()
        swapping.result(10)
    assert first.disk_bytes == 0
    assert late.phase is IO_WAIT
    runtime.disk.check_integrity()
    if name == "edit":
        assert not first.state["hidden_states"].any()
    kept.clear()
    for shift, session in ((2, second), (3, late)):
        assert ends(session, model, shift)


def test_a_session_that_parks_again_while_it_is_spilled(runtime, model, disk, monkeypatch):
    """The disk tier's thread holds none of its storages, so that all of its state can leave the device again."""
    monkeypatch.undo()  # who else holds what is what this is about; the disk is slow no more
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", disk.slow(os.pwrite))
        first, second, late = (parked(runtime, model, shift) for shift in (1, 2, 3))
        first.io_wait()
        second.io_wait()
        with ThreadPoolExecutor(1) as pool:
            swapping = pool.submit(late.io_wait)
            assert disk.asked.wait(10)
            first.step(10)
            assert first.left_behind == ()
            disk.free.set()
            swapping.result(10)
    first.io_wait()
    assert first.left_behind == ()
    assert (first.device_bytes, late.phase) == (0, IO_WAIT)


@pytest.mark.parametrize("name", ["cancel", "close"])
def test_a_session_that_ends_while_it_is_read_back(runtime, model, disk, name):
    """Whoever wanted to resume it is told, and its file goes."""
    disk.free.set()
    sessions = waiting(runtime, model, 3)
    disk.free.clear()
    disk.asked.clear()
    with ThreadPoolExecutor(2) as pool:
        resuming = pool.submit(sessions[0].resume)
        assert disk.asked.wait(10)
        sessions[1].resume()
        assert sessions[1].result(10) is not None
        sessions[0].cancel()
        ending = pool.submit(SIGNALS[name], sessions[0])
        disk.free.set()
        ending.result(10)
        with pytest.raises(djinn.IllegalMove):
            resuming.result(10)
        sessions[0].close(10)


def test_a_session_that_steps_and_waits_while_it_is_spilled(model, tmp_path, disk):
    """What was written is what was there before the step: it is dropped, though nobody edited anything."""
    with runtime_of(model, tmp_path, fit=4) as runtime:
        first, _, other, last = waiting(runtime, model, 4)
        late = parked(runtime, model, 5)
        with ThreadPoolExecutor(1) as pool:
            swapping = pool.submit(late.io_wait)
            assert disk.asked.wait(10)
            other.close(10)
            last.close(10)  # for what is larger by one layer
            assert first.step(10) is PAUSED
            first.io_wait()
            assert first.host_bytes > STATE_BYTES
            disk.free.set()
            swapping.result(10)
        assert (first.disk_bytes, first.layer) == (0, STOP + 1)
        assert ends(first, model)


def test_a_session_that_ends_before_it_is_read_back(runtime, model, monkeypatch):
    """Its file is gone by then: whoever wanted to resume it is told that it has ended, and of no disk."""
    first = waiting(runtime, model, 3)[0]
    read = spill_file.SpillFile.read

    def late(file, targets):
        first.close(10)
        return read(file, targets)

    monkeypatch.setattr(spill_file.SpillFile, "read", late)
    with pytest.raises(djinn.IllegalMove, match="this one is closed"):
        first.resume()


def test_an_edit_while_a_spilled_session_is_saved(model, tmp_path, monkeypatch):
    """The file has the state of one moment: that of the copy, edit included."""
    (tmp_path / "saved").mkdir()
    with runtime_of(model, tmp_path) as runtime:
        first, *_ = (parked(runtime, model, shift, durable=True) for shift in (1, 2, 3))
        for session in runtime.sessions:
            session.io_wait()
        copies_from_disk = type(first._residency).copies_from_disk

        def edited(residency, spilled):
            copies = copies_from_disk(residency, spilled)
            first.state["hidden_states"].zero_()
            return copies

        monkeypatch.setattr(type(first._residency), "copies_from_disk", edited)
        first.save(tmp_path / "saved" / "one.djinn")
        first.close()
        with runtime.restore(tmp_path / "saved" / "one.djinn", program, model, X) as restored:
            assert not restored.state["hidden_states"].any()


def test_a_spilled_session_is_read_back_while_it_is_saved(model, tmp_path, monkeypatch):
    """Its file has gone before the save has opened it: the state is in host memory by then."""
    (tmp_path / "saved").mkdir()
    with runtime_of(model, tmp_path) as runtime:
        first, *_ = (parked(runtime, model, shift, durable=True) for shift in (1, 2, 3))
        for session in runtime.sessions:
            session.io_wait()
        copies_from_disk = type(first._residency).copies_from_disk

        def late(residency, spilled):
            first.state["hidden_states"].sum()
            return copies_from_disk(residency, spilled)

        monkeypatch.setattr(type(first._residency), "copies_from_disk", late)
        first.save(tmp_path / "saved" / "one.djinn")
        first.close()
        with runtime.restore(tmp_path / "saved" / "one.djinn", program, model, X) as restored:
            assert ends(restored, model)


def test_room_that_is_on_its_way(model, tmp_path, monkeypatch):
    """A session that goes on leaves host memory soon: who wants its room waits for that."""
    free, bring_back = threading.Event(), transfer.TransferEngine._bring_back

    def late(engine, restore):
        assert free.wait(10)
        bring_back(engine, restore)

    monkeypatch.setattr(transfer.TransferEngine, "_bring_back", late)
    with runtime_of(model, tmp_path, fit=1) as runtime:
        (first,) = waiting(runtime, model, 1)
        second = parked(runtime, model, 2)
        first.resume()
        assert first.host_bytes
        threading.Timer(0.1, free.set).start()
        second.io_wait()
        assert (second.host_bytes, second.disk_bytes) == (STATE_BYTES, 0)
        assert torch.equal(first.result(10), program(model, X))
        assert ends(second, model, 2)


def test_a_step_whose_time_is_over(runtime, model, disk):
    """Its timeout bounds the read; the session is where it was, and goes on later."""
    disk.free.set()
    session = waiting(runtime, model, 3)[0]
    disk.free.clear()
    with pytest.raises(TimeoutError, match="session 1 is still on the disk"):
        session.step(0.05)
    assert session.phase is IO_WAIT
    with pytest.raises(TimeoutError, match=f"{STATE_BYTES} bytes of its state are still to be read from the disk"):
        session.close(0.05)
    disk.free.set()
    session.close(10)


def test_who_waits_for_all_state_waits_for_the_disk(runtime, model):
    """Through a spill and back, until it has been resumed."""
    first, second = waiting(runtime, model, 2)
    with ThreadPoolExecutor(1) as pool:
        resident = pool.submit(first.wait_resident, 20)
        third = parked(runtime, model, 3)
        third.io_wait()
        assert on_disk([first]) == [1]
        assert not first.wait_resident(0.01)
        first.state["hidden_states"].sum()
        assert not first.wait_resident(0.01)
        assert not resident.done()
        assert ends(first, model)
        assert resident.result(10)
    second.close()


def test_many_threads(runtime, model):
    """Each leads its sessions through random signals, in an arena for two."""

    @torch.no_grad()
    def leads(seed):
        chance = np.random.default_rng(seed)
        for number in range(4):
            shift = 1 + (seed + number) % 5
            session = parked(runtime, model, shift)
            amount = 0
            while chance.random() < 0.8:
                if session.phase is PAUSED:
                    session.io_wait(force=bool(chance.random() < 0.7))
                elif chance.random() < 0.5:
                    session.state["hidden_states"] += 1
                    amount += 1
                else:
                    runtime.make_room(int(chance.integers(1, 1 << 20)))
            hidden = session.state["hidden_states"].clone()
            expected = program(nn.Sequential(*model[:STOP]), X * shift)[0]
            for _ in range(amount):
                expected = expected + 1
            assert torch.equal(hidden, expected)
            if chance.random() < 0.7:
                session.resume()
                session.result(10)
            session.close(10)
        return True

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(leads, range(5)))


# -- interrupts --------------------------------------------------------------------------------------------------------

INTERRUPTED = {
    "io_wait": lambda first, second: second.io_wait(),
    "resume": lambda first, second: first.resume(),
    "edit": lambda first, second: first.state["hidden_states"].mul_(1),
    "close": lambda first, second: first.close(10),
}


@pytest.mark.parametrize("again", [0, 3])
@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupt_at_any_line(model, tmp_path, name, again):
    """The sessions are as they were, or it is done; a retry, a result and a close work, and no file is left.

    Every second line is enough: ``test_interrupts`` has each of those that need no disk.
    """
    small, rows = model[:2], X[:8]  # its state is three tensors: a pause takes milliseconds
    line, raised = 0, 1
    with djinn.Runtime(small, host_memory_bytes=3 * 512, layers=list(small), disk_folder=tmp_path) as runtime:
        while raised:
            line += 2 + again
            first, second = (runtime.open(breakpoint=1).start(program, small, rows * shift) for shift in (1, 2))
            for session in (first, second):
                session.wait(10)
                if (session, name) != (second, "io_wait"):
                    session.io_wait()
            assert name == "io_wait" or first.disk_bytes
            with Interrupt(line, again) as interrupt:
                INTERRUPTED[name](first, second)
            raised = interrupt.raised
            for shift, session in ((1, first), (2, second)):
                if session is second or name != "close":
                    if session.phase in (PAUSED, IO_WAIT):
                        session.resume()
                    assert torch.equal(session.result(10), program(small, rows * shift))
                session.close(10)
                assert session.phase is CLOSED
            runtime.disk.check_integrity()
            assert (runtime.disk.used_bytes, runtime.arena.reserved_bytes) == (0, 0)
    assert line > 20


@pytest.mark.parametrize("again", [0, 3])
def test_making_and_closing_a_runtime_can_be_interrupted(model, tmp_path, again):
    """The folder is gone in the end, with the runtime or by a second close."""
    line, raised = 0, 1
    while raised:
        line += 11 + again  # of the lines: ``test_interrupts`` and ``test_holdings`` have all of a runtime
        runtime = None
        with Interrupt(line, again) as interrupt:
            runtime = runtime_of(model, tmp_path)
            runtime.close(10)
        raised = interrupt.raised
        if runtime is not None:
            runtime.close(10)
        assert os.listdir(tmp_path) == []
    assert line > 100


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_lost_runtime(model, tmp_path):
    """Its programs are unwound with their state, and its folder goes."""
    seen = []
    runtime = runtime_of(model, tmp_path)
    sessions = [parked(runtime, model, shift, seen) for shift in (1, 2, 3)]
    for session in sessions:
        session.io_wait()
    assert on_disk(sessions) == [1]
    del runtime, sessions, session
    for _ in range(1000):
        gc.collect()
        if not os.listdir(tmp_path):
            break
        threading.Event().wait(0.01)
    assert os.listdir(tmp_path) == []
    assert len(seen) == 3
    assert all(any(torch.equal(one, model[0](X * shift) * 2) for one in seen) for shift in (1, 2, 3))


SCRIPT = f"""
    import os, sys
    sys.path[:0] = [{str(HERE)!r}, {str(HERE / "src")!r}]
    import torch
    from torch import nn
    from tests.djinn.memory.test_disk_tier import program, runtime_of, waiting
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(8)]).eval()
    runtime = runtime_of(model, PARENT)
    sessions = waiting(runtime, model, 4)
    assert sum(session.disk_bytes > 0 for session in sessions) == 2
"""


def run(interpreters, parent, end):
    return interpreters.run(textwrap.dedent(SCRIPT).replace("PARENT", repr(str(parent))) + textwrap.dedent(end))


def test_a_process_is_killed(interpreters, model, tmp_path):
    """The next runtime with this folder removes what was left, and no other's."""
    with runtime_of(model, tmp_path) as living:
        ended = run(interpreters, tmp_path, "os.kill(os.getpid(), 9)")
        assert ended.returncode == -signal.SIGKILL
        (left,) = set(tmp_path.iterdir()) - {living.disk.folder}
        assert len(list(left.glob("*.djinn"))) == 2
        with runtime_of(copy.deepcopy(model), tmp_path) as runtime:
            assert set(tmp_path.iterdir()) == {living.disk.folder, runtime.disk.folder}


def test_a_fork_and_the_interpreter_end(interpreters, tmp_path):
    """The fork removes nothing, and a session goes on. The parent ends with its own exit code, and nothing is left."""
    end = """
    child = os.fork()
    if child == 0:
        with runtime:
            pass
        del sessions, runtime
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    runtime.disk.check_integrity()
    sessions[0].resume()
    sessions[0].result(10)
    assert runtime.disk.used_bytes
    sys.exit(7)
    """
    ended = run(interpreters, tmp_path, end)
    assert (ended.returncode, ended.stderr) == (7, "")
    assert os.listdir(tmp_path) == []
