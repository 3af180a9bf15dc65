"""The states of all generators as plain data: put back, each goes on with the very numbers."""

import itertools
import json
import random

import numpy
import torch

from djinn.program.random_states import RandomStates


def drawn():
    return [
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
        random.random(),
        random.gauss(0, 1),
        numpy.random.rand(),
        numpy.random.randn(),
    ]


def test_each_goes_on_where_it_was():
    """Also with the second of two normal numbers waiting, and through the text of a file."""
    states = RandomStates(torch.device("cpu"))
    for _ in range(2):
        drawn()
        before = json.loads(json.dumps(states.read()))
        expected = drawn()
        drawn()
        states.put(before)
        assert drawn() == expected


def test_the_marks_tell_of_a_draw():
    states = RandomStates(torch.device("cpu"))
    marks = [states.marks()]
    assert states.marks() == marks[0]
    for draw in (torch.rand, lambda n: random.random(), numpy.random.rand):
        draw(1)
        marks.append(states.marks())
    assert all(one != other for one, other in itertools.pairwise(marks))


def test_another_generator_of_numpy_s_is_left_alone():
    """Its state is of another form; the others are still read and set."""
    states = RandomStates(torch.device("cpu"))
    before = numpy.random.get_bit_generator()
    numpy.random.set_bit_generator(numpy.random.PCG64(1))
    try:
        state = states.read()
        assert state["numpy"] is None
        expected = torch.rand(2)
        states.put(state)
        assert torch.equal(torch.rand(2), expected)
    finally:
        numpy.random.set_bit_generator(before)
