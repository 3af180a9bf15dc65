"""Follows chains of referrers from suspects to external holders, outside a set of known objects.

It asks ``gc.get_referrers`` level by level, from the suspects upwards. A chain that comes to a module, a class or a
local variable of another thread ends at an external holder. A chain that ends in nothing ends on a value stack, which
Python does not show. Needs nothing but the standard library.

Not seen: holders that the garbage collector does not know, and the value stacks of other threads. A tuple that another
thread is making of the session's own tensors is left alone while a place in it is empty. If all of them are filled for
now, and it is to have more, that thread's ``tuple`` fails.
"""

import contextvars
import ctypes
import functools
import gc
import itertools
import opcode
import operator
import os
import sys
import threading
import types
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

_HOLDER_TYPES = (type, types.ModuleType, contextvars.Context)  # external holders: a chain ends at these
_TEMPORARIES = (tuple, dict, types.CellType)  # what a call keeps on the value stack, and captured variables
# Copies the memory of an object, so many bytes. None of Python's own functions does so without asking the audit hooks.
_memory_of = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_view: Callable[[Any], Any] = memoryview
_as_words = operator.methodcaller("cast", "N")  # as large as an address
_NOTHING = frozenset((0,))
_STEPPING = threading.RLock()
os.register_at_fork(after_in_child=_STEPPING._at_fork_reinit)  # type: ignore[attr-defined]
_MAX_CHAIN = 5  # referrers deep; a longer chain counts as an external holder
_MAX_REFERRERS = 256  # at one depth; each costs a comparison with every reference in the process

# These call nothing: a frame that stands at one while a younger frame runs has been interrupted by a tracer.
_CALLING_NOTHING = frozenset(
    opcode.opmap[name]
    for name in ("RESUME", "NOP", "PUSH_NULL", "LOAD_CONST", "LOAD_FAST", "LOAD_GLOBAL")
    if name in opcode.opmap
)
_CO_OPTIMIZED = 1  # the code of a function: its local variables lie in the frame


Temporary = tuple[str, int, tuple[int, ...]]


class Chains:
    """Chains from ``suspects``, by id, to external holders; objects whose ids are ``inside`` are not followed.

    ``ends`` are further types that count as external holders, ``ignored`` types that never count as referrers. The
    results:

    - ``held``: the suspects that a chain connects with an external holder;
    - ``only_temporaries``: whether only temporaries of a call refer to the other suspects;
    - ``old``: those among them that have grown old, for :func:`old_temporaries`;
    - ``traced``: whether local variables of another thread could not be read, which may hold any other suspect.
    """

    def __init__(
        self,
        suspects: dict[int, object],
        *,
        inside: Container[int],
        ends: tuple[type, ...] = (),
        ignored: tuple[type, ...] = (),
    ) -> None:
        self._inside = inside
        self._ends = (*_HOLDER_TYPES, *ends)
        self._ignored = frozenset(map(id, ignored))
        self._objects = suspects  # and their referrers: kept alive, so that their ids stay valid
        self._suspects = frozenset(suspects)
        self._leads_to: dict[int, list[int]] = {}  # referrers outside: their referents in ``_objects``
        self._refused: set[int] = set()  # referrers that an object inside refers to, and that a walk does not enter
        self._young: frozenset[int] = frozenset()
        self._left_alone = False  # whether a tuple that is just being made refers to a suspect, or to a referrer
        self._asked: set[int] = set()  # objects whose referrers are known
        self._holders = {id(vars(module)) for module in list(sys.modules.values()) if type(module) is types.ModuleType}
        theirs, self.traced = locals_of_other_threads()
        self._holders |= theirs
        if gc.get_freeze_count():
            gc.unfreeze()  # frozen containers are invisible to get_referrers
        self.held = self._climb()
        others = [key for key in self._leads_to if not self._reached([key]) <= self.held]
        old = [key for key in others if key not in self._young]
        positions = {key: position for position, key in enumerate(suspects)}
        lasting = [key for key in old if self._suspects.issuperset(self._leads_to[key])]
        self.old = {object.__hash__(self._objects[key]): positions[self._leads_to[key][0]] for key in lasting}
        self.only_temporaries = (
            not self._left_alone
            and all(any(type(self._objects[key]) is kind for kind in _TEMPORARIES) for key in old)
            and all(self._suspects.issuperset(self._leads_to[key]) for key in others)
        )

    def _climb(self) -> set[int]:
        self._young = frozenset(self._young_temporaries())
        level = [key for key in [*self._suspects, *self._young] if not self._is_holder(key)]
        ends = set(self._objects).difference(level)
        held = self._reached(ends)
        for _ in range(_MAX_CHAIN):
            level = [key for key in level if not self._reached([key]) <= held]
            if not level or len(level) > _MAX_REFERRERS:
                break
            self._asked.update(level)
            level = self._refer_to([self._objects[key] for key in level])
            ends |= {key for key in level if self._is_holder(key)} | self._refused
            held = self._reached(ends)
            level = [key for key in level if key not in ends]
        return held | self._reached(level)

    def _young_temporaries(self) -> list[int]:
        """Find young temporaries that refer to suspects: asking for both at once saves a pass over all objects."""
        return [id(obj) for obj in _young_referrers(self._suspects) if self._note(obj)]

    def _refer_to(self, level: list[object]) -> list[int]:
        """Find the referrers of ``level`` whose own referrers are not known."""
        found, left_alone = _referrers_of(level)
        self._left_alone = self._left_alone or left_alone
        found.append(tuple([None]))  # noqa: C409 - a tuple that nobody has but this list; a literal would be the code's
        *counts, alone = map(sys.getrefcount, found)
        # The call's own argument tuple is like that one. A tuple on a value stack has one reference more.
        return [
            id(obj)
            for obj, count in zip(found, counts, strict=False)
            if obj is not level and not (type(obj) is tuple and count == alone) and self._note(obj)
        ]

    def _note(self, obj: object) -> bool:
        """Record what ``obj`` refers to, unless it is inside; whether that is new and its referrers are not known."""
        key = id(obj)
        if key in self._inside:
            # A walk does not enter an object that this one refers to and that is not inside: it is external.
            self._refused.update(id(child) for child in gc.get_referents(obj) if id(child) in self._leads_to)
            return False
        if id(type(obj)) in self._ignored or obj is self._objects:
            return False
        children = [id(child) for child in gc.get_referents(obj) if id(child) in self._objects]
        if not children or self._leads_to.get(key) == children:
            return False
        self._leads_to[key] = children
        self._objects[key] = obj
        return key not in self._asked

    def _is_holder(self, key: int) -> bool:
        return key in self._holders or issubclass(type(self._objects[key]), self._ends)

    def _reached(self, start: Iterable[int]) -> set[int]:
        """Find the suspects that ``start`` leads to."""
        seen: set[int] = set()
        todo = list(start)
        while todo:
            key = todo.pop()
            if key not in seen:
                seen.add(key)
                todo += self._leads_to.get(key, ())
        return seen & self._suspects


def _in_one_step(*steps: Callable[[], Any]) -> list[Any]:
    """Call the C functions ``steps`` within one C call, in which no other thread runs, and no garbage collection.

    An audit hook in Python is an exception: a step that asks it lets others run. So one thread is here at a time, or
    the end of its steps would turn collections on in the midst of another's.
    """
    with _STEPPING: return _without_collections(steps)  # fmt: skip # noqa: E701


def _without_collections(steps: tuple[Callable[[], Any], ...]) -> list[Any]:
    before, after = (gc.disable, gc.enable) if gc.isenabled() else (gc.isenabled, gc.isenabled)
    try:
        return list(map(operator.call, (before, *steps, after)))[1:-1]
    except BaseException:  # as a hook may raise
        after()
        raise


def _young_referrers(keys: frozenset[int]) -> list[object]:
    """Find the objects of the two young generations, of types that a value stack holds, that refer to ``keys``.

    A thread may run whenever something asks the audit hooks: one that is written in Python can be interrupted, and
    transformers brings one. Another thread may be just making a tuple: nothing may refer to it then. So the tuples of a
    generation are chosen, read and let go of between two calls that ask. ``gc.get_objects`` does before it lists
    anything, and ``gc.get_referents`` at each call.
    """
    found: list[object] = []
    others: list[object] = []
    _in_one_step(*_look(0, keys, found, others), *_look(1, keys, found, others))
    references = map(map, itertools.repeat(id), map(gc.get_referents, others))
    found += itertools.compress(others, map(operator.not_, map(keys.isdisjoint, references)))
    return found


def _look(generation: int, keys: frozenset[int], found: list[object], others: list[object]) -> list[Callable[[], Any]]:
    """Return the steps that find the tuples of a ``generation`` that refer to ``keys``, and its other temporaries."""
    young: list[object] = []
    tuples: list[Any] = []
    referring: list[Any] = []
    apart = map(keys.isdisjoint, _words_of(tuples))
    return [
        functools.partial(young.extend, itertools.chain.from_iterable(map(gc.get_objects, (generation,)))),
        functools.partial(tuples.extend, _of_type(tuple, young)),
        functools.partial(others.extend, _of_type(dict, young)),
        functools.partial(others.extend, _of_type(types.CellType, young)),
        young.clear,
        functools.partial(referring.extend, itertools.compress(tuples, map(operator.not_, apart))),
        tuples.clear,
        functools.partial(found.extend, _whole(referring)),
        referring.clear,
    ]


def _referrers_of(objects: list[object]) -> tuple[list[object], bool]:
    """Find what refers to ``objects``, but for tuples that are just being made; and whether there are such.

    One that another thread has filled for now, and will make longer, looks like any other.
    """
    all_of_them: list[object] = []
    tuples: list[object] = []
    found: list[object] = []
    look = functools.partial(
        all_of_them.extend, itertools.chain.from_iterable(itertools.starmap(gc.get_referrers, (objects,)))
    )
    no_tuples = map(operator.is_not, map(type, all_of_them), itertools.repeat(tuple))
    rest = functools.partial(found.extend, itertools.compress(all_of_them, no_tuples))
    choose = functools.partial(tuples.extend, _of_type(tuple, all_of_them))
    keep = functools.partial(found.extend, _whole(tuples))
    _, count, *_ = _in_one_step(look, all_of_them.__len__, rest, choose, all_of_them.clear, keep, tuples.clear)
    return found, count > len(found)


def _of_type(kind: type, objects: list[Any]) -> Iterator[Any]:
    """Yield those of ``objects`` that are of type ``kind``. This and what follows call nothing but C, once asked."""
    return itertools.compress(objects, map(operator.is_, map(type, objects), itertools.repeat(kind)))


def _words_of(tuples: list[Any]) -> Iterator[Iterable[int]]:
    """Yield the memory of each of ``tuples``: ids of what it refers to, and 0 for a place that is not filled yet.

    The words before the first place are neither. Python's own functions would follow a reference that is not there.
    """
    copies: Iterator[Any] = map(_memory_of, tuples, map(tuple.__sizeof__, tuples))
    return map(_as_words, map(_view, copies))


def _whole(tuples: list[Any]) -> Iterator[Any]:
    """Yield those of ``tuples`` in which every place is filled."""
    return itertools.compress(tuples, map(_NOTHING.isdisjoint, _words_of(tuples)))


def young_temporaries(suspects: dict[int, object]) -> tuple[Temporary, ...]:
    """Describe each young temporary that refers to a suspect: type, reference count and positions of the suspects.

    Called from one place of the code only, so that the reference counts are comparable.
    """
    return _described(_young_referrers(frozenset(suspects)), suspects)


def old_temporaries(marks: Mapping[int, int], suspects: dict[int, object]) -> tuple[Temporary, ...]:
    """Describe in this way the objects with one of ``marks``, each with the position of a suspect that it refers to.

    A call that lasts has such temporaries, as ``generate``. To find them again takes one pass over all objects.
    """
    if not marks:
        return ()
    known = list(suspects.values())
    referrers, _ = _referrers_of([known[position] for position in set(marks.values())])
    return _described([obj for obj in referrers if object.__hash__(obj) in marks], suspects)


def _described(objects: list[object], suspects: dict[int, object]) -> tuple[Temporary, ...]:
    positions = {key: position for position, key in enumerate(suspects)}
    found = []
    for obj in objects:
        if obj is not suspects:
            reached = [positions[id(child)] for child in gc.get_referents(obj) if id(child) in positions]
            found.append((type(obj).__name__, sys.getrefcount(obj), tuple(reached)))
    return tuple(sorted(found))


def local_variables(frame: types.FrameType, *, called: bool = True) -> list[tuple[str, object, bool]]:
    """List a frame's local variables: name, value and whether the frame itself, not a cell, holds the reference.

    ``called`` says that a younger frame runs. Up to Python 3.12 reading ``f_locals`` leaves a snapshot in the frame
    that keeps every local alive. It is emptied here, with two exceptions. The program may hold it, from ``locals()``.
    Or the frame is being traced: Python writes the snapshot back into the frame when the trace function returns.
    """
    namespace = frame.f_locals
    if namespace is frame.f_globals:
        return []
    code = frame.f_code
    of_function = code.co_flags & _CO_OPTIMIZED
    if not of_function and not issubclass(type(namespace), dict):
        return []  # a class body's own mapping type: reading it would run its code
    items = list(namespace.items() if of_function else dict.items(namespace))
    cells = {*code.co_cellvars, *code.co_freevars}
    found = [(name, value, name not in cells) for name, value in items]
    if of_function and type(namespace) is dict:
        one, instructions = (namespace,), code.co_code
        held = map(operator.le, map(sys.getrefcount, one), (5,))  # one by the frame, three here, one by the call
        emptied = map(dict.clear, itertools.compress(one, held))
        # No other thread runs between this check and the end of the loop: nothing here releases the interpreter lock.
        if frame.f_trace is None and not (
            called and (frame.f_lasti < 0 or instructions[frame.f_lasti] in _CALLING_NOTHING)
        ):
            for _ in emptied:
                pass
    return found


def frames_of_other_threads() -> dict[int, types.FrameType]:
    """Return the youngest frame of each thread but the current one, by the thread's number.

    Up to Python 3.11 a garbage collection may start while the interpreter's list of threads is locked for this. If it
    meets a ``threading.local`` it waits for that lock for ever. So there is none meanwhile.
    """
    frames: dict[int, types.FrameType] = _in_one_step(sys._current_frames)[0]
    del frames[threading.get_ident()]  # a frame with a variable for itself keeps its whole stack alive
    return frames


def locals_of_other_threads() -> tuple[set[int], bool]:
    """Return ids of the local variables' values of other threads, and whether a traced thread could not be read."""
    youngest = frames_of_other_threads()
    found: set[int] = set()
    traced = False
    for frame in youngest.values():
        theirs = _locals_of_stack(frame)
        traced = traced or theirs is None
        found |= theirs or set()
    return found, traced


def _locals_of_stack(youngest: types.FrameType) -> set[int] | None:
    frames: list[types.FrameType] = []
    current: types.FrameType | None = youngest
    while current is not None:
        frames.append(current)
        current = current.f_back
    snapshots = _reading_leaves_a_snapshot()
    if snapshots and any(_is_traced(frame, called=frame is not youngest) for frame in frames):
        return None
    found: set[int] = set()
    younger: set[int] = set()
    for frame in frames:
        if snapshots and id(frame) in younger:
            return None  # what it called was given the frame itself: a profiler's function
        younger = {id(value) for _, value, _ in local_variables(frame, called=frame is not youngest)}
        found |= younger
    return found


def _is_traced(frame: types.FrameType, *, called: bool) -> bool:
    if frame.f_trace is not None:
        return True
    return called and (frame.f_lasti < 0 or frame.f_code.co_code[frame.f_lasti] in _CALLING_NOTHING)


def _reading_leaves_a_snapshot() -> bool:
    return type(sys._getframe().f_locals) is dict  # since Python 3.13 it is a view of the frame itself
