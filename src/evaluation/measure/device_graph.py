"""Work on a GPU that is recorded once, as a CUDA graph, and then launched as a whole.

A graph reads and writes fixed memory. What the work allocates lies in a pool of the graph's own. Nobody else is served
from it while the graph lives. So the result is always at the same place, and each replay writes it anew. What the work
reads from elsewhere is read there at every replay, and so must outlive the graph. Knows nothing of models.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

_WARM_UPS = 2  # the first run compiles and loads kernels, none of which can be recorded

Result = TypeVar("Result")


def unsupported(device: torch.device) -> str:
    """Why nothing can be recorded on ``device``; empty if it can."""
    return "" if device.type == "cuda" else "a CUDA graph needs a GPU"


class DeviceGraph(Generic[Result]):
    """The recorded ``work``, which must not read a value back to the host; ``result`` is what it returned.

    ``result`` has values from the first :meth:`replay` on. ``work`` is kept, and with it the tensors that it holds.
    """

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        self._work = work  # it is never called again, but the graph reads what it holds
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.synchronize(device)
        self._graph = torch.cuda.CUDAGraph()
        # cuBLAS keeps a workspace for each stream. One from before the recording would be given back one day, while the
        # graph still writes to it. So it is asked for anew within, from the graph's pool, and forgotten afterwards.
        torch._C._cuda_clearCublasWorkspaces()
        # What other threads do meanwhile, say with page-locked memory, does no harm to a recording on its own stream.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self.result = work()
        torch._C._cuda_clearCublasWorkspaces()
        self.reserved_bytes = sum(
            segment["total_size"]
            for segment in torch.cuda.memory_snapshot()
            if tuple(segment["segment_pool_id"]) == tuple(self._graph.pool())
        )

    def replay(self) -> None:
        """Launch the work on the current stream, and return before it is done."""
        self._graph.replay()

    def close(self) -> None:
        """Let go of the graph, its result, its pool and what it read."""
        torch.cuda.synchronize()
        del self.result, self._work
        self._graph.reset()
