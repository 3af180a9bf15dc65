"""What the rules share: the study resolved for this machine, where runs lie, and Python for the jobs."""

import json
import os
import sys
from functools import partial
from pathlib import Path

from snakemake.exceptions import WorkflowError
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

from evaluation.command import Refusal
from evaluation.paper.outputs import OUTPUTS
from evaluation.paper.plan import TABLES, Plan, outputs_folder
from evaluation.paper.sources import sources
from evaluation.records.provenance import measuring_sources
from evaluation.records.runs import side_records
from evaluation.study.config import check, check_paper_runs, peers
from evaluation.study.plan import READS
from evaluation.study.read import load_config, setting
from evaluation.study.resolve import resolve


def configured(given):
    """config.yaml, under the files of `--configfile` and the settings of `--config`.

    Snakemake reads them too, but takes the last of two equal keys, and leaves text inside the lists of `--config`.
    """
    replaced = given.configfiles and given.replace_workflow_config
    files = [*([] if replaced else ["config.yaml"]), *given.configfiles]
    found = {}
    for part in [
        *(load_config(Path(file)) for file in files),
        *(setting(argument) for argument in given.config_args or ()),
    ]:
        update_config(found, part)
    return found


# Published runs are read, never written: a rule that owned committed files would re-measure in every fresh clone.
PUBLISHED = sorted(
    path.parent.name for path in Path("results/published").glob("*/machine.json")
)

try:
    configuration = configured(workflow.config_settings)
    STUDY = resolve(configuration)
    # Which runs the paper is drawn from is no part of the study: to change it measures nothing again.
    PAPER_RUNS = check(configuration).paper_runs
    # This machine's run: another study may have another, so that neither is measured again for the other's sake.
    RUN = check(configuration).run
    check_paper_runs(PAPER_RUNS, PUBLISHED)
    PLANS = {run: Plan.found(Path("results"), run) for run in PUBLISHED}
except Refusal as error:
    raise WorkflowError(str(error)) from None

# A resource, because Snakemake does not compare these with those of the last run: to be strict or not decides whether
# there is a record, and a record that is there needs no other.
STRICT = int(STUDY.strict)

# Of the host, in MiB, for a scheduler that asks; where Snakemake itself runs the jobs nothing is limited by it. Python
# with torch and the libraries of a GPU takes most of the first term: 4 of the 7 GiB that a process of the pairs took.
PROCESS_MB = 1024 * (2 if STUDY.functional else 8)
ARENAS = 2 + STUDY.coded  # link idle and attended, and coded state
TIMED_MB = PROCESS_MB + int(1024 * ARENAS * STUDY.host_arena_gib)
CROWD_MB = PROCESS_MB + int(1024 * STUDY.load_host_arena_gib)
PEER_MB = TIMED_MB + (STUDY.architecture.weight_bytes(STUDY.model.dtype) >> 20)


def side_mb(wildcards):
    """The same of the experiments that are told by their kind."""
    # E11 has a second process, with a second runtime for the variants that are asked.
    if wildcards.kind == "durable":
        return 2 * TIMED_MB
    if wildcards.kind == "disk":
        return PROCESS_MB + int(1024 * STUDY.disk.host_arena_gib)
    return CROWD_MB if wildcards.kind in ("load", "capacity") else TIMED_MB


ENVIRONMENT = "../envs/evaluation.yaml"
LOCAL = f"results/{RUN}"
# Relative where they can be, so that a copy of the repository elsewhere is the same workflow.
MEASURING = [os.path.relpath(path) for path in measuring_sources()]
EXAMPLES = sorted(map(str, Path("examples").glob("*.py")))

# The run that the paper is drawn from: its outputs have paper_figures/ for themselves.
LEADING = next(iter(PAPER_RUNS), None)
OUTPUTS_OF = {
    str(outputs_folder(Path("paper_figures"), run, LEADING)): run
    for run in [RUN, *PAPER_RUNS]
}

PLANS[RUN] = Plan(
    name=RUN,
    results=Path("results"),
    study=STUDY.published(),
    functional=STUDY.functional,
    beside=tuple(side_records(STUDY.published())),
)


def record(job):
    """Path of the record of a job."""
    return f"{LOCAL}/raw/{job.method}/layer_{job.layer}/round_{job.round}.json"


def relative(paths):
    """As text, and relative where they can be, so that a copy of the repository elsewhere is the same workflow."""
    return [
        os.path.relpath(path) if path.is_absolute() else str(path) for path in paths
    ]


# Higher runs first; the order is shuffled so that a drift of the machine does not look like depth.
PRIORITY = {
    record(job): len(STUDY.jobs()) - index for index, job in enumerate(STUDY.jobs())
}


def place_in_order(wildcards):
    """Snakemake priority of a measuring job."""
    name = f"{LOCAL}/raw/{wildcards.method}/layer_{wildcards.layer}/round_{wildcards.round}.json"
    return PRIORITY.get(name, 0)


def category(wildcards):
    """Where the HTML report shows an output."""
    run = OUTPUTS_OF[wildcards.folder]
    return "This machine" if run == RUN else f"Published run {run}"


def paper_outputs(run):
    """Everything that is drawn and written of a run."""
    (folder,) = (folder for folder, one in OUTPUTS_OF.items() if one == run)
    leading = LEADING not in (None, run)
    return [
        f"{folder}/{file}"
        for output in OUTPUTS
        for name in output.names(PLANS[run], leading=leading)
        for file in output.written(name)
    ]


def drawn_workload(output, wildcards):
    """Of which workload an output is drawn, for its caption; "" for what is drawn of all."""
    run = OUTPUTS_OF[wildcards.folder]
    names = output.names(PLANS[run], leading=LEADING not in (None, run))
    return names.get(output.name + wildcards.get("which", ""), "")


def paper_inputs(output, wildcards):
    """The files that one output of a run is made from."""
    folders = {run: Path(folder) for folder, run in OUTPUTS_OF.items()}
    plan = PLANS[OUTPUTS_OF[wildcards.folder]]
    return relative(output.inputs(plan, PLANS.get(LEADING), folders.__getitem__))
