"""Finds the state of the program on the current thread, from its stack: where ``state`` and ``ownership`` meet.

Called by the session at its breakpoint, on its own thread, while the program's frames stand still above it.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from djinn.forward import KvLayers
from djinn.ownership import Ownership
from djinn.state import FRONTIER, REST, SessionState, Walk, local_variables, state_of


class Discovery:
    """For all sessions of one model on ``device``; ``model_storages`` are addresses that are never session state."""

    def __init__(self, device: torch.device, kv_layers: KvLayers, model_storages: frozenset[int]) -> None:
        self._device = device
        self._kv_layers = kv_layers
        self._model_storages = model_storages
        self._ownership = Ownership()

    def state_at(
        self,
        layer: int,
        *,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: object,
        outermost: types.CodeType,
        caller: object,
    ) -> SessionState:
        """The state after decoder layer ``layer``, which was given ``args`` and ``kwargs`` and returned ``output``.

        ``outermost`` is the code below which the program's frames begin; what ``caller`` leads to is the caller's.
        """
        walk = Walk(kv_layer_of=self._kv_layers.finder(), breakpoint=layer)
        first = output[0] if isinstance(output, tuple) and output else output
        walk.meet(first, "hidden_states", FRONTIER, counted=False)
        walk.meet(output, "output", FRONTIER, counted=False)
        for name, value in kwargs.items():
            walk.meet(value, name, FRONTIER, counted=False)
        for index, value in enumerate(args[1:], start=1):
            walk.meet(value, f"args.{index}", FRONTIER, counted=False)
        site: list[object] = [layer]
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not outermost:
            site.append((frame.f_code, frame.f_lasti))
            if frame.f_globals.get("__package__") != __package__:
                for name, value, counted in local_variables(frame):
                    walk.meet(value, f"{frame.f_code.co_qualname}.{name}", REST, counted=counted)
            frame = frame.f_back
        walk.run()
        callers = self._model_storages | self._reached_from(caller)
        return state_of(
            walk,
            device=self._device,
            left=lambda walk, by_storage: self._ownership.left(walk, by_storage, callers=callers, site=tuple(site)),
        )

    @staticmethod
    def _reached_from(caller: object) -> set[int]:
        no_kv: Callable[[object], int | None] = lambda obj: None  # noqa: E731
        walk = Walk(kv_layer_of=no_kv, breakpoint=0)
        walk.meet(caller, "caller", FRONTIER)
        walk.run()
        return {
            node.obj.untyped_storage()._cdata
            for node in walk.tensors()
            if isinstance(node.obj, torch.Tensor) and node.obj.layout is torch.strided
        }
