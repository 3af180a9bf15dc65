"""Under which conditions a record was measured: what host and GPU were doing just before and just after.

Each entry is a value or ``{"unavailable": reason}``. What reads them is :mod:`evaluation.measure.conditions`.
"""

from typing import Annotated

from pydantic import Field

from evaluation.records.fields import Count, Milliseconds, Name, Strict, Unavailable

# The reasons that slow a GPU down for what is not the measurement's own: heat, or a failing supply. An idle GPU and
# clocks that somebody has set are no throttle. Nor is the software's power cap: a large GPU that multiplies matrices
# runs against it all the time, in each sitting alike, and to stop there would leave out what loads the GPU most.
THROTTLES = frozenset({"hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown"})

_Number = Annotated[float, Field(ge=0)] | Unavailable


class Moment(Strict):
    """How busy the host was, and what NVML said of the GPU.

    ``host_load``: tasks that ran or wanted to, the mean of the last minute. ``clock_reasons``: why the GPU's clocks are
    where they are. ``throttled_ms``: how long each of some reasons has held since the driver was loaded, so that two
    moments tell what happened between them.
    """

    host_load: _Number
    other_processes: Count | Unavailable
    sm_clock_mhz: _Number
    memory_clock_mhz: _Number
    temperature_celsius: _Number
    power_watts: _Number
    power_limit_watts: _Number
    clock_reasons: list[Name] | Unavailable
    throttled_ms: dict[Name, Milliseconds] | Unavailable


class Conditions(Strict):
    """Of one measurement. ``affinity``: the cores that its threads were bound to, as 0-3,8, or why to none.

    ``strict``: whether a throttled or shared device would have ended it without a record.
    """

    strict: bool
    affinity: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")] | Unavailable
    before: Moment
    after: Moment
