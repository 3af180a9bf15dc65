"""The registry says what there is, from what it is made, and for which runs."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.command import Refusal
from evaluation.paper.outputs import OUTPUTS, Output
from evaluation.paper.plan import Plan, outputs_folder
from evaluation.paper.sources import SOURCE, sources
from evaluation.records.runs import is_own
from tests.evaluation.layout import pdf_text, width_pt
from tests.evaluation.paired import SyntheticPairs
from tests.evaluation.papers import Results, publish
from tests.evaluation.synthetic import Synthetic
from tests.published import DRAWN, LEADING

ROOT = Path(__file__).parents[3]
FIGURES = ROOT / "paper_figures"
BY_NAME = {output.name: output for output in OUTPUTS}


def plan(*workloads, functional=False, methods=("djinn",), beside=("load.json", "sweep.json", "capacity/djinn.json")):
    """A run of these workloads, each a letter: a(ctivation), s(ession), d(ecode), and its name."""
    kinds = {"a": {"kv_cache": False}, "s": {"kv_cache": True}, "d": {"kv_cache": True, "decode_step": 1}}
    study = {"methods": list(methods), "workloads": [{"name": name, **kinds[kind]} for kind, name in workloads]}
    return Plan(name="local", results=Path("results"), study=study, functional=functional, beside=beside)


def written(output, run, *, leading):
    return [file for name in output.names(run, leading=leading) for file in output.written(name)]


def names(run):
    return [name for output in OUTPUTS for name in output.names(run, leading=False)]


@pytest.mark.parametrize(
    ("workloads", "figures"),
    [
        ([("s", "chat")], ["clocks"]),
        ([("a", "chat")], ["crossover"]),
        ([("d", "chat")], ["crossover_decode"]),
        ([("a", "one"), ("a", "two"), ("s", "three")], ["crossover", "crossover-two", "clocks"]),
    ],
)
def test_a_figure_goes_by_the_properties_of_a_workload(workloads, figures):
    """And never by its name; of the same kind each further one has a figure with its name."""
    chosen = {"crossover", "clocks", "crossover_decode"}
    assert [name for name in names(plan(*workloads)) if name.partition("-")[0] in chosen] == figures


def test_a_further_workload_has_files_of_its_own():
    """Its name stands before the suffix."""
    assert BY_NAME["crossover"].written("crossover-two") == ["crossover-two.pdf", "crossover-two.png"]
    assert BY_NAME["crossover"].written("crossover") == ["crossover.pdf", "crossover.png"]
    assert BY_NAME["crossover"].patterns("x/") == ["x/crossover{which}.pdf", "x/crossover{which}.png"]


@pytest.mark.parametrize("name", ["memory_wall", "load", "sweep"])
def test_what_needs_a_gpu_or_a_record_is_not_planned_without(name):
    """A functional run has none of it, nor has one that lacks the record."""
    whole = plan(("s", "chat"))
    assert name in names(whole)
    assert name not in names(plan(("s", "chat"), functional=True))
    assert name not in names(plan(("s", "chat"), beside=()))


def test_pairs_are_drawn_of_runs_that_hold_them(tmp_path):
    """A published run without them has neither the table nor the figure; one with a record has both."""
    recipe = Synthetic(layers=(1,), samples=1, methods=("manual_offload", "djinn"))
    for name, pairs in (("alone", None), ("paired", SyntheticPairs())):
        publish(tmp_path, name, replace(recipe, pairs=pairs))
        wanted = {"pairs", "ratios", "coded"} & set(names(Plan.found(tmp_path / "results", name)))
        assert wanted == ({"pairs", "ratios", "coded"} if pairs else set())


@pytest.mark.parametrize("asks", [{}, {"coded": True, "pairs": {**SyntheticPairs().asked(), "forms": "plain"}}])
def test_coded_state_is_drawn_of_runs_that_have_it(tmp_path, asks):
    """Other pairs are there without it."""
    pairs = SyntheticPairs(coded=False)
    recipe = Synthetic(layers=(1,), samples=1, methods=("manual_offload", "djinn"), pairs=pairs, asks=asks)
    publish(tmp_path, "paired", recipe)
    assert {"pairs", "ratios", "coded"} & set(names(Plan.found(tmp_path / "results", "paired"))) == {"pairs", "ratios"}


def test_the_leading_run_has_the_folder_and_any_other_one_of_its_name():
    """So that several published runs, and this machine's, lie side by side."""
    where = {run: outputs_folder(Path("f"), run, "a100") for run in ("a100", "b200", "local")}
    assert where == {"a100": Path("f"), "b200": Path("f/b200"), "local": Path("f/local")}
    assert outputs_folder(Path("f"), "local", None) == Path("f/local")


def test_the_folder_in_git_holds_what_the_registry_names():
    """Of each run that is drawn, the leading one's beside the page; nothing else."""
    files = {FIGURES / "README.md"}
    for name in DRAWN:
        run, folder = Plan.found(ROOT / "results", name), outputs_folder(FIGURES, name, LEADING)
        found = [one for output in OUTPUTS for one in written(output, run, leading=name != LEADING)]
        files |= {folder / file for file in found}
    kept = (path for path in FIGURES.rglob("*") if path.is_file())
    assert {path for path in kept if not is_own(path.relative_to(FIGURES).parts[0])} == files


def test_every_output_has_a_caption():
    """Which the HTML report shows."""
    for output in OUTPUTS:
        assert (ROOT / "rules" / "captions" / output.caption).read_text().strip(), output.name


def test_a_caption_names_what_its_rule_knows():
    """A name that the rule has no parameter for would print nothing."""
    params = (ROOT / "rules" / "paper.smk").read_text().partition("params:")[2].partition("shell:")[0]
    known = set(re.findall(r"^ +(\w+)=", params, re.MULTILINE))
    assert {"run", "leading"} < known
    for output in OUTPUTS:
        caption = (ROOT / "rules" / "captions" / output.caption).read_text()
        assert set(re.findall(r"snakemake\.params\.(\w+)", caption)) <= known, output.name


OPENED = """
import json, runpy, sys

opened = set()
sys.addaudithook(lambda event, given: opened.add(str(given[0])) if event == "open" else None)
sys.argv = sys.argv[1:]
try:
    runpy.run_module("evaluation.paper", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(json.dumps(sorted(opened)), end.code)
"""


@pytest.fixture
def opened(warm, drawing):
    """Says which files below the sources, the results and the examples drawing an output of a run opens."""
    (drawing.root / "opened.py").write_text(OPENED)
    # Without compiled code, for which a module's source would not be opened.
    settings = {
        "PYTHONPYCACHEPREFIX": str(drawing.root / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(SOURCE),
    }

    def files(name, run):
        arguments = ["paper", name, "--run", run, "--leading", "", "--results", str(drawing.root / "results")]
        figures = ["--figures", str(drawing.root / "figures")]
        done = warm.run("-m", "opened", *arguments, *figures, folder=drawing.root, **settings)
        listed, _, status = done.stdout.splitlines()[-1].rpartition(" ")
        assert status.strip() == "0", done.stderr
        found = {Path(path) for path in json.loads(listed) if not path.startswith("<")}
        places = (SOURCE / "evaluation", drawing.root / "results", ROOT / "examples")
        return {path for path in found if path.is_file() and any(path.is_relative_to(place) for place in places)}

    return files


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """A run on a GPU with all there is to be drawn."""
    return Results.make(tmp_path_factory.mktemp("drawing"), Synthetic(layers=(1, 20, 40), samples=6))


@pytest.mark.parametrize("name", ["crossover", "capabilities", "numbers", "experiments", "claims"])
def test_the_inputs_of_a_rule_are_the_files_that_its_process_opens(drawing, opened, name):
    """Every module, template, table and record; the table that stands for all records is opened for none."""
    run = Plan.found(drawing.root / "results", "local")
    output = BY_NAME[name]
    read = opened(name, "local")
    assert SOURCE / "evaluation" / "paper" / "__main__.py" in read
    planned = {*output.sources(), *output.inputs(run, None, lambda run: drawing.root)}
    records = {*run.records, *run.costs} if "records" in output.reads else set()
    assert {path.name for path in read - planned - records} == set()
    # A module may import what only another output of it uses; a table is there to be read.
    tables = {path for path in planned - read if path.suffix == ".csv"}
    assert tables <= ({run.checked} if records else set())


def test_imports_are_followed_wherever_they_stand(tmp_path, monkeypatch):
    """Inside functions, of names and of modules, through packages; and the templates that a module names."""
    code = {
        "evaluation/__init__.py": "",
        "evaluation/a/__init__.py": "",
        "evaluation/a/one.py": "def f():\n    from evaluation.b import two\n    return 'page.tex.j2'\n",
        "evaluation/b/__init__.py": "import evaluation.c\n",
        "evaluation/b/two.py": "from evaluation.c.three import name\n",
        "evaluation/c/__init__.py": "",
        "evaluation/c/three.py": "import os\nname = '.j2'\n",
        "evaluation/c/unused.py": "",
    }
    for name, text in code.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("evaluation.paper.sources.SOURCE", tmp_path)
    found = {path.relative_to(tmp_path).as_posix() for path in sources("evaluation.a.one")}
    assert found == {*code, "evaluation/text/templates/page.tex.j2"} - {"evaluation/c/unused.py"}


def test_planning_imports_nothing_heavy():
    """Snakemake reads the registry for every dry run, and says what is planned."""
    modules = "evaluation.paper.outputs, evaluation.paper.progress"
    code = f"import sys, {modules}; print(*{{'torch', 'pandas', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_is_not_there_is_refused_before_anything_is_written(tmp_path, capsys):
    """An output or a run of no such name, with the names that there are."""
    drawing = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=2))
    assert drawing.draw("crossover", "kurve") == 2
    assert "run local has no output 'kurve'. Allowed: crossover, clocks," in capsys.readouterr().err
    assert drawing.draw(run="b200") == 2
    assert "b200: no such run" in capsys.readouterr().err
    assert not (drawing.root / "figures").exists()
    with pytest.raises(Refusal, match="not a name"):
        Plan.found(drawing.root / "results", "../local")


def test_all_is_drawn_where_nothing_is_named(tmp_path, monkeypatch):
    """By one reading of the run; what needs another run is left out where there is none."""
    results = Results.make(tmp_path, Synthetic(layers=(1, 40), samples=6))
    read = []
    real = sys.modules["evaluation.analysis.material"].load_run
    monkeypatch.setattr("evaluation.analysis.material.load_run", lambda folder: read.append(folder) or real(folder))
    for name in ("memory_wall", "load", "sweep"):  # of which this run has no cells
        (results.folder / {"memory_wall": "capacity/djinn.json"}.get(name, f"{name}.json")).unlink()
    results.aggregate()
    assert results.draw() == 0
    run = Plan.found(tmp_path / "results", "local")
    wanted = {file for output in OUTPUTS for one in output.names(run, leading=False) for file in output.written(one)}
    assert {path.name for path in (tmp_path / "figures" / "local").iterdir()} == wanted
    assert read == [results.folder]


@pytest.mark.parametrize(
    "path",
    [path for run in DRAWN for path in sorted(outputs_folder(FIGURES, run, LEADING).glob("*.pdf"))],
    ids=lambda path: path.relative_to(FIGURES).as_posix(),
)
def test_a_published_figure_is_a_column_or_two_with_embedded_fonts(path):
    """No Type 3 font, and nothing that depends on the time; that they are redrawn byte for byte the workflow holds."""
    text = pdf_text(path.read_bytes())
    assert b"/Type3" not in text
    assert b"/FontFile2" in text
    assert b"CreationDate" not in text
    both = path.stem in ("clocks", "coded", "crossover", "crossover_decode", "ratios", "samples", "thinking")
    assert width_pt(path.read_bytes()) == pytest.approx((7 if both else 3.335) * 72, abs=0.01)


def test_redrawing_does_not_depend_on_the_caller(drawing, tmp_path):
    """Another hash seed, date and the user's settings of matplotlib give the same bytes."""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\npdf.fonttype: 3\nsavefig.dpi: 50\n")
    settings = {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "0", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    pictures = ("crossover", "clocks", "samples")
    assert drawing.draw(*pictures) == 0
    arguments = ["--run", "local", "--results", drawing.root / "results", "--figures", tmp_path, "--leading", ""]
    subprocess.run(
        [sys.executable, "-m", "evaluation.paper", *pictures, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **settings}, check=True,
    )  # fmt: skip
    for name in pictures:
        for suffix in ("pdf", "png"):
            assert (tmp_path / "local" / f"{name}.{suffix}").read_bytes() == drawing.drawn(f"{name}.{suffix}")


def test_an_output_is_a_row():
    """Each names a module that is there, whose function the command calls, and no name or file stands twice."""
    files = [file for output in OUTPUTS for file in output.files]
    assert len(set(files)) == len(files)
    assert len(BY_NAME) == len(OUTPUTS)
    for output in OUTPUTS:
        assert isinstance(output, Output)
        module = SOURCE.joinpath("evaluation", *output.module.split(".")).with_suffix(".py")
        assert "\ndef files(material: Material, workload: str)" in module.read_text(), output.name
