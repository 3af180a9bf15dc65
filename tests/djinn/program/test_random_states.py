"""The states of all generators as plain data: put back, each goes on with the very numbers."""

import itertools
import json
import random

import numpy
import pytest
import torch
from tests.programs import prefill

import djinn
from djinn.program.random_states import RandomStates, not_kept


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


@pytest.fixture
def _another_of_numpy_s():
    before = numpy.random.get_bit_generator()
    numpy.random.set_bit_generator(numpy.random.PCG64(1))
    yield
    numpy.random.set_bit_generator(before)


@pytest.mark.usefixtures("_another_of_numpy_s")
def test_another_generator_of_numpy_s_is_named():
    """Its state is of another form: it cannot be put back, and that is said."""
    states = RandomStates(torch.device("cpu"))
    state = states.read()
    assert not_kept(state) == "PCG64"
    with pytest.raises(ValueError, match="random generator numpy"):
        states.put(state)


@pytest.mark.usefixtures("_another_of_numpy_s")
def test_a_session_with_it_is_not_saved(runtime, llama, input_ids, tmp_path):
    with runtime.open(breakpoint=2, durable=True).start(prefill, llama, input_ids) as session:
        session.wait(30)
        with pytest.raises(djinn.IllegalMove, match="NumPy's generator PCG64"):
            session.save(tmp_path / "one.djinn")
