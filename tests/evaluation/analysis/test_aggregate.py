"""Each run has tables of its own, and those of several are joined: the same bytes every time."""

import sys
from dataclasses import replace

import pytest

from evaluation.analysis.aggregate import TABLES, main
from evaluation.analysis.summary import Row, summarise
from evaluation.analysis.table import read_table
from evaluation.paper.outputs import TABLES as NAMES
from evaluation.records.runs import load_run
from tests.evaluation.claims.decided import BESIDE
from tests.evaluation.papers import publish
from tests.evaluation.synthetic import FRONTIER_BYTES, HISTORY_BYTES_PER_LAYER, Synthetic, record_path

SMALL = Synthetic(layers=(1, 10), samples=3, beside=BESIDE)
OTHER = Synthetic(functional=True, layers=(1,), samples=3)


@pytest.fixture
def results(tmp_path):
    """A folder with this machine's run."""
    return SMALL.write(tmp_path / "results" / "local").parent


@pytest.fixture
def command(results, monkeypatch):
    """Runs the command line on ``results``; returns its exit status."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["aggregate", *arguments, "--results", str(results)])
        return main()

    return run


def texts(folder):
    """What the tables in ``folder`` hold, by their names."""
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_run_has_a_folder_of_its_own(results, command):
    """With every table that the paper is drawn from, and nothing else is written."""
    assert command("--run", "local") == 0
    assert sorted(texts(results / "tables" / "local")) == sorted(f"{name}.csv" for name in NAMES)
    assert sorted(path.name for path in results.iterdir()) == ["local", "tables"]
    assert [path.name for path in (results / "tables").iterdir()] == ["local"]


def test_the_tables_hold_the_rows(results, command):
    """Of each kind those that its module makes of the records, to six digits; a byte count in all."""
    command("--run", "local")
    run = load_run(results / "local")
    for name, table in TABLES.items():
        rows = read_table(results / "tables" / "local" / f"{name}.csv", table.kind)
        assert len(rows) == len(table.rows(run)), name
    written = read_table(results / "tables" / "local" / "summary.csv", Row)
    for row, wanted in zip(written, summarise(run), strict=True):
        assert replace(row, median=None, ci_low=None, ci_high=None, p05=None, p95=None, min=None) == replace(
            wanted, median=None, ci_low=None, ci_high=None, p05=None, p95=None, min=None
        )
        assert row.median == pytest.approx(wanted.median, rel=1e-5)
    text = (results / "tables" / "local" / "summary.csv").read_text()
    state = FRONTIER_BYTES + 10 * HISTORY_BYTES_PER_LAYER
    assert f"session,djinn,default,10,state_bytes,true,{state},,,{state},{state},{state},1,bytes" in text
    assert f"session,djinn,default,10,frontier_bytes,true,{FRONTIER_BYTES}," in text


def test_the_same_records_give_the_same_bytes(results, command):
    """Twice in a row."""
    command("--run", "local")
    first = texts(results / "tables" / "local")
    command("--run", "local")
    assert texts(results / "tables" / "local") == first


def test_joined_tables_are_the_lines_of_both(results, command):
    """One head, then one run after the other, as they are named; the runs' own tables stay as they are."""
    publish(results.parent, "other", OTHER)
    assert [command("--run", name) for name in ("local", "other")] == [0, 0]
    before = {name: texts(results / "tables" / name) for name in ("other", "local")}
    assert command("--join", "other", "local") == 0
    joined = texts(results)
    assert joined.keys() == before["local"].keys()
    for name, text in joined.items():
        assert text == before["other"][name] + before["local"][name].partition("\n")[2], name
    assert {row.run for row in read_table(results / "summary.csv", Row)} == {"other", "local"}
    assert {name: texts(results / "tables" / name) for name in before} == before


def test_one_run_joined_is_itself(results, command):
    """In the very same bytes."""
    command("--run", "local")
    assert command("--join", "local") == 0
    assert texts(results) == texts(results / "tables" / "local")


def refused(capsys):
    """The one line that the command has printed of what it refuses."""
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_a_missing_table_is_one_message(results, command, capsys):
    """It names the file and what writes it; no table is joined, also where the others are there."""
    assert command("--join", "local") == 2
    assert "tables/local/summary.csv: missing; `python -m evaluation.analysis.aggregate`" in refused(capsys)
    command("--run", "local")
    (results / "tables" / "local" / "peers.csv").unlink()
    assert command("--join", "local") == 2
    assert "tables/local/peers.csv: missing" in refused(capsys)
    assert texts(results) == {}


def test_a_run_named_twice_is_refused(results, command, capsys):
    """Its rows could not be told apart."""
    command("--run", "local")
    assert command("--join", "local", "local") == 2
    assert "local: named twice" in refused(capsys)
    assert texts(results) == {}


def test_a_run_that_cannot_be_used_leaves_the_old_tables(results, command, capsys):
    """Exit status 2, one line that names the file, and the tables as they were."""
    command("--run", "local")
    before = texts(results / "tables" / "local")
    record_path(results / "local", "vanilla", 1).write_text("{")
    assert command("--run", "local") == 2
    assert "vanilla/layer_1/round_1.json" in refused(capsys)
    assert texts(results / "tables" / "local") == before


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "published/nowhere: no such run"), ("../local", "run '../local': not a name")]
)
def test_a_run_that_is_not_there_is_refused(results, command, capsys, name, message):
    """By its folder, or as no name; nothing is written."""
    assert command("--run", name) == 2
    assert message in refused(capsys)
    assert not (results / "tables").exists()


@pytest.mark.parametrize("arguments", [[], ["--run", "local", "--join", "local"]])
def test_a_run_is_aggregated_or_runs_are_joined(command, arguments, capsys):
    """One of the two, and not both."""
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code == 2
    assert "--run" in capsys.readouterr().err
