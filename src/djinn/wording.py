"""How sessions and bytes are said in ``repr``, in the journal and in messages.

Pure functions of values. They run no code of the user's, so an error is named by its class alone.
"""

from djinn.core import PARKED, Phase

_NEXT = {
    Phase.CREATED: "call start() first",
    Phase.RUNNING: "call pause() and wait() first",
    Phase.PAUSED: "call resume() first",
    Phase.IO_WAIT: "call resume() first",
    Phase.FINISHED: "result() has its value; open another session",
    Phase.FAILED: "result() raises its error; open another session",
    Phase.CLOSED: "open another session",
}
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def what_to_do(phase: Phase) -> str:
    """Say what a caller can do with a session that is in ``phase``, where a signal does not fit."""
    return _NEXT[phase]


def phase_word(phase: Phase, *, was_cancelled: bool) -> str:
    """Return ``phase`` in a word: ``cancelled`` where it is FAILED by that."""
    return "cancelled" if phase is Phase.FAILED and was_cancelled else phase.value


def mebibytes(nbytes: int) -> str:
    """Return ``nbytes`` in MiB, with one decimal."""
    return f"{nbytes / 2**20:.1f} MiB"


def sized(nbytes: int) -> str:
    """Return ``nbytes`` in the unit that fits, with one decimal; ``-`` for none."""
    if not nbytes:
        return "-"
    if nbytes < 1 << 10:
        return f"{nbytes} B"
    power = min((nbytes.bit_length() - 1) // 10, len(_UNITS))
    return f"{nbytes / 2 ** (10 * power):.1f} {_UNITS[power - 1]}"


def counted(number: int, noun: str) -> str:
    """Return ``number`` and ``noun``, in the plural unless it is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def standing(
    phase: Phase,
    *,
    layer: int | None,
    device_bytes: int,
    host_bytes: int,
    disk_bytes: int,
    breakpoint: int | None,
    cancelled: bool,
    was_cancelled: bool,
    error: BaseException | None,
) -> str:
    """Say where a session stands: its phase, the layer after which it is parked, and its bytes per tier.

    ``breakpoint`` is the layer that it has not reached yet, ``error`` what its program raised. A program that was
    ``cancelled`` runs or is parked until it has unwound; it ``was_cancelled`` if it has failed by that then.
    """
    said = phase_word(phase, was_cancelled=was_cancelled)
    if phase in PARKED:
        tiers = [(device_bytes, "on the device"), (host_bytes, "in host memory"), (disk_bytes, "on the disk")]
        said += "".join([f" after layer {layer}", *(f", {mebibytes(size)} {tier}" for size, tier in tiers if size)])
    elif phase is Phase.FAILED and not was_cancelled:
        said += f" with {type(error).__name__}: result() raises it" if error is not None else ""
    elif breakpoint is not None and phase is Phase.FINISHED:
        said += f" without reaching its breakpoint, layer {breakpoint}"
    elif breakpoint is not None and phase is not Phase.CLOSED and not cancelled:
        said += f", to stop after layer {breakpoint}"
    if cancelled and (phase is Phase.RUNNING or phase in PARKED):
        said += ", cancelled"
    return said
