"""The artifact: `snakemake --cores 1 paper_figures` measures this machine and writes the paper's figures."""

from snakemake.utils import min_version

min_version("9.27.1")  # what is pinned, and so tested


report: "rules/captions/workflow.rst"


# Only for `--sdm apptainer`. Written, never run: envs/evaluation.def builds it, and no published image is named.
container: "evaluation.sif"


include: "rules/common.smk"
include: "rules/probe.smk"
include: "rules/measure.smk"
include: "rules/aggregate.smk"
include: "rules/paper.smk"
include: "rules/trained.smk"
include: "rules/terminal.smk"


rule paper_figures:
    default_target: True
    input:
        rules.join.output,
        [paper_outputs(run) for run in [RUN, *PAPER_RUNS]],


rule studies:
    """What each kind of job will be given: enough to carry records over from a former piece of this run."""
    input:
        rules.study.output,
        [f"{LOCAL}/studies/{kind}.json" for kind in READS],


rule published_figures:
    input:
        [paper_outputs(run) for run in PAPER_RUNS],
