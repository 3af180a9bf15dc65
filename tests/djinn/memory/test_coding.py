"""Sessions whose state is coded in host memory and on the disk: exact in every bit, smaller, and as safe as plain."""

import copy
import ctypes
import gc
import itertools
import sys
import threading
import time
import weakref
from dataclasses import replace

import pytest
import torch
from tests.djinn.fault import ERRORS, Fault
from tests.interrupt import Interrupt
from tests.programs import equal, greedy, parked
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import djinn
from djinn.memory import codec, coding, transfer
from djinn.memory.coding import coding_of
from djinn.memory.host_copy import Packed
from djinn.memory.lanes import Link
from djinn.memory.restore import Restore
from djinn.state import state_page
from djinn.state.discovery import view_of

pytestmark = pytest.mark.usefixtures("without_climb")
LAYER = 3
SLOTS = ("out of slot 1", "out of slot 2", "into slot 1", "into slot 2", "counting")  # lanes of a coding


@pytest.fixture(autouse=True)
def all_may_be_coded(monkeypatch):
    """The first of the history too."""
    monkeypatch.setattr(coding, "_PLAIN_SHARE", 0)


@pytest.fixture(scope="module")
def halved(llama):
    """The small Llama in bfloat16."""
    return copy.deepcopy(llama).to(torch.bfloat16)


@pytest.fixture
def runtime(halved):
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        yield runtime
        for session in runtime.sessions:
            session.close(30)
        assert runtime.arena.reserved_bytes == 0
        runtime.arena.check_integrity()


@pytest.fixture
def small(halved, input_ids, tmp_path):
    """A runtime with a disk, whose arena holds one coded session of two, and not two."""
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        session = parked(runtime, LAYER, greedy, halved, input_ids, 1, visit=2)
        session.io_wait()
        nbytes = runtime.arena.reserved_bytes
    with djinn.Runtime(halved, host_memory_bytes=nbytes * 3 // 2, disk_folder=tmp_path, codec="auto") as runtime:
        yield runtime


def coded(session):
    """Names of what is coded."""
    return {entry.item.views[0].name for entry in session._residency.restore.copy.entries if entry.coded}


def test_what_follows_the_frontier_at_once_is_plain(runtime, halved, input_ids, monkeypatch):
    """A share of the history, or so many bytes if that is less; only storages that lie in it whole."""
    monkeypatch.setattr(coding, "_PLAIN_SHARE", 1 / 2)
    expected, plain = greedy(halved, input_ids, 2), {}
    for most in (1 << 30, 0):
        monkeypatch.setattr(coding, "_PLAIN_BYTES", most)
        session = parked(runtime, 4, greedy, halved, input_ids, 2, visit=2)
        session.io_wait()
        history = [entry for entry in session._residency.restore.copy.entries if not entry.item.in_frontier]
        plain[most] = [entry.coded is None for entry in history]
        if most:
            ends = list(itertools.accumulate(entry.item.nbytes for entry in history))
            first = sum(end <= ends[-1] / 2 for end in ends)
        session.resume()
        assert equal(session.result(30), expected)
    assert 2 < first < len(history) - 2
    assert all(plain[1 << 30][:first])
    assert plain[1 << 30][first:] == plain[0][first:]
    assert not any(plain[0][:first])


@pytest.mark.parametrize("visit", [1, 2])
@pytest.mark.parametrize("force", [True, False])
def test_a_session_comes_back_in_every_bit(runtime, halved, input_ids, visit, force):
    """All KV but the next layer's is coded; the frontier is not; what is in host memory is smaller."""
    expected = greedy(halved, input_ids, 3)
    session = parked(runtime, LAYER, greedy, halved, input_ids, 3, visit=visit)
    session.io_wait(force=force)
    if force:
        frontier = {item.views[0].name for item in session._residency.state.frontier}
        assert {f"kv.{layer}.{part}" for layer in (1, 2, 3) for part in ("keys", "values")} <= coded(session)
        assert not coded(session) & frontier
        assert session.host_bytes < 0.9 * sum(session.storage_sizes)
        assert session.host_bytes == runtime.status()[0].host_bytes
    session.resume()
    assert equal(session.result(30), expected)


def test_reading_decodes_that_tensor_and_no_other(runtime, halved, input_ids):
    """A read, an edit and a copy see the very bits; host memory grows by what was read."""
    session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
    kept = {name: tensor.clone() for name, tensor in session.state.items()}
    session.io_wait()
    before, names = session.host_bytes, coded(session)
    name = sorted(names)[0]
    assert torch.equal(session.state[name], kept[name])
    assert coded(session) == names - {name}
    assert session.host_bytes > before
    for other, tensor in kept.items():
        assert torch.equal(session.state[other], tensor)
    assert not coded(session)
    assert session.host_bytes == sum(session.storage_sizes)


def test_an_edit_of_coded_state_is_what_an_edit_on_the_device_is(runtime, halved, input_ids):
    """Of the KV of a layer that was there, and of one that comes."""

    def led(park):
        session = parked(runtime, LAYER, greedy, halved, input_ids, 2, visit=2)
        if park:
            session.io_wait()
        for layer in (1, 6):
            session.state[f"kv.{layer}.keys"] *= -0.5
        session.resume()
        return session.result(30)

    assert equal(led(park=True), led(park=False))
    assert not equal(led(park=True), greedy(halved, input_ids, 2))


def test_without_room_for_what_is_read_nothing_is_lost(halved, input_ids):
    """The arena holds the coded session, and no plain tensor beside it."""
    expected = greedy(halved, input_ids, 1)
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as large:
        session = parked(large, LAYER, greedy, halved, input_ids, 1)
        session.io_wait()
        needed = large.arena.reserved_bytes
        session.close()
    with djinn.Runtime(halved, host_memory_bytes=needed, codec="auto") as runtime:
        session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
        session.io_wait()
        name, before = sorted(coded(session))[0], session.host_bytes
        with pytest.raises(djinn.HostMemoryFull):
            session.state[name].sum()
        assert session.host_bytes == before
        assert name in coded(session)
        session.resume()
        assert equal(session.result(30), expected)


def test_a_page_shows_numbers_of_coded_state_and_leaves_it_coded(runtime, halved, input_ids):
    """They are those of the plain page."""
    session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
    session.io_wait()
    names = coded(session)
    shown = session.state._repr_html_()
    assert coded(session) == names
    for _ in (tensor.sum() for tensor in session.state.values()):
        pass
    assert not coded(session)
    assert session.state._repr_html_() == shown


def test_coded_state_goes_to_the_disk_and_comes_back(small, halved, input_ids):
    """Its file is smaller than the state; a session that is read or resumed from there is exact."""
    expected = greedy(halved, input_ids, 1)
    sessions = [parked(small, LAYER, greedy, halved, input_ids, 1, visit=2) for _ in range(2)]
    name = "kv.1.keys"
    keys = sessions[0].state[name].clone()
    for session in sessions:
        session.io_wait()
    assert 0 < sessions[0].disk_bytes < 0.9 * sum(sessions[0].storage_sizes)
    assert torch.equal(sessions[0].state[name], keys)
    assert sessions[1].disk_bytes
    for session in sessions:
        session.resume()
        assert equal(session.result(30), expected)


def test_a_cancelled_session_unwinds_with_its_state(small, halved, input_ids):
    """From host memory and from the disk: its ``finally`` finds the bits that it left."""
    found = []

    def program(model, ids):
        output = model(ids, use_cache=True)
        cache = output.past_key_values
        kept = [layer.keys.clone() for layer in cache.layers]
        try:
            model(ids[:, -1:], past_key_values=cache, use_cache=True)
        finally:
            found.append(
                [torch.equal(layer.keys[:, :, :24], keys) for layer, keys in zip(cache.layers, kept, strict=True)]
            )

    sessions = [parked(small, LAYER, program, halved, input_ids, visit=2) for _ in range(2)]
    for session in sessions:
        session.io_wait()
        assert session._residency.restore.coded
    assert sessions[0].disk_bytes
    for session in sessions:
        session.close(30)
    assert found == [[True] * 6] * 2


def test_a_durable_session_is_saved_and_forked_as_it_is(halved, input_ids, tmp_path):
    """The file holds plain tensors: it can be read on a machine without kernels."""
    expected = greedy(halved, input_ids, 2)
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        session = runtime.open(breakpoint=LAYER, visit=2, durable=True).start(greedy, halved, input_ids, 2)
        session.wait(30)
        session.io_wait()
        names = coded(session)
        fork = session.fork()
        session.save(tmp_path / "one.djinn")
        assert coded(session) == names
        for one in (session, fork):
            one.resume()
            assert equal(one.result(30), expected)
    with djinn.Runtime(halved, host_memory_bytes=32 << 20) as plain:
        restored = plain.restore(tmp_path / "one.djinn", greedy, halved, input_ids, 2)
        restored.resume()
        assert equal(restored.result(30), expected)


def test_what_is_not_bfloat16_stays_as_it_is(llama, input_ids):
    """A model in float32."""
    with djinn.Runtime(llama, host_memory_bytes=32 << 20, codec="auto") as runtime:
        session = parked(runtime, LAYER, greedy, llama, input_ids, 1)
        session.io_wait()
        assert session.host_bytes == sum(session.storage_sizes)
        session.resume()
        assert equal(session.result(30), greedy(llama, input_ids, 1))


@pytest.mark.parametrize("kind", ["allocate", "free", "copy in", "copy out"])
@pytest.mark.parametrize("error", ["no room", "another error", "KeyboardInterrupt"])
def test_a_fault_at_any_copy_loses_nothing(halved, input_ids, monkeypatch, kind, error):
    """The signal is made again, until none fails."""
    expected = greedy(halved, input_ids, 1)
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        for count in (1, 2, 5, 9, 14):
            session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
            with monkeypatch.context() as patched:
                fault = Fault(patched, kind)
                fault.at(count, ERRORS[error])
                for signal in (session.io_wait, session.resume):
                    try:
                        signal()
                    except BaseException:  # noqa: BLE001 - it was injected
                        fault.left = None
                        if session.phase in (djinn.Phase.PAUSED, djinn.Phase.IO_WAIT):
                            signal() if signal == session.resume else session.io_wait()
                assert equal(session.result(30), expected)
            session.close(30)  # waits for the engine, which releases the host memory behind the result
        assert runtime.arena.reserved_bytes == 0


@pytest.mark.parametrize("visit", [1, 2])
def test_copies_that_arrive_late_are_waited_for(halved, input_ids, link, visit, monkeypatch):
    """Nothing is coded, decoded or read before what it needs is there, though all chunks share two slots."""
    expected = greedy(halved, input_ids, 2)
    link.names = (*SLOTS, "out", "in", "behind")
    resize = torch.UntypedStorage.resize_

    def full_of_ones(storage, nbytes):
        resize(storage, nbytes)
        ctypes.memset(storage.data_ptr(), 0xFF, nbytes)

    monkeypatch.setattr(torch.UntypedStorage, "resize_", full_of_ones)
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        session = parked(runtime, LAYER, greedy, halved, input_ids, 2, visit=visit)
        session.io_wait()
        del link.log[:]
        session.resume()
        assert equal(session.result(30), expected)
        link.arrive()
    assert ("wait", "into slot 2", "into slot 1") in link.log


def test_a_storage_of_many_chunks_shares_two_slots(monkeypatch, link):
    """In either way, with copies that come as late as they may."""
    link.names = SLOTS
    monkeypatch.setattr(codec, "_CHUNK", codec.BLOCK)
    made, said = coding_of(torch.device("cpu"), link)
    assert "is coded" in said
    numbers = torch.randn(7 * codec.BLOCK + 160).to(torch.bfloat16).view(torch.int16)
    assert torch.equal(made.there_and_back(numbers, torch.device("cpu"), link), numbers)
    assert link.urgent == [
        "into slot 1",
        "into slot 2",
    ]  # a program's long kernels do not keep a slot from its next chunk


@pytest.fixture
def many(monkeypatch, link):
    """A coding with chunks of a block, and a storage of seven chunks with how it is coded."""
    monkeypatch.setattr(codec, "_CHUNK", codec.BLOCK)
    link.names = SLOTS
    made, _ = coding_of(torch.device("cpu"), link)
    numbers = torch.randn(7 * codec.BLOCK).to(torch.bfloat16)
    item = coding._whole(numbers)
    (coded,) = made.plans([replace(item, views=(view_of("numbers", numbers),))], link.current())
    assert len(coded.chunks) == 7
    return made, numbers, item, coded


def packed_from(made, link, item, coded):
    """Code ``item``; return the bytes, and the mark behind them."""
    packed, copied = torch.zeros(coded.nbytes, dtype=torch.uint8), link.mark()
    made.pack(item, coded, packed.data_ptr(), copied)
    return packed, copied


@pytest.mark.parametrize("first", [0, 1])
def test_lanes_that_share_the_link_do_not_meet(many, link, first):
    """Whichever of two lanes does all of its work before the other begins; each storage is on one of them."""
    made, numbers, item, coded = many
    both = [packed_from(made, link, item, coded) for _ in range(2)]
    for lane in (("out of slot 1", "out of slot 2"), ("out of slot 2", "out of slot 1"))[first]:
        link.lanes[lane].run(1000)
    for packed, copied in both:
        assert copied.ended
        assert torch.equal(codec.plain(packed, coded), numbers.view(torch.uint8))
    backs = [torch.zeros_like(numbers) for _ in both]
    for back, (packed, _) in zip(backs, both, strict=True):
        made.bring([(Packed(item=coding._whole(back), coded=coded), packed.data_ptr())], link.mark())
    for lane in (("into slot 1", "into slot 2"), ("into slot 2", "into slot 1"))[first]:
        link.lanes[lane].run(1000)
    assert all(torch.equal(back, numbers) for back in backs)


def test_threads_that_share_a_slot_do_not_meet(many, link):
    """A chunk is brought and decoded before the next is brought, whoever submits it."""
    made, numbers, item, coded = many
    packed, copied = packed_from(made, link, item, coded)
    copied.synchronize()
    backs = [torch.zeros_like(numbers) for _ in range(32)]

    def bring(some):
        for back in some:
            made.bring([(Packed(item=coding._whole(back), coded=coded), packed.data_ptr())], link.mark())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=bring, args=(backs[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    for lane in made.lanes_in:
        lane.synchronize()
    assert all(torch.equal(back, numbers) for back in backs)


def test_a_mark_comes_behind_what_was_decoded_and_what_was_not(many, link):
    """Of the storages that are copied together one may be coded and another not; earlier marks come before."""
    made, numbers, item, coded = many
    packed, copied = packed_from(made, link, item, coded)
    copied.synchronize()
    plain = torch.full((100,), 7, dtype=torch.uint8)
    marks, filled = [], []
    for _ in range(3):
        back, other = torch.zeros_like(numbers), torch.zeros_like(plain)
        parts = [
            (Packed(item=coding._whole(back), coded=coded), packed.data_ptr()),
            (Packed(item=coding._whole(other)), plain.data_ptr()),
        ]
        marks.append(link.mark())
        made.bring(parts, marks[-1], behind=marks[-2] if len(marks) > 1 else None)
        filled.append((back, other))
    marks[-1].synchronize()
    for mark, (back, other) in zip(marks, filled, strict=True):
        assert mark.ended
        assert torch.equal(back, numbers)
        assert torch.equal(other, plain)


@pytest.fixture
def in_io_wait(halved, input_ids, link):
    """A coded session whose copies arrive late."""
    link.names = (*SLOTS, "out", "in", "behind")
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
        session.io_wait()
        yield session
        link.arrive()


def test_state_is_resident_when_all_is_decoded(in_io_wait, link, monkeypatch):
    """From then on nobody waits for a mark."""
    session = in_io_wait
    finish, busy = Restore.finish, []

    def noting(restore, *args):
        busy.append(any(link.lanes[f"into slot {number}"].busy for number in (1, 2)))
        finish(restore, *args)

    monkeypatch.setattr(Restore, "finish", noting)
    session.resume()
    link.arrive()
    session.wait_resident(30)
    session.result(30)
    assert busy == [False]


def test_a_swap_in_that_fails_frees_nothing_that_is_being_decoded(in_io_wait, link, monkeypatch):
    """Its first chunks are on their way when the error comes."""
    session = in_io_wait
    engine, restore = session._engine, session._residency.restore
    free, busy = transfer._free, []

    def noting(entries):
        busy.append(any(link.lanes[f"into slot {number}"].busy for number in (1, 2)))
        free(entries)

    monkeypatch.setattr(transfer, "_free", noting)

    def fail():
        busy.append(any(link.lanes[f"into slot {number}"].busy for number in (1, 2)))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.swap_in(restore, busy=lambda: True, let_go=fail)
    assert busy == [True, False]


def test_a_read_that_fails_takes_no_host_memory(runtime, halved, input_ids, monkeypatch):
    """It can be tried again."""
    session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
    kept = session.state["kv.1.keys"].clone()
    session.io_wait()
    before = runtime.arena.reserved_bytes
    with monkeypatch.context() as patched:
        patched.setattr(codec, "decode_all", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.state["kv.1.keys"].sum()
    assert runtime.arena.reserved_bytes == before
    assert torch.equal(session.state["kv.1.keys"], kept)


def test_a_coder_that_errs_is_not_used(halved, input_ids, monkeypatch):
    """It is tried on every pattern first; the reason stands in the status, and sessions are swapped as they are."""

    class Wrong(codec.Reference):
        def decode(self, source, chunk, numbers, lane):
            super().decode(source, chunk, numbers, lane)
            codec._words_at(numbers, (0, 2), torch.int16).fill_(5)

    monkeypatch.setattr(coding, "Reference", Wrong)
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        assert runtime.status().codec_bytes == 0
        assert "raw, for no kernel could be had (RuntimeError: what was coded is not what is decoded)" in str(
            runtime.status()
        )
        session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
        session.io_wait()
        assert session.host_bytes == sum(session.storage_sizes)


def test_without_triton_the_status_says_so(monkeypatch):
    """As on a machine where it is not installed."""
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "djinn.memory.codec_kernels", raising=False)
    made, said = coding_of(torch.device("cuda"), Link())
    assert made is None
    assert said.startswith("codec: raw, for no kernel could be had (ModuleNotFoundError: ")
    assert "triton" in said


def test_the_status_counts_the_buffer(runtime):
    """In words and in bytes, of which there are 64 MiB at most."""
    status = runtime.status()
    assert 0 < status.codec_bytes == runtime._engine._coding._buffer.nbytes <= 64 << 20
    assert f"bfloat16 state is coded, by {status.codec_bytes / 2**20:.1f} MiB of device memory" in str(status)


def test_raw_is_the_default_and_says_nothing(llama):
    with djinn.Runtime(llama, host_memory_bytes=1 << 20) as runtime:
        assert "codec" not in str(runtime.status())
        assert runtime.status().codec_bytes == 0
    with pytest.raises(ValueError, match="codec='zip' is no form of state in host memory"):
        djinn.Runtime(llama, host_memory_bytes=1 << 20, codec="zip")


# -- a session of a few bytes ------------------------------------------------------------------------------------------

INPUT = torch.linspace(-1, 1, 32).reshape(4, 8).to(torch.bfloat16)


@pytest.fixture
def tiny(monkeypatch):
    """Two layers of 8 units in bfloat16; whatever may be coded is, and in small slots."""
    monkeypatch.setattr(codec, "is_worth_it", lambda coded: True)
    monkeypatch.setattr(codec, "_CHUNK", 1 << 16)
    monkeypatch.setattr(codec, "_SLOT", 1 << 19)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval().to(torch.bfloat16)


def with_history(model):
    """Two tensors beside the hidden states: they are no part of the frontier."""
    one, two = INPUT * 3, INPUT * 5
    return model(INPUT * 1) + one + two


ONE, TWO = "with_history.one", "with_history.two"


def opened(model, **options):
    return djinn.Runtime(model, layers=list(model), codec="auto", **{"host_memory_bytes": 1 << 20, **options})


def waiting(runtime, model, program=with_history):
    session = parked(runtime, 1, program, model)
    session.io_wait()
    return session


def test_reading_coded_state_can_be_interrupted(tiny):
    """At any line, of which every third will do: the tensor is coded or decoded, and no host memory is lost."""
    expected, line, raised = with_history(tiny), 0, 1
    with opened(tiny) as runtime:
        while raised:
            line += 3
            session = waiting(runtime, tiny)
            with Interrupt(line) as interrupt:
                session.state[ONE].clone()
            raised = interrupt.raised
            assert torch.equal(session.state[ONE], INPUT * 3)
            session.resume()
            assert torch.equal(session.result(10), expected)
            session.close(10)
            assert runtime.arena.reserved_bytes == 0
    assert line > 50


def test_a_session_that_is_read_from_several_threads_goes_on(tiny):
    """Two read the same coded tensor while the session is resumed: they see its bits, or that it has gone on."""
    expected, found = with_history(tiny), []

    def read(view, start):
        start.wait(10)
        try:
            found.append(torch.equal(view[ONE] + 0, INPUT * 3))
        except djinn.IllegalMove:
            found.append(True)

    with opened(tiny) as runtime:
        for _ in range(20):
            session, start = waiting(runtime, tiny), threading.Barrier(3)
            readers = [threading.Thread(target=read, args=(session.state, start)) for _ in range(2)]
            for reader in readers:
                reader.start()
            start.wait(10)
            session.resume()
            assert torch.equal(session.result(10), expected)
            for reader in readers:
                reader.join(10)
            session.close()
            runtime.arena.check_integrity()
            assert runtime.arena.reserved_bytes == 0
    assert found == [True] * 40


def test_in_the_middle_of_an_operator_coded_state_is_refused(tiny):
    """It holds the lock that decoding needs."""
    with opened(tiny) as runtime:
        session = waiting(runtime, tiny)
        state = session.state
        with pytest.raises(djinn.IllegalMove, match="in the middle of an operator"):
            state["hidden_states"].apply_(lambda value: float(state[ONE].sum()))
        assert ONE in coded(session)
        assert torch.equal(state[ONE], INPUT * 3)


def test_as_many_coded_tensors_as_there_are_can_be_used_at_once(tiny):
    """Each of them has to be decoded first."""

    def program(model):
        kept = [INPUT * number for number in range(1, 31)]
        return model(INPUT * 1) + sum(kept)

    with opened(tiny) as runtime:
        session = waiting(runtime, tiny, program)
        names = sorted(coded(session))
        assert len(names) > 30
        torch.stack([session.state[name] for name in names])
        assert not coded(session)


def test_room_is_counted_as_the_device_has_it(tiny):
    """``make_room`` returns the bytes that it freed there."""
    with opened(tiny) as runtime:
        session = parked(runtime, 1, with_history, tiny)
        session.io_wait(force=False)
        assert runtime.make_room(1 << 20) == sum(session.storage_sizes) != session.host_bytes


def test_a_page_decodes_only_what_it_reads(tiny, monkeypatch):
    """Its session waits meanwhile."""
    plain, decoded = codec.plain, []
    monkeypatch.setattr(codec, "plain", lambda *args: decoded.append(1) or plain(*args))
    with opened(tiny) as runtime:
        session = waiting(runtime, tiny)
        session.state._repr_html_()
        assert len(decoded) == len(coded(session)) == 3
        monkeypatch.setattr(state_page, "MOST_READ_BYTES", 1)
        session.state._repr_html_()
        assert len(decoded) == 3


class Refusing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called in the mode of somebody else")


def test_whoever_decodes_does_not_see_the_modes_around(tiny):
    """Of the caller, who resumes, and of the program, which is unwound with its state."""
    found = []

    def program(model):
        one = INPUT * 3
        try:
            with Refusing():
                model[0](None)
        finally:
            found.append(torch.equal(one, INPUT * 3))

    class Silent(nn.Module):
        def forward(self, x):
            return x

    model = nn.Sequential(Silent(), tiny[1])
    with opened(model) as runtime:
        session = waiting(runtime, model, program)
        session.close(10)
    assert found == [True]
    expected = with_history(tiny)
    with opened(tiny) as runtime:
        session = waiting(runtime, tiny)
        with Refusing():
            session.resume()
            assert session.wait_resident(10)
        assert torch.equal(session.result(10), expected)


def test_a_resume_that_was_cut_off_is_undone_before_state_is_decoded(tiny, monkeypatch):
    """Even if its own clean-up was cut off: nothing stays on the device."""
    expected = with_history(tiny)
    with opened(tiny) as runtime:
        session = waiting(runtime, tiny)
        with monkeypatch.context() as patched:
            patched.setattr(type(session._engine), "_send_ahead", lambda *args: 1 / 0)
            patched.setattr(type(session._engine), "undo", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                session.resume()
        assert session.device_bytes > 0
        assert torch.equal(session.state[ONE], INPUT * 3)
        assert session.device_bytes == 0
        session.resume()
        assert torch.equal(session.result(10), expected)


def test_what_is_partly_on_the_disk_can_come_back_whatever_is_read(tiny, tmp_path):
    """The rest of it is decoded only if all of it still finds room at once; else that is refused, and it goes on."""
    expected = with_history(tiny)
    with opened(tiny) as runtime:
        session = waiting(runtime, tiny)
        sizes = [-(-entry.nbytes // 512) * 512 for entry in session._residency._stored]
    with opened(tiny, host_memory_bytes=sum(sizes), disk_folder=tmp_path) as runtime:
        session = parked(runtime, 1, with_history, tiny)
        session.io_wait(force=False)
        runtime.make_room(1)
        (name,) = coded(session)
        other = waiting(runtime, tiny)
        other.close(10)
        assert session.disk_bytes
        runtime.make_room(session.storage_sizes[1])
        session._residency.claimed_until = 0.0
        (here,) = coded(session)
        assert here != name
        with pytest.raises(djinn.HostMemoryFull, match="of one session that must be there at once"):
            session.state[here].clone()
        session.resume()
        assert torch.equal(session.result(10), expected)


def test_a_closed_runtime_holds_no_device_memory_for_coding(tiny):
    """Though somebody still has the runtime."""
    runtime = opened(tiny)
    buffer = weakref.ref(runtime._engine._coding._buffer)
    runtime.close()
    gc.collect()
    assert buffer() is None


def test_where_there_is_no_device_memory_to_count_in_state_is_swapped_out_as_it_is(tiny, monkeypatch):
    """Just then it has to leave."""

    def full(coder, ranges):
        raise torch.OutOfMemoryError

    expected = with_history(tiny)
    with opened(tiny) as runtime:
        monkeypatch.setattr(codec.Reference, "histograms", full)
        session = waiting(runtime, tiny)
        assert session.host_bytes == sum(session.storage_sizes)
        session.resume()
        assert torch.equal(session.result(10), expected)


def test_whoever_waits_for_decoding_waits_for_no_encoding(many, link):
    """Another session may be on its way out meanwhile."""
    made, _, item, coded = many
    _, copied = packed_from(made, link, item, coded)
    for lane in made.lanes_in:
        lane.synchronize()
    assert not copied.ended


def test_what_is_left_of_a_session_on_the_disk_leaves_if_it_fits_coded(halved, input_ids, tmp_path):
    """Though it would not fit as it is on the device."""
    with djinn.Runtime(halved, host_memory_bytes=32 << 20, codec="auto") as runtime:
        parked(runtime, LAYER, greedy, halved, input_ids, 1).io_wait()
        needed = runtime.arena.reserved_bytes
    with djinn.Runtime(halved, host_memory_bytes=needed, disk_folder=tmp_path, codec="auto") as runtime:
        session = parked(runtime, LAYER, greedy, halved, input_ids, 1)
        session.io_wait(force=False)
        runtime.make_room(1)
        with parked(runtime, LAYER, greedy, halved, input_ids, 1) as other:
            other.io_wait()
        assert session.disk_bytes
        assert runtime.make_room(1 << 30) > 0
        assert session.device_bytes == 0
        session.resume()
        assert equal(session.result(30), greedy(halved, input_ids, 1))


def test_a_save_decodes_without_the_lock(tiny, tmp_path, monkeypatch):
    """Signals to its session do not wait, which hold up those to all others; what is edited meanwhile is saved so."""
    plain, free = codec.plain, []

    def edit(session):
        free.append(session._lock.acquire(timeout=10))
        session._lock.release()
        session.state[ONE].mul_(2)

    with opened(tiny) as runtime:
        session = runtime.open(breakpoint=1, durable=True).start(with_history, tiny)
        session.wait(10)
        session.io_wait()

        def noting(*args):
            if not free:
                other = threading.Thread(target=edit, args=(session,))
                other.start()
                other.join(20)
            return plain(*args)

        monkeypatch.setattr(codec, "plain", noting)
        session.save(tmp_path / "one.djinn")
        restored = runtime.restore(tmp_path / "one.djinn", with_history, tiny)
        assert torch.equal(restored.state[ONE], INPUT * 6)
        for one in (session, restored):
            one.resume()
        assert torch.equal(session.result(10), restored.result(10))
    assert free == [True]


def test_the_end_of_the_interpreter_waits_for_a_decoder(tiny, monkeypatch):
    """A thread that computes on would crash the process."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def decoding():
        begun.set()
        go_on.wait(10)
        time.sleep(0.01)  # for who does not wait to be seen
        ended.set()

    with opened(tiny) as runtime:
        engine = runtime._engine
        reader = threading.Thread(target=engine.decoding, args=(decoding, None))
        reader.start()
        assert begun.wait(10)
        monkeypatch.setattr(engine._behind, "drain", lambda timeout: go_on.set())
        engine.drain(10)
        assert ended.is_set()
        reader.join(10)
