"""The model under study, and its twin."""

from evaluation.measure.models import twin


def test_a_twin_shares_every_weight(subject):
    """It computes with the very weights and buffers of the other, in modules of its own."""
    model, other = subject.model, twin(subject).model
    assert not set(model.modules()) & set(other.modules())
    for mine, theirs in ((model.parameters(), other.parameters()), (model.buffers(), other.buffers())):
        assert all(a is b for a, b in zip(mine, theirs, strict=True))
