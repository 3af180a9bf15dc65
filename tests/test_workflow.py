"""The real workflow on a tiny configuration, in a copy of the repository."""

import csv
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from evaluation.paper.outputs import OUTPUTS
from tests.published import LEADING

ROOT = Path(__file__).parents[1]
TINY = {
    "device": "cpu",
    "layers": [3],
    # All but E11, whose two processes compute and import for 25 s.
    "experiments": [
        *("pairs", "capacity", "capabilities", "editing", "disk", "load", "overhead", "sweep", "thinking"),
        *("neighbour", "peers"),
    ],
    "workloads": [
        {"name": "activation", "batch": 1, "tokens": 16, "kv_cache": False},
        {"name": "session", "batch": 1, "tokens": 16, "kv_cache": True},
    ],
    "functional": {
        "tokens": 16,
        "samples": 2,
        "other_samples": 2,
        "warmup_samples": 0,
        "validation_samples": 1,
        "think_time_ms": 0,
        "pairs": {"rounds": 2, "blocks": 1, "layers": [3]},
        "overhead": {"samples": 2, "decode_steps": 1},
        "editing": {"blocks": 1},
        "disk": {"sessions": 3, "host_arena_gib": 0.0001},
        "load": [{"sessions": 2, "resumes": 2}],
        "capacity": {"sessions": 2, "processes": 1},
        "sweep": {"layers": [1, 3], "samples": 2, "sizes": [{"batch": 1, "tokens": 8}]},
        "thinking": {"waits": [{"think_time_ms": 0, "blocks": 1}]},
        "neighbour": {"blocks": 1, "tokens": 2, "swaps": 1},
    },
}
# The same for configs/ten_minutes.yaml, which names its own layers.
QUICK = {key: TINY["functional"][key] for key in ("samples", "other_samples", "warmup_samples", "think_time_ms")} | {
    "tokens": 16
}
PARTS = (
    "Snakefile",
    "config.yaml",
    "configs",
    "rules",
    "src",
    "examples",
    "envs",
    "profiles",
    "results/published",
    "paper_figures",
)


@pytest.fixture(scope="module")
def snakemake(warm):
    """Runs Snakemake in a folder and returns the finished process; its output is text."""
    return lambda folder, *arguments: warm.run("-m", "snakemake", "--cores", "1", *arguments, folder=folder)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what the workflow needs, with nothing of this machine's earlier runs."""
    folder = tmp_path_factory.mktemp("copy")
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "local", "*.egg-info"))
        elif source.exists():
            target.write_bytes(source.read_bytes())
    return folder


@pytest.fixture(scope="module")
def finished(copy, snakemake):
    """The copy after the main job."""
    (copy / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = snakemake(copy, "paper_figures", "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (copy / "terminal.txt").write_text(done.stdout + done.stderr)
    return copy


@pytest.mark.slow
def test_main_job_measures_and_draws(finished):
    """Every method and layer has its record, every figure and table is there and marked as functional."""
    records = sorted(
        path.relative_to(finished / "results/local/raw").as_posix()
        for path in (finished / "results/local/raw").rglob("*.json")
    )
    methods = ("djinn", "manual_offload", "recompute", "vanilla")
    pairs = [f"pairs/round_{number}.json" for number in (1, 2)]
    assert records == sorted([*(f"{method}/layer_3/round_1.json" for method in methods), *pairs])
    of_methods = [f"{kind}/{method}" for kind in ("capacity", "capabilities") for method in methods]
    of_peers = ("peers/memory_saver", "peers/process_checkpoint")
    for name in (
        "overhead",
        "load",
        "sweep",
        "thinking",
        "neighbour",
        "editing",
        "disk",
        *of_peers,
        *of_methods,
    ):
        assert json.loads((finished / f"results/local/{name}.json").read_text())["cells"]
    with (finished / "results/summary.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "local"]
    assert {row["method"] for row in rows if row["metric"] == "ready_ms"} == set(methods)
    assert any(row["metric"] == "paired_ready_ratio" for row in rows)
    with (finished / "results/load.csv").open() as file:  # has the rows, of which nothing is drawn
        loaded = [(row["method"], row["metric"]) for row in csv.DictReader(file) if row["run"] == "local"]
    clocks = [(method, f"{clock}_ms") for method in ("djinn", "manual_offload") for clock in ("ready", "resident")]
    assert set(loaded) >= {*clocks, ("djinn", "paired_ready_ratio"), ("djinn", "paired_ready_ms")}
    with (finished / "results/overhead.csv").open() as file:
        began = {row["began"] for row in csv.DictReader(file) if row["run"] == "local"}
    assert began == {"", "djinn", "bare"}
    drawn = {path.name for path in (finished / "paper_figures/local").iterdir()}
    pictures = ("crossover", "clocks", "latency_memory", "samples", "ratios", "thinking")
    figures = {f"{name}.{suffix}" for name in pictures for suffix in ("pdf", "png")}
    written = (
        "capabilities",
        "setup",
        "methods",
        "numbers",
        "pairs",
        "neighbour",
        "editing",
        "latency_memory",
    )
    written += ("verdicts", "section", "appendix")
    tables = {f"{name}.tex" for name in written}
    claims = {f"claims.{suffix}" for suffix in ("json", "md", "tex")} | {"claims_short.tex"}
    pages = {f"{name}.md" for name in ("capabilities", "experiments", "reproduction")}
    assert drawn == {*figures, *claims, *tables, *pages, "numbers.json"}
    assert "no benchmark file" not in (finished / "paper_figures/local/experiments.md").read_text()
    decided = json.loads((finished / "paper_figures/local/claims.json").read_text())
    verdicts = {claim["id"]: claim["verdict"] for claim in decided["claims"]}
    assert verdicts == {**dict.fromkeys(("C1", "C2", "C3", "C4", "C5", "C6"), "undecided"),
                        **dict.fromkeys(("C7", "C8"), "supported")}  # fmt: skip
    table = (finished / "paper_figures/local/capabilities.tex").read_text()
    assert "functional" in table.lower()
    (ours,) = (line for line in table.splitlines() if line.startswith("\\sys{} (Ours) &"))
    assert "& $\\geq$\\,2 & {\\scriptsize } & Yes, " in ours


@pytest.mark.slow
def test_the_terminal_is_calm(finished):
    """What is planned, a line for each job that measures, where it writes, and at the end what was decided."""
    lines = (finished / "terminal.txt").read_text().splitlines()
    assert any(line.startswith("23 jobs of measuring, ") for line in lines)
    numbered = [line for line in lines if line.startswith("[")]
    assert [line.split()[0] for line in numbered] == [f"[{number}/23]" for number in range(1, 24)]
    assert any(line.endswith("] Djinn, layer 3") for line in numbered)
    assert "writing paper_figures/local" in lines
    end = lines[lines.index("The run local (functional CPU run: not a performance result):") :]
    assert "Look first at paper_figures/local/reproduction.md: this run beside the authors'." in end
    assert len(lines) < 60
    assert max(map(len, lines)) < 130


@pytest.mark.slow
def test_the_paper_s_set_in_git_is_what_the_published_records_give(finished):
    """Redrawn byte by byte, nothing more and nothing less."""
    drawn, kept = (
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in (folder / "paper_figures").rglob("*")
            if path.is_file() and "local" not in path.relative_to(folder).parts
        }
        for folder in (finished, ROOT)
    )
    assert sorted(drawn) == sorted(kept)
    assert [name for name in kept if drawn[name] != kept[name]] == []
    times = {path.stat().st_mtime for path in (finished / "paper_figures").iterdir() if path.suffix == ".pdf"}
    tables = finished / "results/tables" / LEADING / "summary.csv"
    assert min(times) > tables.stat().st_mtime  # they are not the copies


@pytest.mark.slow
def test_report_shows_what_was_drawn(finished, snakemake, warm, tmp_path):
    """One HTML page with the captions of either run, by Snakemake and by ``make report``."""
    made = warm.run("-m", "evaluation.paper.report", folder=finished, PYTHONPATH=str(finished / "src"))
    assert made.returncode == 0, made.stdout + made.stderr
    assert "python -m evaluation.paper reproduction --run local" in (finished / "report.html").read_text()
    page = tmp_path / "report.html"
    done = snakemake(finished, "--report", str(page), "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    for words in ("This machine", f"Published run {LEADING}", "crossover.png", "The digest of rules and margins"):
        assert words in text
    assert "workload activation: how long until the device holds" in " ".join(text.split())
    assert f"beside the published run {LEADING}: claim by claim" in text


def graph(text):
    """Nodes and edges of a flowchart in Mermaid's language: ``a & b --> c["d<br/>e"]`` are four edges."""
    names = {one: label.strip('"').split("<br/>") for one, label in re.findall(r"(\w+)\[(.+?)\]", text)}
    edges = set()
    for line in re.sub(r"\[.+?\]", "", text).splitlines():
        sides = [[name.strip() for name in side.split("&")] for side in line.split("-->")]
        sides = [[name for one in side for name in names.get(one, [one])] for side in sides]
        for sources, targets in itertools.pairwise(sides):
            edges |= set(itertools.product(sources, targets))
    return {name for edge in edges for name in edge}, edges


def test_the_graph_of_the_page_is_the_workflow_s(copy, snakemake):
    """Every rule and every edge, those of all outputs under one name."""
    (drawn,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs/running.md").read_text(), re.DOTALL)
    text = snakemake(copy, "--rulegraph", "mermaid-js").stdout
    for output in OUTPUTS:
        text = text.replace(f"[{output.name}]", "[outputs]")
    rules, edges = graph(text)
    assert graph(drawn) == (rules, edges - {("outputs", "outputs")})  # claims before the page that compares them


@pytest.mark.slow
def test_second_run_has_nothing_to_do(finished, snakemake):
    """And says so."""
    again = snakemake(finished, "paper_figures", "--configfile", "tiny.yaml")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.fixture
def planned(snakemake):
    """How many jobs of which rule Snakemake would run in a folder."""

    def plan(folder, *arguments):
        done = snakemake(folder, "-n", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        words = [line.split() for line in (done.stdout + done.stderr).splitlines()]
        return {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdigit()}

    return plan


@pytest.mark.slow
def test_a_change_measures_again_what_reads_it(finished, planned):
    """A further round only that round, a number of one kind of job only that kind, and a model everything."""

    def plan(top=None, **changes):
        changed = finished / "changed.yaml"
        changed.write_text(yaml.safe_dump({**TINY, **(top or {}), "functional": {**TINY["functional"], **changes}}))
        found = planned(finished, "paper_figures", "--configfile", "changed.yaml")
        measuring = ("measure", "pairs_measure", "side_measure", "method_measure", "peer_measure")
        return [*(found.get(rule, 0) for rule in measuring), found["aggregate"]]

    assert plan(rounds=2) == [4, 0, 0, 0, 0, 1]  # the published runs have tables of their own
    assert plan({"strict": True}) == [0, 0, 0, 0, 0, 1]
    assert plan({"layers": [2, 3]}) == [4, 0, 0, 0, 0, 1]
    assert plan(samples=3) == [4, 0, 0, 0, 0, 1]
    assert plan(pairs={"rounds": 3, "blocks": 1, "layers": [3]}) == [0, 1, 0, 0, 0, 1]
    assert plan(pairs={"rounds": 2, "blocks": 2, "layers": [3]}) == [0, 2, 0, 0, 0, 1]
    assert plan(load=[{"sessions": 2, "resumes": 3}]) == [0, 0, 1, 0, 0, 1]
    assert plan({"model": {"seed": 1}}) == [4, 2, 7, 8, 2, 1]


@pytest.mark.slow
def test_edits_rerun_what_depends_on_them(finished, planned):
    """A paper tool redraws and measures nothing; measuring code measures everything again."""

    def planned_after_edit(module, target="paper_figures"):
        path = finished / "src" / module
        original = path.read_text()
        path.write_text(original + "\n# edited\n")
        try:
            return planned(finished, target, "--configfile", "tiny.yaml")
        finally:
            path.write_text(original)

    for target in ("paper_figures", "paper_figures/local/crossover.pdf"):  # a run is measured by one state of the code
        plan = planned_after_edit("djinn/memory/transfer.py", target)
        assert (plan["measure"], plan["side_measure"], plan["method_measure"]) == (4, 7, 8)
    drawing = planned_after_edit("evaluation/figures/lines.py")
    assert "measure" not in drawing
    assert (drawing["crossover"], drawing["clocks"]) == (2, 2)  # of either run; both draw their lines with it
    assert "samples" not in drawing


DUMMY = '''
"""Keeps everything, twice: a method of somebody else's."""

import sys

from evaluation.methods.benchmark_vanilla import Vanilla
from evaluation.measure.job import run_job


def variants(workload):
    return [Vanilla]


if __name__ == "__main__":
    sys.exit(run_job("keep_twice", __doc__, variants))
'''


@pytest.mark.slow
def test_a_method_is_one_module_and_a_workload_one_row(copy, snakemake, tmp_path):
    """A module and its name in the configuration bring a method into table and figure; a row brings a workload.

    A lone workload has a figure of its own, whatever it is called.
    """
    folder = tmp_path / "copy"
    shutil.copytree(copy, folder, ignore=shutil.ignore_patterns(".snakemake", "local"))
    (folder / "src/evaluation/methods/benchmark_keep_twice.py").write_text(DUMMY)
    row = {"name": "chat", "batch": 1, "tokens": 16, "kv_cache": True, "decode_step": 2}
    config = {**TINY, "layers": [3], "methods": ["keep_twice"], "workloads": [row], "peers": {"run": []}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    drawn = [f"paper_figures/local/{name}" for name in ("capabilities.tex", "numbers.tex", "crossover_decode.pdf")]
    done = snakemake(folder, *drawn, "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (folder / drawn[0]).read_text()
    assert "in workload chat," in table
    (line,) = (line for line in table.splitlines() if line.startswith("Keep twice &"))
    assert float(line.split("&")[1]) > 0
    assert "KeepTwiceChatReadyMsLayerThree" in (folder / drawn[1]).read_text()


def test_several_runs_may_be_drawn_and_the_first_leads(copy, snakemake, tmp_path):
    """The leading run's outputs have the folder, any other's a folder of its name; nothing is measured for them."""
    second = copy / "results" / "published" / "second"
    shutil.copytree(copy / "results" / "published" / LEADING, second)
    try:
        (tmp_path / "two.yaml").write_text(json.dumps({"paper_runs": ["second", LEADING]}))
        done = snakemake(copy, "-n", "published_figures", "--configfile", str(tmp_path / "two.yaml"))
    finally:
        shutil.rmtree(second)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert "paper_figures/claims.json" in text
    assert f"paper_figures/{LEADING}/claims.json" in text
    assert "results/local/raw" not in text


@pytest.fixture
def fresh(tmp_path):
    """A new checkout: of measuring files nothing but a copy of the former run, and all sources are newer than it."""

    def checkout(folder):
        target = tmp_path / "fresh"
        shutil.copytree(
            folder, target, ignore=shutil.ignore_patterns(".snakemake", "local*", "tables", "*.csv", "logs")
        )
        shutil.copytree(folder / "results/local", target / "former")
        for path in (target / "former").rglob("*"):
            os.utime(path, (10**9, 10**9))
        return target

    return checkout


@pytest.mark.slow
def test_a_run_goes_on_in_a_fresh_checkout(finished, fresh, warm, snakemake, planned):
    """What a former piece measured is not planned again, what it left is; what an interrupted job left is not taken."""
    folder = fresh(finished)
    for place in ("load.json", "raw/pairs/round_2.json"):
        (folder / "former" / place).unlink()
    (folder / "former" / "capacity" / "djinn.json").write_text('{"kind": "capa')
    done = snakemake(folder, "studies", "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    source = str(folder / "src")
    done = warm.run("-m", "evaluation.records.carry", "--from", "former", folder=folder, PYTHONPATH=source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "20 records taken, 0 here already, 1 refused"
    assert "refused former/capacity/djinn.json: not readable as JSON" in done.stdout
    plan = planned(folder, "paper_figures", "--configfile", "tiny.yaml")
    measuring = {rule: plan.get(rule, 0) for rule in ("probe", "measure", "peer_measure", "study", "job_study")}
    assert measuring == dict.fromkeys(measuring, 0)
    assert (plan["pairs_measure"], plan["side_measure"], plan["method_measure"], plan["aggregate"]) == (1, 1, 1, 3)
    assert (folder / "results/local/benchmarks/raw/pairs/round_1.tsv").exists()


@pytest.mark.slow
def test_ten_minutes_are_a_run_of_their_own(finished, snakemake, planned):
    """Measured, drawn and decided by the same rules; afterwards neither run is to be measured again."""
    (finished / "quick.yaml").write_text(yaml.safe_dump({"device": "cpu", "functional": {**QUICK}}))
    settings = ("verdicts", "--configfile", "configs/ten_minutes.yaml", "quick.yaml")
    done = snakemake(finished, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout + done.stderr
    assert "The run local-ten-minutes (functional CPU run: not a performance result):" in printed
    assert printed.count("  C7 supported: Paused state can be edited") == 1
    assert "9 of 9 jobs took" in printed
    assert (finished / "paper_figures/local-ten-minutes/crossover.pdf").exists()
    for again in (settings, ("paper_figures", "--configfile", "tiny.yaml")):
        plan = planned(finished, *again)
        assert not [rule for rule in plan if rule.endswith("measure") or rule in ("study", "job_study", "probe")]


@pytest.mark.slow
def test_published_records_are_never_written(finished, snakemake):
    """No rule owns a file under results/published/."""
    listed = snakemake(finished, "--summary", "paper_figures", "--configfile", "tiny.yaml").stdout
    assert "results/local/machine.json" in listed
    assert not any(line.startswith("results/published") for line in listed.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smaples": 3}, "config: smaples is not a known key."),
        ({"device": "cpu", "layers": [99]}, "config: layers: 99 is beyond llama-2-tiny; allowed: 1 to 40, or auto"),
    ],
)
def test_bad_configuration_stops_before_any_job(copy, snakemake, tmp_path, change, message):
    """One clear message, exit status 1, and nothing has run."""
    (tmp_path / "bad.yaml").write_text(json.dumps(change))
    done = snakemake(copy, "paper_figures", "--configfile", str(tmp_path / "bad.yaml"))
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "localrule" not in done.stdout + done.stderr
