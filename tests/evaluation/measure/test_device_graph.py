"""A recorded graph: what it reads from elsewhere lives as long as it does."""

import contextlib
import types
import weakref
from functools import partial
from unittest.mock import MagicMock

import pytest
import torch

from evaluation.measure import device_graph
from evaluation.measure.device_graph import DeviceGraph


def test_what_the_work_reads_is_kept_until_the_graph_is_closed(monkeypatch):
    """It would be given back otherwise, and the graph would read what others write there."""
    still = contextlib.nullcontext
    cuda = MagicMock(stream=lambda stream: still(), graph=lambda *of, **how: still(), memory_snapshot=list)
    monkeypatch.setattr(device_graph, "torch", types.SimpleNamespace(cuda=cuda, _C=MagicMock()))
    read = torch.ones(3)
    seen = weakref.ref(read)
    graph = DeviceGraph(partial(torch.clone, read), torch.device("cuda"))
    del read
    assert seen() is not None
    graph.close()
    assert seen() is None


@pytest.mark.gpu
def test_a_replay_reads_what_the_work_read():
    """Though nobody else holds it, and all free memory of the device was written meanwhile."""
    device = torch.device("cuda", 0)
    graph = DeviceGraph(partial(torch.clone, torch.full((1 << 20,), 3.0, device=device)), device)
    others = [torch.zeros(1 << 20, device=device) for _ in range(8)]
    graph.replay()
    assert torch.equal(graph.result, torch.full_like(others[0], 3.0))
    graph.close()
