"""Maps names to the tensors of a parked session's state, to list, read and edit them without a copy."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch

from djinn.state.guard import GuardedTensor, Source, guarded
from djinn.state.state_page import StateEntry, page
from djinn.state.storages import LeftBehind, NamedView, SessionState, layer_of

_HIDDEN_STATES = "hidden_states"

T = TypeVar("T")
Read = Callable[[], torch.Tensor]
Look = Callable[[str, Read | None], T]  # at a tier, and at what reads the bytes (uint8) if that is host memory


class StateView(Mapping[str, torch.Tensor]):
    """Named tensors of a parked session: on the device while PAUSED, in host memory during IO_WAIT.

    Tensors alias the state: the program finds what is written into them. They are void after the next signal, IO_WAIT
    included. Using one then raises :class:`djinn.IllegalMove`, so ``clone()`` what is to be kept. The assignment
    ``view[name] = tensor`` copies ``tensor`` in; its shape and dtype must be the same.

    A copy or pickle of the view is a dict of plain tensors, which outlive every signal.

    ``entries`` lists names, shapes, dtypes and layers without reading a byte. Printing the view does the same, and
    also lists what stays on the device.

    A notebook shows it as a table, with the tier of each tensor: device, host or disk. Of what is in host memory it has
    numbers too, computed in float64; nothing is moved for them. The norm is the Euclidean norm of all elements. In the
    order shown, tensors of 128 MiB in all are read for it; others have none. For some tokens there are norm and spread
    of their vectors in ``hidden_states`` (the last dimension). The spread is the standard deviation of the n elements,
    with n as the divisor.

    ``hidden_states`` is always in the view. It is the program's own tensor if it stays on the device (see
    :attr:`djinn.Session.left_behind`), and in grad mode while PAUSED. There autograd sees an edit, and refuses what it
    would refuse without djinn. Everywhere else an edit that brings in gradients is refused.
    """

    __slots__ = (  # so that ``view.hidden_states = tensor``, which would do nothing, is an error
        "__weakref__",
        "_bytes_of",
        "_device_of",
        "_left",
        "_own",
        "_peek_at",
        "_sizes",
        "_source",
        "_views",
        "entries",
    )

    def __init__(
        self,
        state: SessionState,
        *,
        breakpoint: int,
        source: Callable[[], Source],
        device_of: Callable[[int], torch.device],
        bytes_of: Callable[[int], torch.Tensor],
        peek: Callable[[int | None, Look[object]], object],
        left: tuple[LeftBehind, ...],
    ) -> None:
        self._source = source
        self._device_of = device_of
        self._bytes_of = bytes_of
        self._peek_at = peek
        self._left = left
        self._views: dict[str, tuple[int, NamedView]] = {}  # which storage of the state, and where in it
        self.entries: list[StateEntry] = []
        self._own = state.hidden_states
        self._sizes = [item.nbytes for item in state.storages]
        for index, item in enumerate(state.storages):
            for view in item.views:
                name, count = view.name, 2
                while name in self._views:
                    name, count = f"{view.name}~{count}", count + 1
                self._views[name] = (index, view)
                layer = layer_of(item.rank, breakpoint)
                nbytes = math.prod(view.shape) * view.dtype.itemsize
                shape = tuple(view.shape)
                self.entries.append(StateEntry(name=name, shape=shape, dtype=view.dtype, layer=layer, nbytes=nbytes))
        if self._own is not None and _HIDDEN_STATES not in self._views:
            self.entries.insert(0, _entry_of(self._own))

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self:
            raise KeyError(f"no tensor {name!r} in the session's state; it has: {', '.join(self)}")
        source, own, bytes_of = self._source(), self._own, self._bytes_of
        if name == _HIDDEN_STATES and own is not None and (source.paused or name not in self._views):
            return guarded(own, source, name)
        index, view = self._views[name]
        return GuardedTensor(
            source,
            name,
            lambda: view.over(bytes_of(index)),
            shape=view.shape,
            stride=view.stride,
            offset=view.offset,
            dtype=view.dtype,
            device=self._device_of(index),
        )

    def __setitem__(self, name: str, value: object) -> None:
        target = self[name]
        if target is value:
            return  # as in ``view[name] *= 2``
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise TypeError(f"{name} cannot be replaced by {kind}: assign a tensor, or write into view[{name!r}][...]")
        if value.shape != target.shape or value.dtype != target.dtype:
            raise ValueError(
                f"{name} is {target.dtype} {list(target.shape)}; "
                f"it cannot be replaced by {value.dtype} {list(value.shape)}: convert that first"
            )
        target.copy_(value)

    def __contains__(self, name: object) -> bool:
        return name in self._views or (self._own is not None and name == _HIDDEN_STATES)

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __reduce__(self) -> tuple[type[dict[str, torch.Tensor]], tuple[dict[str, torch.Tensor]]]:
        return dict, ({name: tensor.detach().clone() for name, tensor in self.items()},)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        left = self._left
        width = max((len(name) for name in [*self, *(line.name for line in left)]), default=0)
        lines = [
            f"{entry.name:<{width}}  {entry.dtype!s:<14}  {list(entry.shape)}"
            + ("" if entry.layer is None else f"  layer {entry.layer}")
            for entry in self.entries
        ]
        if left:
            lines.append(f"left on the device: {sum(line.nbytes for line in left)} bytes")
            lines += [f"{line.name:<{width}}  {line.nbytes} bytes: {line.said}" for line in left]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return page(self.entries, self._peek, self._left, storage_sizes=self._sizes)

    def _peek(self, name: str, look: Look[T], /) -> T:
        """Return ``look(tier, read)``: ``read()`` is tensor ``name`` as it is in host memory; None on another tier."""
        index, view = self._views.get(name, (None, None))
        found: list[T] = []

        def keep(tier: str, raw: Read | None) -> None:
            found.append(look(tier, None if raw is None or view is None else lambda: view.over(raw())))

        self._peek_at(index, keep)
        return found[0]


def _entry_of(own: torch.Tensor) -> StateEntry:
    nbytes = own.nbytes if own.layout is torch.strided and not own.is_nested else None
    return StateEntry(name=_HIDDEN_STATES, shape=_shape_of(own), dtype=own.dtype, layer=None, nbytes=nbytes)


def _shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of ``tensor``; ``()`` for a nested tensor, which has none."""
    try:
        return tuple(tensor.shape)
    except RuntimeError:
        return ()
