"""The front's own computing: in a turn, in pieces, behind everybody else, and without a trace on the device."""

import ctypes
import gc
import threading

import pytest
import torch
from tests.programs import parked, prefill

import djinn
from djinn.debugger import measures
from djinn.debugger.looking import Busy, Looker
from djinn.debugger.values import Refused
from djinn.program.device_lock import DeviceLock


@pytest.fixture
def looker(runtime):
    looker = Looker(runtime)
    yield looker
    looker.close()


def test_a_piece_has_the_turn(runtime, looker):
    """Nobody else computes meanwhile, and the lock is free behind it, also when the piece fails."""
    assert looker.piece(lambda: (runtime._device_lock.holder is looker, torch.is_grad_enabled())) == (True, False)
    assert not runtime._device_lock.locked
    with pytest.raises(ZeroDivisionError):
        looker.piece(lambda: 1 / 0)
    assert not runtime._device_lock.locked


def test_who_computes_comes_first(runtime, looker, llama, input_ids):
    """A piece is refused while a program computes, and while one that was resumed waits for its turn."""
    inside, go_on = threading.Event(), threading.Event()

    def program():
        inside.set()
        go_on.wait(20)

    session = runtime.open().start(program)
    assert inside.wait(20)
    assert looker.computing == session.number
    with pytest.raises(Busy):
        looker.piece(lambda: None)
    go_on.set()
    session.result(20)
    waiter = parked(runtime, 1, prefill, llama, input_ids)
    seen = []

    def resumes_meanwhile():
        waiter.resume()
        seen.append(waiter.doing)  # it waits for this piece
        return True

    assert looker.piece(resumes_meanwhile)
    assert seen == ["waiting for its turn"]
    assert waiter.wait(20) is djinn.Phase.FINISHED


def test_who_was_resumed_and_has_not_come_yet_comes_first(monkeypatch, runtime, looker, llama, input_ids):
    """The lock is free for another moment; a piece does not take it."""
    waiter = parked(runtime, 1, prefill, llama, input_ids)
    go_on, acquire = threading.Event(), DeviceLock.acquire

    def acquires_later(lock, turn):
        assert go_on.wait(20)
        acquire(lock, turn)

    monkeypatch.setattr(DeviceLock, "acquire", acquires_later)
    waiter.resume()
    assert not runtime._device_lock.locked
    with pytest.raises(Busy):
        looker.piece(lambda: None)
    go_on.set()
    assert waiter.wait(20) is djinn.Phase.FINISHED


def test_a_resume_waits_for_one_piece_at_most(monkeypatch, runtime, bench, llama, input_ids):
    """In the middle of a measurement a program is resumed: the next piece is refused, and the program has its turn."""
    monkeypatch.setattr(measures, "_PIECE_ELEMENTS", 64)
    go_on = threading.Event()

    def program():
        prefill(llama, input_ids)
        go_on.wait(20)  # it keeps the turn

    looked = parked(runtime, 2, prefill, llama, input_ids)
    other = parked(runtime, 2, program)
    pieces = []
    of_piece = measures._of_piece

    def counted(piece):
        pieces.append(other.phase)
        if len(pieces) == 2:
            other.resume()
        return of_piece(piece)

    monkeypatch.setattr(measures, "_of_piece", counted)
    bench.select(looked.number)
    with pytest.raises(Busy):
        bench.measure("hidden_states")
    assert pieces == [djinn.Phase.PAUSED] * 2
    go_on.set()
    assert other.wait(20) is djinn.Phase.FINISHED


def test_a_program_of_another_runtime_keeps_the_device(runtime, looker):
    """The lock is the device's, whoever's the runtime is."""
    runtime._device_lock.acquire(looker)
    try:
        assert looker.computing == 0
        with pytest.raises(Busy):
            looker.piece(lambda: None)
    finally:
        runtime._device_lock.release(looker)


def test_an_interrupt_leaves_the_lock_free(looker, runtime):
    """Ctrl-C that comes while a piece runs is raised when it has ended; the next piece is served."""
    main = threading.get_ident()

    def strikes():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(KeyboardInterrupt))
        return 1

    with pytest.raises(KeyboardInterrupt):
        looker.piece(strikes)
    assert not runtime._device_lock.locked
    assert looker.piece(lambda: 2) == 2


def tensors():
    """All tensors that are alive and that the garbage collector knows."""
    gc.collect()
    return [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]


def test_nothing_of_the_bench_stays_on_the_device(bench, started, does):
    """When tokens, lens and state have been looked at, and edits been made, no tensor more is alive."""
    started(2, visit=2)
    lines = ("edit zero -1", "tokens", "lens", "state", "memory", "sessions")
    for line in lines:
        does(line)
    before = set(map(id, tensors()))
    for line in lines:
        does(line)
    assert [tuple(one.shape) for one in tensors() if id(one) not in before] == []


def test_a_look_does_not_move_what_waits_on_the_device(bench, started, does):
    """In IO_WAIT without force the state stays where it is until a command asks for it."""
    session = started(2, visit=2)
    session.io_wait(force=False)
    for note in (bench.tokens().note, bench.lens().note):
        assert "would go to host memory" in note
    with pytest.raises(Refused, match="would go to host memory"):
        bench.measure("hidden_states")
    assert session.host_bytes == 0
    does("lens")
    assert session.host_bytes > 0
    assert not bench.lens().note
