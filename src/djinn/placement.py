"""Where the state of one session lies while it is parked: on the device, in host memory, or in both in part.

Moves it by the engine's copies, each storage once. Knows nothing of phases: ``session`` says when.
"""

from collections.abc import Callable

import torch

from djinn.core import DeviceMemoryFull
from djinn.state import SessionState, StateStorage
from djinn.swapped import SwappedState, raw_bytes
from djinn.transfer import TransferEngine


class Placement:
    """Of one session; ``make_room`` frees bytes of device memory that others hold, and returns how many."""

    def __init__(self, engine: TransferEngine, make_room: Callable[[int], int]) -> None:
        self._engine = engine
        self._make_room = make_room
        self.state: SessionState | None = None  # while parked
        self.swapped: SwappedState | None = None  # what is in host memory; after RESUME, on its way back
        self._returning = False

    def park(self, state: SessionState) -> None:
        """All of ``state`` is on the device."""
        self.state, self.swapped = state, None

    @property
    def sizes(self) -> list[int]:
        """Bytes of each storage, in the order of need; none while the program computes."""
        return [item.nbytes for item in self.state.storages] if self.state is not None else []

    @property
    def host_bytes(self) -> int:
        """Bytes in host memory."""
        swapped = self.swapped
        return swapped.nbytes if swapped is not None else 0

    @property
    def device_bytes(self) -> int:
        """Bytes on the device, while parked."""
        state = self.state
        return sum(item.storage.nbytes() for item in state.storages) if state is not None else 0

    @property
    def may_leave(self) -> list[StateStorage]:
        """What lies on the device in the order of need, unless it is just coming back."""
        return [] if self._returning else self._on_device()

    def _on_device(self) -> list[StateStorage]:
        state, swapped = self.state, self.swapped
        if state is None:
            return []
        gone = {id(entry.item) for entry in swapped.entries} if swapped is not None else ()
        return [item for item in state.storages if id(item) not in gone]

    def bytes_of(self, item: StateStorage) -> torch.Tensor:
        """The bytes of ``item`` wherever they lie: uint8, shape [nbytes], an alias."""
        for entry in self.swapped.entries if self.swapped is not None else ():
            if entry.item is item:
                return entry.host
        return raw_bytes(item.storage)

    def swap_out(
        self,
        keep: int = 0,
        *,
        compute: torch.cuda.Stream | None,
        go: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        """Move what lies on the device to host memory, but for its first ``keep`` storages.

        For ``compute``, ``go`` and ``wake`` see :class:`SwappedState`. Raises :class:`djinn.HostMemoryFull`.
        """
        leaving = self._on_device()[keep:]
        if leaving:
            earlier = self.swapped.entries if self.swapped is not None else ()
            self.swapped = self._engine.swap_out(
                leaving, earlier=earlier, compute=compute, go=go, wake=wake, make_room=self._make_room
            )

    def swap_in(self, swapped: SwappedState, *, busy: bool) -> None:
        """Bring ``swapped`` back, see :meth:`TransferEngine.swap_in`; others leave if there is no room."""
        self._returning = True  # what it still has on the device is not to leave now
        try:
            while True:
                try:
                    return self._engine.swap_in(swapped, busy=busy)
                except DeviceMemoryFull:
                    if not self._make_room(swapped.nbytes):
                        raise
        finally:
            self._returning = False

    def drop(self) -> None:
        """Give up what is in host memory."""
        if self.swapped is not None:
            self._engine.release(self.swapped.entries)
            self.swapped.settle()
        self.swapped = None

    def clear(self) -> None:
        """Wait until nothing is in host memory any more, and let go of all."""
        if self.swapped is not None:
            self.swapped.wait_settled()
        self.state = self.swapped = None
