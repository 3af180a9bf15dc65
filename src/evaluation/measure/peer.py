"""What every peer offers to its job: a peer is a module of ``evaluation.peers`` that holds one ``PEER``."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.command import Refusal
from evaluation.measure.cell import Record
from evaluation.study.plan import Study, Workload

NEEDS_GPU = "it needs a GPU, and the study runs on the CPU"


class Unsupported(Refusal):
    """This machine cannot run the peer; the message is the reason."""


class Unread(Refusal):
    """Something of a killed process came back in another one, and nobody has compared it with the session."""

    status = 1


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What a user would pick instead: the package, how it is configured, for which workloads, and what measures it.

    ``take`` is given the study and what to tell on the way, and returns a cell for each workload. It raises
    :class:`Unsupported`.

    ``kill`` edits a session, pauses it and kills its process. Then it asks for the session from elsewhere by all the
    means that the peer has, and returns the refusal. It raises :class:`Unsupported`, :class:`NotKilled` where the
    process ended otherwise, and :class:`Unread` where something came back after all.
    """

    package: str
    configuration: str
    workloads: Callable[[Study], Sequence[Workload]]
    take: Callable[[Study, Callable[[str], None]], list[Record]]
    kill: Callable[[Study, Callable[[str], None]], str]

    @staticmethod
    def named(name: str) -> "Peer":
        """The one of the module ``name``."""
        peer: Peer = importlib.import_module(f"evaluation.peers.{name}").PEER
        return peer
