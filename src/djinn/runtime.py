"""The front door: one runtime per model and device opens the sessions."""

import threading
from collections.abc import Sequence

from torch import nn

from djinn.core import Phase
from djinn.forward import KvLayers, LayerHooks, find_layers, storages_of_model
from djinn.host_memory import HostArena
from djinn.ownership import Ownership
from djinn.session import Session
from djinn.transfer import TransferEngine


class Runtime:
    """Runs programs around ``model`` so that they can be paused after any decoder layer.

    ``host_memory_bytes`` of host memory are reserved at once, page-locked if the model is on a GPU; all paused sessions
    share them. ``layers`` names the decoder layers of a model whose layers cannot be found. The model's hooks come off
    with :meth:`close`, which a ``with`` statement calls. Raises :class:`djinn.HostMemoryFull` if the system refuses the
    memory, :class:`djinn.LayersNotFound`, and ``ValueError`` for a model without parameters or on several devices.
    """

    def __init__(self, model: nn.Module, *, host_memory_bytes: int, layers: Sequence[nn.Module] | None = None) -> None:
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) != 1:
            raise ValueError(f"the model must lie on one device, not on {sorted(map(str, devices)) or 'none'}")
        device = devices.pop()
        self._layers = find_layers(model, layers)
        self._kv_layers = KvLayers(self._layers)
        self._model_storages = frozenset(storage._cdata for storage in storages_of_model(model))
        self._ownership = Ownership()
        self._turn = threading.Lock()
        self._sessions: list[Session] = []
        self.arena = HostArena(host_memory_bytes, pinned=device.type == "cuda")
        self._engine = TransferEngine(device, self.arena)
        self._hooks = LayerHooks(model, self._layers)

    @property
    def depth(self) -> int:
        """Number of decoder layers, N."""
        return len(self._layers)

    def open(self, *, breakpoint: int, visit: int = 1) -> Session:
        """A session that parks after decoder layer ``breakpoint`` (1 .. N), the ``visit``-th time it gets there.

        In ``model.generate`` with a KV cache, visit 1 is the prefill and visit k the (k-1)-th decode step.
        """
        if not 1 <= breakpoint <= self.depth:
            raise ValueError(f"breakpoint {breakpoint} is not a layer of this model: 1 to {self.depth}")
        if visit < 1:
            raise ValueError(f"visit {visit}: the first time is visit 1")
        session = Session(
            breakpoint=breakpoint,
            visit=visit,
            hooks=self._hooks,
            kv_layers=self._kv_layers,
            engine=self._engine,
            ownership=self._ownership,
            model_storages=self._model_storages,
            turn=self._turn,
        )
        self._sessions = [*(other for other in self._sessions if other.phase is not Phase.CLOSED), session]
        return session

    def close(self) -> None:
        """Close every session, take the hooks off the model and give the host memory back."""
        for session in self._sessions:
            session.close()
        self._hooks.remove()
        self._engine.close()
        self.arena.check_integrity()
        self.arena.close()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
