"""Takes the five clocks of a resume, in milliseconds from the resume request, alike for every method.

``ready`` is taken when the method's ``resume`` returns. ``first_kernel`` is taken by a forward hook that waits for the
compute stream. It is on the first module inside layer L+1, its input norm, or on the final norm if L is the last layer.
``usable`` is taken when the caller has the last token's logits, ``next_token`` one decode step later, both by a
:class:`Hand`. ``resident`` is taken by a second thread, which waits for the last of the state.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from evaluation.measure.hand import Hand
from evaluation.measure.models import Subject
from evaluation.measure.stopwatch import now_ms


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One resume, in milliseconds; None for what it does not have.

    A resume that waits for nothing has no ``ready_ms``, one whose state never is on the device as a whole no
    ``resident_ms``, a program without decode steps no ``next_token_ms``.
    """

    ready_ms: float | None
    first_kernel_ms: float
    usable_ms: float
    next_token_ms: float | None
    resident_ms: float | None


class Clocks:
    """The forward hook for breakpoint ``layer`` of ``subject``; :meth:`remove` takes it off."""

    def __init__(self, subject: Subject, layer: int) -> None:
        self._cuda = subject.device.type == "cuda"
        self._first_kernel: float | None = None
        self._armed = False
        layers = subject.layers
        next_layer = layers[layer] if layer < len(layers) else None
        norm = subject.model.model.norm if next_layer is None else next_layer.get_submodule("input_layernorm")
        self._handle = norm.register_forward_hook(self._stamp)

    def _stamp(self, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if self._armed:
            self._armed = False
            if self._cuda:
                event = torch.cuda.Event()
                event.record()
                event.synchronize()  # this stream only: copies on other streams may still be under way
            self._first_kernel = now_ms()

    def _arm(self, armed: bool) -> None:
        """Whether the next pass through layer L+1 is the one that is timed."""
        self._armed = armed
        self._first_kernel = None

    def time_resume(
        self,
        *,
        think: Callable[[], None],
        resume: Callable[[], None],
        wait_resident: Callable[[], None] | None,
        aside: bool,
        hand: Hand,
        finish: Callable[[], list[torch.Tensor]],
    ) -> tuple[Reading, list[torch.Tensor]]:
        """Time ``resume``, after ``think``, and what follows; returns the reading and what ``finish`` returned.

        ``wait_resident`` is None where all state is back when ``resume`` returns. ``aside``: from the resume on the
        program computes on a thread of its own, and ``finish`` only waits for it.
        """
        self._arm(aside)  # what a resume computes by itself, it computes again: the clocks mean what comes after
        watcher = _Watcher(wait_resident)
        hand.open(aside=aside)
        try:
            think()  # last: what has just run would leave a warm core to whom it served
            start = now_ms()
            resume()
            ready = now_ms()
            if not aside:
                self._arm(True)
            watcher.go()
            if aside:
                for _ in hand.take():
                    if len(hand.times_ms) == hand.wanted:  # the program may not end while its state is on the way
                        watcher.wait()
            logits = finish()
            resident = watcher.wait()
        finally:
            hand.close()
            watcher.stop()
        usable, *later = hand.times_ms
        assert self._first_kernel is not None, "the program went on through layer L+1"
        reading = Reading(
            ready_ms=ready - start,
            first_kernel_ms=self._first_kernel - start,
            usable_ms=usable - start,
            next_token_ms=later[0] - start if later else None,
            resident_ms=(ready if resident is None else resident) - start,
        )
        return reading, logits

    def remove(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()


class _Watcher:
    """A thread that notes when ``wait`` returns; none, and no time, where ``wait`` is None."""

    def __init__(self, wait: Callable[[], None] | None) -> None:
        self._wait_resident = wait
        self._gone = threading.Event()
        self._stopped = False
        self._time: float | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if wait is not None:
            self._thread = threading.Thread(target=self._watch, name="resident-clock", daemon=True)
            self._thread.start()  # now: to start a thread takes longer than a small copy

    def _watch(self) -> None:
        assert self._wait_resident is not None
        self._gone.wait()
        if self._stopped:
            return
        try:
            self._wait_resident()
            self._time = now_ms()
        except RuntimeError as error:
            self._error = error

    def go(self) -> None:
        """The resume has returned."""
        self._gone.set()

    def stop(self) -> None:
        """There may be nothing to wait for: a resume that failed has not gone anywhere."""
        self._stopped = True
        self._gone.set()

    def wait(self) -> float | None:
        """The time when all state was there; raises what the wait raised."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._time
