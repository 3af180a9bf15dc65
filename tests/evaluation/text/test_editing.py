"""The table of round trips prints what the table says, and fits where it stands."""

import re

import pytest

from evaluation.analysis.round_trips import RoundTrip
from evaluation.analysis.table import TableError
from evaluation.text.editing import table
from tests.evaluation.layout import compiled
from tests.evaluation.papers import Results
from tests.evaluation.round_trips import put_round_trips, times
from tests.evaluation.synthetic import Synthetic


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run of every form."""
    found = Results.make(tmp_path_factory.mktemp("editing"), Synthetic(layers=(1,), samples=1))
    put_round_trips(found.folder)
    found.aggregate()
    return found


def cells(text):
    """The cells of each row by its name; intervals stand in rows of their own."""
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    lines = [re.sub(r"\\\\(\[\d+pt\])?$", "", line).split("&") for line in body.strip().splitlines()]
    stripped = [[cell.strip() for cell in line] for line in lines]
    return {(name[0], below[0]): name[1:] for name, below in zip(stripped[::2], stripped[1::2], strict=True)}


def test_it_is_drawn_of_a_run_that_has_the_record(results):
    """By the command, with every form; what is done by hand has no first site."""
    assert results.draw("editing") == 0
    found = cells(results.drawn("editing.tex").decode())
    assert list(found) == [
        ("Vanilla PyTorch", ""),
        ("Recompute", "edit replayed"),
        ("Manual offload", "all at once"),
        ("Manual offload", "ordered"),
        (r"\sys{}", "all swapped"),
        (r"\sys{}", "frontier kept"),
    ]
    assert found[r"\sys{}", "all swapped"] == ["31.0", "86.0", "0.500", "0.600", "60.0", "91.5", "146", "0.500", "55.5"]
    by_hand = found["Manual offload", "ordered"]
    assert [by_hand[column] for column in (1, 6, 8)] == ["--"] * 3


def test_the_caption_says_what_stands_behind_the_numbers(results):
    """Six samples have an interval, fewer a range, as have the three watched; a functional run is marked."""
    rows = results.material().rows("editing", RoundTrip)
    text = table(rows, functional=False)
    assert r"medians and 95\,\% interval of 6 samples" in text
    assert "of 3 that were not timed" in text
    assert "of Others wait the range of 3." in text
    assert "unctional" not in text
    assert r"\textbf{Functional CPU run: not a performance result.}" in table(rows, functional=True)


def test_enough_watched_have_an_interval_too(tmp_path):
    """Six, in as many blocks."""
    found = Results.make(tmp_path / "run", Synthetic(layers=(1,), samples=1))
    put_round_trips(found.folder, blocks=6)
    found.aggregate()
    text = table(found.material().rows("editing", RoundTrip), functional=False)
    assert r"of Others wait the 95\,\% interval of 6." in text


def test_without_rows_there_is_no_table():
    """It says so instead."""
    with pytest.raises(TableError, match="no round trips"):
        table([], functional=False)


@pytest.mark.tex
def test_it_fits_the_page(tmp_path):
    """With times as wide as they get."""
    slow = dict.fromkeys(times({"site": "first", "method": "djinn"}), 1234.5)
    results = Results.make(tmp_path / "run", Synthetic(layers=(1,), samples=1))
    put_round_trips(results.folder, blocks=2, times=lambda form: slow)
    results.aggregate()
    text = table(results.material().rows("editing", RoundTrip), functional=True)
    assert "range of 4 samples" in text
    assert "Overfull" not in compiled(tmp_path, table=text)
