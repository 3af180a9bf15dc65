"""Values in attributes of modules: which of them may be state of a call, and what they were before the call.

State are tensors, transformers' caches, and other containers (``containers``) that lead to a tensor.
A snapshot records a value so that a later change in place shows. Copies restore it. Runs no code of the program: see
``static`` and ``tensors``. Not seen: writes that torch does not count (``.data``, raw pointers).
"""

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch

from djinn.interrupts import holding
from djinn.state.containers import (
    Contents,
    built_in,
    contents_of,
    fill,
    is_cache_or_layer,
    is_container,
    is_plain,
    is_struct_sequence,
    like,
    parts_of,
)
from djinn.state.tensors import PlainTensor, counted_writes, is_tensor, not_swappable, storage_of

ABSENT: Final = type("Absent", (), {})()  # the value of an attribute that is not there


class Kind(enum.Enum):
    """What a value may be: state of a call, plain data that tells about state, or anything else."""

    STATE = enum.auto()
    PLAIN = enum.auto()
    OTHER = enum.auto()


def kind_of(value: object) -> Kind:
    """Return the kind of ``value``; one tensor that is no parameter makes a container state."""
    if is_plain(value) or value is ABSENT:
        return Kind.PLAIN
    if not is_tensor(value) and not is_container(type(value)):
        return Kind.OTHER
    if is_cache_or_layer(type(value)):  # an empty one, too
        return Kind.STATE
    parts = [part for part in parts_of(value) if not is_plain(part)]
    if any(is_tensor(part) and not _is_parameter(part) for part in parts):
        return Kind.STATE
    return Kind.PLAIN if all(built_in(type(part)) is not object for part in parts) else Kind.OTHER


def may_change_in_place(value: object) -> bool:
    """Whether ``value`` is a tensor or container that may be state, now or after a change in place."""
    if is_plain(value) or _is_parameter(value):
        return False
    return is_tensor(value) or built_in(type(value)) is not object or kind_of(value) is Kind.STATE


def nbytes_below(value: object) -> int:
    """Count the bytes of the storages under ``value``."""
    storages = (storage_of(part) for part in parts_of(value) if is_tensor(part))
    return sum({one._cdata: one.nbytes() for one in storages if one is not None}.values())


def version_of(tensor: torch.Tensor) -> int | None:
    """Return how often ``tensor`` has been written, or None: torch does not count writes to inference tensors."""
    return None if PlainTensor.is_inference(tensor) else int(counted_writes(tensor))


class _Seen(NamedTuple):
    """A tensor at a snapshot: its version, the address of its storage, and its offset, shape and strides."""

    tensor: torch.Tensor
    version: int | None
    address: int
    layout: tuple[int, torch.Size, tuple[int, ...]]


class Snapshot:
    """A value as it is now: what its containers hold, and the versions of its tensors.

    The bytes of storages of up to ``kept_bytes`` are kept in host memory, for torch does not undo a write. What is
    ``followed`` like a container is told by the class.
    """

    def __init__(self, value: object, *, kept_bytes: int = 0, followed: Callable[[type], bool] = is_container) -> None:
        self.value = value
        self.kind = kind_of(value)
        self._kept_bytes = kept_bytes
        self.contents: dict[int, tuple[object, Contents]] = {}
        self.bytes: dict[int, torch.UntypedStorage] = {}  # in host memory, by the address of the storage
        self.tensors: dict[int, _Seen] = {}  # by id
        for part in parts_of(value, followed):
            if is_tensor(part):
                self._note(part)
            elif followed(type(part)):
                self.contents[id(part)] = part, contents_of(part)

    @property
    def counts(self) -> bool:
        """Whether torch counts all writes into the value."""
        return all(seen.version is not None for seen in self.tensors.values())

    def _note(self, tensor: torch.Tensor) -> None:
        storage = storage_of(tensor)
        if storage is None or _is_parameter(tensor):
            return
        layout = int(PlainTensor.storage_offset(tensor)), PlainTensor.size(tensor), PlainTensor.stride(tensor)
        self.tensors[id(tensor)] = _Seen(tensor, version_of(tensor), storage._cdata, layout)
        small = 0 < storage.nbytes() <= self._kept_bytes
        if small and not not_copied(tensor) and storage._cdata not in self.bytes:
            self.bytes[storage._cdata] = _copy_of(storage, torch.device("cpu"))

    def has_changed(self) -> bool:
        """Whether anything has been written into the value since."""
        for obj, contents in self.contents.values():
            if not contents.is_same_as(contents_of(obj)):
                return True
        return any(self._is_written(seen) for seen in self.tensors.values())

    def _is_written(self, seen: "_Seen") -> bool:
        storage = storage_of(seen.tensor)
        if storage is None or storage._cdata != seen.address:
            return True
        if seen.version is not None:
            return version_of(seen.tensor) != seen.version
        if seen.address in self.bytes:
            return not torch.equal(*map(_as_bytes, (self.bytes[seen.address], _copy_of(storage, torch.device("cpu")))))
        return torch.is_inference_mode_enabled()  # nothing else could have written it


class Copies:
    """Copies of values as they were at a snapshot. What shares an object or a storage shares it in the copies, too.

    ``instead`` has objects by id that stand in the copies for those with these ids.
    """

    def __init__(self, instead: Mapping[int, object] | None = None) -> None:
        self._made = dict(instead or {})
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._originals: list[object] = []  # kept, so that their ids stay valid

    @property
    def made(self) -> bool:
        """Whether anything has been copied."""
        return bool(self._storages)

    def of(self, snapshot: Snapshot) -> Any:
        """Return a copy of the snapshot's value. Raises ``RuntimeError`` if the device has no room."""
        return self._of(snapshot.value, snapshot)

    def _of(self, part: object, snapshot: Snapshot) -> object:
        if id(part) in self._made:
            return self._made[id(part)]
        self._originals.append(part)
        if is_tensor(part):
            return self._made.setdefault(id(part), part if not_copied(part) else self._tensor(part, snapshot))
        known = snapshot.contents.get(id(part))
        if known is None:
            return part
        _, contents = known
        if isinstance(part, tuple):
            values = [self._of(value, snapshot) for _, value in contents.items]
            # The second is what an operator of torch returns: it is made by nothing but its class.
            made: object = type(part)(values) if is_struct_sequence(type(part)) else tuple.__new__(type(part), values)
        else:
            made = self._made[id(part)] = like(part)
        items = tuple((key, self._of(value, snapshot)) for key, value in contents.items)
        attributes = tuple((key, self._of(value, snapshot)) for key, value in contents.attributes)
        fill(made, Contents(items=items, attributes=attributes))
        return self._made.setdefault(id(part), made)

    def _tensor(self, tensor: torch.Tensor, snapshot: Snapshot) -> torch.Tensor:
        storage, seen = storage_of(tensor), snapshot.tensors[id(tensor)]
        assert storage is not None
        if seen.address not in self._storages:
            self._storages[seen.address] = _copy_of(snapshot.bytes.get(seen.address, storage), storage.device)
        return holding(
            torch.inference_mode(PlainTensor.is_inference(tensor)),
            lambda: torch.empty(0, dtype=tensor.dtype, device=storage.device).set_(
                self._storages[seen.address], *seen.layout
            ),
        )


def _is_parameter(value: object) -> bool:
    return issubclass(type(value), torch.nn.Parameter)


def not_copied(tensor: torch.Tensor) -> str:
    """Return why no copy can replace ``tensor``; an empty string if it is nothing but its stored bytes."""
    if _is_parameter(tensor):
        return "it is a parameter"
    if reason := not_swappable(tensor):
        return reason
    kinds = (
        (storage_of(tensor) is None or tensor.is_meta, "it has no bytes"),
        (tensor.requires_grad, "it needs gradients"),
        (PlainTensor.is_conj(tensor) or PlainTensor.is_neg(tensor), "it is conjugated or negated when it is read"),
    )
    return next((reason for is_so, reason in kinds if is_so), "")


def _copy_of(storage: torch.UntypedStorage, device: torch.device) -> torch.UntypedStorage:
    return torch.UntypedStorage(storage.nbytes(), device=device).copy_(storage, non_blocking=False)


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
