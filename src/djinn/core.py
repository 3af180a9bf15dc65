"""The vocabulary of the runtime: phases of a session, the moves between them, and the errors a caller can meet.

Owns no state and imports nothing of the package; everything else builds on it.
"""

from enum import Enum


class Phase(Enum):
    """Where a session stands. The label changes only after the work that it names has been done."""

    CREATED = "created"
    RUNNING = "running"  # its thread computes, or waits for its turn to
    PAUSED = "paused"  # parked after a layer, state on the device
    IO_WAIT = "io_wait"  # parked after a layer, state in host memory or free to go there
    FINISHED = "finished"
    FAILED = "failed"
    CLOSED = "closed"


_MOVES = {
    Phase.CREATED: {Phase.RUNNING, Phase.CLOSED},
    Phase.RUNNING: {Phase.PAUSED, Phase.FINISHED, Phase.FAILED},
    Phase.PAUSED: {Phase.IO_WAIT, Phase.RUNNING, Phase.FAILED},
    Phase.IO_WAIT: {Phase.RUNNING, Phase.FAILED},
    Phase.FINISHED: {Phase.CLOSED},
    Phase.FAILED: {Phase.CLOSED},
    Phase.CLOSED: set(),
}


class DjinnError(RuntimeError):
    """Base of every error that the runtime raises by itself."""


class IllegalMove(DjinnError):
    """A signal that does not fit the session's phase, for example RESUME without a pause."""


class HostMemoryFull(DjinnError):
    """The host arena has no room for the session's state; the session stays where it was and may run on."""


class DeviceMemoryFull(DjinnError):
    """The device has no room for the session's state; the state stays on the host and RESUME can be retried."""

    def __init__(self, message: str, *, wanted_bytes: int = 0) -> None:
        super().__init__(message)
        self.wanted_bytes = wanted_bytes


class LayersNotFound(DjinnError):
    """The model's decoder layers could not be told apart from its other modules; name them by ``layers=``."""


class SessionCancelled(DjinnError):
    """What ``result()`` raises of a session that was cancelled or closed before its program ended."""


class SessionAbandoned(BaseException):
    """Unwinds the program of a session that is cancelled, or whose state is lost, which ``cause`` then tells.

    Private: no caller ever sees it.
    """

    def __init__(self, cause: BaseException | None = None) -> None:
        super().__init__(cause)
        self.cause = cause


def move(current: Phase, target: Phase) -> Phase:
    """Return ``target`` if the session may go there from ``current``; raise :class:`IllegalMove` otherwise."""
    if target not in _MOVES[current]:
        allowed = ", ".join(sorted(phase.value for phase in _MOVES[current])) or "nothing"
        raise IllegalMove(f"a session that is {current.value} cannot become {target.value}, only: {allowed}")
    return target
