"""The front door: one runtime per model and device opens the sessions."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from djinn.caller import Turn
from djinn.core import HostMemoryFull, Phase
from djinn.discovery import Discovery
from djinn.forward import KvLayers, Watches, find_layers, storages_of_model
from djinn.host_memory import HostArena, available_bytes, memory_lock_limit
from djinn.policy import Eviction, Idle, evictions, over_budget
from djinn.session import Session
from djinn.transfer import TransferEngine


@dataclass(frozen=True, kw_only=True)
class Status:
    """One session at one moment: the layer after which it is parked, bytes of state per tier, seconds in its phase."""

    number: int
    phase: Phase
    layer: int | None
    device_bytes: int
    host_bytes: int
    age_seconds: float

    @property
    def tier(self) -> str:
        """Where its state lies: device, host, both, or ``-`` for a program that computes or has ended."""
        where = [name for name, nbytes in (("device", self.device_bytes), ("host", self.host_bytes)) if nbytes]
        return "+".join(where) or "-"


class StatusTable(tuple[Status, ...]):
    """The sessions of a runtime; prints as a table."""

    def __str__(self) -> str:
        lines = [f"{'session':>7}  {'phase':<8}  {'layer':>5}  {'tier':<11}  {'device':>10}  {'host':>10}  {'age':>9}"]
        for row in self:
            sizes = (f"{nbytes / 2**20:.1f} MiB" if nbytes else "-" for nbytes in (row.device_bytes, row.host_bytes))
            device, host = sizes
            lines.append(
                f"{row.number:>7}  {row.phase.value:<8}  {row.layer or '-':>5}  {row.tier:<11}  "
                f"{device:>10}  {host:>10}  {row.age_seconds:>7.1f} s"
            )
        return "\n".join(lines)


class Runtime:
    """Runs programs around ``model`` so that they can be paused after any decoder layer.

    ``host_memory_bytes`` of host memory are reserved at once, page-locked if the model is on a GPU; all paused sessions
    share them; by default half of what the machine has free. Sessions that wait without ``force`` may keep
    ``idle_device_bytes`` on the device in all, by default as much as fits. ``layers`` names the decoder layers of a
    model whose layers cannot be found. The watch on the model comes off with :meth:`close`, which a ``with`` calls.

    Raises :class:`djinn.HostMemoryFull` if the system refuses the memory, :class:`djinn.LayersNotFound`,
    :class:`djinn.DjinnError` for a model that is compiled or belongs to another runtime, and ``ValueError`` for one
    without parameters or on several devices.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        host_memory_bytes: int | None = None,
        idle_device_bytes: int | None = None,
        layers: Sequence[nn.Module] | None = None,
    ) -> None:
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) != 1:
            raise ValueError(f"the model must lie on one device, not on {sorted(map(str, devices)) or 'none'}")
        device = devices.pop()
        found = find_layers(model, layers)
        self.depth = len(found)  # number of decoder layers, N
        self._idle_device_bytes = idle_device_bytes
        self._watches = Watches(model, found)
        try:
            self.arena = _arena(host_memory_bytes, pinned=device.type == "cuda")
        except HostMemoryFull:
            self._watches.remove()
            raise
        model_storages = frozenset(storage._cdata for storage in storages_of_model(model))
        self._discovery = Discovery(device, KvLayers(found), model_storages)
        self._turn = Turn(device)
        self._engine = TransferEngine(device, self.arena)
        self._lock = threading.Lock()
        self._opened = 0
        self._sessions: dict[int, Session] = {}

    def open(self, *, breakpoint: int | None = None, visit: int = 1) -> Session:
        """A session that parks after decoder layer ``breakpoint`` (1 .. N), the ``visit``-th time it gets there.

        In ``model.generate`` with a KV cache, visit 1 is the prefill and visit k the (k-1)-th decode step. Without a
        breakpoint it runs until :meth:`djinn.Session.pause`.
        """
        with self._lock:
            session = Session(
                self._opened + 1,
                depth=self.depth,
                watches=self._watches,
                engine=self._engine,
                discovery=self._discovery,
                turn=self._turn,
                make_room=self.make_room,
                keep_budget=self._keep_budget,
            )
            if breakpoint is not None:
                session.break_at(breakpoint, visit=visit)
            self._opened += 1
            open_ones = {number: one for number, one in self._sessions.items() if one.phase is not Phase.CLOSED}
            self._sessions = {**open_ones, session.number: session}
        return session

    def status(self) -> StatusTable:
        """Where every session stands that is not closed."""
        return StatusTable(
            Status(
                number=session.number,
                phase=session.phase,
                layer=session.layer if session.phase in (Phase.PAUSED, Phase.IO_WAIT) else None,
                device_bytes=session.device_bytes,
                host_bytes=session.host_bytes,
                age_seconds=session.age_seconds,
            )
            for session in self._sessions.values()
            if session.phase is not Phase.CLOSED
        )

    def make_room(self, nbytes: int) -> int:
        """Swap out sessions in IO_WAIT until ``nbytes`` of device memory are free; the bytes that were freed.

        The one that has waited longest leaves first. Less is freed if there is no more, or if the host arena is full.
        """
        return self._carry_out(evictions(self._idle(), nbytes))

    def _keep_budget(self) -> None:
        if self._idle_device_bytes is not None:
            self._carry_out(over_budget(self._idle(), self._idle_device_bytes))

    def _idle(self) -> list[Idle]:
        return [idle for session in self._sessions.values() if (idle := session.idle()) is not None]

    def _carry_out(self, chosen: Sequence[Eviction]) -> int:
        return sum(self._sessions[eviction.session].evict(eviction.keep) for eviction in chosen)

    def close(self) -> None:
        """Close every session, take the watch off the model and give the host memory back."""
        for session in self._sessions.values():
            if session.phase is not Phase.CREATED:
                session.cancel()  # all of them first: one may wait for another's turn
        for session in self._sessions.values():
            session.close()
        self._watches.remove()
        self._engine.close()
        self.arena.check_integrity()
        self.arena.close()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _arena(nbytes: int | None, *, pinned: bool) -> HostArena:
    """An arena of ``nbytes``, or of half the memory that is free; of the memory-lock limit if no more can be pinned."""
    if nbytes is not None:
        return HostArena(nbytes, pinned=pinned)
    half, limit = available_bytes() // 2, memory_lock_limit()
    try:
        return HostArena(half, pinned=pinned)
    except HostMemoryFull:
        if not pinned or not limit or limit >= half:
            raise
        return HostArena(limit, pinned=pinned)
