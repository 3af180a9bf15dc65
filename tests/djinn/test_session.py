"""A session on the CPU device: the real runtime, arena and copies, on a tiny Llama."""

import gc
import random
import threading
import time
import weakref

import pytest
import torch
from tests.programs import equal, greedy, parked, prefill, spoil

import djinn
from djinn.memory import lanes, transfer

LAYERS = 6


@pytest.mark.parametrize("layer", [1, 3, LAYERS])
@pytest.mark.parametrize("visit", [1, 2, 3])
def test_resumed_run_is_bit_equal_with_kv_cache(runtime, llama, input_ids, layer, visit):
    """Paused in the prefill or in a decode step, swapped out and resumed, all logits equal the plain call's."""
    expected = greedy(llama, input_ids, 4)
    session = parked(runtime, layer, greedy, llama, input_ids, 4, visit=visit)
    session.io_wait()
    spoil(session.storage_sizes)
    session.resume()
    assert equal(session.result(30), expected)


@pytest.mark.parametrize("layer", [1, 3, LAYERS])
def test_resumed_run_is_bit_equal_without_kv_cache(runtime, llama, input_ids, layer):
    """The same for a prefill alone."""
    session = parked(runtime, layer, prefill, llama, input_ids)
    session.io_wait()
    spoil(session.storage_sizes)
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_generate_is_called_unmodified(runtime, llama, input_ids):
    """The very call that runs without Djinn runs with it, and returns the same tokens."""
    call = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = llama.generate(input_ids, **call)
    session = runtime.open(breakpoint=3).start(llama.generate, input_ids, **call)
    assert session.wait(30) is djinn.Phase.PAUSED
    session.io_wait()
    session.resume()
    assert torch.equal(session.result(30), expected)


@pytest.mark.parametrize("modes", [torch.inference_mode, torch.enable_grad], ids=["inference", "grad"])
def test_caller_modes_reach_the_session(runtime, llama, input_ids, modes):
    """Grad and inference mode are the caller's, and the outputs are equal under both."""
    with modes():
        expected = greedy(llama, input_ids, 2)
        session = parked(runtime, 3, greedy, llama, input_ids, 2)
        session.io_wait()
        session.resume()
        found = session.result(30)
    assert equal(found, expected)
    assert found[0].requires_grad == expected[0].requires_grad
    assert found[0].is_inference() == expected[0].is_inference()


def test_state_is_complete_and_its_memory_is_released(runtime, llama, input_ids):
    """While swapped out every storage of the state is empty, and hidden states and all KV so far are among them."""
    session = parked(runtime, 4, greedy, llama, input_ids, 2)
    assert {f"kv.{layer}.{part}" for layer in range(1, 5) for part in ("keys", "values")} <= set(session.state)
    tokens = input_ids.numel()
    assert sum(session.storage_sizes) >= tokens * 64 * 4 + 4 * 2 * tokens * 2 * 16 * 4
    storages = [item.storage for item in session._residency.state.storages]
    assert all(storage.nbytes() > 0 for storage in storages)
    session.io_wait()
    assert all(storage.nbytes() == 0 for storage in storages)
    assert runtime.arena.reserved_bytes >= sum(session.storage_sizes)


def test_nothing_keeps_the_state_of_a_session_that_has_ended(runtime, llama, input_ids):
    """Its device memory is free when it has ended, not when the next session is resumed."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2, visit=2)
    session.io_wait()
    state = [weakref.ref(item) for item in session._residency.state.storages]
    session.resume()
    session.result(30)
    session.close()
    del session
    deadline = time.monotonic() + 10
    while any(item() for item in state) and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    assert not any(item() for item in state)


def test_weights_and_callers_tensors_stay(runtime, llama, input_ids):
    """The model's parameters, the caller's inputs and a cache that the caller made are never swapped."""
    from transformers import DynamicCache

    cache = DynamicCache(config=llama.config)
    before = [parameter.data_ptr() for parameter in llama.parameters()]

    def program(model, tokens):
        return model(tokens, past_key_values=cache, use_cache=True).logits

    session = parked(runtime, 3, program, llama, input_ids)
    session.io_wait()
    assert [parameter.data_ptr() for parameter in llama.parameters()] == before
    assert input_ids.untyped_storage().nbytes() > 0
    assert cache.layers[0].keys.untyped_storage().nbytes() > 0
    assert not any(name.startswith("kv.") for name in session.state)
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


HOLDERS = {
    "global list": lambda tensor, keep: keep.append(tensor),
    "view": lambda tensor, keep: keep.append(tensor[:, 1:]),
    "detached alias": lambda tensor, keep: keep.append(tensor.detach()),
    "numpy array": lambda tensor, keep: keep.append(tensor.numpy()),
    "storage handle": lambda tensor, keep: keep.append(tensor.untyped_storage()),
    "nested container": lambda tensor, keep: keep.append({"deep": ({"deeper": [tensor]},)}),
    "closure": lambda tensor, keep: keep.append(lambda: tensor),
    "exception": lambda tensor, keep: keep.append(ValueError(tensor)),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_somebody_else_holds_is_left(runtime, llama, input_ids, holder):
    """A tensor of the session that is reachable from outside keeps its bytes while the session is swapped out."""
    kept = []

    def program(model, tokens):
        embedded = model.model.embed_tokens(tokens)
        HOLDERS[holder](embedded, kept)
        return model(inputs_embeds=embedded).logits

    session = parked(runtime, 3, program, llama, input_ids)
    assert sum(session.storage_sizes) > 0
    embedded_bytes = input_ids.numel() * 64 * 4
    taken = [view.name for item in session._residency.state.storages for view in item.views]
    assert not any("inputs_embeds" in name or "embedded" in name for name in taken)
    session.io_wait()
    assert any(embedded_bytes == storage_bytes(item) for item in walk(kept[0]))
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def walk(kept):
    """The tensor or storage inside whatever a holder kept."""
    if isinstance(kept, dict):
        kept = kept["deep"][0]["deeper"][0]
    elif isinstance(kept, ValueError):
        kept = kept.args[0]
    elif callable(kept) and not isinstance(kept, torch.Tensor):
        kept = kept()
    return [kept]


def storage_bytes(kept):
    if isinstance(kept, torch.UntypedStorage):
        return kept.nbytes()
    tensor = kept if isinstance(kept, torch.Tensor) else torch.from_numpy(kept)
    return tensor.untyped_storage().nbytes()


def test_edit_changes_the_logits_as_a_plain_hook_would(runtime, llama, input_ids):
    """An edit of the swapped-out hidden states gives exactly the logits of a hook that makes it in a plain run."""

    def edit(hidden_states):
        hidden_states[:, -1] *= 1.5

    def hook(module, args, output):
        edit(output)

    plain = greedy(llama, input_ids, 3)
    handle = llama.model.layers[2].register_forward_hook(hook)
    output = llama(input_ids, use_cache=True)
    handle.remove()
    session = parked(runtime, 3, greedy, llama, input_ids, 3)
    session.io_wait()
    edit(session.state["hidden_states"])
    session.resume()
    found = session.result(30)
    assert torch.equal(found[0], output.logits)
    assert not torch.equal(found[0], plain[0])


@pytest.mark.parametrize("name", ["hidden_states", "kv.2.keys", "kv.1.values"])
def test_edit_of_any_tensor_of_any_session_is_its_own(runtime, llama, input_ids, name):
    """With several sessions in the arena, an edit of one tensor of one of them changes that one, and nothing else."""
    sessions = [parked(runtime, 2, greedy, llama, input_ids, 2) for _ in range(3)]
    for session in sessions:
        session.io_wait()
    before = {key: tensor.clone() for key, tensor in sessions[1].state.items()}
    sessions[1].state[name].mul_(-2)
    after = sessions[1].state
    assert torch.equal(after[name], before[name] * -2)
    assert all(torch.equal(after[key], before[key]) for key in before if key != name)
    found = []
    for session in sessions:
        session.resume()
        found.append(session.result(30))
    plain = greedy(llama, input_ids, 2)
    assert [equal(one, plain) for one in found] == [True, False, True]


def test_edit_on_the_device_and_replacement_survive(runtime, llama, input_ids):
    """An edit before IO_WAIT, and a tensor put in whole, are what the program finds."""
    results = []
    for swapped in (False, True):
        session = parked(runtime, 2, prefill, llama, input_ids)
        if swapped:
            session.io_wait()
        session.state["hidden_states"] = session.state["hidden_states"] * 2
        if not swapped:
            session.io_wait()
        session.resume()
        results.append(session.result(30))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], prefill(llama, input_ids))


def test_edits_that_do_not_fit_are_refused(runtime, llama, input_ids):
    """A wrong shape, dtype or name is answered by a message and changes nothing."""
    session = parked(runtime, 2, prefill, llama, input_ids)
    session.io_wait()
    hidden = session.state["hidden_states"]
    with pytest.raises(ValueError, match="hidden_states is torch.float32"):
        session.state["hidden_states"] = hidden[:, :1]
    with pytest.raises(ValueError, match="cannot be replaced by torch.float16"):
        session.state["hidden_states"] = hidden.half()
    with pytest.raises(KeyError, match="it has: hidden_states"):
        session.state["hidden"]
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_several_sessions_side_by_side(runtime, llama, input_ids):
    """Eight sessions at different layers, swapped out together and resumed in random order, are all bit-equal."""
    inputs = [(input_ids + shift) % 128 for shift in range(8)]
    sessions = [parked(runtime, 1 + index % LAYERS, greedy, llama, ids, 3) for index, ids in enumerate(inputs)]
    for session in sessions:
        session.io_wait()
    order = list(range(8))
    random.Random(3).shuffle(order)
    for index in order:
        sessions[index].resume()
    for session, ids in zip(sessions, inputs, strict=True):
        assert equal(session.result(30), greedy(llama, ids, 3))
        session.close()


def test_signals_in_the_wrong_order_are_refused(runtime, llama, input_ids):
    """RESUME, IO_WAIT, state and result say which phase the session is in when it is the wrong one."""
    session = runtime.open(breakpoint=2)
    for signal in (session.io_wait, session.resume, session.result):
        with pytest.raises(djinn.IllegalMove, match="created"):
            signal()
    session.start(prefill, llama, input_ids)
    session.wait(30)
    session.io_wait()
    with pytest.raises(djinn.IllegalMove, match="io_wait"):
        session.io_wait()
    session.resume()
    session.result(30)
    session.wait(30)
    with pytest.raises(djinn.IllegalMove, match="finished"):
        session.resume()
    with pytest.raises(djinn.IllegalMove, match="finished"):
        _ = session.state
    session.close()
    session.close()


def test_full_arena_leaves_the_session_running(llama, input_ids):
    """IO_WAIT without room raises, frees what it had reserved, and the session goes on from the device."""
    with djinn.Runtime(llama, host_memory_bytes=20_000) as runtime:
        session = parked(runtime, 3, greedy, llama, input_ids, 2)
        with pytest.raises(djinn.HostMemoryFull):
            session.io_wait()
        assert session.phase is djinn.Phase.PAUSED
        assert runtime.arena.reserved_bytes == 0
        session.resume()
        assert equal(session.result(30), greedy(llama, input_ids, 2))


def test_device_full_at_resume_can_be_retried(runtime, llama, input_ids, monkeypatch):
    """A device without room leaves the state on the host; RESUME works once there is room."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    allocate = transfer._allocate

    def refuse(entries):
        allocate(entries)
        if not any(entry.item.in_frontier for entry in entries):  # the history finds no room
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(transfer, "_allocate", refuse)
    with pytest.raises(djinn.DeviceMemoryFull):
        session.resume()
    assert session.phase is djinn.Phase.IO_WAIT
    assert all(item.storage.nbytes() == 0 for item in session._residency.state.storages)
    monkeypatch.undo()
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 2))


@pytest.fixture
def taken_after_resume(monkeypatch):
    """Device memory that was there when RESUME looked, and is gone when the program allocates its history."""
    allocate = transfer._allocate
    room, asked = threading.Event(), threading.Event()

    def refuse(entries):
        allocate(entries)
        if threading.current_thread().name.startswith("djinn-"):
            asked.set()
            if not room.is_set():
                raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(transfer, "_ASK_FROM", 1)
    monkeypatch.setattr(transfer, "_allocate", refuse)
    return room, asked


def test_history_waits_for_room_that_was_taken_after_resume(runtime, llama, input_ids, taken_after_resume):
    """The program waits, others may compute, and it goes on when there is room."""
    room, asked = taken_after_resume
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    session.resume()
    assert asked.wait(30)
    assert session.wait(0.05) is djinn.Phase.RUNNING
    assert not session.wait_resident(0)
    assert equal(runtime.open().start(greedy, llama, input_ids, 2).result(30), greedy(llama, input_ids, 2))
    room.set()
    assert equal(session.result(30), greedy(llama, input_ids, 2))


def test_history_without_room_evicts_others(runtime, llama, input_ids, monkeypatch):
    """Room that is gone when the program allocates its history is taken from sessions that wait."""
    idle = parked(runtime, 3, greedy, llama, input_ids, 2)
    idle.io_wait(force=False)
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    allocate = transfer._allocate

    def refuse(entries):
        if idle.device_bytes and threading.current_thread().name.startswith("djinn-"):
            raise torch.OutOfMemoryError("out of memory")
        allocate(entries)

    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(transfer, "_ASK_FROM", 1)
    monkeypatch.setattr(transfer, "_allocate", refuse)
    session.resume()
    for one in (session, idle):
        if one is idle:
            assert idle.device_bytes == 0
            one.resume()
        assert equal(one.result(30), greedy(llama, input_ids, 2))


def test_close_while_history_waits_for_room(runtime, llama, input_ids, taken_after_resume):
    """The program may touch its state when it is unwound: close() says how much waits, and ends when it is back."""
    room, asked = taken_after_resume
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    waiting = session.host_bytes
    session.resume()
    assert asked.wait(30)
    with pytest.raises(TimeoutError, match=f"no room yet for {waiting} bytes"):
        session.close(0.1)
    room.set()
    session.close(30)
    assert session.phase is djinn.Phase.CLOSED
    assert runtime.arena.reserved_bytes == 0


def test_where_room_is_doubtful_resume_allocates_all(runtime, llama, input_ids, monkeypatch):
    """Then RESUME raises while it still can, and the program allocates nothing."""
    allocate = transfer._allocate
    threads = []

    def note(entries):
        if entries:
            threads.append(threading.current_thread())
        allocate(entries)

    monkeypatch.setattr(transfer, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(transfer, "_ASK_FROM", 1)
    monkeypatch.setattr(transfer, "_allocate", note)
    for room in (True, False):
        monkeypatch.setattr(lanes.Link, "has_room", lambda link, nbytes, room=room: room)
        session = parked(runtime, 3, greedy, llama, input_ids, 2)
        session.io_wait()
        threads.clear()
        session.resume()
        assert equal(session.result(30), greedy(llama, input_ids, 2))
        assert all(thread is threading.current_thread() for thread in threads) is not room


def test_an_exception_of_the_program_reaches_the_result(runtime, llama, input_ids):
    """What the program raises after the resume comes out of result(), and the session's memory is given back."""

    def program(model, tokens):
        model(tokens)
        raise ZeroDivisionError("the program's own")

    session = parked(runtime, 3, program, llama, input_ids)
    session.io_wait()
    session.resume()
    with pytest.raises(ZeroDivisionError, match="the program's own"):
        session.result(30)
    assert session.wait(30) is djinn.Phase.FAILED
    session.close()
    assert runtime.arena.reserved_bytes == 0


def test_what_a_failed_program_held_goes_with_the_session(runtime, llama, input_ids):
    """The traceback of its error keeps the program's tensors until the session is closed, and no longer."""
    held = []

    def program(model, tokens):
        embedded = model.model.embed_tokens(tokens) * 1
        held.append(weakref.ref(embedded))
        raise ZeroDivisionError

    session = runtime.open().start(program, llama, input_ids)
    gc.disable()
    try:
        assert session.wait(30) is djinn.Phase.FAILED
        assert held[0]() is not None
        session.close()
        assert held[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("swapped", [False, True], ids=["paused", "swapped out"])
def test_close_while_parked_frees_everything(runtime, llama, input_ids, swapped):
    """Closing a parked session ends its thread and releases its host memory."""
    threads = set(threading.enumerate())
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    if swapped:
        session.io_wait()
    session.close()
    assert session.phase is djinn.Phase.CLOSED
    assert set(threading.enumerate()) <= threads
    assert runtime.arena.reserved_bytes == 0


def test_a_program_that_never_reaches_the_breakpoint_just_ends(runtime, llama, input_ids):
    """wait() reports FINISHED rather than PAUSED, and the result is there."""
    session = runtime.open(breakpoint=3, visit=2).start(prefill, llama, input_ids)
    assert session.wait(30) is djinn.Phase.FINISHED
    assert torch.equal(session.result(), prefill(llama, input_ids))


def test_state_read_between_layers_is_waited_for(llama, input_ids):
    """A residual held around the layer call is not in the frontier, yet the resumed run reads it whole."""
    blocks = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(4))

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks

        def forward(self, x):
            for block in self.blocks:
                x = x + block(torch.tanh(x))
            return x

    torch.manual_seed(0)
    model, x = Residual(), torch.randn(2048, 64)
    expected = model(x)
    with djinn.Runtime(model, host_memory_bytes=64 << 20, layers=blocks) as runtime:
        for layer in (1, 2, 4):
            session = parked(runtime, layer, lambda ids: model(ids * 1), x)
            session.io_wait()
            spoil(session.storage_sizes)
            session.resume()
            assert torch.equal(session.result(30), expected)
            session.close()


@pytest.fixture
def late_history(monkeypatch):
    """What the frontier does not need comes back batch by batch, 20 ms apart: a layer computes in one."""
    submit = transfer.TransferEngine._submit

    def late(engine, restore, batch, **how):
        time.sleep(0.02)
        submit(engine, restore, batch, **how)

    monkeypatch.setattr(transfer.TransferEngine, "_submit", late)


@pytest.mark.parametrize("keyword", [False, True])
def test_late_state_read_beside_the_layers_is_waited_for(late_history, keyword):
    """A module beside the layers waits for its arguments, and so does what runs after such a module."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(2))
            self.mix = torch.nn.Bilinear(64, 64, 64)
            self.norm = torch.nn.LayerNorm(64)

        def forward(self, x):
            first, second, third = x * 2, x * 3, x * 4
            for block in self.blocks:
                x = block(x)
            x = self.mix(x, input2=first) if keyword else self.mix(x, first)
            return self.norm(x) * second + third

    torch.manual_seed(0)
    model, x = Model(), torch.randn(256, 64)
    expected = model(x)
    with djinn.Runtime(model, host_memory_bytes=64 << 20, layers=model.blocks) as runtime:
        for layer in (1, 2):
            session = parked(runtime, layer, lambda ids: model(ids * 1), x)
            session.io_wait()
            spoil(session.storage_sizes)
            session.resume()
            assert torch.equal(session.result(30), expected)
            session.close()


@pytest.mark.parametrize("visit", [1, 2])
def test_late_history_is_waited_for(runtime, llama, input_ids, late_history, visit):
    """However late the KV cache arrives, layers and decode steps that read it wait: the run is bit-equal."""
    session = parked(runtime, 3, greedy, llama, input_ids, 3, visit=visit)
    session.io_wait()
    spoil(session.storage_sizes)
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 3))


def test_a_copy_that_fails_gives_the_host_memory_back(runtime, llama, input_ids, monkeypatch):
    """IO_WAIT that raises half-way leaves the session as it was, and it runs on from the device."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)

    def refuse(lane, storage, target):
        raise RuntimeError("the copy failed")

    monkeypatch.setattr(lanes.Lane, "empty", refuse)
    with pytest.raises(RuntimeError, match="the copy failed"):
        session.io_wait()
    monkeypatch.undo()
    assert session.phase is djinn.Phase.PAUSED
    assert runtime.arena.reserved_bytes == 0
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 2))


def test_layers_that_cannot_be_found_are_asked_for():
    """A model without a stack of layers is refused unless they are named; a breakpoint must be one of them."""
    model = torch.nn.Linear(4, 4)
    with pytest.raises(djinn.LayersNotFound, match="layers="):
        djinn.Runtime(model, host_memory_bytes=4096)
    with djinn.Runtime(model, host_memory_bytes=4096, layers=[model]) as runtime:
        with pytest.raises(ValueError, match="breakpoint 2 is not a layer of this model: 1 to 1"):
            runtime.open(breakpoint=2)
        with pytest.raises(ValueError, match="visit"):
            runtime.open(breakpoint=1, visit=0)
