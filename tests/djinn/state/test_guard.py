"""Tensors of a session's state in the hands of its caller: void when the session moves on, and nobody else's bytes."""

import copy
import io
import operator
import pickle
import threading

import numpy as np
import pytest
import torch
from tests.programs import equal, greedy, parked, prefill

import djinn

pytestmark = pytest.mark.usefixtures("without_climb")


USES = {
    "repr": repr,
    "str": str,
    "format": lambda t: f"{t}",
    "sum": lambda t: t.sum(),
    "sum of torch": torch.sum,
    "add": lambda t: t + 1,
    "reflected": lambda t: 1 - t,
    "in place": lambda t: t.mul_(2),
    "augmented": lambda t: operator.imul(t, 2),
    "as an argument": lambda t: torch.ones(2, 24, 64).add_(t),
    "as an output": lambda t: torch.add(1, 1, out=t),
    "in a list": lambda t: torch.stack([t, t]),
    "index": lambda t: t[0],
    "index put": lambda t: operator.setitem(t, 0, 1.0),
    "iterate": list,
    "unpack": lambda t: print(*t, file=io.StringIO()),
    "view": lambda t: t.view(-1),
    "detach": lambda t: t.detach(),
    "data": lambda t: t.data,
    "clone": lambda t: t.clone(),
    "contiguous": lambda t: t.contiguous(),
    "to": lambda t: t.to(torch.float64),
    "item": lambda t: t.max().item(),
    "tolist": lambda t: t.tolist(),
    "equal": lambda t: torch.equal(t, t),
    "comparison": lambda t: t == 0,
    "numpy": lambda t: t.numpy(),
    "asarray": np.asarray,
    "DLPack": torch.from_dlpack,
    "DLPack in numpy": np.from_dlpack,
    "DLPack capsule": lambda t: t.__dlpack__(),
    "storage": lambda t: t.untyped_storage(),
    "data pointer": lambda t: t.data_ptr(),
    "module": lambda t: torch.nn.functional.layer_norm(t, (64,)),
    "operator": lambda t: torch.ops.aten.mul.Tensor(t, 2),
    "einsum": lambda t: torch.einsum("bth->bh", t),
    "pickle": pickle.dumps,
    "save": lambda t: torch.save(t, io.BytesIO()),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "as_subclass": lambda t: t.as_subclass(torch.Tensor),
    "pin": lambda t: torch.Tensor.copy_(torch.empty(2, 24, 64), t),
}


CHANGES = ("as an output", "in place", "augmented", "index put")


@pytest.mark.parametrize("how", ["io_wait", "resume", "close", "resume after io_wait", "close of the runtime"])
def test_a_void_tensor_says_so_whatever_is_done_with_it(llama, input_ids, how):
    """Each use raises IllegalMove with the tensor's name; shape, dtype and device are still known."""
    runtime = djinn.Runtime(llama, host_memory_bytes=32 << 20)
    session = parked(runtime, 3, prefill, llama, input_ids)
    if how == "resume after io_wait":
        session.io_wait()
    kept = session.state["hidden_states"]
    views = {"itself": kept, "view": kept[:, :], "slice": next(iter(kept.split(2)))}
    if how == "close of the runtime":
        runtime.close()
    else:
        getattr(session, how.split()[0])()
    for name, use in USES.items():
        for tensor in views.values():
            with pytest.raises(djinn.IllegalMove, match="hidden_states of session 1 is void"):
                pytest.fail(f"{name} gave {use(tensor)!r}")
    assert (kept.shape, kept.dtype, kept.device.type) == ((2, 24, 64), torch.float32, "cpu")
    assert (len(kept), kept.dim(), kept.numel()) == (2, 3, 3072)
    if how.startswith(("io_wait", "resume")):
        if how == "io_wait":
            session.resume()
        assert torch.equal(session.result(30), prefill(llama, input_ids))
    runtime.close()


@pytest.mark.parametrize("swapped", [False, True], ids=["paused", "swapped out"])
@pytest.mark.parametrize("name", [name for name in USES if name not in CHANGES])
def test_a_guarded_tensor_is_used_like_any_other(runtime, llama, input_ids, name, swapped):
    """What a plain tensor gives it gives, while the session is parked, and the program is undisturbed."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    if swapped:
        session.io_wait()
    guarded = session.state["hidden_states"]
    found, expected = USES[name](guarded), USES[name](guarded.clone())
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected)
    elif isinstance(expected, (str, float, bool)):
        assert found == expected
    del found
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_what_shares_the_bytes_is_guarded_and_the_rest_is_plain(runtime, llama, input_ids):
    """Views of any kind are void with their tensor; results and clones outlive it."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    tensor = session.state["hidden_states"]
    views = [tensor[0], tensor.view(-1), tensor.detach(), tensor.data, tensor.transpose(0, 1), tensor.mT]
    views += tensor.unbind()
    results = [tensor * 2, tensor.clone(), tensor.sum(), tensor.double()]
    expected = [result.clone() for result in results]
    before = [view.clone() for view in views]
    assert all(torch.equal(view, old) for view, old in zip(views, before, strict=True))
    session.resume()
    for view in views:
        with pytest.raises(djinn.IllegalMove, match="void"):
            view.sum()
    assert equal(results, expected)


def test_a_tensor_cannot_be_made_something_else(runtime, llama, input_ids):
    """What would change the tensor itself and not its bytes is refused by name."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    tensor = session.state["hidden_states"]
    for change in (
        tensor.requires_grad_,
        lambda: setattr(tensor, "requires_grad", True),
        tensor.set_,
        lambda: setattr(tensor, "data", torch.ones(1)),
        lambda: tensor.resize_(1_000_000),
        tensor.share_memory_,
    ):
        with pytest.raises(djinn.IllegalMove, match="hidden_states cannot be .* clone"):
            change()
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


@pytest.mark.parametrize("swapped", [False, True], ids=["paused", "swapped out"])
def test_saved_state_is_a_plain_tensor_of_its_own_size(runtime, llama, input_ids, swapped):
    """torch.save, pickle and deepcopy: no byte of the arena or of another session, loads without djinn."""
    session, other = (parked(runtime, 3, prefill, llama, ids) for ids in (input_ids, (input_ids + 1) % 128))
    other.io_wait()
    if swapped:
        session.io_wait()
    secret = other.state["hidden_states"].clone().numpy().tobytes()[:64]
    for tensor in (session.state["hidden_states"], session.state["hidden_states"][:, 3]):
        file = io.BytesIO()
        torch.save({"state": tensor}, file)
        assert len(file.getvalue()) < tensor.nbytes + 4096
        for saved in (file.getvalue(), pickle.dumps(tensor)):
            assert secret not in saved
            assert b"djinn" not in saved
        file.seek(0)
        loaded = torch.load(file, weights_only=True)["state"]
        for plain in (loaded, pickle.loads(pickle.dumps(tensor)), copy.deepcopy(tensor)):
            assert type(plain) is torch.Tensor
            assert plain.untyped_storage().nbytes() == tensor.nbytes
            assert torch.equal(plain, tensor)


OUTSIDE = {
    "numpy array": lambda t: t.numpy(),
    "part of a numpy array": lambda t: t.numpy()[:, 1:],
    "memoryview": lambda t: memoryview(t.numpy()),
    "DLPack consumer": torch.from_dlpack,
    "DLPack capsule": lambda t: t.__dlpack__(),
    "storage": lambda t: t.untyped_storage(),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_bytes_that_somebody_holds_are_nobody_else_s(llama, input_ids, name):
    """Held outside the guard they are set aside, counted, never handed out, and free when they are let go."""
    session_bytes = 60_000
    with djinn.Runtime(llama, host_memory_bytes=2 * session_bytes) as runtime:
        session = parked(runtime, 3, prefill, llama, input_ids)
        session.io_wait()
        assert session.host_bytes < session_bytes
        held = OUTSIDE[name](session.state["hidden_states"])
        session.resume()
        session.result(30)
        session.close()
        assert runtime.arena.reserved_bytes == 0
        assert runtime.status().set_aside_bytes == 12_288
        assert "still held by arrays or tensors" in str(runtime.status())
        for shift in range(1, 4):
            ids = (input_ids + shift) % 128
            other = parked(runtime, 3, prefill, llama, ids)
            other.io_wait()
            if isinstance(held, np.ndarray):
                held[:] = 7
            other.resume()
            assert torch.equal(other.result(30), prefill(llama, ids))
            other.close()
        del held
        assert runtime.status().set_aside_bytes == 0
        assert "still held" not in str(runtime.status())
        runtime.arena.check_integrity()


def test_an_arena_that_is_full_of_held_bytes_says_so(llama, input_ids):
    """HostMemoryFull names what would be free."""
    with djinn.Runtime(llama, host_memory_bytes=50_000) as runtime:
        session = parked(runtime, 3, prefill, llama, input_ids)
        session.io_wait()
        held = session.state["hidden_states"].numpy()
        session.resume()
        session.result(30)
        session = parked(runtime, 3, prefill, llama, input_ids)
        with pytest.raises(djinn.HostMemoryFull, match="12288 more are free when the numpy arrays or tensors"):
            session.io_wait()
        del held
        session.io_wait()
        session.resume()
        assert torch.equal(session.result(30), prefill(llama, input_ids))


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_got_hold_of_after_the_park_stays_on_the_device(runtime, llama, input_ids, name):
    """IO_WAIT leaves it, says why, takes the rest, and the program goes on to the same numbers."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    held = OUTSIDE[name](session.state["hidden_states"])
    session.io_wait()
    if name != "storage":  # which looks empty meanwhile
        (line,) = [line for line in session.left_behind if line.name == "hidden_states"]
        assert line.nbytes == 12_288
        assert line.reason.startswith(("numpy, DLPack or shared memory", "somebody has got hold of it"))
        assert session.device_bytes == 12_288
        assert session.host_bytes > 0
        assert line.reason in repr(session.state)
        assert runtime.status()[0].left_bytes >= 12_288
    assert torch.equal(session.state["hidden_states"], session.state["hidden_states"].clone())
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))
    del held


def test_a_graph_that_saved_the_state_keeps_it(runtime, llama, input_ids):
    """A gradient that the caller takes through the state of a paused session is right after the pause as well."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    weight = torch.ones(64, requires_grad=True)
    with torch.enable_grad():
        hidden = session.state["hidden_states"]
        expected = hidden.clone().sum((0, 1))
        loss = (weight * hidden).sum()
    session.io_wait()
    loss.backward()
    assert torch.allclose(weight.grad, expected)
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


@pytest.mark.parametrize("swapped", [False, True], ids=["paused", "io_wait"])
def test_an_edit_in_grad_mode_is_autograd_s_business(runtime, llama, input_ids, swapped):
    """Logits and gradients are those of a plain hook that makes the edit; so is what autograd refuses."""

    def edit(hidden_states):
        hidden_states[:, -1] *= 1.5

    embedded = llama.model.embed_tokens(input_ids).detach()

    def loss(leaf):
        return llama(inputs_embeds=leaf * 1, use_cache=False).logits.pow(2).sum()

    with torch.enable_grad():
        plain, leaf = (embedded.clone().requires_grad_() for _ in range(2))
        handle = llama.model.layers[2].register_forward_hook(lambda module, args, output: edit(output))
        expected = loss(plain)
        handle.remove()
        session = parked(runtime, 3, loss, leaf)
        if swapped:
            session.io_wait()
        hidden_states = session.state["hidden_states"]
        assert hidden_states.requires_grad
        assert hidden_states.grad_fn is not None
        edit(hidden_states)
        session.resume()
        found = session.result(30)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(value, at)[0] for value, at in ((found, leaf), (expected, plain))))


def test_what_autograd_refuses_is_refused():
    """Hidden states that autograd has saved cannot be edited in place: its own error at the backward pass."""

    with torch.enable_grad():
        model = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(4, 4))
        with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as small:
            x = torch.ones(2, 4, requires_grad=True)
            session = parked(small, 1, lambda: model(x * 1).sum())
            session.state["hidden_states"].mul_(2)
            session.resume()
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                session.result(30).backward()


def hook_of(edit, vector):
    def hook(module, args, output):
        edit(output, vector)

    return hook


def test_an_edit_that_brings_in_gradients():
    """While PAUSED a steering vector gets its gradient, as by a hook; where that cannot be the edit is refused."""
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3))).requires_grad_(False)
    x = torch.ones(4, 8)
    edits = [
        lambda h, v: h.add_(v),
        lambda h, v: h.copy_(h.clone() * v),
        lambda h, v: operator.setitem(h, slice(1, 3), h[1:3].clone() * v),
        lambda h, v: h[1:3].add_(v),
    ]
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as small, torch.enable_grad():
        for edit in edits:
            steer, hooked = (torch.ones(8, requires_grad=True) for _ in range(2))
            handle = model[1].register_forward_hook(hook_of(edit, hooked))
            model(x).sum().backward()
            handle.remove()
            session = parked(small, 2, model, x)
            edit(session.state["hidden_states"], steer)
            session.resume()
            session.result(30).sum().backward()
            assert torch.equal(steer.grad, hooked.grad)
            session = parked(small, 2, model, x)
            session.io_wait()
            with pytest.raises(djinn.IllegalMove, match="cannot be edited by what has gradients"):
                edit(session.state["hidden_states"], steer)
            session.close()


def test_an_edit_through_an_alias_is_seen_by_autograd():
    """``detach()`` and views of the program's own tensor share its version: the backward pass refuses as it would."""
    model = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(4, 4))
    with djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as small, torch.enable_grad():
        for alias in (lambda h: h.detach(), lambda h: h.detach()[1:], lambda h: h.data):
            x = torch.ones(2, 4, requires_grad=True)
            session = parked(small, 1, lambda x=x: model(x * 1).sum())
            alias(session.state["hidden_states"]).mul_(2)
            session.resume()
            try:
                session.result(30).backward()
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)
            else:
                plain = torch.ones(2, 4, requires_grad=True)
                out = model[0](plain * 1)
                alias(out).mul_(2)
                model[1](out).sum().backward()
                assert torch.equal(x.grad, plain.grad)
            session.close()


RESHAPING = {
    "output that grows": lambda t: torch.add(torch.zeros(30_000), 1, out=t),
    "resize by the operator": lambda t: torch.ops.aten.resize_(t, [100_000]),
    "transpose in place": lambda t: t.transpose_(0, 1),
    "squeeze in place": lambda t: t[:1].squeeze_(0),
    "unsqueeze in place": lambda t: t.unsqueeze_(0),
    "strides in place": lambda t: t.as_strided_((2, 2), (1, 1)),
}


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("swapped", [False, True], ids=["paused", "swapped out"])
@pytest.mark.parametrize("name", RESHAPING)
def test_the_state_cannot_be_given_another_shape(runtime, llama, input_ids, name, swapped):
    """What would change more than bytes is refused, and the state is as before."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    if swapped:
        session.io_wait()
    tensor = session.state["hidden_states"]
    before, sizes = tensor.clone(), session.device_bytes
    with pytest.raises((djinn.IllegalMove, RuntimeError)):
        RESHAPING[name](tensor)
    assert session.device_bytes == sizes
    if name != "output that grows":  # which may have been written
        assert torch.equal(tensor, before)
    tensor.copy_(before)
    if not swapped:
        session.io_wait()
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_capsules_past_every_override_are_refused(runtime, llama, input_ids):
    """torch's oldest entry for DLPack asks nobody: it finds no bytes, void or not."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    tensor = session.state["hidden_states"]
    for signal in (session.io_wait, session.resume):
        with pytest.raises(RuntimeError, match="data pointer"):
            torch.utils.dlpack.to_dlpack(tensor)
        signal()
    with pytest.raises(RuntimeError, match="data pointer"):
        torch.utils.dlpack.to_dlpack(tensor)


class OddList(list):
    """A container that torch looks into and the guard does not."""


def test_guards_in_containers_of_any_kind(runtime, llama, input_ids):
    """They are found by torch, and asked then."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    tensor = session.state["hidden_states"]
    assert torch.equal(torch.stack(OddList([tensor, tensor]))[0], tensor)
    session.io_wait()
    with pytest.raises(djinn.IllegalMove, match="void"):
        torch.stack(OddList([tensor, tensor]))


def test_an_error_that_somebody_keeps_holds_nothing(runtime, llama, input_ids):
    """An operator that failed, as in a notebook, does not keep the state on the device."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    with pytest.raises(RuntimeError) as kept:
        session.state["hidden_states"] @ torch.zeros(7, 7)
    session.io_wait()
    assert session.device_bytes == 0
    assert kept is not None
    session.resume()
    assert torch.equal(session.result(30), prefill(llama, input_ids))


def test_guards_of_two_runtimes_do_not_wait_for_each_other(llama, input_ids):
    """Two threads that use them in either order always come to an end."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    x = torch.ones(2, 8)
    with (
        djinn.Runtime(llama, host_memory_bytes=1 << 20) as large,
        djinn.Runtime(model, host_memory_bytes=1 << 20, layers=list(model)) as small,
    ):
        first = parked(large, 3, prefill, llama, input_ids).state["hidden_states"][0, :2, :8]
        second = parked(small, 1, model, x).state["hidden_states"]

        def add(a, b):
            for _ in range(300):
                a + b

        threads = [threading.Thread(target=add, args=pair) for pair in ((first, second), (second, first))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)


def test_an_edit_and_a_signal_at_once(runtime, llama, input_ids):
    """A signal waits for an edit that has begun: it is there whole, or refused."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    begun = threading.Event()

    def double(value):
        begun.set()
        return value * 2

    editor = threading.Thread(target=lambda: session.state["hidden_states"].apply_(double))
    editor.start()
    begun.wait(10)
    session.resume()
    editor.join(10)
    doubled = parked(runtime, 3, prefill, llama, input_ids)
    doubled.state["hidden_states"].mul_(2)
    doubled.resume()
    assert torch.equal(session.result(30), doubled.result(30))


def test_tensors_of_two_sessions_in_one_operator(runtime, llama, input_ids):
    """Both are looked after; a difference between two sessions is one line."""
    first, second = (parked(runtime, 3, prefill, llama, ids) for ids in (input_ids, (input_ids + 1) % 128))
    for session in (first, second):
        session.io_wait()
    one, two = first.state["hidden_states"], second.state["hidden_states"]
    difference = one - two
    assert torch.equal(difference, one.clone() - two.clone())
    two.copy_(one)
    first.resume()
    with pytest.raises(djinn.IllegalMove, match="session 1 is void"):
        two - one
    second.resume()
    assert torch.equal(second.result(30), first.result(30))


def test_a_kept_view_of_the_state_holds_nothing(runtime, llama, input_ids):
    """A StateView that somebody keeps does not make the next pause leave its storages behind."""
    session = parked(runtime, 2, greedy, llama, input_ids, 3)
    taken = sum(session.storage_sizes)
    view = session.state
    tensor = view["kv.1.keys"]
    session.break_at(3)
    session.resume()
    session.wait(30)
    assert sum(session.storage_sizes) > taken
    assert {"kv.1.keys", "hidden_states"} <= set(session.state)
    with pytest.raises(djinn.IllegalMove, match="void"):
        view["kv.1.keys"]
    with pytest.raises(djinn.IllegalMove, match="void"):
        tensor.sum()
    session.resume()
    assert equal(session.result(30), greedy(llama, input_ids, 3))
