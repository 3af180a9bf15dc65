"""The lanes of coded state keep their order: whoever comes between, whatever fails, whichever lane is the slower."""

import itertools
import threading
import time

import pytest
import torch
from tests.djinn import late_link
from tests.djinn.memory.test_coding import SLOTS, all_may_be_coded, many, opened, packed_from
from tests.programs import parked
from torch import nn

import djinn
from djinn.memory import codec, coding, transfer
from djinn.memory.host_copy import Packed
from djinn.memory.restore import Restore
from djinn.memory.transfer import TransferEngine

__all__ = ["all_may_be_coded", "many"]

pytestmark = pytest.mark.usefixtures("without_climb")
INPUT = torch.linspace(-1, 1, 32).reshape(4, 8).to(torch.bfloat16)
BIG = torch.linspace(-1, 1, 3 * codec.BLOCK).to(torch.bfloat16)
INWARDS = SLOTS[2:4]


@pytest.fixture
def tiny(monkeypatch):
    """Two layers of 8 units in bfloat16; whatever may be coded is, in chunks of a block."""
    monkeypatch.setattr(codec, "is_worth_it", lambda coded: True)
    monkeypatch.setattr(codec, "_CHUNK", codec.BLOCK)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval().to(torch.bfloat16)


def between(monkeypatch, name, other):
    """Behind the first call of LateLane.``name``, ``other()`` runs on another thread, if it can within 0.2 s."""
    call, threads = getattr(late_link.LateLane, name), []

    def calling(lane, *args, **kwargs):
        call(lane, *args, **kwargs)
        if not threads:
            threads.append(threading.Thread(target=other))
            threads[0].start()
            threads[0].join(0.2)

    monkeypatch.setattr(late_link.LateLane, name, calling)
    return threads


def test_nobody_comes_between_a_chunk_and_its_decoding(many, link, monkeypatch):
    """Another thread that wants the same slot waits until the chunk is submitted whole."""
    made, numbers, item, coded = many
    packed, copied = packed_from(made, link, item, coded)
    copied.synchronize()
    others, back = [torch.zeros_like(numbers) for _ in range(2)], torch.zeros_like(numbers)
    wrong = torch.zeros_like(packed)

    def bring(target, source):
        made.bring([(Packed(item=coding._whole(target), coded=coded), source.data_ptr())], link.mark())

    threads = between(monkeypatch, "bring", lambda: [bring(one, wrong) for one in others])
    bring(back, packed)
    threads[0].join()
    for lane in made.lanes_in:
        lane.synchronize()
    assert torch.equal(back, numbers)


def test_nobody_comes_between_a_coded_chunk_and_its_copy(many, link, monkeypatch):
    """The same of a chunk that is coded and taken away."""
    made, numbers, item, coded = many
    flipped, kept = numbers.flip(0).contiguous(), []
    (again,) = made._counted([coding._whole(flipped)], link.current())

    def pack():
        kept.extend(packed_from(made, link, coding._whole(flipped), again) for _ in range(2))

    threads = between(monkeypatch, "launch", pack)
    packed, copied = packed_from(made, link, item, coded)
    threads[0].join()
    copied.synchronize()
    for lane in SLOTS[:2]:
        link.lanes[lane].synchronize()
    assert torch.equal(codec.plain(packed, coded), numbers.view(torch.uint8))


@pytest.mark.parametrize("at_once", [True, False])
def test_copies_keep_the_interpreter_if_they_are_asked_to(many, link, monkeypatch, at_once):
    """Those of plain storages too."""
    made, numbers, item, coded = many
    packed, copied = packed_from(made, link, item, coded)
    copied.synchronize()
    bring, asked = late_link.LateLane.bring, []

    def noting(lane, *args, at_once=False):
        asked.append(at_once)
        bring(lane, *args, at_once=at_once)

    monkeypatch.setattr(late_link.LateLane, "bring", noting)
    plain = torch.zeros(100, dtype=torch.uint8)
    parts = [
        (Packed(item=coding._whole(torch.zeros_like(numbers)), coded=coded), packed.data_ptr()),
        (Packed(item=coding._whole(torch.zeros_like(plain))), plain.data_ptr()),
    ]
    made.bring(parts, link.mark(), at_once=at_once)
    assert asked == [at_once] * 8


def by_turns(link, *names):
    """A step of one lane, and a step of the next."""
    lanes = [link.lanes[name] for name in names]
    while any(lane.busy for lane in lanes):
        for lane in lanes:
            lane.run(lane.done + 1)


def test_lanes_that_work_by_turns_do_not_meet(many, link):
    """Two storages of different bits, a step of one lane and a step of the other."""
    made, numbers, _, coded = many
    other = numbers.flip(0).contiguous()
    (again,) = made._counted([coding._whole(other)], link.current())
    both = [(numbers, coded), (other, again)]
    packed = [packed_from(made, link, coding._whole(one), how)[0] for one, how in both]
    by_turns(link, "out of slot 1", "out of slot 2")
    for there, (one, how) in zip(packed, both, strict=True):
        assert torch.equal(codec.plain(there, how), one.view(torch.uint8))
    backs = [torch.zeros_like(numbers) for _ in both]
    for back, there, (_, how) in zip(backs, packed, both, strict=True):
        made.bring([(Packed(item=coding._whole(back), coded=how), there.data_ptr())], link.mark())
    by_turns(link, "into slot 1", "into slot 2")
    assert all(torch.equal(back, one) for back, (one, _) in zip(backs, both, strict=True))


def test_slots_and_their_scratch_memory_lie_apart(many):
    """Within the buffer, each behind the other."""
    made = many[0]
    size = 4 * -(-codec.largest_chunk() // codec.BLOCK)
    parts = sorted((slot.address, slot.scratch + size) for slot in (*made._out, *made._in))
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(parts))
    assert parts[-1][1] <= made._buffer.data_ptr() + made.device_bytes


def test_both_lanes_leave_the_link_to_the_frontier(tiny, link):
    """The first thing that either is told is to wait for it."""
    link.names = (*SLOTS, "out", "in", "behind")

    def program(model):
        tensors = [BIG * number for number in range(3)]
        return model(INPUT * 1) + sum(tensors).sum()

    with opened(tiny) as runtime:
        session = parked(runtime, 1, program, tiny)
        session.io_wait()
        del link.log[:]
        session.resume()
        link.arrive()
        session.result(10)
    for lane in INWARDS:
        told = [entry for entry in link.log if entry[1] == lane]
        assert told[0] == ("wait", lane, "program")


@pytest.mark.parametrize("count", [3, 4])
def test_state_is_resident_when_either_lane_is_done(tiny, link, monkeypatch, count):
    """The last batch may be on the first lane or on the second."""
    link.names = (*SLOTS, "out", "in", "behind")
    link.held.set()
    finish, busy, go = Restore.finish, [], threading.Event()

    def noting(restore, *args):
        busy.append(any(link.lanes[name].busy for name in INWARDS))
        finish(restore, *args)

    monkeypatch.setattr(Restore, "finish", noting)

    def program(model):
        tensors = [BIG * number for number in range(count)]
        output = model(INPUT * 1)
        go.wait(10)
        return output + sum(tensors).sum()

    with opened(tiny) as runtime:
        session = parked(runtime, 1, program, tiny)
        session.io_wait()
        session.resume()
        session.wait_resident(10)
        go.set()
        session.result(10)
    assert busy == [False]


@pytest.fixture
def late(tiny, link):
    """A coded session of three tensors whose copies arrive late; its program tells what it finds when it is unwound."""
    link.names = (*SLOTS, "out", "in", "behind")
    found = []

    def program(model):
        tensors = [BIG * number for number in range(1, 4)]
        try:
            return model(INPUT * 1) + sum(tensors).sum()
        finally:
            found.append([torch.equal(one, BIG * number) for number, one in enumerate(tensors, 1)])

    with opened(tiny) as runtime:
        session = parked(runtime, 1, program, tiny)
        yield session, found
        link.arrive()


def follows(link):
    return {entry[1] for entry in link.log if entry[0] == "follow" and entry[2] == "program"} & set(INWARDS)


def test_a_program_is_unwound_when_all_is_decoded(late, link):
    """It finds the tensors that it left, and both lanes came behind its own work."""
    session, found = late
    session.io_wait()
    del link.log[:]
    session.close(10)
    assert found == [[True] * 3]
    assert follows(link) == set(INWARDS)


def test_both_lanes_follow_a_busy_program(late, link):
    """The memory that they fill may be one that its work still reads."""
    session, _ = late
    session.io_wait()
    del link.log[:]
    followed = []
    restore = session._residency.restore
    session._engine.swap_in(restore, busy=lambda: True, let_go=lambda: followed.append(follows(link)))
    assert followed == [set(INWARDS)]
    session._engine.undo(restore)


def test_both_lanes_follow_the_program_that_makes_memory(late, link, monkeypatch):
    """Where RESUME has left the allocation to the program's thread."""
    session, _ = late
    monkeypatch.setattr("djinn.memory.transfer._AHEAD_BYTES", 1)
    monkeypatch.setattr("djinn.memory.transfer._ASK_FROM", 1)
    session.io_wait()
    del link.log[:]
    session.resume()
    link.arrive()
    session.result(10)
    assert follows(link) == set(INWARDS)


def test_a_swap_out_that_fails_releases_nothing_that_is_written(late, link, monkeypatch):
    """The copies under way are waited for, on every lane."""
    session, _ = late
    send, busy, count = TransferEngine._send_out, [], []
    arena = session._engine._arena
    release = arena.release

    def failing(engine, entry):
        count.append(entry.coded)
        if len(count) > 4:
            raise InterruptedError
        send(engine, entry)

    def noting(extents):
        busy.append(any(link.lanes[name].busy for name in (*SLOTS[:2], "out")))
        release(extents)

    monkeypatch.setattr(TransferEngine, "_send_out", failing)
    monkeypatch.setattr(arena, "release", noting)
    with pytest.raises(InterruptedError):
        session.io_wait()
    assert len([one for one in count[:4] if one]) > 1
    assert busy == [False]
    monkeypatch.undo()


def test_a_kernel_that_errs_when_it_is_launched_again_is_not_used(monkeypatch):
    """The first launch builds it, and later ones take another way."""

    class Wrong(codec.Reference):
        calls = 0

        def decode(self, source, chunk, numbers, lane):
            super().decode(source, chunk, numbers, lane)
            self.calls += 1
            if self.calls > 1:
                codec._words_at(numbers, (0, 2), torch.int16).fill_(5)

    monkeypatch.setattr(coding, "Reference", Wrong)
    made, said = coding.coding_of(torch.device("cpu"), coding.Link())
    assert made is None
    assert "what was coded is not what is decoded" in said


def test_plain_state_is_resident_when_its_own_lane_is_done(tiny, link, monkeypatch):
    """In a runtime that codes, a session of which nothing is coded."""
    link.names = (*SLOTS, "out", "in", "behind")
    link.held.set()
    tiny, finish, busy, go = tiny.to(torch.float32), Restore.finish, [], threading.Event()

    def noting(restore, *args):
        busy.append(link.lanes["behind"].busy)
        finish(restore, *args)

    def program(model):
        tensors = [BIG.float() * number for number in range(1, 4)]
        output = model(INPUT.float() * 1)
        go.wait(10)
        return output + sum(tensors).sum()

    monkeypatch.setattr(Restore, "finish", noting)
    with opened(tiny) as runtime:
        session = parked(runtime, 1, program, tiny)
        session.io_wait()
        assert not session._residency.restore.coded
        session.resume()
        session.wait_resident(10)
        go.set()
        session.result(10)
    assert busy == [False]


def test_exponents_are_counted_behind_the_program(late, link):
    """Else they would be those of numbers that it has not written yet."""
    late[0].io_wait()
    assert ("follow", "counting", "program") in link.log


# -- what fails --------------------------------------------------------------------------------------------------------


def busy_inwards(link):
    return [name for name in INWARDS if link.lanes[name].busy]


def failing(monkeypatch, when):
    """Have the copies fail whose numbers are in ``when``, from 1 on, once the list that this returns is not empty."""
    bring, armed, calls = late_link.LateLane.bring, [], []

    def counted(lane, *args, **kwargs):
        if armed and armed[0](lane):
            calls.append(lane.name)
            if len(calls) in when:
                raise RuntimeError("no copy")
        return bring(lane, *args, **kwargs)

    monkeypatch.setattr(late_link.LateLane, "bring", counted)
    return armed, calls


def by_the_engine(lane):
    return threading.current_thread().name == "djinn-transfer"


def test_a_retried_batch_does_not_overwrite_an_edit(tiny, link, monkeypatch):
    """It goes by another lane, and what the first one still has to do comes before its mark."""
    link.names = (*SLOTS, "out", "in", "behind")
    armed, calls = failing(monkeypatch, {2})
    armed.append(by_the_engine)

    def program(model):
        tensors = [BIG * 3, BIG * 5, BIG * 7]
        model(INPUT * 1)
        for one in tensors:
            one.zero_()
        link.arrive()
        until = time.monotonic() + 5
        while busy_inwards(link) and time.monotonic() < until:
            time.sleep(0.01)
        return [one.clone() for one in tensors]

    with opened(tiny) as runtime:
        session = parked(runtime, 1, program, tiny)
        session.io_wait()
        session.resume()
        found = session.result(10)
    assert len(calls) > 2
    assert [int(one.count_nonzero()) for one in found] == [0, 0, 0]


def refuse(*args, **kwargs):
    raise RuntimeError


@pytest.mark.parametrize("what", ["a copy", "the mark"])
def test_what_failed_is_over_when_the_next_has_ended(many, link, monkeypatch, what):
    """The first attempt was on another lane: what it has submitted comes before the mark of the second."""
    made, numbers, item, coded = many
    packed, copied = packed_from(made, link, item, coded)
    copied.synchronize()
    back = torch.zeros_like(numbers)
    parts = [(Packed(item=coding._whole(back), coded=coded), packed.data_ptr())]
    with monkeypatch.context() as patched:
        if what == "a copy":
            armed, _ = failing(patched, {3})
            armed.append(lambda lane: True)
        else:
            patched.setattr(late_link.LateLane, "record", refuse)
        with pytest.raises(RuntimeError):
            made.bring(parts, link.mark())
    mark = link.mark()
    made.bring(parts, mark)
    mark.synchronize()
    assert torch.equal(back, numbers)
    back.zero_()  # by the program
    for lane in made.lanes_in:
        lane.synchronize()
    assert not back.count_nonzero()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_unwinding_that_fails_frees_nothing_in_flight(tiny, link, monkeypatch, dtype):
    """Also of a session of which nothing is coded, in a runtime that codes."""
    link.names = (*SLOTS, "out", "in", "behind")
    armed, _ = failing(monkeypatch, {3})
    free, busy = transfer._free, []

    def noting(entries):
        busy.append(busy_inwards(link))
        free(entries)

    monkeypatch.setattr(transfer, "_free", noting)
    model, found = tiny.to(dtype), []

    def program(model):
        kept = [torch.full((3 * codec.BLOCK,), number, dtype=dtype) for number in (1, 2, 3)]
        try:
            model((INPUT * 1).to(dtype))
        finally:
            found.append([bool((one == number).all()) for number, one in enumerate(kept, 1)])

    with opened(model) as runtime:
        session = parked(runtime, 1, program, model)
        session.io_wait()
        link.held.set()
        armed.append(lambda lane: True)
        session.close(10)
    assert busy == [[]]
    assert found == [[True] * 3]


def test_state_that_is_given_up_is_not_read_any_more(tiny, link, monkeypatch):
    """When its host memory is released, no copy is under way."""
    link.names = (*SLOTS, "out", "in", "behind")
    link.held.set()
    armed, _ = failing(monkeypatch, set(range(2, 1000, 2)))
    armed.append(by_the_engine)
    release, busy = TransferEngine.release, []

    def noting(engine, entries):
        busy.append(busy_inwards(link))
        release(engine, entries)

    monkeypatch.setattr(TransferEngine, "release", noting)

    def program(model):
        tensors = [BIG * 3, BIG * 5, BIG * 7]
        model(INPUT * 1)
        return sum(tensors)

    with opened(tiny) as runtime:
        session = parked(runtime, 1, program, tiny)
        session.io_wait()
        session.resume()
        with pytest.raises(djinn.DjinnError, match="could not be brought back"):
            session.result(10)
    assert busy == [[]]
