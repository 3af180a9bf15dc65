"""A watch over several sessions: waits until one of them rests, on a thread or in an event loop.

A session rests when its program is parked or has ended. Its bell rings then. The waiter puts one alarm into all bells,
looks once more, and sleeps until the alarm is released. It also looks once a second, as every waiter does. An alarm
that an interrupted waiter leaves in a bell wakes nobody. No thread is started. Nothing here knows sessions.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from djinn.interrupts import LOOK_SECONDS, Alarm, Bell


class _ThreadAlarm:
    """Wakes a thread; it can be released by several bells."""

    def __init__(self) -> None:
        self._rung: SimpleQueue[None] = SimpleQueue()

    def release(self) -> None:
        self._rung.put(None)

    def wait(self, seconds: float) -> None:
        with suppress(Empty):
            self._rung.get(timeout=seconds)


class _LoopAlarm:
    """Wakes a task of an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def release(self) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        self._rung.clear()


def wait_for_any(bells: Iterable[Bell], rests: Callable[[], bool], timeout: float | None) -> bool:
    """Block until ``rests()``, which may be true after a ring of any of ``bells``; False after ``timeout`` seconds."""
    bells, left, alarm = list(bells), _time_left(timeout), _ThreadAlarm()
    while not rests():
        if (seconds := left()) <= 0:
            return False
        withdraw = _put_into(bells, alarm)
        try:
            if not rests():  # it may have come to rest, and rung, before the alarm was there
                alarm.wait(seconds)
        finally:
            withdraw()
    return True


async def wait_in_loop(bells: Iterable[Bell], rests: Callable[[], bool], timeout: float | None) -> bool:
    """Do the same in a task, while the event loop goes on; it can be cancelled."""
    bells, left, alarm = list(bells), _time_left(timeout), _LoopAlarm()
    while not rests():
        if (seconds := left()) <= 0:
            return False
        withdraw = _put_into(bells, alarm)
        try:
            if not rests():  # likewise
                await alarm.wait(seconds)
        finally:
            withdraw()
    return True


def _time_left(timeout: float | None) -> Callable[[], float]:
    """Return a function: the seconds to sleep until the next look, not above zero when ``timeout`` is over."""
    if timeout is None:
        return lambda: LOOK_SECONDS
    deadline = time.monotonic() + timeout
    return lambda: min(deadline - time.monotonic(), LOOK_SECONDS)


def _put_into(bells: Sequence[Bell], alarm: Alarm) -> Callable[[], None]:
    """Put ``alarm`` into each of ``bells``; return a function that takes it out."""
    takes_out = [bell.admit(alarm) for bell in bells]

    def withdraw() -> None:
        for take_out in takes_out:
            take_out()

    return withdraw
