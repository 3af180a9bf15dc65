"""The metrics of the study: the one table of their names, units and clocks, which all that reads or draws goes by."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Clock:
    """One clock of a resume, in ms from the request.

    ``waits_for``: the bytes of a cell that must be back, ``frontier_bytes`` or ``state_bytes``; None for what a forward
    pass ends, which is not the method's business alone. ``title`` heads the clock's panel, where it has one.
    ``of_history``: only what has a KV cache has it.
    """

    name: str
    waits_for: str | None = None
    title: str = ""
    of_history: bool = False

    @property
    def metric(self) -> str:
        """Its name in records and tables: ``ready_ms``."""
        return f"{self.name}_ms"

    @property
    def words(self) -> str:
        """Its name in a sentence: ``first kernel``."""
        return self.name.replace("_", " ")

    @property
    def ratio(self) -> str:
        """The metric of its pairs: Djinn over the strongest form by hand, block by block."""
        return f"paired_{self.name}_ratio"

    @property
    def difference(self) -> str:
        """The same as a difference in ms."""
        return f"paired_{self.name}_ms"


CLOCKS = (
    Clock(name="ready", waits_for="frontier_bytes", title="Ready: next layer's inputs"),
    Clock(name="first_kernel", waits_for="frontier_bytes", title="First kernel of next layer"),
    Clock(name="usable", title="Usable: logits on the host"),
    Clock(name="next_token", of_history=True),
    Clock(name="resident", waits_for="state_bytes", title="Resident: all state"),
)
CLOCK = {clock.name: clock for clock in CLOCKS}

# Metric to unit, in the order of the rows of a cell.
UNITS = {
    **{clock.metric: "ms" for clock in CLOCKS},
    "pause_ms": "ms",
    "floor_ms": "ms",
    **{clock.ratio: "ratio" for clock in CLOCKS},
    **{clock.difference: "ms" for clock in CLOCKS},
    "device_bytes_paused": "bytes",
    "host_bytes_paused": "bytes",
    "frontier_bytes": "bytes",
    "state_bytes": "bytes",
}
