"""A process that pauses sessions and is then killed from outside, by SIGKILL, while they are paused.

Another process has nothing of theirs but what was written to a folder by then.
"""

import signal
from collections.abc import Callable
from typing import Any

from evaluation.command import Refusal
from evaluation.measure.child import Child, Program
from evaluation.measure.job import Report
from evaluation.study.plan import Study


class NotKilled(Refusal):
    """The process ended in another way, so that nothing is known of what survives a kill."""

    status = 1


def killed_when_paused(
    program: Program,
    study: Study,
    *arguments: object,
    report: Report,
    when_paused: Callable[[Child], None] = lambda process: None,
) -> tuple[Any, int]:
    """Run ``program`` in a process until it says ``paused``, and kill it; what it said, and the signal that ended it.

    ``when_paused`` is called before it is killed, for what pauses a process from outside. Raises :class:`NotKilled`.
    """
    with Child(program, study, *arguments, report=report) as process:
        said = process.hear("paused")
        when_paused(process)
        ended_by = process.kill()
    if ended_by != signal.SIGKILL:
        raise NotKilled(f"the process with the paused sessions was to be killed, and ended by signal {ended_by}")
    return said, ended_by
