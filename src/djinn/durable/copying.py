"""The copy of a parked session that a file or a fork is made of: its state in host memory, and how it came there.

It is taken under the session's lock. What takes long comes before, without the lock: what is on the disk is read, and
what is coded is decoded.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from djinn.core import HostMemoryFull, IllegalMove
from djinn.durable.document import recording_of
from djinn.interrupts import holding, patiently
from djinn.memory.host_memory import available_bytes
from djinn.memory.placement import Residency
from djinn.memory.transfer import lacks_memory
from djinn.program.random_states import not_kept
from djinn.program.replay import Recording
from djinn.program.tape import Tape, named
from djinn.state.storages import LeftBehind, SessionState

Copies = dict[int, torch.Tensor]  # copies that were made before, by the identity of their storage's item
T = TypeVar("T")


def copying(residency: Residency, done: str, copy: Callable[[Copies], T]) -> T:
    """Return what ``copy`` returns under the lock of a session that is to be ``done`` ("saved", "forked").

    Raises :class:`HostMemoryFull` if there is no room for its state.
    """
    needed = sum(residency.sizes)
    way_out = "close other sessions, or make host_memory_bytes smaller"

    def attempt() -> T:
        free = available_bytes()
        if needed > free:
            raise HostMemoryFull(
                f"session {residency.number} cannot be {done}: it is copied first, which needs {needed} bytes of host "
                f"memory, and {free} are free: {way_out}"
            )
        spilled = residency.spilled
        copies, decoded = residency.copies_from_disk(spilled), residency.decoded_copies()

        def under_the_lock() -> T:
            found = residency.still_coded(decoded)
            return copy({**copies, **found} if residency.spilled is spilled else found)

        return holding(residency.lock, under_the_lock)

    try:
        return patiently(attempt)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not lacks_memory(error):
            raise
        raise HostMemoryFull(  # a limit of the process or of its group may be lower than what is free
            f"session {residency.number} cannot be {done}: it is copied first, and the system refused host memory for "
            f"a part of {needed} bytes: {way_out}"
        ) from error.with_traceback(None)  # which holds the parts that were copied


def recorded(residency: Residency, state: SessionState, tape: Tape, done: str, made: Copies) -> Recording:
    """Return what led a session to where it is parked with ``state``, and a copy of that.

    Raises :class:`IllegalMove` if some of it is not the session's own, or is not found on that way.
    """
    check_whole(residency.number, residency.left, tape, done)
    copies = {name: made[id(item)] if id(item) in made else residency.copy_of(item) for name, item in named(state)}
    return recording_of(tape, copies)


def check_whole(number: int, left: Iterable[LeftBehind], tape: Tape, done: str) -> None:
    """Raise :class:`IllegalMove` if not all that session ``number`` needs to be ``done`` can be copied."""
    for line in left:
        if line.name == "hidden_states" or line.name.startswith("kv."):
            raise IllegalMove(f"session {number} cannot be {done} without its {line.name}: {line.said}")
    if tape.lost_edits:
        reason = tape.only_by_computing and f", for {tape.only_by_computing}"
        raise IllegalMove(
            f"session {number} cannot be {done} any more: at an earlier pause {tape.lost_edits[0]} was edited, and the "
            f"program does not find that when it is run again{reason}. Have it {done} before it goes on"
        )
    assert tape.parked is not None
    if generator := not_kept(tape.random) or not_kept(tape.parked.random):
        raise IllegalMove(
            f"session {number} cannot be {done}: the state of NumPy's generator {generator} has no place in a "
            "recording. Draw from a numpy.random.Generator of the program's own"
        )
