"""What every peer offers to its job: a peer is a module of ``evaluation.peers`` that holds one ``PEER``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.command import Refusal
from evaluation.measure.cell import Record
from evaluation.study.plan import Study, Workload


class Unsupported(Refusal):
    """This machine cannot run the peer; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What a user would pick instead: the package, how it is configured, for which workloads, and what measures it.

    ``take`` is given the study and what to tell on the way, and returns a cell for each workload. It raises
    :class:`Unsupported`.
    """

    package: str
    configuration: str
    workloads: Callable[[Study], Sequence[Workload]]
    take: Callable[[Study, Callable[[str], None]], list[Record]]
