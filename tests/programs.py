"""Programs as a user writes them, and other things that the tests of the runtime share."""

import torch

import djinn


def prefill(model, input_ids):
    """Logits of one forward pass without a cache."""
    return model(input_ids, use_cache=False).logits


def greedy(model, input_ids, steps):
    """Logits of a prefill and of ``steps`` greedy decode steps."""
    output = model(input_ids, use_cache=True)
    logits = [output.logits]
    for _ in range(steps):
        output = model(logits[-1][:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits)
    return logits


def parked(runtime, layer, program, *args, visit=1):
    """A session of ``program`` that is paused after ``layer``."""
    session = runtime.open(breakpoint=layer, visit=visit).start(program, *args)
    assert session.wait(30) is djinn.Phase.PAUSED
    return session


def equal(left, right):
    """Whether two lists of tensors are the same in every bit."""
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def without_climb(monkeypatch):
    """Ask no longer who else holds what, tens of milliseconds a session, where the test is about something else."""
    monkeypatch.setattr("djinn.state.ownership.Ownership._held", lambda *args: (set(), set()))


def spoil(sizes):
    """Overwrite memory of these sizes that the allocator may hand out next."""
    blocks = [torch.full((size,), 0xFF, dtype=torch.uint8) for size in sizes]
    del blocks
