"""The reruns of recompute: the model from the embedding to layer L as it is, by fused layers, or as one CUDA graph.

A pause deletes every intermediate. What a graph writes it keeps, and says so: see :meth:`Method.reserved_bytes`.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from evaluation.measure import device_graph, fused_layers
from evaluation.measure.device_graph import DeviceGraph
from evaluation.measure.device_memory import synchronize
from evaluation.measure.method import ByHand
from evaluation.measure.programs import Stopped, argument_tensors


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

    def restore(self, folder: Path) -> bool:
        """The prompt is all that a rerun needs."""
        return True

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


class CompiledRecompute(Recompute):
    """Runs the prefill up to the breakpoint by fused layers, at first and again; the rest is the model's own."""

    variant = "compiled"
    headline = False
    drawn = True
    own_reference = True

    @classmethod
    def unsupported(cls, device: torch.device) -> str:
        """Why layers cannot be compiled for ``device``; empty if they can."""
        return fused_layers.unsupported(device)

    def prepare(self) -> None:
        """Run the program up to the breakpoint."""
        with fused_layers.fused(self.subject):
            super().prepare()


class GraphedRecompute(CompiledRecompute):
    """Replays a graph of the fused layers; at first they are launched one by one, which gives the bits to compare with.

    The graph is recorded in the first run to the breakpoint, before anything is timed. It keeps the memory that it
    writes, the KV cache too: a session that is paused so holds more of the device than the state itself.
    """

    variant = "graphed"
    recorder = DeviceGraph

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._graph: DeviceGraph[Stopped] | None = None
        self._reserved_bytes = 0

    @classmethod
    def unsupported(cls, device: torch.device) -> str:
        """Why nothing can be recorded on ``device``, or compiled for it; empty if it can."""
        return device_graph.unsupported(device) or super().unsupported(device)

    def prepare(self) -> None:
        """Run the program up to the breakpoint, and record that for the resumes."""
        super().prepare()
        if self._graph is None:
            self._record()

    def _record(self) -> None:
        """What the layers take besides follows from the prompt's size alone: the graph begins from a copy of it."""
        self._ids = self._pass_input.clone()
        constants = {name: tensor.clone() for name, tensor in argument_tensors(self.stopped.arguments).items()}
        start = Stopped(
            layer=self.layer, hidden_states=self._ids, arguments={**self.stopped.arguments, "past_key_values": None}
        )
        start.put(constants)
        self._graph = self.recorder(partial(self._rerun, start.arguments), self.subject.device)
        kept = sum(tensor.numel() * tensor.element_size() for tensor in [self._ids, *constants.values()])
        self._reserved_bytes = self._graph.reserved_bytes + kept

    def _rerun(self, arguments: dict[str, Any]) -> Stopped:
        """The program up to the breakpoint as a graph can hold it: the model's own way there reads values back."""
        model = self.subject.model
        found = Stopped(
            layer=self.layer,
            hidden_states=model.model.embed_tokens(self._ids),
            arguments={
                **arguments,
                "past_key_values": DynamicCache(config=model.config) if self.workload.kv_cache else None,
            },
        )
        found.put({name: tensor.clone() for name, tensor in argument_tensors(arguments).items()})
        with fused_layers.fused(self.subject):
            for layer in self.subject.layers[: self.layer]:
                found.hidden_states = layer(found.hidden_states, **found.arguments)
        return found

    def resume(self) -> None:
        """Replay the graph and wait for the device; the program gets a cache of its own around the graph's tensors."""
        assert self._graph is not None
        self._ids.copy_(self._pass_input)
        self._graph.replay()
        found = self._graph.result
        arguments = dict(found.arguments)
        if found.cache is not None:
            arguments["past_key_values"] = cache = copy.copy(found.cache)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
        self.stopped = Stopped(layer=found.layer, hidden_states=found.hidden_states, arguments=arguments)
        synchronize(self.subject.device)

    def rewritten(self) -> list[torch.Tensor]:
        """What the graph writes for those who come after it: frontier and KV cache."""
        assert self._graph is not None
        found = self._graph.result
        return [*found.frontier().values(), *found.history().values()]

    def reserved_bytes(self) -> int:
        """Those of the graph's pool and of what it begins from."""
        return self._reserved_bytes

    def close(self) -> None:
        """Give them back."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
