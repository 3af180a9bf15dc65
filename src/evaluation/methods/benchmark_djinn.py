"""Djinn: IO_WAIT swaps the session out by force; RESUME returns when layer L+1's inputs are on the device.

Each sample is paired with hand-written offloads, in alternating order. Their code does not import Djinn. Without a KV
cache the partner is ``pinned``. With one there are two: ``pinned_ordered`` for the clocks of the next layer, and
``pinned_identical`` for the clock ``resident``, which moves in bulk the very sizes that Djinn moves.
"""

import copy
import sys
from typing import Any

import torch

import djinn
from evaluation.measure.job import run_job
from evaluation.measure.method import Change, HostFull, Method
from evaluation.measure.programs import Logits, generate_greedily
from evaluation.methods.benchmark_manual_offload import IdenticalOffload, OrderedOffload, PinnedOffload
from evaluation.study.plan import ConfigError, Workload


class Djinn(Method):
    """The user's call, unmodified, on a session of the runtime."""

    variant = "default"
    headline = True
    restores_behind = True
    computes_aside = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nbytes = int(self.study.host_arena_gib * 2**30)
        try:
            self._runtime = djinn.Runtime(self.subject.model, host_memory_bytes=nbytes)
            self._runtime.arena.wait_grown()  # before anything is timed
        except djinn.HostMemoryFull as error:
            raise ConfigError(f"djinn.host_arena_gib: {error}") from error

    def prepare(self) -> None:
        """Start the program and wait until it is parked."""
        self._session = self._runtime.open(breakpoint=self.layer, visit=1 + self.workload.decode_step)
        self._session.start(
            generate_greedily,
            self.subject.model,
            self.input_ids,
            self.workload.kv_cache,
            self.decode_steps,
            whole_prefill=not self.workload.decode_step,
        )
        if self._session.wait() is not djinn.Phase.PAUSED:
            self._session.result()  # raises what went wrong
            raise RuntimeError(f"the program ended without reaching layer {self.layer}")
        self._frontier = self._session.frontier
        self.floor_bytes = sum(tensor.numel() * tensor.element_size() for tensor in self.frontier().values())

    def pause(self) -> None:
        """Swap the session out: IO_WAIT."""
        try:
            self._session.io_wait()
        except djinn.HostMemoryFull as error:
            raise HostFull(f"djinn.host_arena_gib is too small for this workload: {error}") from error

    def edit(self, change: Change) -> None:
        """Edit through the session's view of its state, which is in host memory during IO_WAIT."""
        change(self._session.state["hidden_states"])

    def resume(self) -> None:
        """Swap the session in: RESUME."""
        try:
            self._session.resume()
        except djinn.DeviceMemoryFull as error:
            raise torch.OutOfMemoryError(str(error)) from error

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

    def host_bytes(self) -> int:
        """Bytes in the arena."""
        return self._session.host_bytes

    def beside(self, input_ids: torch.Tensor) -> "Djinn":
        """One more session of the same runtime."""
        other = copy.copy(self)
        other.input_ids = input_ids
        return other

    def abandon(self) -> None:
        """Close the session."""
        self._session.close()

    def close(self) -> None:
        """Close the runtime, whose hooks come off."""
        self._runtime.close()


def variants(workload: Workload) -> list[type[Method]]:
    """The only variant."""
    return [Djinn]


def partners(workload: Workload) -> list[type[Method]]:
    """The methods that are run next to each sample."""
    return [IdenticalOffload, OrderedOffload] if workload.kv_cache else [PinnedOffload]


if __name__ == "__main__":
    sys.exit(run_job("djinn", __doc__, variants, partners=partners))
