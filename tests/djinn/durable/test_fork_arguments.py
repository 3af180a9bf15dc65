"""Each object among a fork's arguments is copied with what it shares, or refused by name, or one for both."""

import collections
import dataclasses
import enum
import functools
import queue
import random
from types import SimpleNamespace

import numpy
import pytest
import torch
from transformers import BatchEncoding, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

import djinn
from djinn.durable.fork import anew
from djinn.program.values import described


def forked(args, before=None):
    """The arguments of a fork of a session that began with ``args``."""
    before = described(args, {}, caches=True) if before is None else before
    _, own, _ = anew((print, args, {}), 1, before, (), ())
    return own


def ones():
    return torch.ones(2)


@dataclasses.dataclass(slots=True)
class Slotted:
    scale: torch.Tensor
    empty: object = dataclasses.field(init=False)


class Slower(Slotted):
    """It has a dictionary too."""


class Counting(LogitsProcessor):
    def __init__(self):
        self.scale, self._seen = ones(), []


@dataclasses.dataclass(frozen=True)
class Point:
    place: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Itself:
    place: tuple


def slower():
    made = Slower(ones())
    made.more = [made.scale]
    return made


def ordered():
    made = collections.OrderedDict(a=1)
    made.more = [1]
    return made


def output():
    made = BaseModelOutput(last_hidden_state=ones())
    made.more = made.last_hidden_state
    return made


def two_generators():
    bits = numpy.random.PCG64(1)
    return [numpy.random.Generator(bits), numpy.random.Generator(bits), bits]


COPIED = {  # what is made, what a program does to it, what it sees of it then
    "output of a model": (output, lambda it: it["last_hidden_state"].add_(1), lambda it: it.more.tolist()),
    "attribute of an output": (output, lambda it: setattr(it, "more", 3), lambda it: str(it.more)),
    "attribute of a dict": (ordered, lambda it: it.more.append(2), lambda it: it.more),
    "slots": (lambda: Slotted(ones()), lambda it: it.scale.add_(1), lambda it: it.scale.tolist()),
    "empty slot": (lambda: Slotted(ones()), lambda it: setattr(it, "empty", 1), lambda it: hasattr(it, "empty")),
    "slots and more": (slower, lambda it: it.scale.add_(1), lambda it: it.more[0].tolist()),
    "struct sequence": (lambda: torch.arange(3.0).topk(2), lambda it: it.values.add_(1), lambda it: it[0].tolist()),
    "batch": (
        lambda: BatchEncoding({"input_ids": ones()}),
        lambda it: it.update(input_ids=it["input_ids"].add_(1)),
        lambda it: it.input_ids.tolist(),
    ),
    "processor": (
        lambda: LogitsProcessorList([Counting()]),
        lambda it: it[0].scale.add_(1),
        lambda it: it[0].scale.tolist(),
    ),
    "own of a processor": (Counting, lambda it: it._seen.append(1), lambda it: it._seen),
    "settings": (GenerationConfig, lambda it: setattr(it, "top_k", 7), lambda it: it.top_k),
    "two generators": (two_generators, lambda it: it[0].random(), lambda it: it[1].bit_generator.state),
    "bit generator": (two_generators, lambda it: it[2].random_raw(), lambda it: it[1].random()),
    "spawned": (
        lambda: numpy.random.default_rng(1),
        lambda it: it.spawn(1),
        lambda it: it.bit_generator.seed_seq.n_children_spawned,
    ),
    "seeds": (lambda: numpy.random.SeedSequence(1), lambda it: it.spawn(1), lambda it: it.n_children_spawned),
    "old generator": (lambda: numpy.random.RandomState(1), lambda it: it.rand(), lambda it: it.get_state()[2]),
    "backward array": (lambda: numpy.arange(4)[::-2], lambda it: it.put(0, 9), lambda it: it.tolist()),
    "two arrays": (lambda: [*numpy.ones((2, 2))[:, None]], lambda it: it[0].fill(9), numpy.sum),
    "set of points": (lambda: {Point((1, 2))}, lambda it: it.clear(), len),
}


@pytest.mark.parametrize("name", COPIED)
def test_a_copy_is_the_fork_s_own(name):
    """It is as the argument was, what it shares within it shares, and a change of either is not found by the other."""
    make, change, seen = COPIED[name]
    (argument, expected), before = (make(), make()), described((make(),), {}, caches=True)
    change(expected)
    own, again = forked((argument, argument))
    assert own is again
    assert type(own) is type(argument)
    change(own)
    assert repr(seen(own)) == repr(seen(expected))
    assert repr(seen(argument)) == repr(seen(make()))
    if name != "set of points":
        with pytest.raises(djinn.NotRestored, match=r"argument args\.0"):
            forked((expected,), before)


class Drawn(random.Random):
    pass


class Marked(numpy.ndarray):
    pass


class Tags(set):
    pass


def memory_of(*which):
    array, tensor = numpy.ones(4), torch.ones(4)
    known = {
        "array": array,
        "part": array[1:3],
        "over the array": torch.from_numpy(array),
        "again": torch.from_numpy(array),
        "tensor": tensor,
        "over the tensor": tensor.numpy(),
    }
    return [known[name] for name in which]


REFUSED = {
    "view of an array": (
        lambda: memory_of("array", "part"),
        r"\.1 cannot be copied: its memory is also that of args\.0\.0",
    ),
    "tensor over an array": (lambda: memory_of("array", "over the array"), "its memory is also that of"),
    "tensors over an array": (lambda: memory_of("over the array", "again"), "its memory is also that of"),
    "array over a tensor": (lambda: memory_of("tensor", "over the tensor"), "its memory is also that of"),
    "kind of array": (lambda: numpy.ones(2).view(Marked), "its class Marked inherits from ndarray"),
    "array of objects": (lambda: numpy.array([None, ones()], dtype=object), "its elements are objects"),
    "kind of generator": (lambda: Drawn(1), "its class Drawn inherits from Random"),
    "kind of set": (lambda: Tags([1]), "its class Tags inherits from set"),
    "gradients": (lambda: [torch.ones(2, requires_grad=True)], r"\.0 cannot be copied: it needs gradients"),
    "parameter": (lambda: torch.nn.Parameter(ones()), "it is a parameter"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "it is sparse"),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "it is conjugated or negated"),
    "negated": (lambda: torch._neg_view(ones()), "it is conjugated or negated"),
    "without bytes": (lambda: torch.ones(2, device="meta"), "it has no bytes"),
    "in a set": (lambda: {ones()}, "the Tensor in it has no place"),
    "deep in a set": (lambda: {(1, frozenset({Point((ones(),))}))}, "the Tensor in it has no place"),
    "by identity in a set": (lambda: {Itself((1, 2))}, "the Itself in it has no place"),
    "as a key": (lambda: {ones(): 1}, "the Tensor in it has no place"),
    "in a partial": (lambda: functools.partial(print, end=[1]), "the list in it has no place"),
    "generator in a partial": (lambda: functools.partial(print, torch.Generator()), "the Generator in it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_copied_is_refused(name):
    """By its name and the reason, with a way out."""
    make, words = REFUSED[name]
    with pytest.raises(djinn.IllegalMove, match=rf"cannot be forked: argument args\.0.*{words}.* save\(\) it"):
        forked((make(),))


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Failure(Exception):
    words: list


SHARED = {
    "torch's own generator": lambda: torch.default_generator,
    "Python's own generator": lambda: random._inst,
    "NumPy's own generator": lambda: numpy.random.mtrand._rand,
    "module": lambda: torch.nn.Linear(1, 1),
    "partial": lambda: functools.partial(print, Colour.RED, torch.nn.Linear(1, 1), torch.default_generator),
    "function": lambda: forked,
    "queue": queue.SimpleQueue,
    "constant": lambda: Colour.RED,
    "frozen set": lambda: frozenset({(1, "a"), Colour.RED}),
    "error": lambda: Failure([1]),
    "object": lambda: SimpleNamespace(scale=ones()),
}


@pytest.mark.parametrize("name", SHARED)
def test_any_other_object_is_one_for_both(name):
    """So are the generators of the process: their states are a session's own, and no difference between two runs."""
    argument = SHARED[name]()
    before = described((argument,), {}, caches=True)
    torch.rand(1), random.random(), numpy.random.rand()
    (own,) = forked((argument,), before)
    assert own is argument


def test_a_generator_over_the_process_s_own_bits():
    """It is copied, and what it draws from is still the process's."""
    argument = numpy.random.Generator(numpy.random.get_bit_generator())
    before = described((argument,), {}, caches=True)
    numpy.random.rand()
    (own,) = forked((argument,), before)
    assert own is not argument
    assert own.bit_generator is argument.bit_generator
