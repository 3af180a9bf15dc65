"""The real workflow on a tiny configuration, in a copy of the repository."""

import csv
import json
import os
import shutil

import pytest
import yaml

from tests.published import DRAWN, LEADING, PUBLISHED
from tests.workflow.settings import ROOT, TINY


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
    pictures = ("crossover", "clocks", "latency_memory", "samples", "ratios", "coded", "thinking")
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


@pytest.mark.slow
def test_second_run_has_nothing_to_do(finished, snakemake):
    """And says so."""
    again = snakemake(finished, "paper_figures", "--configfile", "tiny.yaml")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


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
    runs = 1 + len(DRAWN)
    assert (drawing["crossover"], drawing["clocks"]) == (runs, runs)  # of each run; both draw their lines with it
    assert "samples" not in drawing


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
    assert (plan["pairs_measure"], plan["side_measure"], plan["method_measure"]) == (1, 1, 1)
    assert plan["aggregate"] == 1 + len(PUBLISHED)
    assert (folder / "results/local/benchmarks/raw/pairs/round_1.tsv").exists()


@pytest.mark.slow
def test_published_records_are_never_written(finished, snakemake):
    """No rule owns a file under results/published/."""
    listed = snakemake(finished, "--summary", "paper_figures", "--configfile", "tiny.yaml").stdout
    assert "results/local/machine.json" in listed
    assert not any(line.startswith("results/published") for line in listed.splitlines())
