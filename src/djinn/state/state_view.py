"""Maps names to the tensors of a parked session's state, to list, read and edit them without a copy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from djinn.state.guard import GuardedTensor, Source, guarded
from djinn.state.storages import LeftBehind, NamedView, SessionState, layer_of

_HIDDEN_STATES = "hidden_states"


@dataclass(frozen=True, kw_only=True)
class StateEntry:
    """One tensor of the state; ``layer`` is the decoder layer (1 .. N) whose KV or module state it is, else None."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int | None


class StateView(Mapping[str, torch.Tensor]):
    """Named tensors of a parked session: on the device while PAUSED, in host memory during IO_WAIT.

    Tensors alias the state: the program finds what is written into them. They are void after the next signal, IO_WAIT
    included. Using one then raises :class:`djinn.IllegalMove`, so ``clone()`` what is to be kept. The assignment
    ``view[name] = tensor`` copies ``tensor`` in; its shape and dtype must be the same.

    A copy or pickle of the view is a dict of plain tensors, which outlive every signal.

    ``entries`` lists names, shapes, dtypes and layers without reading a byte. Printing the view does the same, and
    also lists what stays on the device.

    ``hidden_states`` is always in the view. It is the program's own tensor if it stays on the device (see
    :attr:`djinn.Session.left_behind`), and in grad mode while PAUSED. There autograd sees an edit, and refuses what it
    would refuse without djinn. Everywhere else an edit that brings in gradients is refused.
    """

    def __init__(
        self,
        state: SessionState,
        *,
        breakpoint: int,
        source: Callable[[], Source],
        device_of: Callable[[int], torch.device],
        bytes_of: Callable[[int], torch.Tensor],
        left: tuple[LeftBehind, ...],
    ) -> None:
        self._source = source
        self._device_of = device_of
        self._bytes_of = bytes_of
        self._left = left
        self._views: dict[str, tuple[int, NamedView]] = {}  # which storage of the state, and where in it
        self.entries: list[StateEntry] = []
        self._own = state.hidden_states
        for index, item in enumerate(state.storages):
            for view in item.views:
                name, count = view.name, 2
                while name in self._views:
                    name, count = f"{view.name}~{count}", count + 1
                self._views[name] = (index, view)
                layer = layer_of(item.rank, breakpoint)
                self.entries.append(StateEntry(name=name, shape=tuple(view.shape), dtype=view.dtype, layer=layer))
        if self._own is not None and _HIDDEN_STATES not in self._views:
            own = StateEntry(name=_HIDDEN_STATES, shape=_shape_of(self._own), dtype=self._own.dtype, layer=None)
            self.entries.insert(0, own)

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


def _shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of ``tensor``; ``()`` for a nested tensor, which has none."""
    try:
        return tuple(tensor.shape)
    except RuntimeError:
        return ()
