"""Takes the four clocks of a resume, in milliseconds from the resume request, alike for every method.

``ready`` is taken when the method's ``resume`` returns. ``first_kernel`` and ``result`` are taken by forward hooks that
wait for the compute stream. One is on the first module inside layer L+1, its input norm, or on the final norm if L is
the last layer. The other is on the LM head. ``resident`` is taken by a thread that waits for the last of the state: the
one that resumed, or a second one where the first computes on.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from evaluation.measure.models import Subject


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One resume, in milliseconds; ``resident_ms`` is None where the state never is on the device as a whole."""

    ready_ms: float
    first_kernel_ms: float
    resident_ms: float | None
    result_ms: float


def now_ms() -> float:
    """Milliseconds on a monotonic clock."""
    return time.perf_counter_ns() / 1e6


class Clocks:
    """Forward hooks for breakpoint ``layer`` of ``subject``; :meth:`remove` takes them off."""

    def __init__(self, subject: Subject, layer: int) -> None:
        self._cuda = subject.device.type == "cuda"
        self._marks: dict[str, float] = {}
        self._armed: set[str] = set()
        layers = subject.layers
        next_layer = layers[layer] if layer < len(layers) else None
        norm = subject.model.model.norm if next_layer is None else next_layer.get_submodule("input_layernorm")
        self._handles = [
            norm.register_forward_hook(self._stamp("first_kernel")),
            subject.model.lm_head.register_forward_hook(self._stamp("result")),
        ]

    def _stamp(self, name: str) -> Callable[..., None]:
        def stamp(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            if name in self._armed:
                self._armed.discard(name)
                if self._cuda:
                    event = torch.cuda.Event()
                    event.record()
                    event.synchronize()  # this stream only: copies on other streams may still be under way
                self._marks[name] = now_ms()

        return stamp

    def time_resume(
        self,
        *,
        think: Callable[[], None],
        resume: Callable[[], None],
        wait_resident: Callable[[], None] | None,
        aside: bool,
        finish: Callable[[], list[torch.Tensor]],
    ) -> tuple[Reading, list[torch.Tensor]]:
        """Time ``resume``, after ``think``, and what follows; returns the reading and what ``finish`` returned.

        ``wait_resident`` is None where all state is back when ``resume`` returns. ``aside``: from the resume on the
        program computes on a thread of its own, and ``finish`` only waits for it.
        """
        self._marks.clear()
        resumed = threading.Event()

        def mark_resident(wait: Callable[[], None]) -> None:
            wait()
            self._marks["resident"] = now_ms()

        def watching(wait: Callable[[], None]) -> None:
            resumed.wait()
            mark_resident(wait)

        watcher = None
        if wait_resident is not None and not aside:
            watcher = threading.Thread(target=watching, args=(wait_resident,), name="resident-clock", daemon=True)
            watcher.start()
        # What a resume computes by itself, it computes again: the clocks mean what comes after.
        self._armed = {"first_kernel", "result"} if aside else set()
        think()  # last: what has just run would leave a warm core to whom it served
        start = now_ms()
        resume()
        ready = self._marks["ready"] = now_ms()
        if not aside:
            self._armed = {"first_kernel", "result"}
        resumed.set()
        if wait_resident is not None and aside:
            mark_resident(wait_resident)
        logits = finish()
        if watcher is not None:
            watcher.join()
        marks = {name: mark - start for name, mark in self._marks.items()}
        reading = Reading(
            ready_ms=marks["ready"],
            first_kernel_ms=marks["first_kernel"],
            resident_ms=marks.get("resident", ready - start),
            result_ms=marks["result"],
        )
        return reading, logits

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
