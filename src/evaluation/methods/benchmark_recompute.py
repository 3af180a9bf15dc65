"""Stateless recompute: pause deletes every intermediate, resume runs the model from the embedding to layer L again.

Variants: ``default`` runs the prompt again, and before a decode step all tokens. In a prefill ``compiled`` has the
model's small operators fused, and ``graphed`` launches these as one CUDA graph. ``kv_offloaded``, for a decode step,
keeps the KV cache in page-locked memory and runs one token again. Which is the quickest the records tell. An edit of
the hidden states is lost with them. ``replay`` stores the edit and makes it again; it is asked what survives, and not
timed as a method.
"""

import sys
from collections.abc import Iterable
from typing import Any

import torch

from evaluation.measure.device_memory import synchronize
from evaluation.measure.job import run_job
from evaluation.measure.method import Change, Method
from evaluation.measure.programs import Logits, kv_tensors, stop_at_layer
from evaluation.methods.copies import CopiesBehind, Tensors, by_layer
from evaluation.methods.host_arena import total
from evaluation.methods.offloads import PinnedOffload
from evaluation.methods.reruns import CompiledRecompute, GraphedRecompute, Recompute
from evaluation.study.plan import Workload


class Replay(Recompute):
    """Stores the program's edits, and makes them again after the recompute."""

    variant = "replay"
    headline = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._edits: list[Change] = []

    def edit(self, change: Change) -> None:
        """Edit the device's tensor, and once more in every resume to come."""
        super().edit(change)
        self._edits.append(change)

    def resume(self) -> None:
        """Run up to the breakpoint again, make the stored edits, and wait for the device."""
        super().resume()
        for change in self._edits:
            change(self.stopped.hidden_states)
        synchronize(self.subject.device)

    def finish(self) -> Logits:
        """Run the remaining layers and the decode steps; the edits go with the session."""
        self._edits.clear()
        return super().finish()


class KvOffload(PinnedOffload):
    """Moves the KV cache of the tokens before a decode step to page-locked memory, and runs the token again.

    The token's layers run as their KV comes in; that of the layers after L+1 follows behind the computation.
    """

    variant = "kv_offloaded"
    headline = False
    drawn = True
    keeps_state = False
    restores_behind = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._copies = CopiesBehind(self.subject.device, self._lane.stream)
        self._cache: Any = None

    def pause(self) -> None:
        """Copy the cache without the token that is under way to the host, wait, and let go of everything."""
        cache = self.stopped.cache
        past = self.workload.tokens + self.workload.decode_step - 1
        kept = {}
        for number, layer in enumerate(cache.layers, start=1):
            kept.update({name: tensor[..., :past, :] for name, tensor in kv_tensors(cache, number).items()})
            layer.keys = layer.values = None
        views = self._lane.arena.views(kept)
        self._host = {name: views[name].copy_(tensor, non_blocking=True) for name, tensor in kept.items()}
        synchronize(self.subject.device)
        del kept
        self._cache = cache
        self._names = by_layer(self._host)
        needed = [name for number in range(1, self.layer + 2) for name in self._names.get(number, ())]
        self.floor_bytes = total(self._host[name] for name in needed)
        del self.stopped

    def resume(self) -> None:
        """Bring back what layers 1 .. L+1 read, run the token up to the breakpoint behind it, and wait for both."""
        self._copies.expect(self._names)
        self._bring([number for number in self._names if number <= self.layer + 1])
        with self._copies.wait_in(self.subject.layers[: self.layer]):
            self.stopped = stop_at_layer(self.subject.model, self.layer, self._pass_input, True, self._cache)
        self._copies.wait(self.layer + 1)
        synchronize(self.subject.device)

    def _bring(self, numbers: Iterable[int]) -> None:
        layers = {number: {name: self._host[name] for name in self._names[number]} for number in numbers}
        self._copies.bring(layers, self._put)

    def _put(self, tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            _, number, part = name.split(".")
            setattr(self._cache.layers[int(number) - 1], part, tensor)

    def finish(self) -> Logits:
        """Compute on while the rest is brought back."""
        self._bring([number for number in self._names if number > self.layer + 1])
        logits = super().finish()
        self._cache = None
        return logits

    def freed_sizes(self) -> list[int]:
        """All state is deleted, whatever of it has a copy."""
        return self.state_sizes()

    def streams(self) -> list[torch.cuda.Stream]:
        """That of the copies."""
        return [] if self._lane.stream is None else [self._lane.stream]

    def wait_resident(self) -> None:
        """Wait until the last copy is there."""
        self._copies.synchronize()

    def before_layer(self, number: int) -> None:
        """Wait for the KV that the layer reads."""
        self._copies.wait(number)


def variants(workload: Workload) -> list[type[Method]]:
    """The variants that make sense for ``workload``: before a decode step the KV cache can be kept apart."""
    return [Recompute, *([KvOffload] if workload.decode_step else [CompiledRecompute, GraphedRecompute])]


def compared(workload: Workload, device: torch.device) -> list[type[Method]]:
    """Those that may be the quickest on ``device`` at depth, where a rerun is bound by its operations.

    The model as it is stands in E1 alone. At the last layer it took 1.26 times as long as its fused layers, and before
    a decode step 2.75 times as long as the rerun of one token (LOG.md).
    """
    kinds = variants(workload)[1:]
    return [kind for kind in kinds if not kind.unsupported(device)] or [Recompute]


def probed(workload: Workload) -> list[type[Method]]:
    """The variants that are asked what survives a pause; what is compiled keeps no more than what is not."""
    return [*(kind for kind in variants(workload) if not kind.own_reference), Replay]


if __name__ == "__main__":
    sys.exit(run_job("recompute", __doc__, variants))
