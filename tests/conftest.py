"""Shared by all tests: tiny random models, and which tests a machine cannot run that lacks a GPU, TeX or a package."""

import contextvars
import shutil

import pytest
import torch
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.measure import trained
from tests.warm import WarmPython

LAYERS = 6


def pytest_collection_modifyitems(config, items):
    """Deselect, and count as deselected, what needs a GPU, pdflatex or ``envs/trained.txt`` where it is not there.

    The slow file comes first: of several processes the one that takes it is not the last to end.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    missing = {"gpu"} if not torch.cuda.is_available() else set()
    missing |= {"tex"} if shutil.which("pdflatex") is None else set()
    missing |= {"trained"} if trained.missing() else set()
    left_out = [item for item in items if any(item.get_closest_marker(mark) for mark in missing)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def _leaves_no_tensor_in_the_context():
    """A tensor in a context variable is in every later session's state, whose tests would find it left behind."""
    yield
    left = [name for name, value in contextvars.copy_context().items() if any(map(torch.is_tensor, tree_leaves(value)))]
    assert not left, f"the test has left tensors in the context: {left}"


@pytest.fixture(scope="session")
def llama():
    """A Llama of 6 layers with grouped-query attention."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def input_ids():
    """Tokens of shape [2, 24]."""
    return torch.randint(128, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def warm():
    """A Python whose processes start at once."""
    python = WarmPython()
    yield python
    python.close()
