"""The interface of a method to the harness, and how the hand-written ones run the program."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from evaluation.measure.device_memory import allocated_bytes
from evaluation.measure.hand import Hand
from evaluation.measure.models import Subject
from evaluation.measure.programs import Logits, Stopped, decode, start_at_layer, stop_at_layer
from evaluation.study.plan import ConfigError, Study, Workload

Codec = Literal["raw", "auto"]
Keeps = Literal["nothing", "frontier"]
Link = Literal["idle", "attended"]
Change = Callable[[torch.Tensor], None]  # edits hidden states of shape [batch, tokens, hidden] in place


class HostFull(ConfigError):
    """The host has no room for the state of one more session."""


class ArenaFull(HostFull):
    """The host memory that was set aside for all sessions has no room for the state of one more."""


class Method(ABC):
    """One method at one breakpoint of one workload; the verbs run in the order in which they stand here.

    The class attributes describe it; ``floor_bytes`` is known from ``pause`` on.
    """

    variant: str
    headline: bool  # whether it is the primary variant of its method, by the format's word
    drawn: bool = False  # whether the paper draws it beside the primary one: then it takes as many samples
    frees_memory: bool = True
    own_reference: bool = False  # whether its arithmetic has bits of its own: compared with its own run, unpaused
    keeps_state: bool = True  # whether the hidden states outlive ``pause``; if not, ``edit`` comes before it
    restores_behind: bool = False  # whether state is still on its way when ``resume`` returns
    least_share: float = 1.0  # of the state's bytes that are kept at least: less where they are coded
    becomes_resident: bool = True  # whether all state ever is back on the device at one time
    waits_ready: bool = True  # whether ``resume`` waits until the device can go on; if not, there is no clock ready
    keeps: Keeps = "nothing"  # of the state on the device while it is paused: nothing, or the frontier
    link: Link = "idle"  # between host and device while it is paused: idle, or attended by tiny copies
    codec: Codec = "raw"  # of the state in host memory: as it is, or coded where that makes it smaller
    computes_aside: bool = False  # whether a thread of its own computes from there, and ``finish`` only waits for it
    durable: bool = (
        False  # whether ``save`` will be asked for, before ``prepare``: some record for it what they compute
    )
    hand: Hand | None = None  # whom the program hands its last token's logits to, where that is timed
    floor_bytes: int = 0  # what ready waits for, timed beside each sample as one raw pinned copy; 0: nothing is copied

    def __init__(
        self, subject: Subject, study: Study, workload: Workload, *, layer: int, input_ids: torch.Tensor
    ) -> None:
        self.subject = subject
        self.study = study
        self.workload = workload
        self.layer = layer
        self.input_ids = input_ids
        self.decode_steps = workload.decode_step + study.measurement.decode_steps if workload.kv_cache else 0

    @classmethod
    def unsupported(cls, device: torch.device) -> str:
        """Why it cannot run on ``device``; empty if it can."""
        return ""

    @abstractmethod
    def prepare(self) -> None:
        """Run the program up to the breakpoint."""

    @abstractmethod
    def pause(self) -> None:
        """Give up the device memory of the session state, or keep it."""

    @abstractmethod
    def edit(self, change: Change) -> None:
        """Let ``change`` edit the hidden states of the parked session, wherever they lie."""

    @abstractmethod
    def resume(self) -> None:
        """Return when the device can compute layer L+1: the clock ``ready``."""

    def save(self, folder: Path) -> None:
        """Write to ``folder`` what a paused session goes on from when its process is gone; most have no such thing."""

    def restore(self, folder: Path) -> bool:
        """In another process, in place of ``prepare`` and ``pause``: be paused there. False: there is no way back."""
        return False

    def wait_resident(self) -> None:
        """Return when all state is on the device; only where ``restores_behind``."""

    @abstractmethod
    def finish(self) -> Logits:
        """Run the program to its end and drop the session; the logits of prefill and decode steps."""

    def give(self, logits: torch.Tensor) -> None:
        """Hand over the last token's of ``logits``, the program's of one pass, if somebody wants them."""
        if self.hand is not None:
            self.hand.give(logits)

    def rewritten(self) -> list[torch.Tensor]:
        """Memory of its own on the device into which ``resume`` puts the state anew: overwritten while it is paused."""
        return []

    @abstractmethod
    def frontier(self) -> dict[str, torch.Tensor]:
        """What layer L+1 needs besides its own KV, by name, as the device holds it now."""

    @abstractmethod
    def state_sizes(self) -> list[int]:
        """Bytes of each piece of session state, between ``prepare`` and ``pause``."""

    def freed_sizes(self) -> list[int]:
        """Those of :meth:`state_sizes` that ``pause`` takes off the device."""
        return self.state_sizes() if self.frees_memory else []

    def streams(self) -> list[torch.cuda.Stream]:
        """Streams other than the current one for which ``resume`` allocates state."""
        return []

    def match(self, sizes: Sequence[int]) -> None:
        """Prepare to move storages of ``sizes`` bytes, as the other method of a pair does."""

    def shared(self) -> dict[str, Any]:
        """What a further variant on the same model is given, for it cannot be there twice: keyword arguments."""
        return {}

    def flops(self) -> float | None:
        """Operations that resume repeats, or None for a method that repeats none."""
        return None

    def device_bytes(self) -> int | None:
        """Bytes in use on a GPU, by a count that sees what ``pause`` gives up; None on the CPU."""
        return allocated_bytes(self.subject.device)

    def overwrite_given_back(self) -> None:
        """Overwrite what ``pause`` gave back to the driver, where torch's allocator cannot; in validations only."""

    def reserved_bytes(self) -> int:
        """Bytes of the device that are its own whether it is paused or not; known from ``pause`` on."""
        return 0

    def buffer_bytes(self) -> int:
        """Bytes of the device that all of its sessions share, for state to go through."""
        return 0

    def host_bytes(self) -> int:
        """Host memory that the paused session takes, in bytes."""
        return 0

    def device_bytes_by_policy(self) -> int:
        """Bytes of the state that the paused session keeps on the device because it is meant to."""
        return 0

    def share_arena(self) -> int | None:
        """Set ``study.host_arena_gib`` of host memory aside for this session and those :meth:`beside` it.

        Returns its bytes, or None: each takes from the host what it needs. Raises :class:`HostFull`.
        """
        return None

    def beside(self, input_ids: torch.Tensor) -> "Method":
        """The same method for one more session, of ``input_ids``, while this one may be paused."""
        return type(self)(self.subject, self.study, self.workload, layer=self.layer, input_ids=input_ids)

    def abandon(self) -> None:
        """Give up a session that could not be paused, or not be brought to its breakpoint."""

    def close(self) -> None:
        """Give back what outlives a sample."""


class ByHand(Method):
    """A method around ``stop_at_layer`` and ``start_at_layer``; a subclass says what pause and resume do."""

    stopped: Stopped

    def prepare(self) -> None:
        """Run the program up to the breakpoint."""
        model, workload = self.subject.model, self.workload
        input_ids, cache = self.input_ids, self.empty_cache()
        self._earlier: Logits = []  # logits of the passes before the one that stops
        if workload.decode_step:
            output = model(input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            self._earlier = [output.logits, *decode(model, output.logits, cache, workload.decode_step - 1)]
            input_ids = self._earlier[-1].argmax(-1)
        self._pass_input = input_ids
        self.stopped = stop_at_layer(model, self.layer, input_ids, workload.kv_cache, cache)

    def empty_cache(self) -> Any:
        """The KV cache to begin with; None: what the model makes by itself."""
        return None

    def edit(self, change: Change) -> None:
        """On the device's tensor, or on the copy that ``pause`` has put in its place."""
        change(self.stopped.hidden_states)

    def finish(self) -> Logits:
        """Run the remaining layers and the decode steps."""
        logits = start_at_layer(self.subject.model, self.stopped, self.before_layer)
        self.give(logits)
        self.before_decode()
        left = self.decode_steps - self.workload.decode_step
        steps = decode(self.subject.model, logits, self.stopped.cache, left, self.give)
        del self.stopped
        return [*self._earlier, logits, *steps]

    def before_layer(self, number: int) -> None:
        """Layer ``number`` (1 .. N) reads its KV: wait for what of it is still on its way."""

    def before_decode(self) -> None:
        """The next step reads the whole KV cache: let it wait for what is still on its way."""

    def frontier(self) -> dict[str, torch.Tensor]:
        """Hidden states and the layers' tensor arguments."""
        return self.stopped.frontier()

    def state_sizes(self) -> list[int]:
        """Bytes of the frontier's and the KV cache's tensors."""
        tensors = [*self.stopped.frontier().values(), *self.stopped.history().values()]
        return [tensor.numel() * tensor.element_size() for tensor in tensors]
