"""A link whose copies arrive as late as they may: a stand-in for CUDA streams, which the gate can see into.

A copy is made when somebody waits for it, and not before. Until then its target is full of ones bits, so that a read
that nobody has ordered behind the copy is seen. ``log`` lists what the lanes were told, in order.
"""

import ctypes
import functools
import threading

from djinn.memory import copying
from djinn.memory.lanes import Lane, Link, Mark

SECONDS = 20


class LateMark(Mark):
    def __init__(self):
        self.lane = None  # that has recorded it
        self.end = 0  # work of the lane that comes before

    @property
    def ended(self):
        return self.lane is None or self.lane.done >= self.end

    def synchronize(self):
        if self.lane is not None:
            self.lane.run(self.end)


class LateLane(Lane):
    """Keeps what is submitted until it must be done; ``name`` stands in the log."""

    def __init__(self, link, name):
        self.link = link
        self.name = name
        self.work = []
        self.done = 0
        self._lock = link.lock

    def submit(self, *work):
        with self._lock:
            self.work += work

    def run(self, end):
        with self._lock:
            while self.done < min(end, len(self.work)):
                self.done += 1  # first: work may lead back here
                self.work[self.done - 1]()

    @property
    def busy(self):
        return self.done < len(self.work)

    def fill(self, storage, source, *, at_once=False):
        ctypes.memset(storage.data_ptr(), 0xFF, storage.nbytes())
        super().fill(storage, source, at_once=at_once)

    def bring(self, target, source, nbytes, *, at_once=False):
        self.link.log.append(("fill", self.name, nbytes))
        self.link.at_once.append(at_once)
        self.submit(lambda: copying.within_host(target, source, nbytes))

    def take(self, target, source, nbytes):
        self.link.log.append(("empty", self.name, nbytes))

        def copy():
            copying.within_host(target, source, nbytes)
            self.link.log.append(("emptied", source))

        self.submit(copy)

    def launch(self, work):
        self.submit(functools.partial(work, 0))

    def record(self, mark, *, at_once=False):
        self.link.at_once.append(at_once)
        mark.lane, mark.end = self, len(self.work)
        return mark

    def wait(self, mark, *, at_once=False):
        self.link.log.append(("wait", self.name, mark.lane and mark.lane.name))
        self.link.at_once.append(at_once)
        if mark.lane is not None:
            self.submit(functools.partial(mark.lane.run, mark.end))  # as it is now: it may be recorded again

    def follow(self, leader, *, at_once=False):
        self.link.log.append(("follow", self.name, leader.name))
        self.link.at_once.append(at_once)
        end = len(leader.work)
        self.submit(lambda: leader.run(end))

    def synchronize(self):
        if threading.current_thread().name == "djinn-transfer":
            self.link.held.wait(SECONDS)  # the engine would find out at once that all is back
        self.run(len(self.work))


class ProgramLane(LateLane):
    """The lane on which programs compute: on the CPU their work is done at once, so what it waits for must be, too."""

    def submit(self, *work):
        super().submit(*work)
        self.run(len(self.work))


class LateLink(Link):
    """``arrive()`` lets all copies arrive; until then only those do that are waited for.

    ``at_once`` is, of each copy inwards and each wait of a lane in the log, whether the interpreter is kept. ``urgent``
    names the lanes that are to be so.
    """

    def __init__(self):
        self.log, self.at_once, self.urgent = [], [], []
        self.names = ("out", "in", "behind")  # of the lanes that are made, in order
        self.lock = threading.RLock()  # one for all lanes: either of two may lead to the other
        self.held = threading.Event()
        self.lanes = {}
        self._program = ProgramLane(self, "program")

    def lane(self, *, urgent=False):
        name = self.names[len(self.lanes)]
        self.urgent += [name] * urgent
        self.lanes[name] = LateLane(self, name)
        return self.lanes[name]

    def mark(self):
        return LateMark()

    def current(self):
        return self._program

    def arrive(self):
        self.held.set()
