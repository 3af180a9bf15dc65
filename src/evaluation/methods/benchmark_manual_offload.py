"""Manual offload: hand-written copies of the session state into host memory and back.

Variants: ``pinned``, the primary one, moves all state through page-locked memory and waits for it. ``pageable`` does
the same through ordinary memory. ``ordered`` brings back what layer L+1 needs first and the KV cache behind the
computation. ``offloaded_cache`` is one line instead: the cache of transformers that keeps its layers in host memory all
the time. ``saved`` writes its copies to a file, and is only asked what survives a kill. The forms that are compared
with Djinn in one process are more: see :func:`compared`. Knows nothing of Djinn.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from evaluation.measure.device_memory import synchronize
from evaluation.measure.job import run_job
from evaluation.measure.method import ByHand, Keeps, Link, Method
from evaluation.methods.offloads import AsyncOffload, BulkOffload, OrderedOffload, PinnedOffload, form
from evaluation.study.plan import Study, Workload

_FILE = "stopped.pt"


class PageableOffload(PinnedOffload):
    """Moves all state through ordinary memory."""

    variant = "pageable"
    headline = False
    pinned = False


class SavedOffload(PinnedOffload):
    """Also writes its copies to a file, from which another process goes on: code by hand knows where it has stopped."""

    variant = "saved"
    headline = False

    def pause(self) -> None:
        """Copy everything, and then each tensor into memory of its own: pickle takes no views of one mapping."""
        super().pause()
        self._host = {name: tensor.clone() for name, tensor in self._host.items()}
        self.stopped.put(self._host)

    def save(self, folder: Path) -> None:
        """All that the pass was stopped with, by pickle."""
        with (folder / _FILE).open("wb") as file:
            torch.save((self.stopped, self._earlier), file)
            file.flush()
            os.fsync(file.fileno())

    def restore(self, folder: Path) -> bool:
        """On the device at once: a resume has nothing left to bring."""
        device = self.subject.device
        self.stopped, self._earlier = torch.load(folder / _FILE, map_location=device, weights_only=False)
        self._host = {}
        return True


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


def counted(study: Study, workload: Workload) -> list[type[Method]]:
    """Those of whose sessions different numbers fit."""
    return [PageableOffload, PinnedOffload]


def probed_by_kill(workload: Workload) -> list[type[Method]]:
    """The variants that are asked what survives a kill of the process: those, and the one that is written for it."""
    return [*variants(workload), SavedOffload]


def compared(workload: Workload, *, keeps: Keeps, link: Link) -> list[type[PinnedOffload]]:
    """The quickest forms for ``workload`` that keep the same on the device and have the link in the same state.

    ``bulk`` is for the clock resident, and moves all that Djinn moves; without history the frontier is all that there
    is to move, and ready tells when it is there. A frontier that is kept, without history, leaves nothing to copy, and
    so nothing to order: one form is enough.
    """
    waiting = OrderedOffload if workload.kv_cache else PinnedOffload
    bases = [waiting] if keeps == "frontier" and not workload.kv_cache else [waiting, AsyncOffload]
    if (keeps, link) == ("nothing", "idle"):
        return [*bases, BulkOffload] if workload.kv_cache else bases
    return [form(base, keeps=keeps, link=link) for base in bases]


if __name__ == "__main__":
    sys.exit(run_job("manual_offload", __doc__, variants))
