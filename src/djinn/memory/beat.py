"""The beat: a tiny copy to a device every few milliseconds, while a session waits in host memory.

A link that has been idle is slow at first. On an H100 a copy of 21 MB takes 0.5 ms instead of 0.4 after 100 ms without
work, and the beat takes that away. There is one beat for each device and process, shared by all runtimes; the shortest
interval of those that want it counts. It has a thread of its own, which sleeps between the copies. A copy is one call,
prepared before, which releases the interpreter.

A RESUME does not know of the beat: it tells it nothing, and takes no lock that the beat takes. A swap-out starts the
thread. It ends by itself when it finds that nobody wants the beat any more. It is no daemon: the interpreter would end
that inside the driver, and the process would abort.

Nothing here knows sessions. The CPU has no link, and no beat.
"""

import functools
import os
import threading
from collections.abc import Callable
from contextlib import suppress

import torch

from djinn.interrupts import Bell
from djinn.memory import captures, copying

_END_SECONDS = 1.0  # how long a runtime that closes waits for the thread; the longest interval

Copy = Callable[[], object]


class Attention:
    """The claim of one runtime on a ``beat``: one at least every ``seconds``, while ``parked()``.

    Does nothing without a ``beat``, or if ``seconds`` is None.
    """

    def __init__(self, beat: "Beat | None", seconds: float | None, parked: Callable[[], bool]) -> None:
        self.seconds = seconds
        self._beat = beat if seconds is not None else None
        self._parked = parked
        self._closed = False

    @property
    def wanted(self) -> bool:
        """Whether the beat should go on."""
        return not self._closed and self._parked()

    @property
    def said(self) -> str:
        """What there is to tell of it, in words; an empty string if no beat is ever made."""
        if self._beat is None or self.seconds is None:
            return ""
        if (refusal := self._beat.refusal) is not None:
            return f"no beat: {refusal}"
        when = "now" if self._beat.attends(self) else "while sessions are in host memory"
        return f"a beat every {self.seconds * 1e3:g} ms {when}"

    def attend(self) -> None:
        """Make the beat go on from now on, if it is wanted; returns at once."""
        if self._beat is not None:
            self._beat.attend(self)

    def close(self) -> None:
        """Give up the claim. The thread has ended then, if no other runtime has a claim."""
        self._closed = True
        if self._beat is not None:
            self._beat.leave(self)


class Beat:
    """Makes copies on a thread of its own, as long as somebody wants them.

    ``prepare`` is called on the thread whenever it begins, and returns the copy. If that or a copy fails the beat ends
    for ever, and ``refusal`` is the error.
    """

    def __init__(self, prepare: Callable[[], Copy]) -> None:
        self.refusal: BaseException | None = None
        self._prepare = prepare
        self._attended: set[Attention] = set()
        self._running = threading.Lock()  # held from before the thread starts until it ends
        self._alarm = threading.Lock()  # released to wake the thread
        self._alarm.acquire()
        self._ended = Bell()

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._running.locked()

    def attends(self, attention: Attention) -> bool:
        """Whether the beat goes on for ``attention``."""
        return self.running and attention in self._attended

    def attend(self, attention: Attention) -> None:
        """Go on with the beat for ``attention``; without effect if the system refuses the thread."""
        self._attended.add(attention)
        self._wake()
        if self.refusal is None and self._running.acquire(blocking=False):
            thread = threading.Thread(target=self._work, name="djinn-beat", daemon=False)
            try:
                thread.start()
            except RuntimeError:
                self._running.release()

    def leave(self, attention: Attention) -> None:
        """Wake the thread, which finds that ``attention`` wants nothing any more, and wait for its end.

        It goes on if others want the beat; then nobody waits.
        """
        self._wake()
        self._ended.wait(lambda: not self.running or bool(self._attended - {attention}), _END_SECONDS)
        self._attended.discard(attention)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it has been woken, and has yet to look
            self._alarm.release()

    def _work(self) -> None:
        while True:
            try:
                self._go_on()
            except (RuntimeError, OSError) as error:  # the driver's; sessions do without
                self.refusal = error
            self._running.release()
            self._ended.ring()
            # A claim may have come between the last look and the release.
            if not self._attended or self.refusal is not None or not self._running.acquire(blocking=False):
                break

    def _go_on(self) -> None:
        copy = self._prepare()
        while (seconds := self._interval()) is not None:
            self._alarm.acquire(timeout=seconds)
            copy()

    def _interval(self) -> float | None:
        """The shortest interval that somebody wants now; None if nobody does, or the interpreter ends."""
        wanted = []
        for attention in list(self._attended):
            self._attended.discard(attention)  # first: one that attends from now on stays in
            if attention.wanted and attention.seconds is not None and threading.main_thread().is_alive():
                self._attended.add(attention)
                wanted.append(attention.seconds)
        return min(wanted, default=None)


class TinyCopy:
    """A copy of one byte to ``device``, on a stream of its own. Made once, and used by one thread at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copy: Copy | None = None
        self._kept: tuple[object, ...] = ()

    def on_this_thread(self) -> Copy:
        """Return the copy, for calls of the current thread."""
        captures.allow_on_this_thread()
        torch.cuda.set_device(self._device)  # or CUDA would make a context on the first device
        if self._copy is None:
            copying.prepare()
            host = torch.zeros(1, dtype=torch.uint8, device="cpu", pin_memory=True)
            there = torch.empty(1, dtype=torch.uint8, device=self._device)
            # Of another pool than the streams on which programs capture graphs, which would record the copy.
            stream = torch.cuda.Stream(self._device, priority=-1)
            self._kept = host, there, stream
            self._copy = functools.partial(
                copying.to_device, there.data_ptr(), host.data_ptr(), host.nbytes, stream.cuda_stream
            )
        return self._copy


_beats: dict[tuple[int, int], Beat] = {}  # by process and device: a fork begins with none


def beat_of(device: torch.device) -> Beat | None:
    """Return the beat of ``device`` in this process; None for the CPU."""
    if device.type != "cuda":
        return None
    return _beats.setdefault((os.getpid(), device.index or 0), Beat(TinyCopy(device).on_this_thread))
