"""What an interrupt cannot break: several steps as one, a call under a lock, waiting, and work on a thread of ours.

Python raises what a signal's handler raises (KeyboardInterrupt, an alarm's error) on the main thread, between any two
of its bytecodes; a trace function raises at any line. The standard library's Condition, Event and Thread.join do not
survive that. What is here does, as the tests show on every line:

- :func:`at_once`: steps that are C functions, in one call of a C function. Nothing comes between them.
- :func:`holding`: a call under a lock, which is free afterwards whatever happens.
- :class:`Bell`: each who waits has a lock of its own, so that one who is interrupted takes nothing from the others.
- :class:`Hands`: a thread on which no signal is delivered. Whoever asks it for something only waits for the answer.
"""

import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from operator import call
from queue import SimpleQueue
from typing import Any, TypeVar

from djinn.core import IllegalMove

_LOOK_SECONDS = 1.0  # after this long whoever waits looks for himself, should his notifier have died
_SETTLE_SECONDS = 10.0  # how long one who was interrupted waits for work that has begun to come to its end

T = TypeVar("T")


def at_once(*steps: Callable[[], object]) -> None:
    """Call ``steps``, functions written in C (``functools.partial`` of one, a lock's ``release``), as one step."""
    deque(map(call, steps), maxlen=0)


def holding(lock: AbstractContextManager[object], function: Callable[[], T]) -> T:
    """``function()`` under ``lock``.

    On one line: between the end of a body and the release, a ``with`` of several lines has a moment at which a trace
    function may raise. Between taking a lock and the body no version of Python has one.
    """
    with lock: return function()  # fmt: skip # noqa: E701


class Bell:
    """Wakes those who wait for something to have happened; whoever makes it happen rings afterwards."""

    def __init__(self) -> None:
        self._asleep: set[threading.Lock] = set()

    def ring(self) -> None:
        """Wake all who wait, so that they look."""
        asleep, self._asleep = self._asleep, set()
        for alarm in list(asleep):
            alarm.release()

    def wait(self, happened: Callable[[], bool], timeout: float | None = None) -> bool:
        """Block until ``happened()``, at most ``timeout`` seconds; whether it has.

        It looks once a second unasked: no thread waits for ever for one that has died.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not happened():
            left = _LOOK_SECONDS if deadline is None else min(deadline - time.monotonic(), _LOOK_SECONDS)
            if left <= 0:
                return happened()
            alarm = threading.Lock()
            alarm.acquire()
            asleep = self._asleep
            asleep.add(alarm)
            try:
                # What happened before the alarm was set has rung without it.
                if not happened():
                    alarm.acquire(timeout=left)
            finally:
                asleep.discard(alarm)
        return True


class _Job:
    """A call that another thread makes, and its outcome."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function
        self._claim = threading.Lock()  # whoever takes it first decides whether the job is done
        self._bell = Bell()
        self.ended = False
        self.asked_in: types.FrameType | None = None  # the call that waits for it
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        function, self._function = self._function, None
        if function is not None and self._claim.acquire(blocking=False):
            try:
                self.value = function()
            except BaseException as error:  # noqa: BLE001 - belongs to who asked
                self.error = error
        self.ended = True
        self._bell.ring()

    def call_off(self) -> bool:
        """Whether it will never be done."""
        return self._claim.acquire(blocking=False)

    def wait(self, timeout: float | None, *, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Block until it has ended or is ``given_up``; False after ``timeout`` seconds."""
        return self._bell.wait(lambda: self.ended or given_up(), timeout)


class Hands:
    """A thread that does one thing after another for all the others; ended by :meth:`close`."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._working = True
        self._bell = Bell()
        self._asked: dict[int, _Job] = {}  # by thread: what it has not returned from asking for
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; interrupted in this, :meth:`close` ends it. ``RuntimeError`` if the system refuses one."""
        self._thread.start()

    def do(self, function: Callable[[], Any], timeout: float | None = None) -> Any:
        """``function()``, done there; raises what it raises.

        ``TimeoutError`` after ``timeout`` seconds: then it is done later. Who is interrupted before it has begun leaves
        nothing behind. After that it is done to its end, and an interrupted caller waits for that. If the wait is
        interrupted too, the caller waits at the next :meth:`settle`. Raises :class:`IllegalMove` after :meth:`close`.
        """
        if self._thread.ident == threading.get_ident():
            raise IllegalMove("a signal was asked for in the middle of another, by a finaliser")
        self.settle()
        thread = threading.get_ident()
        outer = self._asked.get(thread)  # of the call that a handler or a finaliser has come into
        job = _Job(function)
        job.asked_in = sys._getframe()
        try:
            # In one step: a job that is noted and not in the queue would never end.
            at_once(partial(self._asked.__setitem__, thread, job), partial(self._jobs.put, job))
            job.wait(timeout, given_up=self._has_ended)
        except BaseException:
            job.asked_in = None
            self.settle()
            self._forget(job, outer)
            raise
        self._forget(job, outer)
        try:
            if job.error is not None:
                raise job.error
            if not job.ended:
                raise IllegalMove("the runtime is closed") if self._has_ended() else TimeoutError
            return job.value
        finally:
            del job  # its error's traceback holds this frame

    def settle(self) -> None:
        """Call off what the current thread was interrupted in asking for, or wait for its end if it has begun.

        Not what it is still asking for: a signal's handler, or a finaliser, may call this in the middle of that.
        """
        job = self._asked.get(threading.get_ident())
        if job is not None and not _is_running(job.asked_in):
            if not job.call_off():
                job.wait(_SETTLE_SECONDS, given_up=self._has_ended)
            self._forget(job, None)

    def _forget(self, job: _Job, outer: _Job | None) -> None:
        """The current thread no longer asks for ``job``, but for ``outer`` again, if it did."""
        job.asked_in = None  # it holds the job
        if outer is None:
            self._asked.pop(threading.get_ident(), None)
        else:
            self._asked[threading.get_ident()] = outer

    def drain(self, timeout: float) -> None:
        """Wait until what was asked for until now is done, at most ``timeout`` seconds."""
        if self._thread.ident is not None:
            barrier = _Job(lambda: None)
            self._jobs.put(barrier)
            barrier.wait(timeout, given_up=self._has_ended)

    def _has_ended(self) -> bool:
        return not self._working

    def posting(self, function: Callable[[], Any]) -> Callable[[], object]:
        """A function written in C that has ``function()`` done there, some time, for nobody who waits."""
        return partial(self._jobs.put, _Job(function))

    def _work(self) -> None:
        while self._do_next():
            pass
        self._working = False
        self._bell.ring()

    def _do_next(self) -> bool:
        """Do what comes next, and forget it: who waits for a job must not hold what the last one knew."""
        job = self._jobs.get()
        if job is not None:
            job.run()
        return job is not None

    def close(self) -> None:
        """End the thread after what it was asked for until now."""
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._bell.wait(self._has_ended, _SETTLE_SECONDS)


def _is_running(call: types.FrameType | None) -> bool:
    """Whether ``call`` is one of those in which the current thread is."""
    frame: types.FrameType | None = sys._getframe(1) if call is not None else None
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is not None
