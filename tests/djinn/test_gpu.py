"""The runtime on a CUDA device: streams, events and pinned memory, which the CPU tests do not cover."""

import copy
import re
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from tests.interrupt import Interrupt
from tests.programs import equal, greedy, prefill
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import djinn
from djinn.debugger.bench import Bench
from djinn.memory import growth, transfer
from djinn.memory.host_memory import HostArena, available_bytes
from djinn.state.digest import digest_of

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _reproducible():
    """Without cuDNN's attention, which is not so for one query token: each test that is run alone needs this too."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.fixture(scope="module")
def model():
    """A Llama of 8 layers with 16 MiB of hidden states at [1, 2048] tokens: copies long enough to be overtaken."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=512,
        max_position_embeddings=4096,
    )
    with torch.device("cuda"):
        return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(512, (1, 2048), generator=torch.Generator().manual_seed(1)).cuda()


@pytest.fixture
def runtime(model):
    with djinn.Runtime(model, host_memory_bytes=2 << 30) as runtime:
        yield runtime


def swapped_out(runtime, layer, *call, visit=1):
    """A session at IO_WAIT, its freed memory overwritten."""
    session = runtime.open(breakpoint=layer, visit=visit).start(*call)
    assert session.wait(60) is djinn.Phase.PAUSED
    session.io_wait()
    blocks = [torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda") for size in session.storage_sizes]
    torch.cuda.synchronize()
    del blocks
    return session


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
@pytest.mark.parametrize("codec", ["raw", "auto"])
def test_a_model_on_another_device_than_the_current_one(model, tokens, codec):
    """Its copies, marks and kernels are of its own device; the current one is left as it was, and lends no memory."""
    there = torch.device("cuda:1")
    moved, prompt = copy.deepcopy(model).to(there), tokens.to(there)
    expected = greedy(moved, prompt, 3)
    free = torch.cuda.mem_get_info(0)[0]
    with djinn.Runtime(moved, host_memory_bytes=2 << 30, codec=codec) as runtime:
        for layer, visit in ((1, 1), (7, 1), (8, 2)):
            session = runtime.open(breakpoint=layer, visit=visit).start(greedy, moved, prompt, 3)
            assert session.wait(60) is djinn.Phase.PAUSED
            session.io_wait()
            session.resume()
            assert all(torch.equal(a, b) for a, b in zip(session.result(60), expected, strict=True))
    assert torch.cuda.current_device() == 0
    assert torch.cuda.mem_get_info(0)[0] == free


@pytest.mark.parametrize("layer", [1, 4, 8])
@pytest.mark.parametrize("visit", [1, 2])
def test_resumed_run_is_bit_equal(runtime, model, tokens, layer, visit):
    """All logits equal the uninterrupted call's, in the prefill and in a decode step."""
    expected = greedy(model, tokens, 3)
    session = swapped_out(runtime, layer, greedy, model, tokens, 3, visit=visit)
    session.resume()
    found = session.result(60)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("layer", "visit"), [(1, 1), (8, 1), (4, 3)])
def test_a_session_is_restored_from_its_file(runtime, model, tokens, tmp_path, layer, visit, swapped):
    """Paused or swapped out when it was saved, edited, and with other work on the device meanwhile."""

    def sampled(steps):
        return model.generate(
            tokens, max_new_tokens=steps, do_sample=True, output_logits=True, return_dict_in_generate=True
        )

    torch.cuda.manual_seed(3)
    session = runtime.open(breakpoint=layer, visit=visit, durable=True).start(sampled, 5)
    assert session.wait(60) is djinn.Phase.PAUSED
    if swapped:
        session.io_wait()
    session.state["hidden_states"][:, -1] += 1
    session.save(tmp_path / "one.djinn")
    session.resume()
    expected = session.result(60)
    session.close()
    torch.cuda.manual_seed(4)
    with runtime.restore(tmp_path / "one.djinn", sampled, 5) as restored:
        assert not restored._tape.computed
        restored.io_wait()
        prefill(model, tokens)
        restored.resume()
        found = restored.result(60)
    assert torch.equal(found.sequences, expected.sequences)
    assert equal(found.logits, expected.logits)


def test_the_digest_is_that_of_the_host(model):
    """A model's print is the same wherever its weights are."""
    weight = model.lm_head.weight.detach().view(torch.uint8).reshape(-1)
    assert digest_of(weight) == digest_of(weight.cpu())


def test_device_memory_is_released(runtime, model, tokens):
    """A paused session holds at most 1 MiB of device memory."""
    prefill(model, tokens)
    before = torch.cuda.memory_allocated()
    session = swapped_out(runtime, 8, greedy, model, tokens, 1)
    assert torch.cuda.memory_allocated() - before <= 1 << 20
    session.resume()
    session.result(60)


def test_resume_beside_a_computing_session(runtime, model, tokens):
    """A session resumed while the compute stream is busy with another is bit-equal, and so is the other."""
    expected = greedy(model, tokens, 3)
    session = swapped_out(runtime, 4, greedy, model, tokens, 3)
    other = runtime.open(breakpoint=8, visit=99).start(greedy, model, tokens, 3)
    session.resume()
    for found in (session.result(60), other.result(60)):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("visit", [1, 2])
def test_a_resume_that_keeps_the_interpreter_is_bit_equal(runtime, model, tokens, visit, beside):
    """With a debugger open, alone and beside a session that computes; its marks are made at the pause, or not."""
    expected = greedy(model, tokens, 3)
    bench = Bench(runtime)
    try:
        for number in range(2):
            session = swapped_out(runtime, 4, greedy, model, tokens, 3, visit=visit)
            ready = session._residency.restore.ready
            assert ready.event.cuda_event
            if number:
                ready.event = torch.cuda.Event()
            other = runtime.open(breakpoint=8, visit=99).start(greedy, model, tokens, 3) if beside else session
            session.resume()
            assert ready.ended
            for found in (session.result(60), other.result(60)):
                assert equal(found, expected)
    finally:
        bench.close()


def test_arena_is_pinned(runtime):
    """The host memory is page-locked, whatever torch thinks of who allocated it."""
    assert runtime.arena.reserve([4096])[0].bytes.is_pinned()


@pytest.fixture
def small_pieces(monkeypatch):
    """Arenas grow by 1 MiB."""
    monkeypatch.setattr(growth, "FIRST_BYTES", 1 << 20)
    monkeypatch.setattr(growth, "PIECE_BYTES", 1 << 20)


@pytest.mark.usefixtures("small_pieces")
def test_storages_larger_than_a_piece():
    """Storages of any size are pinned, and copied to the host and back, by whichever operator."""
    arena = HostArena(64 << 20, pinned=True)
    assert arena.wait_grown(60)
    for sizes in ([700_000] * 60, [5 << 20, 9 << 20, 3], [64 << 20]):
        extents = arena.reserve(sizes)
        for extent in extents:
            device = torch.randint(256, (extent.bytes.numel(),), dtype=torch.uint8, device="cuda")
            extent.bytes.copy_(device, non_blocking=True)
            torch.cuda.synchronize()
            assert extent.bytes.is_pinned()
            assert torch.equal(extent.bytes.cuda(), device)
        del extent
        arena.check_integrity()
        arena.release(extents)
        del extents
    arena.close()


@pytest.mark.usefixtures("small_pieces")
def test_a_graph_is_captured_while_the_arena_grows():
    """In CUDA's strictest mode, which is torch's default."""
    x = torch.zeros(8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
        arena = HostArena(64 << 20, pinned=True)
        assert arena.wait_grown(60)
        x.add_(1)
    graph.replay()
    assert x.tolist() == [2.0] * 8
    arena.close()


def bit_equal(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("swapped", [False, True], ids=["paused", "swapped out"])
def test_an_edit_is_what_the_program_finds(runtime, model, tokens, swapped):
    """On the device or in host memory, on a stream of the caller's, through guarded tensors, as a plain hook's edit."""

    def edit(hidden_states):
        hidden_states[:, -1] *= 1.5
        hidden_states[:, :7].add_(1)

    handle = model.model.layers[3].register_forward_hook(lambda module, args, output: edit(output))
    expected = prefill(model, tokens)
    handle.remove()
    session = runtime.open(breakpoint=4).start(prefill, model, tokens)
    session.wait(60)
    if swapped:
        session.io_wait()
    with torch.cuda.stream(torch.cuda.Stream()):
        hidden_states = session.state["hidden_states"]
        edit(hidden_states)
    assert hidden_states.device.type == ("cpu" if swapped else "cuda")
    session.resume()
    with pytest.raises(djinn.IllegalMove, match="void"):
        hidden_states.sum()
    assert torch.equal(session.result(60), expected)


def test_what_the_caller_holds_on_the_device_stays(runtime, model, tokens):
    """A DLPack consumer of a paused tensor keeps its bytes; the rest leaves."""
    session = runtime.open(breakpoint=4).start(prefill, model, tokens)
    session.wait(60)
    held = torch.from_dlpack(session.state["hidden_states"])
    before = held.clone()
    session.io_wait()
    assert [line.name for line in session.left_behind if "since the pause" in line.reason] == ["hidden_states"]
    assert torch.equal(held, before)
    session.resume()
    assert torch.equal(session.result(60), prefill(model, tokens))


@pytest.mark.parametrize("layer", [1, 8])
def test_an_adopted_cache_leaves_the_device(runtime, model, tokens, layer):
    """Its bytes are free meanwhile; afterwards the caller's tensors are on the device, and equal the plain call's."""
    cache, plain = (DynamicCache(config=model.config) for _ in range(2))
    for one in (cache, plain):
        model(tokens, past_key_values=one)
    nbytes = sum(part.nbytes for one in cache.layers for part in (one.keys, one.values))
    expected = model(tokens[:, :1], past_key_values=plain).logits
    session = runtime.open(breakpoint=layer, adopt=[cache]).start(model, tokens[:, :1], past_key_values=cache)
    assert session.wait(60) is djinn.Phase.PAUSED
    before = torch.cuda.memory_allocated()
    session.io_wait()
    assert before - torch.cuda.memory_allocated() >= nbytes
    for one in cache.layers:
        with pytest.raises(djinn.IllegalMove, match="is in host memory with session"):
            one.keys.sum()
    session.resume()
    assert torch.equal(session.result(60).logits, expected)
    for one, other in zip(cache.layers, plain.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


@pytest.mark.parametrize("again", [0, 3])
def test_a_resume_is_interrupted_at_any_line(runtime, model, tokens, again):
    """Copies that are in flight are waited for and made again, or the program is on its way: bit-equal."""
    expected = greedy(model, tokens, 1)
    line, raised = 0, 1
    while raised:
        line += 1
        session = swapped_out(runtime, 4, greedy, model, tokens, 1)
        with Interrupt(line, again) as interrupt:
            session.resume()
        raised = interrupt.raised
        if session.phase is djinn.Phase.IO_WAIT:
            session.resume()
        assert bit_equal(session.result(60), expected)
        session.close(60)
        assert runtime.arena.reserved_bytes == 0
    assert line > 50


def test_without_room_on_the_device_nothing_is_lost(runtime, model, tokens):
    """RESUME raises, a cancelled program stays parked, and both go on when there is room: the real device is full."""
    seen = []

    def program():
        embedded = model.model.embed_tokens(tokens) * 1
        try:
            return model(inputs_embeds=embedded, use_cache=True).logits
        finally:
            seen.append(embedded.clone())

    kept, cancelled = (swapped_out(runtime, 8, program) for _ in range(2))
    torch.cuda.empty_cache()
    full = []
    nbytes = 1 << 30
    while nbytes >= 1 << 20:
        try:
            full.append(torch.empty(nbytes, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            nbytes >>= 1
    with pytest.raises(djinn.DeviceMemoryFull):
        kept.resume()
    assert kept.phase is djinn.Phase.IO_WAIT
    with pytest.raises(TimeoutError, match="no room yet for"):
        cancelled.close(0.5)
    assert not seen
    full.clear()
    torch.cuda.empty_cache()
    cancelled.close(60)
    kept.resume()
    expected = model.model.embed_tokens(tokens)
    assert torch.equal(kept.result(60), model(inputs_embeds=expected, use_cache=True).logits)
    assert len(seen) == 2
    assert all(torch.equal(one, expected) for one in seen)


@pytest.fixture(scope="module")
def small():
    """A Llama of 4 small layers: it is compiled in seconds."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, vocab_size=512
    )
    with torch.device("cuda"):
        return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)


def generated(model, tokens):
    """Tokens and scores of `generate` with a static cache, which compiles its steps into CUDA graphs by itself."""
    found = model.generate(
        tokens[:, :64],
        max_new_tokens=6,
        do_sample=False,
        cache_implementation="static",
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=0,
    )
    return [found.sequences, *found.scores]


@pytest.fixture
def replays(monkeypatch):
    """Counts the CUDA graphs that are replayed."""
    seen = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (seen.append(graph), replay(graph))[1])
    return seen


@pytest.mark.parametrize("visit", [1, 2, 4])
def test_a_compiled_generate_is_bit_equal(small, tokens, replays, visit):
    """Three times in one process, also while others replay CUDA graphs of the same code; the sessions replay none."""
    with torch.no_grad(), djinn.Runtime(small, host_memory_bytes=256 << 20) as runtime:
        expected = runtime.open().start(generated, small, tokens).result(120)
        for _ in range(3):
            generated(small, tokens)
            before = len(replays)
            session = swapped_out(runtime, 2, generated, small, tokens, visit=visit)
            assert len(replays) == before
            assert equal(generated(small, tokens)[:1], expected[:1])
            assert len(replays) > before
            session.resume()
            assert equal(session.result(120), expected)


def test_a_program_compiled_with_reduce_overhead_is_bit_equal(small, tokens):
    """No output of a CUDA graph is overwritten by a later run, for the session has none."""

    def program():
        past, step, logits = None, tokens[:, :64], []
        for _ in range(3):
            output = compiled(step, past_key_values=past, use_cache=True)
            past, step = output.past_key_values, output.logits[:, -1:].argmax(-1)
            logits.append(output.logits)
        return logits

    with torch.no_grad(), djinn.Runtime(small, host_memory_bytes=256 << 20) as runtime:
        compiled = torch.compile(small, mode="reduce-overhead")
        expected = runtime.open().start(program).result(120)
        for visit in (1, 2, 3):
            session = swapped_out(runtime, 2, program, visit=visit)
            session.resume()
            assert equal(session.result(120), expected)


def test_what_lies_in_the_pool_of_a_graph_stays(small, tokens):
    """A graph that the program recorded goes on writing where it wrote; `left_behind` says so."""

    def program():
        x = torch.ones(1 << 20, device="cuda")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            written = x * 2
        found = []
        for value in (1, 2):
            x.fill_(value)
            graph.replay()
            found += [written.clone(), prefill(small, tokens[:, :64])]
        return found

    with torch.no_grad(), djinn.Runtime(small, host_memory_bytes=256 << 20) as runtime:
        expected = runtime.open().start(program).result(60)
        session = runtime.open(breakpoint=2).start(program)
        assert session.wait(60) is djinn.Phase.PAUSED
        assert [line.reason for line in session.left_behind if line.name.endswith("written")] == [
            "it lies in the pool of a CUDA graph"
        ]
        session.io_wait()
        session.resume()
        assert equal(session.result(60), expected)


def test_no_pause_while_the_program_records_a_graph(small, tokens):
    """What runs then is written down and not computed: the session goes on, and the graph is whole."""

    def program():
        prefill(small, tokens[:, :64])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            written = prefill(small, tokens[:, :64])
        graph.replay()
        return written.clone()

    with torch.no_grad(), djinn.Runtime(small, host_memory_bytes=256 << 20) as runtime:
        expected = runtime.open().start(program).result(60)
        session = runtime.open(breakpoint=2, visit=2).start(program)
        assert session.wait(60) is djinn.Phase.FINISHED
        assert torch.equal(session.result(30), expected)


def test_an_attended_session_is_bit_equal(model, tokens):
    """The beat goes on while it is parked, on a GPU that computes for others, and is gone when it has resumed."""
    expected = prefill(model, tokens)
    with djinn.Runtime(model, host_memory_bytes=2 << 30, attentive=0.001) as runtime:
        for layer in (1, 8):
            session = swapped_out(runtime, layer, prefill, model, tokens)
            assert torch.equal(prefill(model, tokens), expected)
            assert "a beat every 1 ms now" in str(runtime.status())
            session.resume()
            assert torch.equal(session.result(60), expected)
    for thread in threading.enumerate():
        if thread.name == "djinn-beat":
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def slow_history(monkeypatch):
    """Each batch of a history comes some 10 ms after the one before: whoever reads it sooner finds other bytes."""
    submit = transfer.TransferEngine._submit

    def slow(engine, restore, batch, **how):
        with engine._in_behind.here():
            torch.cuda._sleep(20_000_000)
        submit(engine, restore, batch, **how)

    monkeypatch.setattr(transfer.TransferEngine, "_submit", slow)


def spoil():
    """Overwrite the memory that a swap-out has freed."""
    blocks = [torch.full((32 << 20,), 255, dtype=torch.uint8, device="cuda") for _ in range(16)]
    torch.cuda.synchronize()
    del blocks


@pytest.mark.usefixtures("slow_history")
@pytest.mark.parametrize("keep", ["nothing", "frontier"])
@pytest.mark.parametrize(("layer", "visit"), [(1, 1), (8, 1), (4, 2)])
def test_late_history_is_waited_for(runtime, model, tokens, layer, visit, keep):
    """However late the KV cache arrives, whoever reads it waits: the run is bit-equal."""
    expected = greedy(model, tokens, 3)
    session = runtime.open(breakpoint=layer, visit=visit).start(greedy, model, tokens, 3)
    assert session.wait(60) is djinn.Phase.PAUSED
    session.io_wait(keep=keep)
    assert (session.device_bytes > 0) is (keep == "frontier")
    spoil()
    session.resume()
    assert equal(session.result(60), expected)


def caches_of(model, tokens):
    cache = model(tokens, use_cache=True).past_key_values
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def captured(tensors):
    """The sum of each by a graph of the program's own, captured while they may be under way."""
    sums = torch.zeros(len(tensors), device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index, tensor in enumerate(tensors):
            sums[index] = tensor.float().sum()
    graph.replay()
    return sums.tolist()


def beside(tensors):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        doubled = [tensor * 2 for tensor in tensors]
    torch.cuda.current_stream().wait_stream(side)
    return doubled


READS = {
    "result": lambda tensors: tensors,
    "to the host": lambda tensors: [tensor.cpu() for tensor in tensors],
    "tolist": lambda tensors: [tensor[0, 0].tolist() for tensor in tensors],
    "a graph": captured,
    "a side stream": beside,
}


@pytest.mark.usefixtures("slow_history")
@pytest.mark.parametrize("how", READS)
def test_a_read_behind_the_model(runtime, model, tokens, how):
    """The user's own code finds the whole cache, in whatever way it reads it."""

    def program():
        return READS[how](caches_of(model, tokens))

    expected = program()
    session = swapped_out(runtime, 8, program)
    spoil()
    session.resume()
    found = session.result(60)
    assert all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(found, expected, strict=True))


def test_a_resume_on_a_thread_that_never_used_cuda(runtime, model, tokens):
    """The first thing that it does is a call of the CUDA runtime."""
    expected = greedy(model, tokens, 1)
    session = swapped_out(runtime, 4, greedy, model, tokens, 1)
    thread = threading.Thread(target=session.resume)
    thread.start()
    thread.join(60)
    assert equal(session.result(60), expected)


def test_a_parked_session_holds_no_memory_that_nobody_counts():
    """In a process that makes no product before its runtime: less than 4 MiB beside what torch counts."""
    script = """
import torch, djinn
from torch import nn
model = nn.Sequential(*[nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()) for _ in range(2)]).cuda()
x = torch.ones(64, 1024, device="cuda")

def uncounted():
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()

with torch.no_grad(), djinn.Runtime(model, host_memory_bytes=64 << 20, layers=list(model)) as runtime:
    seen = []
    for _ in range(6):
        session = runtime.open(breakpoint=1).start(model, x)
        session.wait(60)
        session.io_wait()
        seen.append(uncounted())
    print((seen[-1] - seen[1]) // 4)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 << 20


def test_more_sessions_than_host_memory_holds(tmp_path, caplog):
    """Fifty of 1.7 GB in an arena of 48 GiB, or as many as there is room for: all are exact. Prints the rates."""
    config = LlamaConfig(
        hidden_size=5120,
        intermediate_size=512,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
        vocab_size=512,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        deep = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    prompts = torch.randint(512, (50, 1, 2048), generator=torch.Generator().manual_seed(1)).cuda()
    nbytes = 40 * 2 * 2048 * 5120 * 2 + (64 << 20)  # of a session: its KV, and what there is beside it
    arena_bytes = min(48 << 30, available_bytes() // 2)
    fit = arena_bytes // nbytes
    count = min(50, fit + shutil.disk_usage(tmp_path).free * 4 // 5 // nbytes)
    assert count > fit
    caplog.set_level("INFO", logger="djinn")
    with djinn.Runtime(deep, host_memory_bytes=arena_bytes, disk_folder=tmp_path) as runtime:
        runtime.arena.wait_grown()
        sessions = [swapped_out(runtime, 39, greedy, deep, prompt, 2) for prompt in prompts[:count]]
        sizes = [session.host_bytes + session.disk_bytes for session in sessions]
        assert min(sizes) > 1.6e9
        assert sum(session.disk_bytes > 0 for session in sessions) >= count - arena_bytes // min(sizes)
        runtime.disk.check_integrity()
        for prompt, session in zip(prompts, sessions, strict=False):
            session.resume()
            found = session.result(60)
            session.close()
            assert equal(found, greedy(deep, prompt, 2))
    assert not list(tmp_path.iterdir())
    for words in ("spilled to", "read back from"):
        lines = [record.getMessage() for record in caplog.records if words in record.getMessage()]
        pairs = [re.search(r"([\d.]+) MiB .* in ([\d.]+) s", line).groups() for line in lines]
        size, seconds = (sum(map(float, column)) for column in zip(*pairs, strict=True))
        print(f"{len(lines)} sessions {words} the disk: {size / seconds / 1024:.2f} GiB/s")
