"""Manual offload: hand-written copies of the session state into host memory and back.

Variants: ``pinned``, the primary one, moves all state through page-locked memory and waits for it. ``pageable`` does
the same through ordinary memory. ``pinned_ordered`` brings back what layer L+1 needs first and the KV cache behind the
computation, the best form that one can write by hand. ``offloaded_cache`` is one line instead: the cache of
transformers that keeps its layers in host memory all the time. Knows nothing of Djinn.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import DynamicCache

from evaluation.measure.cell import first_line
from evaluation.measure.device_memory import synchronize
from evaluation.measure.job import run_job
from evaluation.measure.method import ByHand, HostFull, Method
from evaluation.measure.programs import Logits
from evaluation.methods.copies import CopiesBehind, Tensors, by_layer
from evaluation.study.plan import Workload


class PinnedOffload(ByHand):
    """Moves all state to page-locked host memory and back."""

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
            try:
                self._buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=pin)
            except RuntimeError as error:
                raise HostFull(f"no host memory for {name}: {first_line(error)}") from error
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
    """Moves all state through ordinary memory."""

    variant = "pageable"
    headline = False
    counted_apart = True
    pinned = False


class IdenticalOffload(PinnedOffload):
    """Moves as many storages of the same sizes as another method, which may hold more than frontier and KV cache."""

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
    """Brings back the frontier first, and the rest by a helper thread in the order of need, behind the computation."""

    variant = "pinned_ordered"
    headline = False
    restores_behind = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._copies = CopiesBehind(self.subject.device)
        self._helper = ThreadPoolExecutor(max_workers=1)

    def pause(self) -> None:
        """Copy all state to the host; the floor is the frontier's copy, which is all that ``ready`` waits for."""
        frontier = self.stopped.frontier().keys()
        super().pause()
        self._first = {name: tensor for name, tensor in self._host.items() if name in frontier}
        self._rest = {name: tensor for name, tensor in self._host.items() if name not in frontier}
        self._layers = by_layer(self._rest)
        self._copies.expect(self._layers)
        self.floor_bytes = self._bytes(self._first.values())

    def resume(self) -> None:
        """Bring the frontier back, allocate the rest, and wait for the frontier."""
        self.stopped.put(self._to_device(self._first))
        self._targets = {name: torch.empty_like(t, device=self.subject.device) for name, t in self._rest.items()}
        synchronize(self.subject.device)

    def _bring_rest(self) -> None:
        self._copies.submit(
            {
                layer: [(self._targets[name], self._rest[name]) for name in names]
                for layer, names in self._layers.items()
            }
        )

    def finish(self) -> Logits:
        """Compute on while the rest is brought back."""
        self._helper.submit(self._bring_rest)
        self.stopped.put(self._targets)  # each layer waits for its own
        logits = super().finish()
        self._targets = {}
        return logits

    def wait_resident(self) -> None:
        """Wait until the last copy is there."""
        self._copies.synchronize()

    def before_layer(self, number: int) -> None:
        """Wait for the KV that the layer reads in a decode step."""
        self._copies.wait(number)

    def before_decode(self) -> None:
        """Wait for the whole cache, which is read from here on."""
        self._copies.wait_all()

    def close(self) -> None:
        """End the helper thread."""
        self._helper.shutdown()


class _OffloadedCache(DynamicCache):  # type: ignore[misc]  # transformers is not type-checked
    """The cache of ``offloading=True``, in releases of transformers too (5.17 is one) that read a layer back too early.

    There the stream that prefetches does not wait for the copies to the host, and decode steps come out wrong.
    """

    def update(self, key_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Let the prefetch wait for what the layers before have copied, then update as ever."""
        self.prefetch_stream.wait_stream(torch.cuda.default_stream(key_states.device))
        updated: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, *args, **kwargs)
        return updated


class OffloadedCache(ByHand):
    """Hugging Face's offloaded cache: each layer's KV goes to host memory when it has been used, and comes for its use.

    A pause has nothing left to do, and the KV cache never is on the device as a whole: every pass pays for it. The
    hidden states and the KV of the next layer stay on the device.
    """

    variant = "offloaded_cache"
    headline = False
    frees_memory = False
    becomes_resident = False

    @classmethod
    def unsupported(cls, device: torch.device) -> str:
        """It is written for CUDA streams."""
        return "" if device.type == "cuda" else "the offloaded cache of transformers needs a GPU"

    def empty_cache(self) -> Any:
        """The offloaded cache: the one line."""
        return _OffloadedCache(config=self.subject.model.config, offloading=True)

    def pause(self) -> None:
        """Wait for the copies that are under way."""
        synchronize(self.subject.device)
        kept = {**self.stopped.frontier(), **self.stopped.history()}.values()
        self._host_bytes = self._bytes_on_host(kept)

    def resume(self) -> None:
        """Continue."""
        synchronize(self.subject.device)

    @staticmethod
    def _bytes_on_host(tensors: Iterable[torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.device.type == "cpu")

    def host_bytes(self) -> int:
        """Bytes of the cache in host memory."""
        return self._host_bytes


def variants(workload: Workload) -> list[type[Method]]:
    """The variants that make sense for ``workload``: of a history, part can come later, or never."""
    with_history: list[type[Method]] = [OrderedOffload, OffloadedCache] if workload.kv_cache else []
    return [PinnedOffload, PageableOffload, *with_history]


if __name__ == "__main__":
    sys.exit(run_job("manual_offload", __doc__, variants))
