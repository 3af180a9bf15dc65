"""The table of the neighbour prints rates, losses and times of both sides, and compiles."""

from dataclasses import replace

import pytest

from evaluation.analysis.neighbours import Disturbance
from evaluation.analysis.table import TableError
from evaluation.analysis.waits import Wait
from evaluation.text.neighbour import lines, table
from evaluation.text.numbers_of_use import Tables, numbers_of_use
from tests.evaluation.layout import compiled
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic
from tests.evaluation.usage_cells import USAGE


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A run with both records."""
    recipe = Synthetic(layers=(20,), samples=2, methods=("manual_offload", "djinn"), beside=USAGE)
    return Results.make(tmp_path_factory.mktemp("neighbour"), recipe).material()


@pytest.fixture(scope="module")
def rows(material):
    return material.rows("neighbour", Disturbance)


def test_each_line_has_both_sides(rows):
    """The median and the ends, Djinn's first."""
    shown = [(line.what, *(value.partition(" ")[0] for value in line.values)) for line in lines(rows)]
    assert shown == [
        ("Neighbour's tokens per second", "", ""),
        ("nobody else computes", "100", "50.0"),
        ("another one decodes", "50.0", "25.0"),
        ("and is swapped at each step", "33.3", "16.7"),
        ("Milliseconds that it loses for each step", "", ""),
        ("another one decodes", "20.0", "40.0"),
        ("and is swapped at each step", "80.0", "160"),
        ("The other one's ready (ms)", "", ""),
        ("nobody else computes", "1.00", "1.00"),
        ("the neighbour decodes", "2.00", "2.00"),
        ("The other one's swap-out (ms)", "", ""),
        ("nobody else computes", "5.00", "5.00"),
        ("the neighbour decodes", "5.00", "5.00"),
    ]


def test_only_a_functional_run_says_that_it_is_none_of_speed(rows):
    """Who reads the numbers must know."""
    assert "Functional" not in table(rows, functional=False)
    assert "Functional CPU run: not a performance result" in table(rows, functional=True)


def test_without_rows_there_is_no_table():
    """A message says so."""
    with pytest.raises(TableError, match=r"neighbour\.csv: the run has no neighbour"):
        table([], functional=False)


@pytest.mark.tex
def test_it_compiles(tmp_path, rows):
    """As the paper includes it."""
    assert "Overfull" not in compiled(tmp_path, neighbour=table(rows, functional=True))


def test_prose_may_use_every_value(material, rows):
    """By names in words, each once, with its source."""
    tables = Tables(thinking=material.rows("thinking", Wait), neighbour=rows)
    found = {number.name: number for number in numbers_of_use(tables)}
    assert len(found) == len(list(numbers_of_use(tables)))
    assert found["NeighbourDjinnSwapsCostMs"].text == "80.0"
    late = found["DjinnActivationWaitTwoHundredReadyMsLayerTwenty"]
    assert late.text == "1.21"
    assert late.source[0]["file"] == "thinking.csv"
    assert found["FloorSessionWaitZeroReadyMsLayerTwenty"].text == "0.900"


def test_only_an_interval_has_ends(material, rows):
    """Two waits or windows have a range, and prose may not call its ends those of an interval; six have both."""
    waits = material.rows("thinking", Wait)
    few = Tables(thinking=[replace(row, n=5) for row in waits], neighbour=[replace(row, n=5) for row in rows])
    assert not [number.name for number in numbers_of_use(few) if number.name.endswith(("Low", "High"))]
    enough = Tables(thinking=[replace(row, n=6) for row in waits], neighbour=[replace(row, n=6) for row in rows])
    found = {number.name: number for number in numbers_of_use(enough)}
    assert found["NeighbourManualOffloadUndisturbedTokensPerSHigh"].value == pytest.approx(50)
    assert found["DjinnActivationWaitTwoHundredReadyMsLayerTwentyLow"].value == pytest.approx(1.2)
