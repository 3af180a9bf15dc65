"""Shared by the tests of what measures: a shallow model, and processes that are quick to start."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from evaluation.measure import child
from evaluation.study.architectures import LLAMA_2

LAYERS = 10  # the least to which the default study fits


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """The tiny model has 10 layers here, not 40: what its tests hold is the same, in a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LLAMA_2, "llama-2-tiny", replace(LLAMA_2["llama-2-tiny"], layers=LAYERS))
        yield


@pytest.fixture
def forked(monkeypatch):
    """Children are forked, which is quick, and compute with one thread: OpenMP's do not outlive a fork.

    They hold the job's end of the pipe too, so that one that waits for a word is killed.
    """
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(child.multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setattr(child, "_PATIENCE_S", 0.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
