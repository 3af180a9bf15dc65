"""Vanilla PyTorch: the paused session keeps everything in device memory, and resume has nothing to do."""

import sys

from evaluation.measure.device_memory import synchronize
from evaluation.measure.job import run_job
from evaluation.measure.method import ByHand, Method
from evaluation.study.plan import Workload


class Vanilla(ByHand):
    """Keep everything."""

    variant = "default"
    headline = True
    frees_memory = False

    def pause(self) -> None:
        """Keep the state where it is."""

    def resume(self) -> None:
        """Wait for the device."""
        synchronize(self.subject.device)


def variants(workload: Workload) -> list[type[Method]]:
    """The only variant."""
    return [Vanilla]


if __name__ == "__main__":
    sys.exit(run_job("vanilla", __doc__, variants))
