"""Notes when the device has come to a breakpoint, and for how long no other thread of Python could run from there."""

import threading
import time

import torch
from torch import nn

from evaluation.measure.models import Subject
from evaluation.measure.stopwatch import now_ms

_NAP_SECONDS = 0.0002  # of the thread that wants to run


class Sleeper:
    """A thread that sleeps and wakes: the longest time between two of its wakes, from ``begin`` to ``end``."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._last_ms = 0.0
        self._watching = self._ended = False
        self._thread = threading.Thread(target=self._run, name="sleeper", daemon=True)

    def _run(self) -> None:
        while not self._ended:
            time.sleep(_NAP_SECONDS)
            self._note()

    def _note(self) -> None:
        now = now_ms()
        if self._watching:
            self.longest_ms = max(self.longest_ms, now - self._last_ms)
        self._last_ms = now

    def begin(self) -> None:
        """Watch from now on, anew."""
        self.longest_ms, self._last_ms, self._watching = 0.0, now_ms(), True

    def end(self) -> None:
        """Watch no longer."""
        self._note()
        self._watching = False

    def __enter__(self) -> "Sleeper":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended = True
        self._thread.join()


class Arrival:
    """Notes when the device has come to the breakpoint: a forward hook on the last module within layer L."""

    def __init__(self, subject: Subject, layer: int) -> None:
        self._cuda = subject.device.type == "cuda"
        self._armed = False
        self._sleeper: Sleeper | None = None
        self._time_ms = 0.0
        self._handle = subject.layers[layer - 1].get_submodule("mlp").register_forward_hook(self._stamp)

    def _stamp(self, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if not self._armed:
            return
        if self._cuda:
            torch.cuda.current_stream().synchronize()
        if self._sleeper is not None:
            self._sleeper.begin()
        self._time_ms = now_ms()

    def arm(self, sleeper: Sleeper | None) -> None:
        """Note it from now on, and tell ``sleeper``; the last pass counts."""
        self._armed, self._sleeper = True, sleeper

    def disarm(self) -> float:
        """The time, by the clock of all times; what is computed again is not noted."""
        self._armed, self._sleeper = False, None
        return self._time_ms

    def remove(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()
