"""Interrupt-safe primitives: atomic steps, a call under a lock, a condition to wait for, and a worker thread.

An error from a signal handler (KeyboardInterrupt, an alarm) is raised on the main thread, between any two bytecodes.
A trace function may raise at any line. The standard library's Condition, Event and Thread.join do not survive that.
These primitives do, as the tests show on every line:

- :func:`at_once`: runs several C functions within one call of a C function. Nothing comes between them.
- :func:`holding`: calls a function under a lock. The lock is free afterwards whatever happens.
- :func:`patiently`: calls a function again whenever what it lacks in host memory has come.
- :class:`Bell`: a condition. Each waiter has a lock of its own, so that an interrupted one affects no other.
- :class:`Hands`: a worker thread, on which no signal is delivered. The caller only waits for the answer.
- :func:`forget_variables`: lets go of what an error holds that the caller may keep.
"""

import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from operator import call
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from djinn.core import IllegalMove, NotYet

LOOK_SECONDS = 1.0  # a waiter polls at this interval, for its notifier may have died
_SETTLE_SECONDS = 10.0  # how long an interrupted caller waits for the end of work that has begun

T = TypeVar("T")


def at_once(*steps: Callable[[], object]) -> None:
    """Call ``steps`` as one step; each is a C function (``functools.partial`` of one, a lock's ``release``)."""
    deque(map(call, steps), maxlen=0)


def holding(lock: AbstractContextManager[object], function: Callable[[], T]) -> T:
    """Call ``function()`` under ``lock``.

    The ``with`` is on one line. On several lines a trace function could raise between the end of the body and the
    release. Between the acquisition and the body no version of Python has such a moment.
    """
    with lock: return function()  # fmt: skip # noqa: E701


def patiently(attempt: Callable[[], T], deadline: float | None = None, *, times: int | None = None) -> T:
    """Return ``attempt()``; whenever it raises :class:`NotYet`, wait for what it lacks, without a lock, and try again.

    At the ``deadline``, by ``time.monotonic``, it raises ``TimeoutError``. After so many ``times`` the error
    itself is raised, which is a :class:`djinn.HostMemoryFull`.
    """
    while True:
        try:
            return attempt()
        except NotYet as early:
            if times is not None and (times := times - 1) < 0:
                raise
            wait = early.wait  # not the error, whose traceback holds the session's state
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        wait(left)


class Alarm(Protocol):
    """Wakes one waiter."""

    def release(self) -> None:
        """Wake it. Must not raise, and not block."""


class Bell:
    """A condition variable: threads wait for a predicate; whoever makes it true rings afterwards."""

    def __init__(self) -> None:
        self._asleep: set[Alarm] = set()

    def ring(self) -> None:
        """Wake all waiters, so that they check their predicates."""
        for alarm in list(self._asleep):
            try:
                self._asleep.remove(alarm)
            except KeyError:
                continue  # another thread rings too, or its waiter has gone
            alarm.release()

    def admit(self, alarm: Alarm) -> Callable[[], None]:
        """Let the next ring release ``alarm``; return a function that takes it out. Look again after this call."""
        self._asleep.add(alarm)
        return partial(self._asleep.discard, alarm)

    def wait(self, happened: Callable[[], bool], timeout: float | None = None) -> bool:
        """Block until ``happened()``, at most ``timeout`` seconds; return whether it has.

        A waiter also polls once a second, so that no thread waits for ever for one that has died.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not happened():
            left = LOOK_SECONDS if deadline is None else min(deadline - time.monotonic(), LOOK_SECONDS)
            if left <= 0:
                return happened()
            alarm = threading.Lock()
            alarm.acquire()
            self._asleep.add(alarm)
            try:
                # It may have happened, and rung, before the alarm was registered.
                if not happened():
                    alarm.acquire(timeout=left)
            finally:
                self._asleep.discard(alarm)
        return True


class _Job:
    """A call that another thread makes, and its outcome."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function
        self._claim = threading.Lock()  # whoever acquires it first decides whether the job is done
        self._bell = Bell()
        self.ended = False
        self.asked_in: types.FrameType | None = None  # the call that waits for it
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        self._call()  # a frame of its own: whoever is told of the end may count on it that the call holds nothing
        self.ended = True
        self._bell.ring()

    def _call(self) -> None:
        function, self._function = self._function, None
        if function is not None and self._claim.acquire(blocking=False):
            try:
                self.value = function()
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                forget_variables(error)
                self.error = error

    def raise_error(self) -> None:
        """Raise its error, if it has one, and forget it: the traceback leads here, and the cycle would stay."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def take_value(self) -> Any:
        """Return its value, and forget it: the worker thread may still be about to let go of the job."""
        value, self.value = self.value, None
        return value

    def call_off(self) -> bool:
        """Cancel the job; return False if it has begun."""
        return self._claim.acquire(blocking=False)

    def wait(self, timeout: float | None, *, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Block until it has ended or is ``given_up``; False after ``timeout`` seconds."""
        return self._bell.wait(lambda: self.ended or given_up(), timeout)


class Hands:
    """A worker thread that runs the calls of all other threads one by one, until :meth:`close`."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._working = True
        self._bell = Bell()
        self._asked: dict[int, _Job] = {}  # by thread: the job for which its call has not returned
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; after an interrupt :meth:`close` ends it. Raises ``RuntimeError`` if the system refuses."""
        self._thread.start()

    def do(self, function: Callable[[], Any], timeout: float | None = None) -> Any:
        """Call ``function()`` on the worker thread; return its value, or raise its error.

        ``TimeoutError`` after ``timeout`` seconds; the call is then made later. A caller that is interrupted before
        the call begins withdraws it. After that the call runs to its end, and the interrupted caller waits for it. If
        it is interrupted in that wait too, it waits at its next :meth:`settle`. Raises :class:`IllegalMove` after
        :meth:`close`.
        """
        if self._thread.ident == threading.get_ident():
            raise IllegalMove("a signal was asked for in the middle of another, by a finaliser: ask later")
        self.settle()
        thread = threading.get_ident()
        outer = self._asked.get(thread)  # the job of the call in which a handler or a finaliser runs
        job = _Job(function)
        job.asked_in = sys._getframe()
        try:
            # In one step: a job that is registered but not in the queue would never end.
            at_once(partial(self._asked.__setitem__, thread, job), partial(self._jobs.put, job))
            job.wait(timeout, given_up=self._has_ended)
        except BaseException:
            job.asked_in = None
            self.settle()
            self._forget(job, outer)
            raise
        self._forget(job, outer)
        try:
            job.raise_error()
            if not job.ended:
                if self._has_ended():
                    raise IllegalMove("the runtime is closed: make another one for its model")
                raise TimeoutError
            return job.take_value()
        finally:
            del job  # its error's traceback holds this frame

    def settle(self) -> None:
        """Cancel the job of a call in which the current thread was interrupted, or wait for its end if it has begun.

        A job whose call still runs is left alone: a signal's handler, or a finaliser, may come here within that call.
        """
        job = self._asked.get(threading.get_ident())
        if job is not None and not _is_running(job.asked_in):
            if not job.call_off():
                job.wait(_SETTLE_SECONDS, given_up=self._has_ended)
            self._forget(job, None)

    def _forget(self, job: _Job, outer: _Job | None) -> None:
        """Unregister ``job`` for the current thread, and register ``outer`` again, if there was one."""
        job.asked_in = None  # it holds the job
        if outer is None:
            self._asked.pop(threading.get_ident(), None)
        else:
            self._asked[threading.get_ident()] = outer

    def drain(self, timeout: float) -> None:
        """Wait until all jobs submitted so far are done, at most ``timeout`` seconds."""
        if self._thread.ident is not None:
            barrier = _Job(lambda: None)
            self._jobs.put(barrier)
            barrier.wait(timeout, given_up=self._has_ended)

    def _has_ended(self) -> bool:
        return not self._working

    def posting(self, function: Callable[[], Any]) -> Callable[[], object]:
        """Return a C function that submits ``function()`` to the worker thread without waiting for it."""
        return partial(self._jobs.put, _Job(function))

    def _work(self) -> None:
        while self._do_next():
            pass
        self._working = False
        self._bell.ring()

    def _do_next(self) -> bool:
        """Run the next job; False at the end. The frame ends with it, so that no finished job is kept alive."""
        job = self._jobs.get()
        if job is not None:
            job.run()
        return job is not None

    def close(self) -> None:
        """End the thread after all jobs submitted so far."""
        self._jobs.put(None)
        if self._thread.ident not in (None, threading.get_ident()):
            self._bell.wait(self._has_ended, _SETTLE_SECONDS)


def forget_variables(error: BaseException) -> None:
    """Clear the frames behind ``error``: who keeps it, as a future does, would keep the storages of a session."""
    one: BaseException | None = error
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one = one.__context__


def _is_running(call: types.FrameType | None) -> bool:
    """Whether ``call`` is on the current thread's stack."""
    frame: types.FrameType | None = sys._getframe(1) if call is not None else None
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is not None
