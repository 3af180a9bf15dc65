"""Copies between device and host, as the hand-written methods share them. Knows nothing of Djinn."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]

_BEAT_SECONDS = 0.005  # a link that was idle for 5 ms is still awake, after 25 ms it sleeps now and then


def to_device(tensors: Tensors, device: torch.device) -> Tensors:
    """Copies of ``tensors`` on ``device``, by name, submitted on the current stream."""
    return {
        name: torch.empty_like(tensor, device=device).copy_(tensor, non_blocking=True)
        for name, tensor in tensors.items()
    }


class CopiesBehind:
    """Brings tensors to ``device``, layer by layer on ``stream``, and each layer waits for its own before it reads.

    They are allocated for that stream, which has memory of its own: so no copy waits for what computes. ``stream`` is
    None on the CPU.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._device = device
        self._stream = stream
        self._submitted: dict[int, Future[torch.cuda.Event | None]] = {}

    def expect(self, layers: Iterable[int]) -> None:
        """From now on :meth:`wait` blocks for those of ``layers`` (1 .. N) that are not submitted yet."""
        self._submitted = {number: Future() for number in layers}

    def bring(self, layers: Mapping[int, Tensors], put: Callable[[Tensors], object]) -> None:
        """Allocate and copy the tensors of each of ``layers``, one after the other, and ``put`` them in their place.

        An error reaches those who wait.
        """
        try:
            reader = torch.cuda.current_stream(self._device) if self._stream is not None else None
            with torch.no_grad(), torch.cuda.stream(self._stream):
                for number, tensors in layers.items():
                    brought = to_device(tensors, self._device)
                    if reader is not None:
                        for tensor in brought.values():
                            tensor.record_stream(reader)  # it may let go of one while it still reads it
                    put(brought)
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

    def wait_in(self, layers: Sequence[nn.Module]) -> ExitStack:
        """Let each of ``layers``, the first of the model, :meth:`wait` before it runs, until what it returns closes."""
        hooks = ExitStack()
        for number, layer in enumerate(layers, start=1):
            hooks.callback(layer.register_forward_pre_hook(partial(self._before, number)).remove)
        return hooks

    def _before(self, number: int, *arguments: object) -> None:
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


class LinkBeat:
    """Keeps the link to ``device`` awake while a session is paused: a tiny copy every few milliseconds, by a thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._source = torch.zeros(1, pin_memory=self._stream is not None)
        self._target = torch.zeros(1, device=device)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """The link is idle from now on, unless attended."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(self._ended,), name="link-beat", daemon=True)
        self._thread.start()

    def _beat(self, ended: threading.Event) -> None:
        with torch.no_grad(), torch.cuda.stream(self._stream):
            while not ended.wait(_BEAT_SECONDS):
                self._target.copy_(self._source, non_blocking=True)

    def stop(self) -> None:
        """The link is in use again; does not wait for the thread."""
        self._ended.set()

    def join(self) -> None:
        """Return when nothing is copied any more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
