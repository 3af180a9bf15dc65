"""What a runtime tells of its sessions at one moment, and how that prints. Values; nothing here asks a session."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from djinn.core import Phase
from djinn.html import Side, line, table
from djinn.wording import mebibytes, phase_word


@dataclass(frozen=True, kw_only=True)
class Status:
    """One session at one moment: the layer after which it is parked, bytes of state per tier, seconds in its phase.

    ``left_bytes`` is further state that was found and stays on the device, see :attr:`djinn.Session.left_behind`.
    ``recorded_bytes`` are what the model returned to a durable session, kept in host memory beside the arena.
    ``doing`` tells of a program that runs whether it computes, see :attr:`djinn.Session.doing`. ``was_cancelled`` is
    whether it is FAILED for it was cancelled, and not by an error.
    """

    number: int
    phase: Phase
    layer: int | None
    device_bytes: int
    host_bytes: int
    disk_bytes: int
    left_bytes: int
    recorded_bytes: int
    age_seconds: float
    doing: str
    was_cancelled: bool = False

    @property
    def tier(self) -> str:
        """The tiers of the state: device, host, disk, or ``-`` for a program that computes or has ended."""
        tiers = ("device", self.device_bytes), ("host", self.host_bytes), ("disk", self.disk_bytes)
        where = [name for name, nbytes in tiers if nbytes]
        return "+".join(where) or "-"


class StatusTable(tuple[Status, ...]):
    """The sessions of a runtime; prints as a table, and is one in a notebook.

    ``arena_bytes`` is the size of the host arena that all of them share; ``arena_ready_bytes`` of it are pinned so
    far. Of these, ``set_aside_bytes`` belong to no session any more. Numpy arrays or tensors still refer to them; they
    are free when these are gone. ``beat`` tells of ``Runtime(attentive=...)``, if it has any effect. ``disk_folder`` is
    where spilled sessions are, None without a disk; their files have ``disk_bytes``, and ``disk_free_bytes`` more find
    room. ``recorded_bytes`` are those of all durable sessions; what forks share is counted once. ``codec`` tells of
    ``Runtime(codec="auto")``, whose buffer has ``codec_bytes`` of the device, for all sessions.
    """

    arena_bytes: int
    arena_ready_bytes: int
    set_aside_bytes: int
    beat: str
    disk_folder: Path | None
    disk_bytes: int
    disk_free_bytes: int
    recorded_bytes: int
    codec: str
    codec_bytes: int

    def __new__(
        cls,
        rows: Iterable[Status],
        *,
        arena_bytes: int,
        arena_ready_bytes: int,
        set_aside_bytes: int,
        beat: str,
        disk_folder: Path | None = None,
        disk_bytes: int = 0,
        disk_free_bytes: int = 0,
        recorded_bytes: int = 0,
        codec: str = "",
        codec_bytes: int = 0,
    ) -> "StatusTable":
        """Make the table of ``rows``."""
        table = super().__new__(cls, rows)
        table.arena_bytes, table.arena_ready_bytes = arena_bytes, arena_ready_bytes
        table.set_aside_bytes, table.beat = set_aside_bytes, beat
        table.codec, table.codec_bytes, table.recorded_bytes = codec, codec_bytes, recorded_bytes
        table.disk_folder, table.disk_bytes, table.disk_free_bytes = disk_folder, disk_bytes, disk_free_bytes
        return table

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return (tuple(self),), dict(vars(self))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        form = "{:>7}  {:<9}  {:>5}  {:<11}" + "  {:>10}" * (len(self._tiers) + 1) + "  {:>9}  {}"
        return "\n".join([form.format(*self._columns), *(form.format(*self._cells(row)) for row in self), self._footer])

    def _repr_html_(self) -> str:
        return table(self._columns, map(self._cells, self)) + line(self._footer)

    @property
    def _tiers(self) -> list[str]:
        return ["device", "host", *(["disk"] if self.disk_folder is not None else [])]

    @property
    def _columns(self) -> dict[str, Side]:
        numbers: dict[str, Side] = dict.fromkeys([*self._tiers, "left", "age"], "right")
        return {"session": "right", "phase": "left", "layer": "right", "tier": "left", **numbers, "doing": "left"}

    def _cells(self, row: Status) -> list[str]:
        sizes = (
            _mebibytes(size) for size in (*(getattr(row, f"{tier}_bytes") for tier in self._tiers), row.left_bytes)
        )
        said = phase_word(row.phase, was_cancelled=row.was_cancelled)
        standing = str(row.number), said, str(row.layer or "-"), row.tier
        return [*standing, *sizes, f"{row.age_seconds:.1f} s", row.doing]

    @property
    def _footer(self) -> str:
        used = sum(row.host_bytes for row in self)
        footer = f"host memory: {_mebibytes(used)} of {_mebibytes(self.arena_bytes)} in use"
        if self.arena_ready_bytes < self.arena_bytes:
            footer += f", {_mebibytes(self.arena_ready_bytes)} ready so far"
        if self.recorded_bytes:
            footer += f", and {_mebibytes(self.recorded_bytes)} beside it for durable sessions"
        if self.set_aside_bytes:
            footer += f", {_mebibytes(self.set_aside_bytes)} still held by arrays or tensors of ended pauses"
        if self.disk_folder is not None:
            spilled, free = _mebibytes(self.disk_bytes), mebibytes(self.disk_free_bytes)
            footer += f"; {spilled} in {self.disk_folder}, which has room for {free}"
        return "; ".join(filter(None, (footer, self.beat, self.codec)))


def _mebibytes(nbytes: int) -> str:
    return mebibytes(nbytes) if nbytes else "-"
