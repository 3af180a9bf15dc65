"""Stateless recompute: pause deletes every intermediate, resume runs the model from the embedding to layer L again.

Variants: ``default`` runs the prompt again, and before a decode step all tokens. ``compiled`` has the model's small
operators fused, the quickest form in a prefill. ``kv_offloaded``, for a decode step, keeps the KV cache in page-locked
memory and runs one token again. An edit of the hidden states is lost with them. ``replay`` stores the edit and makes it
again; it is asked what survives, and not timed as a method.
"""

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from evaluation.measure import fused_layers
from evaluation.measure.device_memory import synchronize
from evaluation.measure.job import run_job
from evaluation.measure.method import ByHand, Change, Method
from evaluation.measure.programs import Logits, kv_tensors, stop_at_layer
from evaluation.methods.copies import CopiesBehind, Tensors, by_layer
from evaluation.methods.host_arena import total
from evaluation.methods.offloads import PinnedOffload
from evaluation.study.plan import Workload


class Recompute(ByHand):
    """Deletes everything, and runs it again."""

    variant = "default"
    headline = True
    keeps_state = False

    def pause(self) -> None:
        """Drop the state."""
        del self.stopped

    def resume(self) -> None:
        """Run up to the breakpoint again and wait for the device."""
        self.prepare()
        synchronize(self.subject.device)

    def flops(self) -> float:
        """Operations from the embedding to layer L: the floor of this method is these over the matrix rate.

        Two per weight and token in the matrix products, and the attention's two products: their causal half in the
        prefill. Before a decode step all layers run for the prompt and the tokens before it.
        """
        config, workload = self.subject.model.config, self.workload
        layer = self.subject.layers[0]
        weights = sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() == 2)
        pairs = config.num_attention_heads * config.head_dim  # multiplied for each query and key, in either product
        prefill = 2 * weights * workload.tokens + 2 * pairs * workload.tokens**2
        token = 2 * weights + 4 * pairs * workload.tokens
        depth = len(self.subject.layers)
        if not workload.decode_step:
            return float(workload.batch * self.layer * prefill)
        return float(workload.batch * (depth * (prefill + (workload.decode_step - 1) * token) + self.layer * token))


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


class CompiledRecompute(Recompute):
    """Runs the prefill up to the breakpoint by fused layers, at first and again; the rest is the model's own."""

    variant = "compiled"
    headline = False
    own_reference = True

    @classmethod
    def unsupported(cls, device: torch.device) -> str:
        """Why layers cannot be compiled for ``device``; empty if they can."""
        return fused_layers.unsupported(device)

    def prepare(self) -> None:
        """Run the program up to the breakpoint."""
        with fused_layers.fused(self.subject):
            super().prepare()


class KvOffload(PinnedOffload):
    """Moves the KV cache of the tokens before a decode step to page-locked memory, and runs the token again.

    The token's layers run as their KV comes in; that of the layers after L+1 follows behind the computation.
    """

    variant = "kv_offloaded"
    headline = False
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
        layers = enumerate(self.subject.layers[: self.layer], start=1)
        handles = [layer.register_forward_pre_hook(partial(self._before, number)) for number, layer in layers]
        self.stopped = stop_at_layer(self.subject.model, self.layer, self._pass_input, True, self._cache)
        for handle in handles:
            handle.remove()
        self._copies.wait(self.layer + 1)
        synchronize(self.subject.device)

    def _before(self, number: int, *arguments: object) -> None:
        self._copies.wait(number)

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
    return [Recompute, KvOffload if workload.decode_step else CompiledRecompute]


def probed(workload: Workload) -> list[type[Method]]:
    """The variants that are asked what survives a pause; what is compiled keeps no more than what is not."""
    return [*(kind for kind in variants(workload) if not kind.own_reference), Replay]


if __name__ == "__main__":
    sys.exit(run_job("recompute", __doc__, variants))
