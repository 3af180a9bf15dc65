"""Manual offload: hand-written copies of the session state into host memory and back.

Three variants: ``pinned`` moves all state through page-locked memory and waits for it (the headline), ``pageable`` does
the same through ordinary memory, and ``pinned_ordered`` brings back what layer L+1 needs first and the KV cache behind
the computation, the best form that one can write by hand. Knows nothing of Djinn.
"""

import sys
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from evaluation.device_memory import synchronize
from evaluation.job import run_job
from evaluation.method import ByHand, Method
from evaluation.study import Workload

Tensors = dict[str, torch.Tensor]


class PinnedOffload(ByHand):
    """Everything to page-locked host memory and back."""

    variant = "pinned"
    headline = True
    pinned = True

    _host: Tensors

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._buffers: Tensors = {}

    def pause(self) -> None:
        """Copy the state to the host, wait, and let go of the device's tensors."""
        tensors = {**self.stopped.frontier(), **self.stopped.history()}
        self._host = {name: self._buffer(name, t).copy_(t, non_blocking=True) for name, t in tensors.items()}
        self.floor_bytes = self._bytes(self._host.values())
        synchronize(self.subject.device)
        self.stopped.put(self._host)

    def _buffer(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in self._buffers:  # allocated once: pinning costs many times what a copy does
            pin = self.pinned and self.subject.device.type == "cuda"
            self._buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=pin)
        return self._buffers[name]

    def resume(self) -> None:
        """Copy everything back and wait for it."""
        self.stopped.put(self._to_device(self._host))
        synchronize(self.subject.device)

    def _to_device(self, tensors: Tensors) -> Tensors:
        return {
            name: torch.empty_like(tensor, device=self.subject.device).copy_(tensor, non_blocking=True)
            for name, tensor in tensors.items()
        }

    def host_bytes(self) -> int:
        """Bytes of the host copies."""
        return self._bytes(self._host.values())

    @staticmethod
    def _bytes(tensors: Iterable[torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PageableOffload(PinnedOffload):
    """The same through ordinary memory."""

    variant = "pageable"
    headline = False
    pinned = False


class IdenticalOffload(PinnedOffload):
    """Moves storages of the same number and sizes as another method, which may hold more than frontier and KV cache."""

    variant = "pinned_identical"
    headline = False

    _sizes: Sequence[int] = ()

    def match(self, sizes: Sequence[int]) -> None:
        """Move as many bytes as storages of ``sizes`` (bytes) have."""
        self._sizes = sizes

    def prepare(self) -> None:
        """Run the program up to the breakpoint, and make what the other method holds besides."""
        super().prepare()
        tensors = {**self.stopped.frontier(), **self.stopped.history()}.values()
        others = Counter(self._sizes) - Counter(tensor.numel() * tensor.element_size() for tensor in tensors)
        for index, nbytes in enumerate(others.elements()):
            name = f"other.{index}"
            self.stopped.others[name] = torch.zeros(nbytes, dtype=torch.uint8, device=self.subject.device)


class OrderedOffload(PinnedOffload):
    """The frontier first; the KV cache by a helper thread on a stream of its own, behind the computation."""

    variant = "pinned_ordered"
    headline = False
    restores_behind = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cuda = self.subject.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.subject.device) if cuda else None
        self._helper = ThreadPoolExecutor(max_workers=1)
        self._behind: Future[None]
        self._started = threading.Event()

    def pause(self) -> None:
        """As before; the floor is that of the frontier, which is all that ``ready`` waits for."""
        self._started.clear()
        frontier = self.stopped.frontier().keys()
        super().pause()
        self._first = {name: tensor for name, tensor in self._host.items() if name in frontier}
        self._rest = {name: tensor for name, tensor in self._host.items() if name not in frontier}
        self.floor_bytes = self._bytes(self._first.values())

    def resume(self) -> None:
        """Bring the frontier back, allocate the rest, and wait for the frontier."""
        self.stopped.put(self._to_device(self._first))
        self._targets = {name: torch.empty_like(t, device=self.subject.device) for name, t in self._rest.items()}
        synchronize(self.subject.device)

    def _bring_rest(self) -> None:
        with torch.no_grad(), torch.cuda.stream(self._stream):
            for name, tensor in self._rest.items():
                self._targets[name].copy_(tensor, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()

    def finish(self) -> list[torch.Tensor]:
        """Compute on while the rest is brought back."""
        self._behind = self._helper.submit(self._bring_rest)
        self._started.set()
        return super().finish()

    def wait_resident(self) -> None:
        """Until the helper has brought the rest back."""
        self._started.wait()
        self._behind.result()

    def before_decode(self) -> None:
        """The whole cache is read from here on."""
        self._behind.result()
        self.stopped.put(self._targets)

    def close(self) -> None:
        """End the helper thread."""
        self._helper.shutdown()


def variants(workload: Workload) -> list[type[Method]]:
    """The variants that make sense for ``workload``: nothing can be ordered where there is no history."""
    ordered: list[type[Method]] = [OrderedOffload] if workload.kv_cache else []
    return [PinnedOffload, PageableOffload, *ordered]


if __name__ == "__main__":
    sys.exit(run_job("manual_offload", __doc__, variants))
