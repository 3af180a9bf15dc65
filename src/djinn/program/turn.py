"""The turn of a program: in it, and only in it, the program computes on its device.

To take the turn is to acquire the device lock, and to put on the program's surroundings and its module state. Then what
the user has put around each turn is entered. To give it up undoes these in reverse. An error in between does not reach
the program's own code, which might catch it and compute on. It is kept as the turn's failure, and the program is
unwound for it.

A program may wait for another. Here is told whether that one could never come to its end, for it waits for the first.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from djinn.core import IllegalMove, SessionAbandoned
from djinn.program.device_lock import DeviceLock
from djinn.program.surroundings import Settings, Surroundings
from djinn.state.module_state import ModuleState

_QUIET_SECONDS = 1.0  # without a layer, after which a turn no longer says that its program computes

Around = Callable[[], AbstractContextManager[object]]


class Turn:
    """The turns of the program of session ``number`` on ``device``; made on its caller's thread.

    With ``settings`` the program begins with these settings of torch, and not with the caller's.
    """

    def __init__(
        self,
        lock: "DeviceLock[Turn]",
        device: torch.device,
        module_state: ModuleState,
        *,
        number: int,
        around: Around | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.number = number
        self.lock = lock
        self.module_state = module_state
        self.thread: int | None = None  # the program's, from its first turn
        self.failure: BaseException | None = None
        self.given_up = False  # whether the program has stepped aside by djinn.waiting()
        self.waits_for: Turn | None = None
        self.last_layer = time.monotonic()  # or when the turn was taken
        self._cuda = device.type == "cuda"
        self._around = around
        self._entered = ExitStack()
        self._surroundings = Surroundings(device, settings)

    @property
    def settings(self) -> Settings:
        """The settings of torch with which the program begins."""
        return self._surroundings.settings

    @property
    def seeded_in_a_turn(self) -> bool:
        """Whether torch was seeded, just before this was made, while another program computed."""
        return self._surroundings.seeded_in_a_turn

    @property
    def held(self) -> bool:
        """Whether the program has the turn now."""
        return self.lock.holder is self

    @property
    def doing(self) -> str:
        """What a program that runs does, in words."""
        quiet = time.monotonic() - self.last_layer
        if self.held:
            return f"holds the turn, no layer for {quiet:.0f} s" if quiet > _QUIET_SECONDS else "computing"
        return "gave up its turn" if self.given_up else "waiting for its turn"

    def take(self) -> None:
        """Take the turn, on the program's thread. Whatever raises, the turn is held and must be given up."""
        self.thread = threading.get_ident()
        self.lock.acquire(self)
        self.last_layer = time.monotonic()
        with self._keeping_failure():
            self._surroundings.put_on()
            self.module_state.put_on()
            if self.module_state.begun:
                self._enter()

    def give_up(self) -> None:
        """Give up the turn, if it is held."""
        if not self.held:
            return
        try:
            self.clear_modules()
            if self._cuda:
                # A parked thread keeps its cuBLAS handle, and torch a workspace for each handle (32 MiB on an H100).
                # Nobody uses one here: one program computes at a time, and a stream's queued work comes before reuse.
                torch._C._cuda_clearCublasWorkspaces()
        finally:
            self._leave()

    def clear_modules(self) -> None:
        """Take the program's state off the modules, before its state is looked for; at the latest when giving up.

        What is around the turn is left first: what that has set on modules, and takes back, is not the program's.
        """
        self.leave_around()
        with self._keeping_failure():
            self.module_state.take_off()

    def enter_around(self) -> None:
        """Enter what is around the first turn, when the call has begun; :meth:`take` enters it for later turns."""
        with self._keeping_failure():
            self._enter()

    def leave_around(self) -> None:
        """Leave what is around this turn, if it is entered."""
        with self._keeping_failure():
            self._entered.close()

    def _enter(self) -> None:
        if self._around is not None:
            around = self._around()
            if not isinstance(around, AbstractContextManager):
                raise TypeError(f"around_turn= must return a context manager, not {around!r}")
            self._entered.enter_context(around)

    def bury(self) -> None:
        """Give up the turn of a thread that has died; on another thread."""
        if self.held:
            self._leave()

    def _leave(self) -> None:
        try:
            with self._keeping_failure():
                self._surroundings.take_off()
        finally:
            self.lock.release(self)

    @contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        try:
            yield
        except SessionAbandoned:  # the interpreter ends
            raise
        except BaseException as error:  # noqa: BLE001 - it belongs to result()
            self.failure = self.failure or error

    # -- waiting for other programs ----------------------------------------------------------------------------------

    @contextmanager
    def waiting_for(self, other: "Turn") -> Iterator[None]:
        """Record that this program waits for ``other`` meanwhile; :class:`IllegalMove` if that would be for ever."""
        before, self.waits_for = self.waits_for, other
        try:
            if other is self:
                raise IllegalMove(f"the program of session {self.number} cannot wait for itself")
            if other._waits_for(self):
                raise IllegalMove(
                    f"the program of session {self.number} cannot wait for session {other.number}, which "
                    + (
                        "needs the device that it holds: wait in a block `with djinn.waiting():`"
                        if self.held
                        else "waits for it"
                    )
                )
            yield
        finally:
            self.waits_for = before

    def _waits_for(self, goal: "Turn") -> bool:
        """Whether this program cannot go on before ``goal`` does: by what it waits for, or for want of the device."""
        todo, seen = [self], set[int]()
        while todo:
            turn = todo.pop()
            if turn is goal:
                return True
            if id(turn) not in seen:
                seen.add(id(turn))
                todo += [other for other in (turn.waits_for, turn.lock.holder) if other is not None]
        return False
