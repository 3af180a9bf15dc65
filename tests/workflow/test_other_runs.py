"""What the workflow plans and runs beside a whole run: one job, ten minutes, another method, several published runs."""

import itertools
import json
import re
import shutil

import pytest
import yaml

from evaluation.paper.outputs import OUTPUTS
from tests.published import DRAWN, LEADING
from tests.workflow.settings import QUICK, ROOT, TINY


@pytest.fixture
def another(copy, tmp_path):
    """A copy of the copy, with nothing of what another test has run there."""
    folder = tmp_path / "copy"
    shutil.copytree(copy, folder, ignore=shutil.ignore_patterns(".snakemake", "local*"))
    return folder


@pytest.mark.slow
def test_ten_minutes_are_a_run_of_their_own(another, snakemake, planned):
    """Measured, drawn and decided by the same rules; afterwards neither run is to be measured again."""
    (another / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    beside = ("results/local/raw/vanilla/layer_3/round_1.json", "--configfile", "tiny.yaml")
    done = snakemake(another, *beside)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Done. The records lie in results/local." in done.stderr
    (another / "quick.yaml").write_text(yaml.safe_dump({"device": "cpu", "functional": {**QUICK}}))
    settings = ("verdicts", "--configfile", "configs/ten_minutes.yaml", "quick.yaml")
    done = snakemake(another, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout + done.stderr
    assert "The run local-ten-minutes (functional CPU run: not a performance result):" in printed
    assert printed.count("  C7 supported: Paused state can be edited") == 1
    assert "9 of 9 jobs took" in printed
    assert (another / "paper_figures/local-ten-minutes/crossover.pdf").exists()
    for again in (settings, beside):
        plan = planned(another, *again)
        assert not [rule for rule in plan if rule.endswith("measure") or rule in ("study", "job_study", "probe")]


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
def test_a_method_is_one_module_and_a_workload_one_row(another, snakemake):
    """A module and its name in the configuration bring a method into table and figure; a row brings a workload.

    A lone workload has a figure of its own, whatever it is called.
    """
    (another / "src/evaluation/methods/benchmark_keep_twice.py").write_text(DUMMY)
    row = {"name": "chat", "batch": 1, "tokens": 16, "kv_cache": True, "decode_step": 2}
    config = {**TINY, "layers": [3], "methods": ["keep_twice"], "workloads": [row], "peers": {"run": []}}
    (another / "tiny.yaml").write_text(yaml.safe_dump(config))
    drawn = [f"paper_figures/local/{name}" for name in ("capabilities.tex", "numbers.tex", "crossover_decode.pdf")]
    done = snakemake(another, *drawn, "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (another / drawn[0]).read_text()
    assert "in workload chat," in table
    (line,) = (line for line in table.splitlines() if line.startswith("Keep twice &"))
    assert float(line.split("&")[1]) > 0
    assert "KeepTwiceChatReadyMsLayerThree" in (another / drawn[1]).read_text()


def test_what_measures_nothing_names_no_records(another, snakemake):
    """A table of a published run alone: there is no folder of this machine's run."""
    done = snakemake(another, f"results/tables/{DRAWN[-1]}/summary.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Done. Nothing was measured." in done.stderr
    assert "The records lie" not in done.stderr
    assert not (another / "results/local").exists()


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
