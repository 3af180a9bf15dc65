"""What the rules share: the study resolved for this machine, where runs lie, and Python for the jobs."""

import json
import os
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import update_config

# Jobs run `python3 -m evaluation...` with the interpreter that runs Snakemake, activated or not, and from any checkout.
SOURCE = Path(workflow.basedir, "src")
sys.path.insert(0, str(SOURCE))
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.getenv("PATH", os.defpath)]
    ),
    PYTHONPATH=os.pathsep.join(filter(None, [str(SOURCE), os.getenv("PYTHONPATH")])),
)

# Where the environment forbids it, each job compiles torch and transformers anew: 11 of 18 s, 20 times and more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from evaluation.study.devices import DeviceError
from evaluation.records.provenance import measuring_sources
from evaluation.study.config import check, resolve
from evaluation.study.plan import ConfigError


def as_in_a_file(value):
    """A value from `--config`, inside whose lists and maps Snakemake leaves numbers and true or false as text."""
    if isinstance(value, dict):
        return {key: as_in_a_file(part) for key, part in value.items()}
    if isinstance(value, list):
        return [as_in_a_file(part) for part in value]
    return yaml.safe_load(value) if isinstance(value, str) else value


update_config(config, as_in_a_file(dict(workflow.config_settings.config)))

try:
    STUDY = resolve(config)
except (ConfigError, DeviceError) as error:
    raise WorkflowError(str(error)) from None

# Which run the paper is drawn from is no part of the study: to change it measures nothing again.
PAPER_RUN = check(config)["paper_run"]

# What the jobs are given has a file of its own, so that a further round repeats nothing. (Not the same file, ancient():
# a rule that runs again behind an ancient input hides from Snakemake that other inputs or parameters changed.)
RESOLVED = {"study": STUDY.to_json(), "job_study": STUDY.seen_by_a_job()}

ENVIRONMENT = "../envs/evaluation.yaml"
LOCAL = "results/local"
JOB_STUDY = f"{LOCAL}/job_study.json"
# Tables that the aggregation writes next to results/summary.csv.
BESIDE_SUMMARY = ["capacity", "capabilities", "sweep", "load", "peers"]
# Published runs are read, never written: a rule that owned committed files would re-measure in every fresh clone.
PUBLISHED = sorted(
    path.parent.name for path in Path("results/published").glob("*/machine.json")
)
# Relative where they can be, so that a copy of the repository elsewhere is the same workflow.
MEASURING = [os.path.relpath(path) for path in measuring_sources()]

if PAPER_RUN not in PUBLISHED:
    logger.warning(
        f"paper_run: {PAPER_RUN} is not under results/published; only this machine's set is drawn."
    )


def run_directory(run):
    """Folder of a run by its name."""
    return LOCAL if run == "local" else f"results/published/{run}"


def paper_directory(run):
    """Where the figures of a run go."""
    return "paper_figures/local" if run == "local" else "paper_figures"


def record(job):
    """Path of the record of a job."""
    return f"{LOCAL}/raw/{job.method}/layer_{job.layer}/round_{job.round}.json"


def side_records():
    """What is measured once per run, some of it of Djinn, once per method, and once per peer."""
    of_methods = [
        f"{LOCAL}/{kind}/{method}.json"
        for kind in ("capacity", "capabilities")
        for method in STUDY.methods
    ]
    of_djinn = [f"{LOCAL}/{kind}.json" for kind in ("overhead", "load")]
    return [
        f"{LOCAL}/sweep.json",
        *of_methods,
        *(of_djinn if "djinn" in STUDY.methods else []),
        *(f"{LOCAL}/peers/{peer}.json" for peer in STUDY.peers.run),
    ]


def module(name):
    """Path of a module of the evaluation."""
    return f"src/evaluation/{name}.py"


# Higher runs first; the order is shuffled so that a drift of the machine does not look like depth.
PRIORITY = {
    record(job): len(STUDY.jobs()) - index for index, job in enumerate(STUDY.jobs())
}


def place_in_order(wildcards):
    """Snakemake priority of a measuring job."""
    name = f"{LOCAL}/raw/{wildcards.method}/layer_{wildcards.layer}/round_{wildcards.round}.json"
    return PRIORITY.get(name, 0)


# Of resume latency over depth: what draws them, and of which workload.
FIGURES = {
    "crossover": ("crossover", "activation"),
    "clocks": ("clocks", "session"),
    "crossover_decode": ("crossover", "decode"),
}


def drawn_workloads(run):
    """Those of FIGURES whose workload the run measured."""
    if run == "local":
        measured = {workload.name for workload in STUDY.workloads}
    else:
        study = json.loads(Path(run_directory(run), "study.json").read_text())
        measured = {workload["name"] for workload in study["workloads"]}
    return {
        figure: (drawing, workload)
        for figure, (drawing, workload) in FIGURES.items()
        if workload in measured
    }


def has_memory_wall(run):
    """Whether a run says of every method how device memory fills with paused sessions."""
    if run == "local":
        return STUDY.device == "cuda"
    folder = Path(run_directory(run))
    methods = json.loads((folder / "study.json").read_text())["methods"]
    return all((folder / "capacity" / f"{method}.json").exists() for method in methods)


def has_figure(run, kind):
    """Whether a run is of a GPU and has the record `kind`, load or sweep, of which there is a figure."""
    if run == "local":
        return STUDY.device == "cuda" and f"{LOCAL}/{kind}.json" in side_records()
    return Path(run_directory(run), f"{kind}.json").exists()


def shown(path, kind, run):
    """``path`` as the HTML report shows it: among this machine's or the published run's, captioned for its ``kind``."""
    category = "This machine" if run == "local" else f"Published run {run}"
    return report(
        path,
        caption=f"captions/{kind}.rst",
        category=category,
        labels={"what": Path(path).name},
    )


def paper_outputs(run):
    """Everything that is drawn and written of a run."""
    names = [
        *drawn_workloads(run),
        *(["memory_wall"] if has_memory_wall(run) else []),
        *(kind for kind in ("load", "sweep") if has_figure(run, kind)),
        "samples",
    ]
    figures = [f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")]
    return [
        f"{paper_directory(run)}/{name}"
        for name in [
            *figures,
            *(f"{table}.tex" for table in ("capabilities", "setup", "methods")),
            "numbers.tex",
            "numbers.json",
            "experiments.md",
            *(f"claims.{suffix}" for suffix in ("json", "md", "tex")),
        ]
    ]
