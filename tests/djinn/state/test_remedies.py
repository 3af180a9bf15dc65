"""What stays on the device comes with what a user can do about it."""

import pytest
import torch
from tests.programs import parked, prefill

from djinn.state.remedies import remedy
from djinn.state.storages import LeftBehind

REASONS = [
    "the caller holds it",
    "somebody outside the session holds it",
    "somebody has got hold of it since the pause",
    "numpy, DLPack or shared memory holds its bytes",
    "gradients are on: autograd may need it",
    "it belongs to a transform of torch.func (vmap, grad, jvp)",
    "it is a tensor of the subclass MyTensor",
    "looking for the state failed (ValueError): nothing was taken",
]


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_has_a_remedy(reason):
    """One line that says what to do, also where the reason goes on with a name."""
    assert remedy(reason)
    assert "\n" not in remedy(reason)


def test_a_line_of_what_is_left_says_what_to_do(runtime, llama, input_ids):
    """In the view of the state and as text; an unknown reason stands alone."""
    with torch.enable_grad():
        session = parked(runtime, 3, prefill, llama, input_ids)
    line = next(line for line in session.left_behind if line.reason.startswith("gradients"))
    assert line.remedy == "start the program under torch.no_grad()"
    assert str(line) == f"{line.name}: {line.nbytes} bytes, {line.reason}; {line.remedy}"
    assert f"{line.reason}; {line.remedy}" in repr(session.state)
    assert str(LeftBehind(name="x", nbytes=4, reason="it is empty")) == "x: 4 bytes, it is empty"
