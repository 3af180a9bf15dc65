"""Snakemake's messages: a line for each job, what failed as it was said, and a dry run as Snakemake shows it."""

import logging

import pytest

from evaluation.paper.outlook import Job, Outlook
from evaluation.paper.progress import Progress

OUTLOOK = Outlook(
    jobs={0: Job(place="raw/djinn/layer_20/round_1.json")},
    others={100: "writing paper_figures"},
    study={"rounds": 1},
    gpu="",
    times=None,
)


class Shown(logging.Handler):
    """Keeps what Snakemake's own handler would show."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    @property
    def lines(self):
        return [record.getMessage() for record in self.records]


def record(message, event=None, **fields):
    """A message as Snakemake logs it."""
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, message, None, None)
    made.__dict__.update(fields, **({"event": event} if event else {}))
    return made


RUN = (
    record("Building DAG of jobs..."),
    record("job stats", "run_info"),
    record("Select jobs to execute..."),
    record("rule measure", "job_info", jobid=0, input=["x"]),
    record("Finished", "job_finished", job_id=0),
    record("rule draw", "job_info", jobid=100, input=["x"]),
    record("rule draw", "job_info", jobid=100, input=["x"]),
    record("rule unknown", "job_info", jobid=7, input=["x"]),
    record("Will exit"),
    record("Will exit"),
    record("Error in rule measure", "job_error", jobid=0, input=[str(number) for number in range(100)]),
)


@pytest.fixture
def shown():
    """What is shown of the messages of a run, or of a dry run."""

    def show(dry_run, messages=RUN):
        inner = Shown()
        progress = Progress(inner, lambda: OUTLOOK, lambda: dry_run)
        for message in messages:
            progress.handle(message)
        return inner

    return show


def test_a_job_is_a_line_and_an_error_stays_whole(shown):
    """What is not known is shown; the same line twice is one."""
    found = shown(dry_run=False)
    assert found.lines[2:] == [
        "[1/1] Djinn, layer 20",
        "writing paper_figures",
        "rule unknown",
        "Will exit",
        RUN[-1].msg,
    ]
    error = found.records[-1]
    assert (error.event, error.input) == ("job_error", ["0", "1", "2", "96 more", "99"])
    assert len(RUN[-1].input) == 100  # other handlers see it whole


def test_after_ctrl_c_no_job_has_failed(shown):
    """What the job says that was ended is in its log."""
    stop = record("Terminating processes on user request, this might take some time.")
    assert shown(dry_run=False, messages=[*RUN[:4], stop, RUN[-1]]).lines[-1] == stop.msg


def test_a_dry_run_shows_all_jobs_and_what_is_planned(shown):
    """As Snakemake says it, but for the names of a hundred sources."""
    lines = shown(dry_run=True).lines
    assert [line for line in lines if line.startswith("rule")] == [
        "rule measure",
        "rule draw",
        "rule draw",
        "rule unknown",
    ]
    assert lines[0].startswith("1 job of measuring")
    assert "job stats" in lines


def test_a_process_of_one_job_plans_nothing_and_passes_on(shown):
    """As Snakemake starts it on a node of a cluster."""
    assert shown(dry_run=False, messages=RUN[3:4]).lines == ["rule measure"]
