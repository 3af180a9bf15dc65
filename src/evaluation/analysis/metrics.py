"""The metrics of the study: the one table of their names, units and clocks, which all that reads or draws goes by."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Clock:
    """One clock of a resume, in ms from the request.

    ``waits_for``: the bytes of a cell that must be back, ``frontier_bytes`` or ``state_bytes``; None for the end of
    the forward pass, which is not the method's business. ``title`` heads the clock's panel, where it has one.
    ``ratio`` is the metric of its pairs, Djinn over the first of ``partners`` that ran.
    """

    name: str
    waits_for: str | None = None
    title: str = ""
    ratio: str = ""
    partners: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Its name in records and tables: ``ready_ms``."""
        return f"{self.name}_ms"

    @property
    def words(self) -> str:
        """Its name in a sentence: ``first kernel``."""
        return self.name.replace("_", " ")


# Of the frontier: the best copies by hand that there are. Of all state: bulk copies of the very same storages.
_OF_THE_FRONTIER = ("pinned_ordered", "pinned")

CLOCKS = (
    Clock(
        name="ready",
        waits_for="frontier_bytes",
        title="Ready: what the next layer needs",
        ratio="paired_ratio",
        partners=_OF_THE_FRONTIER,
    ),
    Clock(
        name="first_kernel",
        waits_for="frontier_bytes",
        title="First kernel of the next layer done",
        ratio="paired_first_kernel_ratio",
        partners=_OF_THE_FRONTIER,
    ),
    Clock(
        name="resident",
        waits_for="state_bytes",
        title="Resident: all state",
        ratio="paired_resident_ratio",
        partners=("pinned_identical",),
    ),
    Clock(name="result"),
)
CLOCK = {clock.name: clock for clock in CLOCKS}
PAIRED = tuple(clock for clock in CLOCKS if clock.ratio)

# Metric to unit, in the order of the rows of a cell.
UNITS = {
    **{clock.metric: "ms" for clock in CLOCKS},
    "pause_ms": "ms",
    "floor_ms": "ms",
    **{clock.ratio: "ratio" for clock in PAIRED},
    "device_bytes_paused": "bytes",
    "host_bytes_paused": "bytes",
    "frontier_bytes": "bytes",
    "state_bytes": "bytes",
}
