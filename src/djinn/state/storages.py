"""The state of a parked session: its storages, their names, and the order in which the program needs them.

Values only; the state scanner (``discovery``) finds them. Tensors are reduced to their untyped storages, each once.
Views and aliases are kept as names.
"""

from dataclasses import dataclass

import torch

from djinn.state.remedies import remedy

Rank = tuple[int, int]
FRONTIER: Rank = (0, 0)
REST: Rank = (3, 0)


@dataclass(frozen=True, kw_only=True)
class NamedView:
    """One tensor of the state: its name and its layout in the storage (``offset`` and ``stride`` in elements).

    ``conj`` and ``neg``: the tensor is the conjugate, or the negative, of the stored values.
    """

    name: str
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    conj: bool = False
    neg: bool = False

    def over(self, raw: torch.Tensor) -> torch.Tensor:
        """Return this tensor as a view of ``raw``, the bytes of its storage (uint8, shape [nbytes])."""
        usable = raw.numel() // self.dtype.itemsize * self.dtype.itemsize
        typed = raw[:usable].view(self.dtype)  # as_strided counts from the start of the storage, of which raw is a part
        shown = typed.as_strided(self.shape, self.stride, int(typed.storage_offset()) + self.offset)
        if self.conj:
            shown = shown.conj()
        return torch._neg_view(shown) if self.neg else shown


@dataclass(frozen=True, kw_only=True)
class StateStorage:
    """A storage that the session owns; the program needs a smaller ``rank`` sooner."""

    storage: torch.UntypedStorage
    nbytes: int
    rank: Rank
    views: tuple[NamedView, ...]

    @property
    def in_frontier(self) -> bool:
        """Whether layer L+1 reads it."""
        return self.rank[0] == FRONTIER[0]


@dataclass(frozen=True, kw_only=True)
class LeftBehind:
    """A tensor that was found and stays on the device: its name, the bytes of its storage, and the reason."""

    name: str
    nbytes: int
    reason: str

    @property
    def remedy(self) -> str:
        """What to change so that it leaves next time; an empty string if nothing is known."""
        return remedy(self.reason)

    @property
    def said(self) -> str:
        """The reason, and the remedy if there is one."""
        return "; ".join(filter(None, (self.reason, self.remedy)))

    def __str__(self) -> str:
        return f"{self.name}: {self.nbytes} bytes, {self.said}"


@dataclass(frozen=True, kw_only=True)
class SessionState:
    """The storages of one parked session in the order of need, and what was found but is ``left`` on the device.

    ``hidden_states`` is the very tensor that the layer returned, if its storage is left, or if autograd must see an
    edit. Otherwise it is None, and the hidden states are among the storages.
    """

    storages: tuple[StateStorage, ...]
    left: tuple[LeftBehind, ...] = ()
    hidden_states: torch.Tensor | None = None

    @property
    def frontier(self) -> tuple[StateStorage, ...]:
        """The storages that layer L+1 reads: the hidden states, the layer's other arguments, its own past KV."""
        return tuple(item for item in self.storages if item.in_frontier)


def kv_rank(layer: int, breakpoint: int) -> Rank:
    """Rank the KV of decoder layer ``layer`` (1 .. N) after breakpoint L: L+1 first, then up to N, then 1 .. L."""
    if layer == breakpoint + 1:
        return (0, 1)
    return (1, layer) if layer > breakpoint else (2, layer)


def layer_of(rank: Rank, breakpoint: int) -> int | None:
    """Return the decoder layer whose KV has ``rank`` after breakpoint L, or None for what is no KV."""
    if rank == (0, 1):
        return breakpoint + 1
    return rank[1] if rank[0] in (1, 2) else None
