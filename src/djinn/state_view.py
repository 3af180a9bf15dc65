"""The state of a parked session by name: what there is, without copying anything, and tensors to read and edit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from djinn.state import NamedView, StateStorage, layer_of


@dataclass(frozen=True, kw_only=True)
class StateEntry:
    """One tensor of the state; ``layer`` is the decoder layer (1 .. N) whose KV it is, None for anything else."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int | None


class StateView(Mapping[str, torch.Tensor]):
    """Named tensors of a parked session: on the device while PAUSED, in host memory during IO_WAIT.

    Tensors alias the state: what is written into them is what the program finds when it goes on. They are void after
    RESUME, and so is the view. ``view[name] = tensor`` copies ``tensor`` in; its shape and dtype must be the same.
    ``entries`` tells names, shapes, dtypes and layers without touching a byte, and so does printing the view.
    """

    def __init__(
        self,
        storages: Sequence[StateStorage],
        *,
        breakpoint: int,
        bytes_of: Callable[[StateStorage], torch.Tensor],
    ) -> None:
        self._bytes_of = bytes_of
        self._views: dict[str, tuple[StateStorage, NamedView]] = {}
        self.entries: list[StateEntry] = []
        for item in storages:
            for view in item.views:
                name, count = view.name, 2
                while name in self._views:
                    name, count = f"{view.name}~{count}", count + 1
                self._views[name] = (item, view)
                layer = layer_of(item.rank, breakpoint)
                self.entries.append(StateEntry(name=name, shape=tuple(view.shape), dtype=view.dtype, layer=layer))

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._views:
            raise KeyError(f"no tensor {name!r} in the session's state; it has: {', '.join(self._views)}")
        item, view = self._views[name]
        return view.over(self._bytes_of(item))

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        if name in self._views:
            _, view = self._views[name]
            if value.shape != view.shape or value.dtype != view.dtype:
                raise ValueError(
                    f"{name} is {view.dtype} {list(view.shape)}; "
                    f"it cannot be replaced by {value.dtype} {list(value.shape)}"
                )
        self[name].copy_(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        width = max((len(entry.name) for entry in self.entries), default=0)
        return "\n".join(
            f"{entry.name:<{width}}  {entry.dtype!s:<14}  {list(entry.shape)}"
            + ("" if entry.layer is None else f"  layer {entry.layer}")
            for entry in self.entries
        )
