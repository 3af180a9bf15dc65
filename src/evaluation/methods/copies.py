"""Copies between device and host, as the hand-written methods share them. Knows nothing of Djinn."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future

import torch

Tensors = dict[str, torch.Tensor]


class CopiesBehind:
    """Copies to the device, layer by layer on a stream of their own, that each layer waits for before it reads."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._submitted: dict[int, Future[torch.cuda.Event | None]] = {}

    def expect(self, layers: Iterable[int]) -> None:
        """From now on :meth:`wait` blocks for those of ``layers`` (1 .. N) that are not submitted yet."""
        self._submitted = {number: Future() for number in layers}

    def submit(self, pairs: Mapping[int, Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> None:
        """Copy, layer by layer, each second tensor of ``pairs`` into the first; an error reaches those who wait."""
        try:
            with torch.no_grad(), torch.cuda.stream(self._stream):
                for number, tensors in pairs.items():
                    for target, source in tensors:
                        target.copy_(source, non_blocking=True)
                    event = self._stream.record_event() if self._stream is not None else None
                    self._submitted[number].set_result(event)
        except RuntimeError as error:
            for submitted in self._submitted.values():
                if not submitted.done():
                    submitted.set_exception(error)

    def wait(self, number: int) -> None:
        """Order the current stream behind the copies for layer ``number``."""
        if number in self._submitted and (event := self._submitted[number].result()) is not None:
            torch.cuda.current_stream().wait_event(event)

    def wait_all(self) -> None:
        """Order the current stream behind the copies for every layer."""
        for number in self._submitted:
            self.wait(number)

    def synchronize(self) -> None:
        """Block until all is there."""
        for submitted in self._submitted.values():
            submitted.result()
        if self._stream is not None:
            self._stream.synchronize()


def by_layer(names: Iterable[str]) -> dict[int, list[str]]:
    """``kv.J.*`` names grouped by their layer J, in the order in which they come; other names under 0."""
    grouped: dict[int, list[str]] = {}
    for name in names:
        head, _, rest = name.partition(".")
        grouped.setdefault(int(rest.partition(".")[0]) if head == "kv" else 0, []).append(name)
    return grouped
