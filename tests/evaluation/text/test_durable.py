"""What a kill leaves is printed as the record says, wherever it was measured, and nowhere if it was not."""

import json
import re
import shutil

import pytest

from evaluation.analysis.aggregate import aggregate
from evaluation.analysis.durability import Durability, Kill
from evaluation.paper.outputs import OUTPUTS as REGISTRY
from evaluation.paper.plan import Plan
from evaluation.records.publish import publish
from evaluation.records.runs import durable_run, load_run, run_of_table
from evaluation.text.durable import table
from tests.evaluation.killings import SURVIVES, leave_durable_alone, put_durable
from tests.evaluation.layout import compiled
from tests.evaluation.papers import Results
from tests.evaluation.side_cells import EVERY
from tests.evaluation.synthetic import Synthetic, edit

RECIPE = Synthetic(layers=(1,), samples=6, peers=("memory_saver",), beside=EVERY)
OUTPUTS = ("durability", "capabilities", "numbers")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """This machine's run, which has the record, and the published runs h200, which has none, and h200-durable."""
    found = Results.make(tmp_path_factory.mktemp("durable"), RECIPE)
    published = found.root / "results" / "published"
    publish(found.folder, published, "h200")
    put_durable(found.folder)
    found.aggregate()
    alone = found.root / "alone"
    shutil.copytree(found.folder, alone)
    leave_durable_alone(alone)
    publish(alone, published, "h200-durable")
    for name in ("h200", "h200-durable"):
        aggregate(load_run(published / name), found.root / "results" / "tables" / name)
    return found


def cells(text):
    """The cells of each row by its name; intervals stand in rows of their own."""
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    lines = [re.sub(r"\\\\(\[\d+pt\])?$", "", line).split("&") for line in body.strip().splitlines()]
    stripped = [[cell.strip() for cell in line] for line in lines]
    return {name[0]: name[1:] for name, _ in zip(stripped[::2], stripped[1::2], strict=True)}


def numbers(folder):
    """The values of a run by the names of their macros."""
    return {one["name"]: one["value"] for one in json.loads((folder / "numbers.json").read_text())["numbers"]}


def test_medians_in_seconds_beside_their_floors(results):
    """Of every workload; usable is the way back and what the program computes then."""
    assert results.draw("durability") == 0
    found = cells(results.drawn("durable.tex").decode())
    assert list(found) == ["activation", "session"]
    assert found["activation"] == ["900", "1.10", "0.500", "2.10", "0.400", "2.15", "0.600", "0.650"]
    assert found["session"][3] == "4.20"
    caption = results.drawn("durable.tex").decode().partition("\\caption")[2]
    assert "after layer 20, run local." in caption
    assert "range of 3 samples" in caption


def test_six_samples_have_an_interval(results):
    """Fewer have a range."""
    rows = [Durability(**{**vars(row), "n": max(row.n, 6)}) for row in results.material().rows("durable", Durability)]
    assert r"95\,\% interval of 6 samples" in table(rows, functional=False)
    assert "not a performance result" in table(rows, functional=True)


def test_the_table_of_capabilities_has_a_column_more(results):
    """The edit of a saved session survives; what runs from the prompt goes on without it."""
    assert results.draw("capabilities") == 0
    lines = results.drawn("capabilities.tex").decode().splitlines()
    last = {line.split(" & ")[0]: line.removesuffix(r" \\").split(" & ")[-1] for line in lines if line.endswith(r"\\")}
    assert {name: last[name] for name in ("Vanilla PyTorch", "Recompute", "Manual, bulk", r"\sys{} (Ours)")} == {
        "Vanilla PyTorch": "No",
        "Recompute": "Part",
        "Manual, bulk": r"No$^\dagger$",
        r"\sys{} (Ours)": "Yes",
    }
    page = results.drawn("capabilities.md").decode()
    assert "survives a kill of its process" in page
    assert "In the run local a process was killed" in page
    assert "| No† |" in page
    assert "†: a form that writes its copies to a file itself goes on" in page


def test_another_run_stands_for_one_without_the_record(results):
    """It is NAME-durable, and every output says so; the run itself is as it was."""
    figures = results.root / "figures"
    assert results.draw(*OUTPUTS, run="h200", leading="h200") == 0
    assert "run h200-durable." in (figures / "durable.tex").read_text()
    assert "a kill, run h200-durable (Part" in (figures / "capabilities.tex").read_text()
    found = numbers(figures)
    assert (found["DurableRun"], found["DurableLayer"], found["DjinnSurvivesKill"]) == ("h200-durable", 20, "yes")
    assert found["RecomputeSurvivesKill"] == "without its edit"
    assert found["MemorySaverSurvivesKill"] == "no"
    assert (found["DurableSessionRestoreMs"], found["DurableFirstRestoreMs"]) == (4200, 2200)
    assert found["DurableSessionFileMb"] == 900
    assert load_run(results.root / "results" / "published" / "h200").beside.keys().isdisjoint({"durable.json"})


def test_the_only_such_run_stands_for_one_of_another_machine(results, tmp_path):
    """It is named wherever it is drawn from; of two that are of other machines neither is."""
    published = shutil.copytree(results.root / "results", tmp_path / "results") / "published"
    (published / "h200-durable").rename(published / "other-durable")
    assert durable_run(tmp_path / "results", "h200") == "other-durable"
    shutil.copytree(published / "other-durable", published / "another-durable")
    assert durable_run(tmp_path / "results", "h200") == "h200"
    (published / "other-durable").rename(published / "h200-durable")
    assert durable_run(tmp_path / "results", "h200") == "h200-durable"


def test_no_run_of_another_model_stands_for_one(results, tmp_path):
    """Its sizes and times would be those of another state."""
    published = shutil.copytree(results.root / "results", tmp_path / "results") / "published"
    (published / "h200-durable").rename(published / "other-durable")

    def smaller(study):
        study["model"]["name"] = "llama-2-7b"

    edit(published / "other-durable" / "study.json", smaller)
    assert durable_run(tmp_path / "results", "h200") == "h200"


@pytest.mark.parametrize(
    ("survives", "says"),
    [
        ("edit", "survives a kill, edit included"),
        ("session", "survives a kill, but not its edit"),
        ("nothing", "does not survive a kill"),
    ],
)
def test_the_section_says_what_came_of_it(results, tmp_path, survives, says):
    """Also where that is nothing."""
    copy = Results(root=shutil.copytree(results.root, tmp_path / "copy"))
    kills = copy.summary.with_name("kills.csv")
    kills.write_text(re.sub(r"(djinn,default,\d+),edit", rf"\1,{survives}", kills.read_text()))
    assert copy.draw("claims", "numbers", "section") == 0
    section = " ".join(copy.drawn("section.tex").decode().split())
    assert f"What \\sys{{}} saved {says} (Table" in section


def test_each_table_is_of_a_run_that_has_its_record(results, tmp_path):
    """A run that has one of both records takes from the other run what it lacks."""
    shutil.copytree(results.root / "results", tmp_path / "results")
    published = tmp_path / "results" / "published"
    shutil.move(published / "h200-durable" / "durable.json", published / "h200")
    (published / "h200-durable" / "disk.json").touch()
    assert [run_of_table(tmp_path / "results", "h200", table) for table in ("durable", "kills", "disk", "load")] == [
        *("h200", "h200"),
        *("h200-durable", "h200"),
    ]


def test_without_any_such_run_nothing_is_said(results, tmp_path):
    """No table, no column, no number: an older run is drawn as ever."""
    shutil.copytree(results.root, tmp_path / "copy")
    older = Results(root=tmp_path / "copy")
    shutil.rmtree(older.root / "results" / "published" / "h200-durable")
    assert "durable.tex" not in _files(Plan.found(older.root / "results", "h200"))
    assert older.draw("capabilities", "numbers", run="h200", leading="h200") == 0
    assert "Kill" not in (older.root / "figures" / "capabilities.tex").read_text()
    assert not [name for name in numbers(older.root / "figures") if "Durable" in name or "Survives" in name]


def test_a_run_of_the_record_alone_has_its_table_and_nothing_else(results):
    """Of what the paper has, it can fill nothing else."""
    assert _files(Plan.found(results.root / "results", "h200-durable")) == ["durable.tex"]
    assert results.draw(run="h200-durable", leading="h200") == 0


def _files(plan):
    return [file for one in REGISTRY for name in one.names(plan, leading=True) for file in one.written(name)]


def test_the_tables_say_what_survives_of_each_variant(results):
    """Primary variants first, so that they stand for their method."""
    rows = results.material().rows("kills", Kill)
    found = {(row.method, row.variant): row.survives for row in rows}
    of_methods = {(method, variant): survives for (method, variant, _), survives in SURVIVES.items()}
    assert found == {**of_methods, ("memory_saver", "default"): "nothing"}
    assert [row.variant for row in rows if row.method == "djinn"] == ["default", "kept"]


@pytest.mark.tex
def test_it_compiles_and_fits(results, tmp_path):
    """Across both columns, with times as long as they get."""
    rows = [
        Durability(**{**vars(row), **{end: getattr(row, end) * 100 for end in ("median", "ci_low", "ci_high")}})
        for row in results.material().rows("durable", Durability)
    ]
    assert "Overfull" not in compiled(tmp_path, table=table(rows, functional=True))
