"""The residency of a parked session's state: which storages are on the device, in host memory, and on a disk.

Moves each storage once, by the engine's copies; the disk tier moves what waits in host memory (``disk_tier``). Knows
nothing of phases: ``session`` decides when.
"""

import functools
import threading
import time
import weakref
from collections.abc import Callable, Container, Sequence

import torch

from djinn.core import DiskFailed, IllegalMove, NotYet
from djinn.interrupts import holding
from djinn.memory import codec
from djinn.memory.codec import Coded
from djinn.memory.disk_tier import Spill, Waiting, read
from djinn.memory.extents import Extent
from djinn.memory.host_copy import HostCopy, Packed, Stored
from djinn.memory.lanes import Lane
from djinn.memory.restore import Restore
from djinn.memory.spill_file import SpillFile
from djinn.memory.transfer import TransferEngine
from djinn.state.adopted import Adopted
from djinn.state.storages import LeftBehind, SessionState, StateStorage
from djinn.state.tensors import is_the_allocator_s, plain_torch

DecodedCopies = list[tuple["weakref.ref[Stored]", torch.Tensor]]  # of what, and its bytes: uint8, shape [nbytes]

_CLAIM_SECONDS = 0.1  # for whoever has had a session read back to use it, before it may be spilled again


def raw_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return the bytes of ``storage`` as a uint8 tensor that aliases it, writable in every mode."""
    return holding(
        torch.inference_mode(False), lambda: torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    )


class Residency:
    """The residency of the state of the session with that ``number``, which moves under its ``lock``.

    Guards stand in for what is ``adopted`` while its storage is empty. ``waits()`` says whether the session waits and
    nobody has begun to end it.
    """

    def __init__(
        self,
        engine: TransferEngine,
        *,
        number: int,
        adopted: Adopted,
        lock: "threading.RLock",
        waits: Callable[[], bool],
    ) -> None:
        self.number = number
        self.lock = lock
        self._engine = engine
        self._adopted = adopted
        self._waits = waits
        self._compute = engine.link.current()
        self.state: SessionState | None = None  # while parked
        self.restore: Restore | None = None  # of what is in host memory; after RESUME it is under way
        self.spilled: tuple[Spill, ...] = ()  # what is on the disk
        self.used = 0.0  # when somebody last used what is in host memory or on the disk
        self.claimed_until = 0.0  # by whoever has had it read back
        self.edits = 0
        self.failure: DiskFailed | None = None  # why the disk never gave back what it had
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
    def disk_bytes(self) -> int:
        """Bytes on the disk."""
        return sum(spill.nbytes for spill in self.spilled)

    @property
    def device_bytes(self) -> int:
        """Bytes on the device, while parked."""
        state = self.state
        return sum([item.storage.nbytes() for item in state.storages]) if state is not None else 0

    @property
    def away_bytes(self) -> int:
        """Bytes of the state that are not on the device, as they were there."""
        return sum(self.sizes) - self.device_bytes

    @property
    def left(self) -> tuple[LeftBehind, ...]:
        """What was found and not taken, or could not be swapped out later."""
        state, stay = self.state, self._stay
        if state is None:
            return ()
        if not stay:  # as mostly
            return state.left
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
        away = self._away
        return [item for item in state.storages if id(item) not in away and id(item) not in self._stay]

    def bytes_of(self, item: StateStorage) -> torch.Tensor:
        """The bytes of ``item`` on the tier where they are: uint8, shape [nbytes], an alias.

        Under the lock. Raises :class:`NotYet` if that is the disk, or if they are coded.
        """
        self.used, self.claimed_until = time.monotonic(), 0.0
        for entry in self._stored:
            if entry.item is item:
                if entry.coded is not None:
                    raise self._coded(entry)
                return entry.extent.bytes
        if any(item is other for other in self._on_disk):
            self.check_back()
        return raw_bytes(item.storage)

    def decoded_copies(self) -> DecodedCopies:
        """Copies of what is coded in host memory, beside the arena. Without the lock: decoding takes long."""
        coded = holding(self.lock, lambda: [one for one in self._stored if one.coded is not None])
        found = [(weakref.ref(one), functools.partial(_plain, one.extent.bytes, one.coded)) for one in coded]
        del coded  # the storages are not held
        return [(entry, decode()) for entry, decode in found]

    def still_coded(self, copies: DecodedCopies) -> dict[int, torch.Tensor]:
        """Those of ``copies`` that are coded as they were, by the identity of their item. Under the lock."""
        return {id(one.item): copy for entry, copy in copies if (one := entry()) is not None and one in self._stored}

    def copy_of(self, item: StateStorage) -> torch.Tensor:
        """A copy of the bytes of ``item`` in host memory beside the arena: uint8, shape [nbytes]. Else likewise."""
        for entry in self._stored:
            if entry.item is item and entry.coded is not None:
                return codec.plain(entry.extent.bytes, entry.coded)
        return self.bytes_of(item).to("cpu", copy=True)

    def _coded(self, entry: Stored) -> NotYet:
        """Return the error for bytes that are coded: they are decoded first, which needs room for both forms."""
        self._engine.check_fits([*self._sizes_away, entry.item.nbytes])
        text = f"coded state of session {self.number} that is used at once cannot be decoded: clone() some of it first"
        return NotYet(text, functools.partial(self._decode, weakref.ref(entry), entry.item.nbytes))

    def _decode(self, coded: "weakref.ref[Stored]", nbytes: int, timeout: float | None) -> None:
        if self.lock._is_owned():  # type: ignore[attr-defined]  # the engine's thread could never get it
            raise IllegalMove(
                f"state of session {self.number} is coded, and cannot be decoded in the middle of an operator on other "
                "state of it: clone() it first"
            )
        self._engine.decoding(functools.partial(self._replace, coded, nbytes), timeout)

    def _replace(self, coded: "weakref.ref[Stored]", nbytes: int) -> None:
        """Put the plain form of what is ``coded``, of ``nbytes``, in its place; no effect if it waits there no more.

        On the engine's thread for this, on which no interrupt comes. Decodes without the lock.
        """
        if coded() is None:
            return
        extent = self._engine.reserved_for(nbytes)
        replaced = False
        try:
            found = holding(self.lock, functools.partial(self._waiting, coded))
            if found is not None:
                codec.decode_all(*found, extent.bytes.data_ptr())
                del found  # it keeps the coded bytes
                replaced = holding(self.lock, functools.partial(self._record_plain, coded, extent))
        finally:
            if not replaced:
                self._engine.give_back(extent)

    def _waiting(self, coded: "weakref.ref[Stored]") -> tuple[torch.Tensor, Coded] | None:
        """Return the bytes of what is ``coded``, which nobody reuses meanwhile; None if it waits there no more."""
        entry = coded()
        if entry is None or entry.coded is None or not self._has_waiting(entry):
            return None
        return entry.extent.bytes, entry.coded

    def _record_plain(self, coded: "weakref.ref[Stored]", extent: Extent) -> bool:
        entry = coded()
        if entry is None or not self._has_waiting(entry):
            return False
        self._take_back()
        plain = self._engine.stored(Packed(item=entry.item), extent)
        self._record([plain if one is entry else one for one in self._stored])
        self._engine.release([entry])
        return True

    def _has_waiting(self, entry: Stored) -> bool:
        restore = self.restore
        return restore is not None and not restore.departed and self._waits() and entry in restore.copy.entries

    def peek(self, item: StateStorage) -> tuple[str, Callable[[], torch.Tensor] | None]:
        """The tier of ``item``, and what returns its bytes if that is host memory: an alias, or a copy of coded ones.

        Under the lock; counts as no use.
        """
        for entry in self._stored:
            if entry.item is item:
                return "host", functools.partial(_plain, entry.extent.bytes, entry.coded)
        return "disk" if any(item is other for other in self._on_disk) else "device", None

    def check_back(self) -> None:
        """Raise :class:`NotYet` if some of the state is on the disk."""
        self.used, self.claimed_until = time.monotonic(), 0.0
        if self.spilled:
            raise self._engine.away(self)

    def device_of(self, item: StateStorage) -> torch.device:
        """The device on which the bytes of ``item`` are, or will be when they are used."""
        away = holding(self.lock, lambda: id(item) in self._away)
        return torch.device("cpu") if away else item.storage.device

    @property
    def _stored(self) -> tuple[Stored, ...]:
        restore = self.restore
        return restore.copy.entries if restore is not None else ()

    @property
    def _sizes_away(self) -> list[int]:
        """The bytes of each storage that is not on the device, where it is."""
        return [part.nbytes for spill in self.spilled for part in spill.parts] + [one.nbytes for one in self._stored]

    @property
    def _away(self) -> set[int]:
        """The identities of what is not on the device."""
        return {id(entry.item) for entry in self._stored} | {id(item) for item in self._on_disk}

    @property
    def _on_disk(self) -> tuple[StateStorage, ...]:
        return tuple(part.item for spill in self.spilled for part in spill.parts)

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
        self.used = time.monotonic()
        # With a disk all of it must be able to come back at once.
        entries = self._engine.copy_out(leaving, compute=self._compute, beside=self._sizes_away if self.spilled else ())
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
            restore = Restore(HostCopy.of(entries), session=self.number, compute=self._compute, link=self._engine.link)
            self._engine.prepare(restore)
        before, self.restore = self.restore, restore
        if before is not None and not before.departed:
            before.finish()  # whoever waits for it looks again

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

    # -- what the disk tier does, on its thread and under the lock ---------------------------------------------------

    @property
    def passes(self) -> bool:
        """Whether it is on its way out of host memory."""
        restore = self.restore
        return restore is not None and restore.nbytes > 0 and (restore.departed or not self._waits())

    def to_spill(self) -> Waiting | None:
        """Return what waits in host memory; None if nothing does, or if somebody uses it or has got hold of it."""
        restore = self.restore
        if restore is None or not self._may_be_spilled(restore):
            return None
        entries = restore.copy.entries
        return Waiting(
            copy=weakref.ref(restore.copy),
            edits=self.edits,
            names=[f"state/{place}/{entry.item.views[0].name}" for place, entry in enumerate(entries)],
            memory=[entry.extent.memory for entry in entries],
        )

    def _may_be_spilled(self, restore: Restore) -> bool:
        entries = restore.copy.entries
        if not entries or restore.begun or restore.departed or not self._waits():
            return False
        return not any(entry.extent.shared for entry in entries)

    def left_for(self, file: SpillFile, waiting: Waiting) -> bool:
        """Record that what was ``waiting`` is in ``file``, and release the host memory.

        False, and no effect, if it has gone on or was edited since then.
        """
        restore = self.restore
        if restore is None or not self._may_be_spilled(restore):
            return False
        if waiting.copy() is not restore.copy or waiting.edits != self.edits:
            return False
        parts = tuple(Packed(item=entry.item, coded=entry.coded) for entry in restore.copy.entries)
        spill = Spill(parts=parts, file=file)
        self.spilled = (*self.spilled, spill)  # on record before anything is released
        self.restore = None
        self._engine.release_all(restore)
        return True

    def came_back(self, spilled: tuple[Spill, ...], extents: Sequence[Extent]) -> bool:
        """Record that what was ``spilled`` is in ``extents``; False, and no effect, if it no longer waits there."""
        if self.spilled is not spilled or not self._waits():
            return False
        parts = [part for spill in spilled for part in spill.parts]
        self._record([*self._stored, *map(self._engine.stored, parts, extents)])
        self.spilled = ()
        self.used = time.monotonic()
        self.claimed_until = self.used + _CLAIM_SECONDS
        return True

    # -- the end -----------------------------------------------------------------------------------------------------

    def bring_back(self) -> bool:
        """Swap in what is in host memory before the program is unwound, on its thread.

        False without room, or while some of the state is on the disk: :meth:`fetch` brings that.
        """
        return not self.spilled and (self.restore is None or self._engine.bring_back(self.restore))

    def fetch(self) -> bool:
        """Bring what is on the disk straight to the device, likewise; False if nothing is, or without room.

        When the disk has failed several times there is a :attr:`failure`, and the program finds zeros.
        """
        if not self.spilled:
            return False
        try:
            if not self._engine.fetch(self.number, self.spilled, self._compute):
                return False
        except DiskFailed as failure:
            self.failure = failure.with_traceback(None)  # its frames hold the storages
        self._forget_spilled()
        return True

    def _forget_spilled(self) -> None:
        spilled, self.spilled = self.spilled, ()
        self._engine.remove([spill.file for spill in spilled])

    def copies_from_disk(self, spilled: Sequence[Spill]) -> dict[int, torch.Tensor]:
        """Return copies of what is ``spilled`` in host memory beside the arena: uint8, by the identity of its item.

        Without the lock; there are none if that has come back meanwhile. Raises :class:`DiskFailed`, or
        ``MemoryError``.
        """
        parts = [part for spill in spilled for part in spill.parts]
        copies = [bytearray(part.nbytes) for part in parts]
        try:
            read(self.number, spilled, [memoryview(copy) for copy in copies])
        except DiskFailed:
            if self.spilled is spilled:
                raise
            return {}  # its files have gone, for it is read back or has ended
        plain = (
            _plain(torch.frombuffer(copy, dtype=torch.uint8), part.coded)
            for part, copy in zip(parts, copies, strict=True)
        )
        return {id(part.item): copy for part, copy in zip(parts, plain, strict=True)}

    def clear(self) -> None:
        """Release everything after the program's end; a swap-in that is running is waited for."""
        restore, self.state = self.restore, None
        if restore is not None:
            if restore.left_alone:
                self._engine.release(restore.copy.entries)
                restore.settle()
            restore.wait_settled()
        self.restore = None
        self._forget_spilled()


def _plain(raw: torch.Tensor, coded: Coded | None) -> torch.Tensor:
    """Return the bytes of a storage that has ``raw`` (uint8) off the device: an alias, or a copy of coded ones."""
    return raw if coded is None else codec.plain(raw, coded)


def _uses(item: StateStorage) -> int:
    return int(torch._C._storage_Use_Count(item.storage._cdata))
