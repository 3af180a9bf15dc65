"""What a runtime tells of its sessions at one moment, and how that prints. Values; nothing here asks a session."""

from collections.abc import Iterable
from dataclasses import dataclass

from djinn.core import Phase
from djinn.wording import mebibytes


@dataclass(frozen=True, kw_only=True)
class Status:
    """One session at one moment: the layer after which it is parked, bytes of state per tier, seconds in its phase.

    ``left_bytes`` is further state that was found and stays on the device, see :attr:`djinn.Session.left_behind`.
    ``recorded_bytes`` are what the model returned to a durable session, kept in host memory beside the arena.
    ``doing`` tells of a program that runs whether it computes, see :attr:`djinn.Session.doing`.
    """

    number: int
    phase: Phase
    layer: int | None
    device_bytes: int
    host_bytes: int
    left_bytes: int
    recorded_bytes: int
    age_seconds: float
    doing: str

    @property
    def tier(self) -> str:
        """The tier of the state: device, host, both, or ``-`` for a program that computes or has ended."""
        where = [name for name, nbytes in (("device", self.device_bytes), ("host", self.host_bytes)) if nbytes]
        return "+".join(where) or "-"


class StatusTable(tuple[Status, ...]):
    """The sessions of a runtime; prints as a table.

    ``arena_bytes`` is the size of the host arena that all of them share; ``arena_ready_bytes`` of it are pinned so
    far. Of these, ``set_aside_bytes`` belong to no session any more. Numpy arrays or tensors still refer to them; they
    are free when these are gone. ``beat`` tells of ``Runtime(attentive=...)``, if it has any effect.
    """

    arena_bytes: int
    arena_ready_bytes: int
    set_aside_bytes: int
    beat: str

    def __new__(
        cls, rows: Iterable[Status], *, arena_bytes: int, arena_ready_bytes: int, set_aside_bytes: int, beat: str
    ) -> "StatusTable":
        """Make the table of ``rows``."""
        table = super().__new__(cls, rows)
        table.arena_bytes, table.arena_ready_bytes = arena_bytes, arena_ready_bytes
        table.set_aside_bytes, table.beat = set_aside_bytes, beat
        return table

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return (tuple(self),), dict(vars(self))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        form = "{:>7}  {:<8}  {:>5}  {:<11}  {:>10}  {:>10}  {:>10}  {:>9}  {}"
        lines = [form.format("session", "phase", "layer", "tier", "device", "host", "left", "age", "doing")]
        for row in self:
            sizes = (_mebibytes(size) for size in (row.device_bytes, row.host_bytes, row.left_bytes))
            age = f"{row.age_seconds:.1f} s"
            lines.append(form.format(row.number, row.phase.value, row.layer or "-", row.tier, *sizes, age, row.doing))
        used = sum(row.host_bytes for row in self)
        footer = f"host memory: {_mebibytes(used)} of {_mebibytes(self.arena_bytes)} in use"
        if self.arena_ready_bytes < self.arena_bytes:
            footer += f", {_mebibytes(self.arena_ready_bytes)} ready so far"
        recorded = sum(row.recorded_bytes for row in self)
        if recorded:
            footer += f", and {_mebibytes(recorded)} beside it for durable sessions"
        if self.set_aside_bytes:
            footer += f", {_mebibytes(self.set_aside_bytes)} still held by arrays or tensors of ended pauses"
        if self.beat:
            footer += f"; {self.beat}"
        return "\n".join([*lines, footer])


def _mebibytes(nbytes: int) -> str:
    return mebibytes(nbytes) if nbytes else "-"
