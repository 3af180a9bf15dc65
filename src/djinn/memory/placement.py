"""The residency of a parked session's state: which storages are on the device, and which in host memory.

Moves each storage once, by the engine's copies. Knows nothing of phases: ``session`` decides when.
"""

from collections.abc import Container

import torch

from djinn.interrupts import holding
from djinn.memory.host_copy import HostCopy, Stored
from djinn.memory.lanes import Lane
from djinn.memory.restore import Restore
from djinn.memory.transfer import TransferEngine
from djinn.state.adopted import Adopted
from djinn.state.storages import LeftBehind, SessionState, StateStorage
from djinn.state.tensors import is_the_allocator_s, plain_torch


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return the bytes of ``storage`` as a uint8 tensor that aliases it, writable in every mode."""
    return holding(
        torch.inference_mode(False), lambda: torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    )


class Residency:
    """The residency of the state of one session, whose number is ``session``.

    Guards stand in for what is ``adopted`` while its storage is empty.
    """

    def __init__(self, engine: TransferEngine, *, session: int, adopted: Adopted) -> None:
        self._engine = engine
        self._session = session
        self._adopted = adopted
        self._compute = engine.link.current()
        self.state: SessionState | None = None  # while parked
        self.restore: Restore | None = None  # of what is in host memory; after RESUME it is under way
        self._uses: dict[int, int] = {}  # of each storage, at the park
        self._stay: dict[int, str] = {}  # storages that cannot leave, and why; by identity of their item

    def park(self, state: SessionState, compute: Lane) -> None:
        """Start with all of ``state`` on the device; ``compute`` is the lane that made it."""
        self._compute, self.restore, self._stay = compute, None, {}
        with plain_torch():
            canary = torch.empty(0, device="cpu")
            spare = torch._C._storage_Use_Count(canary.untyped_storage()._cdata) - 1
        # The scanner found a tensor for each use. A reader of an adopted cache may have one more just now.
        self._uses = {id(item): min(_uses(item), len(item.views) + spare) for item in state.storages}
        self.state = state

    @property
    def sizes(self) -> list[int]:
        """Bytes of each storage, in the order of need; none while the program computes."""
        state = self.state
        return [item.nbytes for item in state.storages] if state is not None else []

    @property
    def host_bytes(self) -> int:
        """Bytes in host memory."""
        restore = self.restore
        return restore.nbytes if restore is not None else 0

    @property
    def device_bytes(self) -> int:
        """Bytes on the device, while parked."""
        state = self.state
        return sum(item.storage.nbytes() for item in state.storages) if state is not None else 0

    @property
    def left(self) -> tuple[LeftBehind, ...]:
        """What was found and not taken, or could not be swapped out later."""
        state, stay = self.state, self._stay
        if state is None:
            return ()
        held = ((item, stay.get(id(item))) for item in state.storages)
        return state.left + tuple(
            LeftBehind(name=item.views[0].name, nbytes=item.nbytes, reason=reason) for item, reason in held if reason
        )

    @property
    def may_leave(self) -> list[StateStorage]:
        """The storages on the device that may be swapped out, in the order of need."""
        state = self.state
        if state is None:
            return []
        gone = {id(entry.item) for entry in self._stored}
        return [item for item in state.storages if id(item) not in gone and id(item) not in self._stay]

    def bytes_of(self, item: StateStorage) -> torch.Tensor:
        """The bytes of ``item`` on the tier where they are: uint8, shape [nbytes], an alias."""
        for entry in self._stored:
            if entry.item is item:
                return entry.host
        return raw_bytes(item.storage)

    def device_of(self, item: StateStorage) -> torch.device:
        """The device on which the bytes of ``item`` are."""
        return self.bytes_of(item).device

    @property
    def _stored(self) -> tuple[Stored, ...]:
        restore = self.restore
        return restore.copy.entries if restore is not None else ()

    def swap_out(self, keep: int = 0) -> None:
        """Swap out all storages that can leave the device, except the first ``keep``.

        Storages that are externally referenced since the park stay, see :attr:`left`. Raises
        :class:`djinn.HostMemoryFull`.
        """
        self._take_back()
        chosen = self.may_leave[keep:]
        try:
            held = self._adopted.put_guards(chosen)
            leaving = [item for item in chosen if self._can_leave(item, held)]
            if leaving:
                self._copy_and_free(leaving)
        finally:
            self._adopted.put_back()  # where the storage has kept its bytes

    def _copy_and_free(self, leaving: list[StateStorage]) -> None:
        earlier = self._stored
        entries = self._engine.copy_out(leaving, compute=self._compute)
        # On record before anything is freed: what is gone from the device is always found in host memory.
        self._record([*earlier, *entries])
        try:
            self._engine.free(entries)
        finally:
            stayed = [entry for entry in entries if entry.item.storage.nbytes()]
            if stayed:
                self._stay.update((id(entry.item), "it could not be emptied") for entry in stayed)
                self._record([*earlier, *(entry for entry in entries if entry not in stayed)])
                self._engine.release(stayed)

    def _record(self, entries: list[Stored]) -> None:
        restore = None
        if entries:
            restore = Restore(
                HostCopy.of(entries), session=self._session, compute=self._compute, link=self._engine.link
            )
        self.restore = restore

    def _can_leave(self, item: StateStorage, held: Container[int]) -> bool:
        reason = ""
        if not is_the_allocator_s(item.storage):
            reason = "numpy, DLPack or shared memory holds its bytes"
        elif _uses(item) > self._uses[id(item)] or item.storage._cdata in held:
            reason = "somebody has got hold of it since the pause"
        if reason:
            self._stay[id(item)] = reason
        return not reason

    def _take_back(self) -> None:
        """Undo a swap-in that was interrupted."""
        if self.restore is not None:
            self._engine.undo(self.restore)

    def bring_back(self) -> bool:
        """Swap everything in before the program is unwound, on its thread; False without room."""
        return self.restore is None or self._engine.bring_back(self.restore)

    def clear(self) -> None:
        """Release everything after the program's end; a swap-in that is running is waited for."""
        restore, self.state = self.restore, None
        if restore is not None:
            if restore.left_alone:
                self._engine.release(restore.copy.entries)
                restore.settle()
            restore.wait_settled()
        self.restore = None


def _uses(item: StateStorage) -> int:
    return int(torch._C._storage_Use_Count(item.storage._cdata))
