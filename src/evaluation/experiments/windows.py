"""The windows of one way to let two sessions share a device: who computes in each, what is timed and compared.

A window begins when the neighbour's caller has its first token, and ends with its last one. The other session is told
so at once, and comes to its next stop. Every swap and step has the time of its end, by which is told whether it fell in
the window. What a prefill takes, and what becomes of either session behind the window, is not timed. Both are compared
when neither computes any more. See :mod:`evaluation.experiments.neighbour`.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue

import torch
from transformers import LlamaForCausalLM

from evaluation.experiments.others import Other
from evaluation.measure.cell import Record
from evaluation.measure.device_memory import overwrite_free_memory
from evaluation.measure.harness import NotBitExact
from evaluation.measure.programs import Logits, equal, generate_greedily
from evaluation.measure.stopwatch import now_ms, without_collections
from evaluation.study.plan import Study

Aside = Callable[[], AbstractContextManager[object]]


class Tokens:
    """The neighbour's tokens, on their way to its caller; ``aside`` is around the wait until the caller has one."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        self._offered: SimpleQueue[list[list[int]] | None] = SimpleQueue()
        self._taken: SimpleQueue[None] = SimpleQueue()

    def give(self, logits: torch.Tensor) -> None:
        """The program's thread: hand over the token that ``logits`` lead to, and wait until the caller has it."""
        token = logits[:, -1:].argmax(-1).tolist()
        with self._aside():
            self._offered.put(token)
            self._taken.get()

    def end(self) -> None:
        """The program has ended, whatever it has given."""
        self._offered.put(None)

    def stamps(self) -> Iterator[float]:
        """The caller's thread: the time in ms at which it has each token."""
        while self._offered.get() is not None:
            stamp = now_ms()
            self._taken.put(None)
            yield stamp


class Reference:
    """What ``model`` computes after ``input_ids`` if nobody interrupts it: the last token's logits of each pass."""

    def __init__(self, model: LlamaForCausalLM, input_ids: torch.Tensor) -> None:
        self._model, self.input_ids = model, input_ids
        self._logits: Logits = []

    def check(self, found: Logits, least: int, who: str) -> None:
        """Raise :class:`NotBitExact` unless ``found`` are the same bits, and of ``least`` passes at least."""
        if len(self._logits) < len(found):
            passes = generate_greedily(self._model, self.input_ids, True, len(found) - 1, whole_prefill=False)
            self._logits = [logits.cpu() for logits in passes]
        if len(found) < least:
            raise NotBitExact(f"{who} computed {len(found)} passes instead of {least}")
        if not equal([logits.cpu() for logits in found], self._logits[: len(found)]):
            raise NotBitExact(f"{who} computed something else than its uninterrupted run")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to let two sessions share a device: how the neighbour computes, and how another one is made."""

    method: str
    variant: str
    model: LlamaForCausalLM  # on which the neighbour computes
    start: Callable[[Callable[[], Logits]], Callable[[], Logits]]  # starts a program; what it returns waits for its end
    aside: Aside
    other: Callable[[], Other]


class Windows:
    """Takes the windows of one ``side``; the other session is served by a thread of its own."""

    def __init__(self, side: Side, study: Study, neighbour: Reference, other: Reference, least_bytes: int) -> None:
        self.side, self._counts = side, study.neighbour
        self._neighbour, self._other, self._least_bytes = neighbour, other, least_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="other")

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def validate(self, device: torch.device) -> int:
        """Swap once, untimed, overwrite the memory that was freed, and compare; returns the bytes of the state.

        A resume that copied nothing is only found here: in a window it finds what nobody has overwritten.
        """

        def swap() -> int:
            with torch.no_grad(), other.current():
                other.start()
                sizes = other.sizes()
                self._pause(other)
                overwrite_free_memory(device, sizes, other.streams())
                other.aim()
                other.resume()
                other.step()
                return sum(sizes)

        other = self.side.other()
        state_bytes = self._thread.submit(swap).result()
        self._end(other)
        return state_bytes

    def take(self, window: str) -> Record:
        """One window, finished and compared."""
        with without_collections():
            return self._take(window)

    def _take(self, window: str) -> Record:
        other, begin, over = self.side.other(), threading.Event(), threading.Event()
        self._thread.submit(self._prepare, other, window).result()
        going = self._thread.submit(self._go_on, other, window, begin, over)
        stamps: list[float] = []
        try:
            logits = self._decode(stamps, begin, over) if window != "alone" else []
        finally:
            over.set()
            begin.set()
        start, ends, resumes = going.result()
        if window != "alone":
            self._neighbour.check(logits, 1 + self._counts.tokens, f"the neighbour ({self.side.method})")
            start = stamps[0]
        steps = other.steps - 1
        self._end(other)
        return {
            "window": window,
            "token_ms": [after - before for before, after in pairwise(stamps)],
            "steps": steps,
            "step_ends_ms": [end - start for end in ends],
            "resumes": [{**swap, "ended_ms": swap["ended_ms"] - start} for swap in resumes],
            "bit_exact": True,
        }

    def _decode(self, stamps: list[float], begin: threading.Event, over: threading.Event) -> Logits:
        """Let the neighbour decode, from ``begin`` with its first token until it is ``over`` with its last one.

        Puts the time in ms of each token into ``stamps``, and returns what was computed.
        """
        tokens = Tokens(self.side.aside)

        def program() -> Logits:
            try:
                return generate_greedily(
                    self.side.model,
                    self._neighbour.input_ids,
                    True,
                    self._counts.tokens,
                    whole_prefill=False,
                    give=tokens.give,
                )
            finally:
                tokens.end()

        wait = self.side.start(program)
        for stamp in tokens.stamps():
            stamps.append(stamp)
            begin.set()
            if len(stamps) > self._counts.tokens:
                over.set()  # before the program's end, which the other session must not disturb
        return wait()

    def _prepare(self, other: Other, window: str) -> None:
        with torch.no_grad(), other.current():
            other.start()
            if window == "undisturbed":
                self._pause(other)

    def _go_on(
        self, other: Other, window: str, begin: threading.Event, over: threading.Event
    ) -> tuple[float, list[float], list[Record]]:
        """The other session's steps from ``begin`` until it is ``over``; on the clock, in ms.

        Returns when it began, when each step came to its stop, and the swaps.
        """
        ends: list[float] = []
        resumes: list[Record] = []
        begin.wait()
        began = now_ms()
        with torch.no_grad(), other.current():
            while window != "undisturbed":
                start = now_ms()
                if window != "steps":
                    self._pause(other)
                paused = now_ms()
                other.aim()
                asked = now_ms()
                other.resume()
                ready = now_ms()
                other.step()
                ends.append(now_ms())
                if window != "steps":
                    resumes.append({"pause_ms": paused - start, "ready_ms": ready - asked, "ended_ms": ready})
                if other.steps > self._counts.swaps if window == "alone" else over.is_set():
                    break
        return began, ends, resumes

    def _pause(self, other: Other) -> None:
        """Swap ``other`` out; raises :class:`NotBitExact` if that moved less than its state."""
        other.pause()
        if other.host_bytes < self._least_bytes:
            raise NotBitExact(
                f"the other session ({self.side.method}): the pause kept {other.host_bytes} bytes of a state of at "
                f"least {self._least_bytes}"
            )

    def _end(self, other: Other) -> None:
        """Let it come to its end, and compare what it computed."""

        def finish() -> Logits:
            with torch.no_grad(), other.current():
                other.aim_at_the_end()
                other.resume()
                return other.finish()

        found = self._thread.submit(finish).result()
        self._other.check(found, other.steps + 2, f"the other session ({self.side.method})")
