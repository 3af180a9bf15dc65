"""Cases for ``djinn.state.referrers`` that need nothing but Python, one function each: ``test_referrers`` runs them.

As a script, on any Python from 3.11 on: ``python referrers_cases.py PATH_OF_REFERRERS``, with names of cases if not all
are wanted. Ends with the first that fails.
"""

import collections
import contextvars
import dataclasses
import functools
import gc
import importlib.util
import itertools
import opcode
import queue
import sys
import threading
import time
import types
import weakref

MODULE = sys.modules[__name__]
SEEN = contextvars.ContextVar("SEEN")
GLOBAL = None


class Thing:
    """What is asked about; can be held in any way."""


class End:
    """A type at which a chain is told to end."""

    def __init__(self, value):
        self.value = value


class Ignored:
    """A type that is told to be no referrer."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Held:
    """Keeps what it is given as a class attribute."""

    kept = None


def chains(*suspects, inside=()):
    known = frozenset(inside)
    return referrers.Chains({id(one): one for one in suspects}, inside=known, ends=(End,), ignored=(Ignored,))


def is_held(thing):
    return id(thing) in chains(thing).held


def keep(value):
    global GLOBAL  # noqa: PLW0603 - what this is about
    GLOBAL = value


# -- nobody ------------------------------------------------------------------------------------------------------------


def nobody():
    """No chain, and nothing else than temporaries: the call's own argument tuple counts for nothing."""
    found = chains(Thing())
    assert not found.held
    assert found.only_temporaries
    assert not found.traced


def own_local():
    thing = Thing()
    found = chains(thing)
    assert not found.held
    assert found.only_temporaries


def many():
    things = [Thing() for _ in range(40)]
    found = chains(*things, inside=[id(things)])
    assert not found.held
    assert found.only_temporaries


def arguments_on_the_stack():
    """A tuple and a dict that only the value stack holds are temporaries: nobody's, and may be met again."""

    def call(pair, **named):
        return chains(pair[0])

    def without_locals(function, thing):
        return function((thing, 1), key=thing)

    found = without_locals(call, Thing())
    assert not found.held
    assert found.only_temporaries


def list_in_a_local():
    """The session's own, but it may be gone the next time: the answer is not one to keep."""
    thing = Thing()
    box = [thing]
    found = chains(thing)
    assert not found.held
    assert not found.only_temporaries
    assert box


def weak_reference():
    thing = Thing()
    keep(weakref.ref(thing))
    assert not is_held(thing)


def garbage():
    thing = Thing()
    box = [thing]
    box.append(box)
    del box
    assert not is_held(thing)


def ignored_type():
    thing = Thing()
    keep(Ignored(thing))
    assert not is_held(thing)


def inside():
    """What is known to refer to a suspect is passed over, whoever holds it."""
    thing = Thing()
    keep([thing])
    assert not chains(thing, inside=[id(GLOBAL)]).held
    assert chains(thing).held


# -- somebody ----------------------------------------------------------------------------------------------------------


def module_global():
    thing = Thing()
    keep(thing)
    assert is_held(thing)
    keep(None)
    assert not is_held(thing)


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


@dataclasses.dataclass(frozen=True)
class Record:
    value: object


Pair = collections.namedtuple("Pair", "value rest")


def _with_default(thing):
    def function(value=thing):
        return value

    return function


def _with_keyword_default(thing):
    def function(*, value=thing):
        return value

    return function


def _with_attribute(thing):
    def function():
        pass

    function.value = thing
    return function


def _in_a_queue(thing):
    made = queue.SimpleQueue()
    made.put(thing)
    return made


def _iterated(iterator):
    next(iterator)
    return iterator


CONTAINERS = {
    "list": lambda one: [one],
    "tuple": lambda one: (one,),
    "set": lambda one: {one},
    "frozenset": lambda one: frozenset([one]),
    "dict key": lambda one: {one: 0},
    "dict value": lambda one: {"key": one},
    "dict view": lambda one: {"key": one}.values(),
    "mapping proxy": lambda one: types.MappingProxyType({"key": one}),
    "ordered dict": lambda one: collections.OrderedDict(key=one),
    "default dict": lambda one: collections.defaultdict(list, key=one),
    "chain map": lambda one: collections.ChainMap({}, {"key": one}),
    "deque": lambda one: collections.deque([one]),
    "namedtuple": lambda one: Pair(one, 0),
    "dataclass": Record,
    "slots": Slots,
    "simple namespace": lambda one: types.SimpleNamespace(value=one),
    "new class": lambda one: type("Made", (), {"value": one}),
    "function default": _with_default,
    "keyword default": _with_keyword_default,
    "function attribute": _with_attribute,
    "partial argument": lambda one: functools.partial(id, one),
    "list in a partial": lambda one: functools.partial(id, [one]),
    "partial keyword": lambda one: functools.partial(dict, key=one),
    "static method": lambda one: staticmethod(functools.partial(id, one)),
    "property": lambda one: property(functools.partial(id, one)),
    "queue": _in_a_queue,
    "list iterator": lambda one: _iterated(iter([0, one])),
    "reversed": lambda one: reversed([one]),
    "cycle": lambda one: _iterated(itertools.cycle([0, one])),
    "tee": lambda one: _iterated(itertools.tee([0, one])[0]),
    "chain": lambda one: _iterated(itertools.chain([0, one])),
    "repeat": itertools.repeat,
    "zip": lambda one: _iterated(zip([0, one])),
    "map": lambda one: _iterated(map(id, [0, one])),
    "attribute of an end": End,
}


def containers():
    for name, make in CONTAINERS.items():
        thing = Thing()
        assert not is_held(thing)
        keep(make(thing))
        assert is_held(thing), name
        keep(None)
        gc.collect()  # a class refers to itself
        assert not is_held(thing), name


def class_attribute():
    thing = Thing()
    Held.kept = thing
    assert is_held(thing)
    Held.kept = None


def closure():
    thing = Thing()
    keep(lambda: thing)
    assert is_held(thing)


def suspended_generator():
    def generate(one):
        yield 0
        yield one

    thing = Thing()
    keep(generate(thing))
    next(GLOBAL)
    assert is_held(thing)


def deep_chain():
    """A chain longer than is climbed is somebody's."""
    thing = Thing()
    box = thing
    for _ in range(12):
        box = [box]
    assert is_held(thing)
    keep(box)
    del box
    assert is_held(thing)


def only_the_one_that_is_held():
    held, free = Thing(), Thing()
    keep([[held]])
    assert chains(held, free).held == {id(held)}


def end_type():
    """Somebody's whoever holds it: C++ may."""
    thing = Thing()
    end = End(thing)
    assert is_held(thing)
    assert end


def another_context():
    thing = Thing()
    context = contextvars.Context()
    context.run(SEEN.set, thing)
    assert is_held(thing)


def frozen():
    thing = Thing()
    keep([thing])
    gc.collect()
    gc.freeze()
    assert is_held(thing)


# -- other threads -----------------------------------------------------------------------------------------------------


class Other:
    """A thread that runs ``body(thing, self)``, which calls :meth:`hold` while it holds the thing."""

    def __init__(self, body, thing):
        self._given = [thing]
        self._body = body
        self._holds, self._go_on = threading.Event(), threading.Event()
        self._error = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._holds.wait(30)

    def _run(self):
        try:
            self._body(self._given.pop(), self)
        except BaseException as error:  # noqa: BLE001 - raised again by end()
            self._error = error
            self._holds.set()

    def hold(self):
        self._holds.set()
        assert self._go_on.wait(30)

    def end(self):
        self._go_on.set()
        self._thread.join(30)
        if self._error is not None:
            raise self._error


def in_a_thread(body, *, traced=False):
    """The thing is found held, or it is said that nothing can be told; the thread keeps its local variables."""
    thing = Thing()
    other = Other(body, thing)
    for _ in range(3):
        found = chains(thing)
        assert found.traced == (traced and sys.version_info < (3, 13))
        assert found.traced or found.held == {id(thing)}
    other.end()
    assert not is_held(thing)


def local_of_another_thread():
    def body(local, other):
        other.hold()
        assert type(local) is Thing

    in_a_thread(body)


def container_of_another_thread():
    def body(local, other):
        local = {"key": [local]}
        other.hold()
        assert type(local["key"][0]) is Thing

    in_a_thread(body)


def captured_local_of_another_thread():
    def body(local, other):
        get = lambda: local  # noqa: E731
        other.hold()
        assert type(get()) is Thing

    in_a_thread(body)


def thread_traced():
    """Its frames have a trace function, which runs: Python would write an emptied snapshot back."""

    def body(local, other):
        def tracer(frame, event, arg):
            # Here the instruction alone does not tell: this one may call a function by itself.
            here = event == "line" and frame.f_code.co_code[frame.f_lasti] == opcode.opmap["FOR_ITER"]
            del frame
            if here:
                other.hold()
            return tracer

        def step(one):
            for _ in range(2):
                two = one
            return two

        sys.settrace(tracer)
        found = step(local)
        sys.settrace(None)
        assert found is local

    in_a_thread(body, traced=True)


def thread_traced_from_now_on():
    """The trace function sees a call begin: no frame has one of its own yet."""

    def body(local, other):
        def tracer(frame, event, arg):
            here = frame.f_code is step.__code__
            del frame
            if here:
                other.hold()

        def step(one):
            two = one
            return two  # noqa: RET504

        sys.settrace(tracer)
        found = step(local)
        sys.settrace(None)
        assert found is local

    in_a_thread(body, traced=True)


def generator_traced_from_now_on():
    """The same where a generator goes on."""

    def body(local, other):
        def tracer(frame, event, arg):
            if frame.f_code is generate.__code__:
                other.hold()

        def generate(one):
            yield 0
            yield one

        generator = generate(local)
        next(generator)
        sys.settrace(tracer)
        found = next(generator)
        sys.settrace(None)
        assert found is local

    in_a_thread(body, traced=True)


def thread_profiled():
    """The same for a profiler's function, whatever it is told of."""

    def body(local, other):
        def profiler(frame, event, arg):
            if frame.f_code is step.__code__ and event == "c_call":
                other.hold()

        def step(one):
            len("something in C")
            two = one
            return two  # noqa: RET504

        sys.setprofile(profiler)
        found = step(local)
        sys.setprofile(None)
        assert found is local

    in_a_thread(body, traced=True)


def threads_traced_at_any_moment():
    """Whenever another thread is looked at, traced or not, it finds its local variables."""
    ended = threading.Event()
    errors = []

    def tracer(frame, event, arg):
        return tracer

    def user(alpha, beta):
        gamma = [alpha, beta]
        for delta in range(3):
            gamma.append(delta)
        assert gamma == [alpha, beta, 0, 1, 2]

    def trace():
        try:
            while not ended.is_set():
                sys.settrace(tracer)
                user("a", "b")
                sys.settrace(None)
                user("c", "d")
        except BaseException as error:  # noqa: BLE001 - looked at by the main thread
            sys.settrace(None)
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=trace)
    thread.start()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        referrers.locals_of_other_threads()
    ended.set()
    thread.join()
    sys.setswitchinterval(interval)
    assert not errors, errors


def a_tuple_that_another_thread_is_making():
    """It may be met at any moment, and is left alone: ``tuple`` fails if anybody else refers to its result.

    Also where an audit hook is written in Python, as transformers brings one: it lets other threads run.
    """
    sys.addaudithook(lambda event, arguments: None)
    ended = threading.Event()
    errors = []

    def make():
        while not ended.is_set():
            try:
                tuple([one] for one in range(20))
            except SystemError as error:
                errors.append(error)

    gc.disable()
    keep([(one, [one]) for one in range(3000)])  # they stay young, so that a look takes a while
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=make)
    thread.start()
    thing = Thing()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        referrers.young_temporaries({id(thing): thing})
        chains(thing)
    ended.set()
    thread.join()
    sys.setswitchinterval(interval)
    gc.enable()
    assert not errors, errors


def a_collection_in_between():
    """Each temporary is found once, whenever a collection comes: it moves what is young to the next generation."""
    thing, thresholds = Thing(), gc.get_threshold()

    def look(pair, more):
        gc.set_threshold(gc.get_count()[0] + more, 1000, 1000)
        return referrers.young_temporaries({id(pair[0]): pair[0]})

    def without_locals(thing, more):
        return look((thing, 1), more)

    found = {without_locals(thing, more) for more in range(1, 150)}
    gc.set_threshold(*thresholds)
    assert len(found) == 1, found


def asking_keeps_nothing_alive():
    """No frame that took part hangs on a cycle of its own: with it would all that the program has dropped."""

    def call():
        thing = Thing()
        chains(thing)
        return weakref.ref(thing)

    gc.disable()
    dead = call()
    gc.enable()
    assert dead() is None


# -- local variables ---------------------------------------------------------------------------------------------------


def reading_keeps_nothing_alive():
    thing = Thing()
    dead = weakref.ref(thing)
    assert any(value is thing for _, value, _ in referrers.local_variables(sys._getframe()))
    del thing
    assert dead() is None


def of_another_thread_neither():
    def body(local, other):
        dead = weakref.ref(local)
        other.hold()
        del local
        assert dead() is None

    given = [Thing()]
    other = Other(body, given.pop())
    referrers.locals_of_other_threads()
    other.end()


def what_the_program_has_from_locals_stays():
    thing = Thing()
    mine = locals()
    referrers.local_variables(sys._getframe())
    assert mine["thing"] is thing


def captured_variables_are_told_apart():
    captured, plain = Thing(), Thing()
    found = {name: counted for name, _, counted in referrers.local_variables(sys._getframe())}
    assert found["plain"]
    assert not found["captured"]
    get = lambda: captured  # noqa: E731
    assert get() is not plain


def a_traced_frame_of_one_s_own():
    """A program that is debugged finds its variables when the debugger has run a model."""

    def tracer(frame, event, arg):
        seen.append({name for name, _, _ in referrers.local_variables(frame)})
        return tracer

    def user(alpha):
        beta = [alpha]
        return alpha, beta

    seen = []
    sys.settrace(tracer)
    result = user("mine")
    sys.settrace(None)
    assert result == ("mine", ["mine"])
    assert {"alpha"} in seen


def a_class_body_is_not_asked():
    """Its namespace may be a mapping of the program's, with code of its own."""

    class Namespace(dict):
        def items(self):
            raise AssertionError

    class Meta(type):
        @classmethod
        def __prepare__(cls, name, bases):
            return Namespace()

        def __new__(cls, name, bases, namespace):
            return type.__new__(cls, name, bases, dict(dict.items(namespace)))

    class Made(metaclass=Meta):
        one = 1
        found = tuple(name for name, _, _ in referrers.local_variables(sys._getframe()))
        two = one + 1

    assert "one" in Made.found
    assert Made.two == 2


CASES = {
    name: value
    for name, value in list(vars(MODULE).items())
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and not isinstance(value, type)
    and not value.__code__.co_argcount
    and not value.__code__.co_flags & 4  # *args
}


def main(path, *names):
    global referrers  # noqa: PLW0603
    spec = importlib.util.spec_from_file_location("referrers", path)
    referrers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(referrers)
    assert "torch" not in sys.modules
    for name in names or CASES:
        keep(None)
        print(name, flush=True)
        CASES[name]()
        gc.unfreeze()
    print(f"{len(names or CASES)} cases, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
