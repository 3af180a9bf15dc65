"""The caption of latency against memory says in numbers what the marks show."""

import dataclasses

import pytest

from evaluation.figures.held import Mark
from evaluation.text.held import caption
from tests.evaluation.layout import compiled
from tests.evaluation.papers import Results
from tests.evaluation.synthetic import Synthetic


def mark(label, held, median):
    return Mark(label=label, style={}, held_bytes=held, median=median, low=median, high=median)


MARKS = [mark("Vanilla", 1.7e9, 0.2), mark("Djinn", 0, 0.75), mark("Djinn, kept", 22e6, 0.1)]


def written(marks, **changed):
    about = {"workload": "session", "layer": 39, "run": "a_b", "functional": False}
    return caption(marks, **{**about, **changed})


def test_it_says_what_each_form_holds_and_what_that_saves():
    """In milliseconds of a resume."""
    text = written(MARKS)
    assert r"\newcommand{\LatencyMemorySession}{" in text
    assert "Vanilla 0.200~ms and 1.70~GB;\nDjinn 0.750~ms and nothing;\nDjinn, kept 0.100~ms and 22.0~MB." in text
    assert "To keep all state on the device makes a resume 0.550~ms shorter" in text
    assert "To keep the frontier there makes a resume 0.650~ms shorter" in text
    assert "unctional" not in text


def test_what_only_the_driver_counts_is_said():
    """A paused session of Djinn holds nothing by torch's count, and the workspace of its thread by the driver's."""
    assert "67.1~MB for each session" in written(MARKS, each_bytes=64 << 20)
    for nothing in (None, 0):
        assert "driver" not in written(MARKS, each_bytes=nothing)
    assert "driver" not in written(MARKS[:1], each_bytes=64 << 20)


def test_who_counted_the_bytes_is_said():
    """Of peers the driver, at another layer."""
    assert "These bytes are counted by torch.\n" in written(MARKS)
    peer = dataclasses.replace(mark("Memory saver", 1e9, 3.0), peer=True)
    assert "by torch, those of peers by the driver, and peers are of the deepest layer." in written([*MARKS, peer])


def test_what_saves_nothing_is_not_said_to():
    """Nor is anything of a form that the run lacks."""
    assert "shorter" not in written([mark("Vanilla", 1e9, 2.0), mark("Djinn", 0, 1.0)])
    assert "shorter" not in written([mark("Vanilla", 1e9, 0.1)])


def test_the_output_is_the_figure_and_its_caption(tmp_path):
    """The same bytes again; a functional run is marked."""
    results = Results.make(tmp_path, Synthetic(functional=True, layers=(1, 40), samples=2))
    assert results.draw("latency_memory") == 0
    first = [results.drawn(f"latency_memory.{suffix}") for suffix in ("pdf", "png", "tex")]
    assert b"Functional CPU run" in first[-1]
    assert results.draw("latency_memory") == 0
    assert [results.drawn(f"latency_memory.{suffix}") for suffix in ("pdf", "png", "tex")] == first


@pytest.mark.tex
def test_latex_takes_it_as_a_caption(tmp_path):
    """Whatever the run is called."""
    figure = r"\begin{figure}[t]\caption{\LatencyMemorySession}\end{figure}"
    assert "Overfull" not in compiled(tmp_path, held=written(MARKS) + figure)
