"""The bench on a GPU: it keeps nothing there, and looks at what waits in host memory without it."""

import threading
import time

import pytest
import torch

import djinn
from djinn.debugger.bench import Bench

pytestmark = pytest.mark.gpu


@pytest.fixture
def on_gpu(llama):
    """A bench on the small Llama on a GPU, and a session that is parked in a decode step."""
    llama.to("cuda")
    try:
        with djinn.Runtime(llama, host_memory_bytes=32 << 20) as runtime:
            ids = torch.arange(24, device="cuda").reshape(2, 12)
            session = runtime.open(breakpoint=3, visit=2, durable=True)
            session.start(llama.generate, ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
            session.wait(30)
            bench = Bench(runtime)
            yield bench, session
            bench.close()
    finally:
        llama.to("cpu")


@pytest.mark.parametrize("waits", [False, True])
def test_nothing_stays_and_the_numbers_are_torchs(on_gpu, llama, waits):
    """As many bytes are in use behind the looks as before; the lens is the norm and the head on the device."""
    bench, session = on_gpu
    hidden = session.state["hidden_states"].clone()
    expected = llama.lm_head(llama.model.norm(hidden[0, -1:]))[0].float().topk(5).indices.tolist()
    if waits:
        session.io_wait()
    torch._C._cuda_clearCublasWorkspaces()  # that of the product above
    before = torch.cuda.memory_allocated()
    for line in ("tokens", "lens", "edit scale 2", "edit scale 0.5", "state"):  # an edit forgets the norms
        outcome = bench.do(line)
        assert not outcome.failed, outcome.lines
    assert [guess.token.id for guess in bench.lens().guesses] == expected
    assert bench.state()[0].norm == pytest.approx(float(hidden.double().norm()), rel=1e-12)
    assert torch.cuda.memory_allocated() == before
    assert bench.sample().nbytes == before
    assert torch.equal(session.state["hidden_states"].cpu(), hidden.cpu())


def test_a_state_in_host_memory_is_looked_at_while_others_compute(on_gpu):
    """Its tokens, norms and edits need no turn; the lens says that the device is busy."""
    bench, session = on_gpu
    session.io_wait()
    go_on = threading.Event()
    other = bench.runtime.open().start(go_on.wait, 60)
    while other.doing != "computing":
        time.sleep(0.001)  # not spinning: that would take the interpreter from who is waited for
    for line in ("tokens", "state", "edit scale 2"):
        assert not bench.do(line).failed
    assert bench.lens().note == "the device is busy: session 2 computes"
    go_on.set()
    other.result(30)
