"""The tool that writes the README's numbers changes what is marked, and nothing else."""

import json
import re
import sys

import pytest

from evaluation.command import Refusal
from evaluation.text.readme import PAGES, TABLES, main, written

SEEDS = [
    *(f"DjinnActivationPairedReadyRatioLayer{word}" for word in ("One", "ThirtyNine", "Forty")),
    *(f"DjinnLoadReadyMsSessions{word}" for word in ("One", "Eight", "SixtyFour")),
]


def texts_of(*seeds):
    """A number for each cell of each table of a run that has the numbers ``seeds``, which tell its columns."""
    known = {**dict.fromkeys(seeds, ""), "DeepestLayer": "40", "GpuName": "NVIDIA H200"}
    tables = [make(known) for make in TABLES.values()]
    names = [name.format(word) for table in tables for name in table.rows.values() for word in table.columns.values()]
    return {**known, **{name: f"{number}.5" for number, name in enumerate(names)}}


TEXTS = texts_of(*SEEDS) | {"Sessions": "$\\geq$\\,64", "Ratio": "0.990"}
WHOLE = texts_of(*SEEDS, "DurableDecodeSaveMs", "DiskSessions")
EXPERIMENTS = """Words.

|  | claims | what | command | output | jobs | machine time | one job | peak memory | disk |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| **E4** |  | load | `x` | `y` | 1 | 4 min | 5 min | 6 GiB | 7 kB |
|  |  | of these, djinn | `x` | `y` | 1 | 2 s | 3 s | 4 GiB | 5 kB |
"""

METHODS = "# Title\n\n| | ready |\n| --- | --- |\n| &emsp;ordered | 0.7 (*0.6 to 0.9*) |\n\nWords.\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with a page of numbers, in which the tool runs."""
    numbers = [{"name": name, "text": text} for name, text in TEXTS.items()]
    (tmp_path / "paper_figures").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "paper_figures/numbers.json").write_text(json.dumps({"numbers": numbers}))
    (tmp_path / "paper_figures/experiments.md").write_text(EXPERIMENTS)
    (tmp_path / "paper_figures/capabilities.md").write_text(METHODS)
    (tmp_path / "README.md").write_text("A 7 of ≥ 1<!-- Sessions -->.\n")
    for page in PAGES[1:]:
        (tmp_path / page).write_text("No numbers.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["readme", *arguments])
    return main()


@pytest.mark.parametrize("name", TABLES)
def test_every_number_of_a_table_stands_in_its_cell(name):
    """In the row of its label and the column of its word; what stood there before is gone."""
    page = written(f"<!-- numbers: {name} -->\nstale\n<!-- end -->\n", WHOLE, EXPERIMENTS, METHODS)
    assert "stale" not in page
    rows = {line.split(" | ")[0].strip("| "): re.findall(r"\d+\.5", line) for line in page.splitlines()[3:-1]}
    table = TABLES[name](WHOLE)
    assert rows == {
        label: [WHOLE[row.format(word)] for word in table.columns.values()] for label, row in table.rows.items()
    }


def test_a_table_has_the_columns_that_the_run_has():
    """Layers and sessions of another study are others; without any there is no table."""
    head = written("<!-- numbers: pairs -->\n<!-- end -->", WHOLE, EXPERIMENTS, METHODS).splitlines()[1]
    assert head == "| Djinn over the strongest copies by hand | 1 | 39 | 40 |"
    head = written("<!-- numbers: sessions -->\n<!-- end -->", WHOLE, EXPERIMENTS, METHODS).splitlines()[1]
    assert "on one NVIDIA H200, all" in head
    with pytest.raises(Refusal, match=r"has no number DjinnLoadReadyMsSessions\.\.\."):
        written("<!-- numbers: load -->\n<!-- end -->", {"DeepestLayer": "40"}, "", "")


@pytest.mark.parametrize(("name", "whose"), [("durable", "Durable"), ("disk", "Disk")])
def test_what_another_run_may_have_measured_names_it(name, whose):
    """A run without them has no such numbers, and its page says that."""
    page = f"<!-- numbers: {name} -->\n<!-- end -->\n"
    assert "run h200-durable |" in written(page, {**WHOLE, f"{whose}Run": "h200-durable"}, EXPERIMENTS, METHODS)
    assert "Not measured yet." in written(page, TEXTS, EXPERIMENTS, METHODS)


def test_an_interval_stands_behind_its_number():
    """Where the number has one."""
    name = "DjinnLoadReadyMsSessionsEight"
    page = written(
        "<!-- numbers: load -->\n<!-- end -->",
        {**WHOLE, f"{name}Low": "1.0", f"{name}High": "9.0"},
        EXPERIMENTS,
        METHODS,
    )
    assert page.count(" to ") == 1
    assert f"| {WHOLE[name]} (1.0 to 9.0) |" in page


def test_coded_sessions_have_a_row_where_there_are_some():
    """An older run has none."""
    page = "<!-- numbers: sessions -->\n<!-- end -->"
    more = {"DjinnCodedSessions": "87", "DjinnCodedSessionsEndedBy": "the arena"}
    assert "| Djinn, coded | 87 | the arena |" in written(page, TEXTS | more, EXPERIMENTS, METHODS)
    assert "coded" not in written(page, TEXTS, EXPERIMENTS, METHODS)


def test_a_gap_is_a_dash_only_where_there_may_be_one():
    """Few resumes have no percentile, some have none by hand; that a number of sessions is missing is an error."""
    texts = {
        name: text for name, text in TEXTS.items() if not name.endswith("EightPNinetyNine") and "Paired" not in name
    }
    page = written("<!-- numbers: load -->\n<!-- end -->", texts, EXPERIMENTS, METHODS)
    (row,) = (line.split(" | ") for line in page.splitlines() if "99th" in line)
    assert [cell.strip(" |") == "--" for cell in row] == [False, False, True, False]
    assert "by hand" not in page
    del texts["DjinnSessions"]
    with pytest.raises(Refusal, match="has no number DjinnSessions"):
        written("<!-- numbers: sessions -->\n<!-- end -->", texts, EXPERIMENTS, METHODS)


def test_an_experiment_is_a_row_without_its_methods():
    """Claims may be none; commands and paths are left out."""
    page = written("<!-- numbers: experiments -->\n<!-- end -->", TEXTS, EXPERIMENTS, METHODS)
    assert page.splitlines()[3:-1] == ["| E4 |  | load | 1 | 4 min | 5 min | 6 GiB | 7 kB |"]


def test_the_methods_are_the_table_of_their_page():
    """Of its words those on a kill are kept, which explain what stands in its last column."""
    page = written("<!-- numbers: methods -->\nstale\n<!-- end -->\n", TEXTS, EXPERIMENTS, METHODS)
    assert page.splitlines()[1:-1] == METHODS.splitlines()[2:5]
    page = written("<!-- numbers: methods -->\n<!-- end -->\n", TEXTS, EXPERIMENTS, f"{METHODS}\nPart: without.\n")
    assert page.splitlines()[1:-1] == [*METHODS.splitlines()[2:5], "", "Part: without."]


def test_a_number_in_prose_is_replaced_and_its_neighbours_stay(checkout, monkeypatch):
    """At least is written as a sign; writing twice changes nothing."""
    assert run(monkeypatch) == 0
    assert (checkout / "README.md").read_text() == "A 7 of ≥ 64<!-- Sessions -->.\n"
    assert run(monkeypatch, "--check") == 0


def test_a_number_below_zero_keeps_one_sign():
    """However often it is written."""
    below = {**TEXTS, "Ratio": "-0.0316"}
    once = written("from 0.5<!-- Ratio --> on, twice-0.5<!-- Ratio -->\n", below, EXPERIMENTS, METHODS)
    assert once == "from -0.0316<!-- Ratio --> on, twice-0.0316<!-- Ratio -->\n"
    assert written(once, below, EXPERIMENTS, METHODS) == once


def test_check_names_the_page_and_writes_nothing(checkout, monkeypatch, capsys):
    """Status 1, and one line."""
    before = (checkout / "README.md").read_text()
    assert run(monkeypatch, "--check") == 1
    assert capsys.readouterr().err == "error: README.md: not what python -m evaluation.text.readme writes\n"
    assert (checkout / "README.md").read_text() == before


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("1<!-- Nothing -->", "no number Nothing"),
        ("one<!-- Ratio -->", "<!-- Ratio --> marks nothing"),
        ("<!-- numbers: pears -->\n<!-- end -->", "no table is called pears"),
        ("<!-- numbers: pairs -->\n| 1 |\n", "<!-- numbers: pairs --> marks nothing"),
        ("| 1 |\n<!-- end -->", "<!-- end --> marks nothing"),
    ],
)
def test_a_mark_that_holds_nothing_is_refused(page, message):
    """A typing error does not leave a number unheld."""
    with pytest.raises(Refusal, match=re.escape(message)):
        written(page, TEXTS, EXPERIMENTS, METHODS)
