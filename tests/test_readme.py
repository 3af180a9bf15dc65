"""No number of the README's pages is typed in unseen: it is the paper's, or it is listed here with where it is from."""

import re
from pathlib import Path

import pytest

from evaluation.text.readme import EXPERIMENTS, METHODS, PAGES, read_numbers, written

ROOT = Path(__file__).parents[1]
# Measured by hand or in an earlier sitting, in the order of the page: no file of the paper has them.
BY_HAND = {
    "README.md": "105 GiB",
    "docs/results.md": "layer 39 42 MB 42 MB layer 1 layer 10 layer 40",
    "docs/how-it-works.md": """1.006 0.995 1.019 1.010 0.998 1.047
        70 to 141 ms 3 to 13 ms 36 of 39 89 to 99 ms 0.709 0.701 0.702 200 MiB 62 MiB at 230 to 300
        12.4 layer 10 0.75 0.80 0.75 0.76 0.84 0.89 0.93 0.2 ms 1 ms 6 ms""",
    "docs/measurement.md": """200 ms 100 ms 5 ms 11 kB 42 MB 5 ms 42 MB 0.04 0.1 ms 120 ms
        200 ms 0 ms 4 s 95 of 100 1.00 1.12 at 2048 42 MB 64 MiB 1661 MiB 126 GiB 251 GiB 3 to 15 % 3 to 23 % 1 %
        251 GiB""",
    "docs/running.md": """30 GiB 17 GiB 8:24 min 0:46 104 min 6.6 7.0 0.7 GiB 2 GiB 105 GiB 6 GiB 3.2 GiB 127 GiB
        1.5 GB 0.5 MB 6 GB 37 GB 2.11 141 GB 128 GiB 1400 s 93 MB
        3.0 min 82 s 41 s 36 s 12 s 13 s 10 s 12 s 14 s 17 s 11 s 22 s 11 s
        0.38 0.39 0.73 0.38 0.39 0.38 0.38 0.35 0.39 0.39 0.39 0.74 0.39
        218 kB 140 kB 19 kB 17 kB 8 kB 7 kB 26 kB 9 kB 24 kB 15 kB 11 kB 8 kB 6 kB""",
}
_MOST_WORDS = 1000  # of README.md, which is one screen
_UNMARKED = re.compile(
    r"<!-- numbers: .*?<!-- end -->|(?:≥ )?[\d.]+<!-- \w+ -->|```.*?```|`[^`]*`|\([^)\s]*\)", re.DOTALL
)
_MEASURED = re.compile(
    r"(?<![\w.-])(?:\d+[.:]\d+(?: (?:ms|min|[GMk]i?B)\b)?"
    r"|(?:\d+ to )?\d+ (?:ms|min|s|%|[GMk]i?B)(?!\w)|\d+ of (?:the \w+ )?\d+"
    r"|(?:layers?|at) \d+(?: (?:to|and) \d+)?)"
)


def measured(page):
    """Numbers with a point or a unit, counts out of others, and layers, that no comment marks as the paper's."""
    text = re.sub(r"\n(?!\n|[|-])\s*", " ", _UNMARKED.sub("", page)).replace("95 %", "")
    text = re.sub(r"(?:Python|Ubuntu) [\d.]+( to [\d.]+)?|from 3\.\d+ to 3\.\d+", "", text)
    return " ".join(re.sub(r"of the \w+", "of", found) for found in _MEASURED.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_is_what_the_tool_writes(page):
    """Its tables and marked numbers are those of `paper_figures/`, which CI draws anew from the records."""
    text = (ROOT / page).read_text()
    pages = [(ROOT / one).read_text() for one in (EXPERIMENTS, METHODS)]
    assert written(text, read_numbers(ROOT), *pages) == text


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_other_number_is_listed(page):
    """One that changes, is added or loses its mark is seen."""
    assert measured((ROOT / page).read_text()) == " ".join(BY_HAND[str(page)].split())


def test_the_readme_is_short():
    """Who opens it has 20 seconds."""
    assert len((ROOT / "README.md").read_text().split()) <= _MOST_WORDS
