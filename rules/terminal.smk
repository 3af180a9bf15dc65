"""What is said on the terminal: before, one line for each job that measures, and at the end what to look at."""

from snakemake.logging import logger

from evaluation.paper.outlook import Job, Outlook, Times
from evaluation.paper.progress import Progress
from evaluation.study.devices import visible_gpu


def changed(job):
    """Why a record that is there is measured again, or ""."""
    if not Path(job.output[0]).exists():
        return ""
    why = workflow.dag.reason(job)
    files = {str(file) for file in [*why.updated_input, *why.updated_input_run]}
    if any(file.startswith(f"{LOCAL}/studies/") for file in files):
        return "their part of the study"
    return "the measuring code" if files or why.input_changed else "their rule"


def other(job):
    """What is said of a job that measures nothing: of settings, and of what only stands for other jobs, nothing."""
    if job.rule.name == "probe":
        return "probing this machine"
    if not job.output or job.rule.name.endswith("study"):
        return ""
    return f"writing {Path(job.output[0]).parent}"


def foresee():
    """What is planned, when Snakemake has planned it."""
    jobs, others = {}, {}
    for job in workflow.dag.needrun_jobs():
        if job.benchmark is None:
            others[job.jobid] = other(job)
        else:
            place = os.path.relpath(job.output[0], LOCAL)
            jobs[job.jobid] = Job(place=place, changed=changed(job))
    study, gpu = STUDY.published(), None if STUDY.functional else visible_gpu()
    runs = dict.fromkeys([*PAPER_RUNS, *PUBLISHED])
    return Outlook(
        jobs=jobs,
        others=others,
        study=study,
        gpu="" if gpu is None else gpu.name,
        times=Times.found((PLANS[run] for run in runs), study),
    )


# Only Snakemake's own: who asks for a logger plugin wants what that one says.
for handler in list(logger.handlers):
    if handler.name == "DefaultStreamHandler":
        logger.removeHandler(handler)
        logger.addHandler(Progress(handler, foresee, lambda: workflow.dryrun))


onsuccess:
    finished = list(workflow.dag.finished_jobs)
    (ours,) = (folder for folder, run in OUTPUTS_OF.items() if run == RUN)
    files = [file for job in finished for file in job.output]
    drawn = any(file.startswith(f"{ours}/") for file in files)
    if "verdicts" in {job.rule.name for job in finished}:
        pass  # it has printed them
    elif drawn and Path(ours, "claims.json").exists():
        shell(f"python3 -m evaluation.paper.verdicts --run {RUN}")
    elif not any(file.startswith(f"{LOCAL}/") for file in files):
        print("Done. Nothing was measured.", file=sys.stderr)
    else:
        print(f"Done. The records lie in {LOCAL}.", file=sys.stderr)
        if RUN == "local":
            print(
                "The whole, if this was a part: make paper_figures", file=sys.stderr
            )


onerror:
    print(
        "Not finished. What failed, if anything did, stands above with the name of its log.",
        "The same command goes on where this one stopped.",
        sep="\n",
        file=sys.stderr,
    )
