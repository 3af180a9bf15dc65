"""The end of a ``with`` block: what it is around is closed, and the block's own error comes through."""

import threading

import pytest
import torch
from tests.programs import parked, prefill

import djinn

pytestmark = pytest.mark.usefixtures("without_climb")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_session_is_closed_at_the_end_of_its_block(runtime, llama, input_ids, swapped):
    """From any phase; nothing of it stays in host memory, and the model computes as before."""
    want = prefill(llama, input_ids)
    with runtime.open(breakpoint=3) as session:
        session.start(prefill, llama, input_ids).wait(30)
        if swapped:
            session.io_wait()
    assert session.phase is djinn.Phase.CLOSED
    assert runtime.arena.reserved_bytes == 0
    with runtime.open() as session:
        assert torch.equal(session.start(prefill, llama, input_ids).result(30), want)
    with runtime.open():
        pass
    assert len(runtime.status()) == 0


def test_an_error_in_the_block_cancels_the_program(runtime, llama, input_ids):
    """The program is unwound, its ``finally`` runs, and the error is the block's own, without a note."""
    unwound = threading.Event()

    def program():
        try:
            return prefill(llama, input_ids)
        finally:
            unwound.set()

    with pytest.raises(ZeroDivisionError) as caught, parked(runtime, 3, program) as session:
        raise ZeroDivisionError
    assert session.phase is djinn.Phase.CLOSED
    assert unwound.is_set()
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_program_that_does_not_end_is_noted_on_the_error(runtime, monkeypatch, error):
    """Within a few seconds the error comes through, whatever the program waits for, and says what still runs."""
    monkeypatch.setattr("djinn.blocks.EXIT_SECONDS", 0.1)
    begun, end = threading.Event(), threading.Event()

    def program():
        begun.set()
        end.wait()

    try:
        with pytest.raises(error) as caught, runtime.open().start(program):  # noqa: PT012 - the block is the matter
            begun.wait(30)  # one that has not begun would be cancelled at once
            raise error
        assert "djinn: session 1 is not closed after 0.1 seconds" in caught.value.__notes__[0]
    finally:
        end.set()


def test_a_refusal_to_close_does_not_mask_the_error(runtime, llama, input_ids):
    """A program that leaves a block around its own session by an error fails with that error."""

    def program(session):
        with session:
            raise ZeroDivisionError

    session = runtime.open()
    with pytest.raises(ZeroDivisionError) as caught:
        session.start(program, session).result(30)
    assert "cannot be closed by its own program" in caught.value.__notes__[0]
