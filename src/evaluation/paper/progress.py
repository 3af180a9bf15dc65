"""Snakemake's messages, calm: one line for each job that measures, in place of some thirty; an error says what it said.

A handler in front of Snakemake's own. It reads what Snakemake tells its logger plugins. It is no plugin: those must be
installed where Snakemake is, and without one a profile that names it ends in an error. In a dry run every job has all
its lines, but for the hundred files of the sources. The file in ``.snakemake/log`` has everything.
"""

import copy
import logging
from collections.abc import Callable, Iterable

from evaluation.paper.outlook import Outlook

_NOISE = (  # what has no event to know it by
    "Building DAG of jobs...",
    "Using shell: ",
    "Conda environments: ignored",
    "Singularity containers: ignored",
    "Select jobs to execute...",
    "Complete log(s): ",
    "Elapsed time: ",
)
_SPARED = ("resources_info", "job_started", "job_finished", "progress")
_STOPPED = "Terminating processes on user request"  # the end of the job that ran then is no failure
_INPUTS = 8  # more of them are counted
_PLAIN = logging.INFO + 1  # a level to which Snakemake gives no colour


class Progress(logging.Handler):
    """Stands before the handler ``inner``. What is planned is asked of ``foresee`` when Snakemake has planned it.

    ``dry_run`` says whether nothing will run. In a process that Snakemake starts for one job nothing is planned, and
    every message is passed on.
    """

    def __init__(self, inner: logging.Handler, foresee: Callable[[], Outlook], dry_run: Callable[[], bool]) -> None:
        super().__init__()
        self._inner, self._foresee, self._dry_run = inner, foresee, dry_run
        self._outlook: Outlook | None = None
        self._begun: list[int] = []
        self._said: set[str] = set()
        self._last = ""
        self._stopped = False

    def emit(self, record: logging.LogRecord) -> None:
        """One message."""
        if self._stopped or not self._inner.filter(record):
            return
        event, message = getattr(record, "event", None), record.getMessage()
        last, self._last = self._last, message
        self._stopped = message.startswith(_STOPPED)
        if event == "run_info" and self._outlook is None:
            self._outlook = self._foresee()
            self._say(self._outlook.lines())
        if event in _SPARED or (event is None and (message.startswith(_NOISE) or message == last)):
            return
        if self._outlook is None or self._dry_run():
            self._pass_on(record)
        elif event == "job_info":
            self._job(record, self._outlook)
        elif event != "run_info":
            self._pass_on(record)

    def _job(self, record: logging.LogRecord, outlook: Outlook) -> None:
        number = record.__dict__["jobid"]
        if number in outlook.jobs:
            self._say([outlook.line(number, self._begun)])
            self._begun.append(number)
        elif (line := outlook.others.get(number)) is None:
            self._pass_on(record)
        elif line and line not in self._said:
            self._said.add(line)
            self._say([line])

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._inner.emit(logging.LogRecord("", _PLAIN, "", 0, line, None, None))

    def _pass_on(self, record: logging.LogRecord) -> None:
        """With the names of a few of its inputs; all others are the sources."""
        inputs = getattr(record, "input", None)
        if inputs is not None and len(inputs) > _INPUTS:
            record = copy.copy(record)
            record.__dict__["input"] = [*inputs[:3], f"{len(inputs) - 4} more", inputs[-1]]
        self._inner.emit(record)
