"""Djinn: IO_WAIT swaps the session out by force; RESUME returns when layer L+1's inputs are on the device.

Variants: ``default``, the primary one, swaps everything. ``kept`` leaves the frontier on the device. ``attended`` and
``kept_attended`` are sessions of a runtime that attends the link while they are paused, ``coded`` of one that codes
their state.
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import djinn
from evaluation.measure.hand import Hand
from evaluation.measure.job import run_job
from evaluation.measure.method import ArenaFull, Change, Codec, Link, Method
from evaluation.measure.models import Subject
from evaluation.measure.programs import Logits, generate_greedily
from evaluation.study.plan import ConfigError, Study, Workload

_FILE = "session.djinn"
_BEAT_SECONDS = 0.005  # between the copies by which a runtime attends the link


def make_runtime(subject: Subject, study: Study, *, link: Link = "idle", codec: Codec = "raw") -> djinn.Runtime:
    """A runtime whose host memory is there before anything is timed; raises :class:`ConfigError` if it cannot be."""
    nbytes = int(study.host_arena_gib * 2**30)
    attentive = _BEAT_SECONDS if link == "attended" else None
    try:
        runtime = djinn.Runtime(subject.model, host_memory_bytes=nbytes, attentive=attentive, codec=codec)
        runtime.arena.wait_grown()
    except djinn.HostMemoryFull as error:
        raise ConfigError(f"djinn.host_arena_gib: {error}") from error
    return runtime


def _program(hand: Hand | None, *arguments: Any, **options: Any) -> Logits:
    """The user's call; whoever waits for its logits learns of its end, whatever that is."""
    if hand is None:
        return generate_greedily(*arguments, **options)
    try:
        return generate_greedily(*arguments, **options, give=hand.give)
    finally:
        hand.end()


class Djinn(Method):
    """The user's call, unmodified, on a session of ``runtime``, its own unless given.

    ``program`` is that call; one of other code is another site, where the runtime has not yet looked for owners.
    """

    variant = "default"
    headline = True
    restores_behind = True
    computes_aside = True
    program: Callable[..., Logits] = staticmethod(_program)

    def __init__(self, *args: Any, runtime: djinn.Runtime | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runtime = runtime or make_runtime(self.subject, self.study, link=self.link, codec=self.codec)
        self._owns_runtime = runtime is None

    def prepare(self) -> None:
        """Start the program and wait until it is parked."""
        visit = 1 + self.workload.decode_step
        self._session = self._runtime.open(breakpoint=self.layer, visit=visit, durable=self.durable)
        self._session.start(self.program, *self._arguments(), **self._options())
        if self._session.wait() is not djinn.Phase.PAUSED:
            self._session.result()  # raises what went wrong
            raise RuntimeError(f"the program ended without reaching layer {self.layer}")
        self._parked()

    def _arguments(self) -> tuple[Any, ...]:
        return self.hand, self.subject.model, self.input_ids, self.workload.kv_cache, self.decode_steps

    def _options(self) -> dict[str, Any]:
        return {"whole_prefill": not self.workload.decode_step}

    def _parked(self) -> None:
        self._frontier = self._session.frontier
        self._frontier_sizes = [tensor.numel() * tensor.element_size() for tensor in self.frontier().values()]
        self.floor_bytes = 0 if self.keeps == "frontier" else sum(self._frontier_sizes)

    def pause(self) -> None:
        """Swap the session out: IO_WAIT."""
        try:
            self._session.io_wait(keep=self.keeps)
        except djinn.HostMemoryFull as error:
            small = "djinn.host_arena_gib is too small for this workload, or in capacity djinn.load_host_arena_gib"
            raise ArenaFull(f"{small}: {error}") from error

    def edit(self, change: Change) -> None:
        """Edit through the session's view of its state, which is in host memory during IO_WAIT."""
        change(self._session.state["hidden_states"])

    def resume(self) -> None:
        """Swap the session in: RESUME."""
        try:
            self._session.resume()
        except djinn.DeviceMemoryFull as error:
            raise torch.OutOfMemoryError(str(error)) from error

    def save(self, folder: Path) -> None:
        """One file, from which the runtime of another process leads the same program back to its breakpoint."""
        self._session.save(folder / _FILE)

    def restore(self, folder: Path, *, allow_other: bool = False) -> bool:
        """Run the program, whose model answers from the file; on another machine as well, where ``allow_other``."""
        given = {**self._options(), "allow_other": allow_other}
        self._session = self._runtime.restore(folder / _FILE, self.program, *self._arguments(), **given)
        self._parked()
        return True

    def recorded_bytes(self) -> int:
        """Bytes in host memory of what the model returned so far to a session that is ``durable``."""
        return self._session.recorded_bytes

    def wait_resident(self) -> None:
        """Wait until the last byte is back."""
        self._session.wait_resident()

    def finish(self) -> Logits:
        """Return the program's own result."""
        logits: Logits = self._session.result()
        self._session.close()
        self._frontier = {}
        return logits

    def frontier(self) -> dict[str, torch.Tensor]:
        """The tensors that layer L+1 reads, as Djinn names them."""
        return {name: read() for name, read in self._frontier.items()}

    def state_sizes(self) -> list[int]:
        """Bytes of each storage that Djinn moves."""
        return self._session.storage_sizes

    def freed_sizes(self) -> list[int]:
        """Of those what leaves the device."""
        kept = self._frontier_sizes if self.keeps == "frontier" else []
        return list((Counter(self.state_sizes()) - Counter(kept)).elements())

    def device_bytes_by_policy(self) -> int:
        """Bytes of the frontier, if it is kept."""
        return sum(self._frontier_sizes) if self.keeps == "frontier" else 0

    def buffer_bytes(self) -> int:
        """What the runtime codes through."""
        return self._runtime.status().codec_bytes

    def host_bytes(self) -> int:
        """Bytes in the arena."""
        return self._session.host_bytes

    def shared(self) -> dict[str, Any]:
        """The runtime: a model has one."""
        return {"runtime": self._runtime}

    def share_arena(self) -> int:
        """That of the runtime."""
        return self._runtime.arena.nbytes

    def beside(self, input_ids: torch.Tensor) -> "Djinn":
        """One more session of the same runtime."""
        other = copy.copy(self)
        other.input_ids = input_ids
        return other

    def abandon(self) -> None:
        """Close the session."""
        self._session.close()

    def close(self) -> None:
        """Close the runtime, whose hooks come off, if it is its own, or else what a failure has left in it."""
        if self._owns_runtime:
            self._runtime.close()
            return
        for session in self._runtime.sessions:
            session.close()


class KeptDjinn(Djinn):
    """Leaves the frontier on the device."""

    variant = "kept"
    headline = False
    drawn = True
    keeps = "frontier"


class AttendedDjinn(Djinn):
    """Attends the link while the session is paused."""

    variant = "attended"
    headline = False
    link = "attended"


class KeptAttendedDjinn(KeptDjinn):
    """Does both."""

    variant = "kept_attended"
    link = "attended"


class CodedDjinn(Djinn):
    """Codes the state on its way to host memory; where no kernel can be had it is as it was, and so are its bytes."""

    variant = "coded"
    headline = False
    codec = "auto"
    least_share = 11 / 16  # sign, mantissa and 3 bits of the 16: no coded storage is smaller


def variants(workload: Workload) -> list[type[Method]]:
    """Those that the paper leads with."""
    return [Djinn, KeptDjinn]


def compared(*, coded: bool) -> list[type[Djinn]]:
    """Those that are compared with hand-written forms in one process: one for each thing kept and state of the link.

    Where there is state that can be ``coded`` it is one more.
    """
    return [Djinn, KeptDjinn, AttendedDjinn, KeptAttendedDjinn, *([CodedDjinn] if coded else [])]


def counted(study: Study, workload: Workload) -> list[type[Method]]:
    """Those of whose sessions different numbers fit."""
    return [CodedDjinn, Djinn] if study.coded and workload.kv_cache else [Djinn]


if __name__ == "__main__":
    sys.exit(run_job("djinn", __doc__, variants))
