"""Prose is plain: no sentence too long, no word that says nothing."""

import pytest

from tests.prose import ROOT, flaws, prose, sentences, words


@pytest.mark.parametrize("path", prose(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_sentence_is_short(path):
    """Of pages, docstrings and captions."""
    assert list(flaws(path)) == []


def test_sentences_are_counted():
    """A list item and a cell end one; what stands in backticks is one word; code is none."""
    text = "One two. Three `four five`.\n\n- six\n- seven\n\n| a b | c |\n\n```\nnot this\n```\n"
    assert [words(sentence) for sentence in sentences(text)] == [2, 2, 1, 1, 2, 1]
