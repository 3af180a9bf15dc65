"""Defines the phases of a session, the legal moves between them, and the errors that a caller can get.

Owns no state and imports nothing of the package; everything else builds on it.
"""

from collections.abc import Callable
from enum import Enum


def is_ours(module: str) -> bool:
    """Whether ``module`` belongs to this package: its objects and frames are not the program's."""
    return module == __package__ or module.startswith(f"{__package__}.")


class Phase(Enum):
    """The phase of a session. The label changes only after the work that it names has been done."""

    CREATED = "created"
    RUNNING = "running"  # its thread computes, or waits for the device lock
    PAUSED = "paused"  # parked after a layer, state on the device
    IO_WAIT = "io_wait"  # parked after a layer, state in host memory or free to go there
    FINISHED = "finished"
    FAILED = "failed"
    CLOSED = "closed"


PARKED = (Phase.PAUSED, Phase.IO_WAIT)
ENDED = (Phase.FINISHED, Phase.FAILED, Phase.CLOSED)

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
    """Base class of every error of the runtime's own."""


class IllegalMove(DjinnError):
    """A signal that does not fit the session's phase, for example RESUME without a pause."""


class HostMemoryFull(DjinnError):
    """The host arena has no room for the session's state; the session stays where it was and may run on."""


class NotYet(HostMemoryFull):
    """What is asked needs room in host memory, or bytes there, and can have them later.

    Private: whoever asks calls :attr:`wait` with the seconds that it may take, or None, and holds no lock. Then it asks
    again (``interrupts.patiently``).
    """

    def __init__(self, message: str, wait: Callable[[float | None], object]) -> None:
        super().__init__(message)
        self.wait = wait


class DiskFailed(DjinnError):
    """The disk gave back other bytes of a session's state, or none; they stay there, and the call can be retried."""


class DeviceMemoryFull(DjinnError):
    """The device has no room for the session's state; the state stays on the host and RESUME can be retried."""

    def __init__(self, message: str, *, wanted_bytes: int = 0) -> None:
        super().__init__(message)
        self.wanted_bytes = wanted_bytes


class NotRestored(DjinnError):
    """A saved session that cannot be restored: its file, the model, the machine or the program differs as named."""


class LayersNotFound(DjinnError):
    """The model's decoder layers could not be found among its modules; name them by ``layers=``."""


class SessionCancelled(DjinnError):
    """The session was cancelled or closed before its program ended; raised by ``result()``."""


class SessionAbandoned(BaseException):
    """Unwinds the program of a session that is cancelled, or whose state is lost for the reason ``cause``.

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
