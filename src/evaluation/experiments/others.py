"""A session that goes on token by token and is swapped out and in on the way: under Djinn, and by hand.

It stops after the same layer in each decode step. Its methods are called by one thread, in the order in which they
stand here; from ``pause`` to ``step`` as often as one likes.
"""

import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from transformers import LlamaForCausalLM

import djinn
from evaluation.measure.harness import NotBitExact
from evaluation.measure.programs import Logits, decode
from evaluation.methods.stepped_offload import SteppedOffload


class Other(ABC):
    """A session that stops in each decode step. ``steps``: how many decode steps it has begun."""

    steps: int

    @abstractmethod
    def start(self) -> None:
        """Run the prefill, and the first decode step up to the breakpoint."""

    @abstractmethod
    def sizes(self) -> list[int]:
        """Bytes of each piece of its state, before ``pause``."""

    @abstractmethod
    def pause(self) -> None:
        """Swap it out."""

    @property
    @abstractmethod
    def host_bytes(self) -> int:
        """Bytes of its state in host memory."""

    def streams(self) -> list[torch.cuda.Stream]:
        """Streams other than the current one for which ``resume`` allocates state."""
        return []

    @abstractmethod
    def aim(self) -> None:
        """Let the next :meth:`resume` lead to the breakpoint in the next decode step."""

    @abstractmethod
    def aim_at_the_end(self) -> None:
        """Let it lead to the end, after one step more, which reads the whole KV cache."""

    @abstractmethod
    def resume(self) -> None:
        """Return when the device can go on with it."""

    @abstractmethod
    def step(self) -> None:
        """Return when it has come to the breakpoint again."""

    @abstractmethod
    def finish(self) -> Logits:
        """The last token's logits of prefill and decode steps, in host memory, each of [batch, 1, vocabulary]."""

    def current(self) -> AbstractContextManager[object]:
        """Makes its stream the current one of the thread that calls it."""
        return nullcontext()


class OtherByDjinn(Other):
    """A session of ``runtime`` that computes on ``model``."""

    def __init__(self, runtime: djinn.Runtime, model: LlamaForCausalLM, input_ids: torch.Tensor, layer: int) -> None:
        self._model, self._input_ids, self._layer = model, input_ids, layer
        self._enough = threading.Event()
        self._session = runtime.open(breakpoint=layer, visit=2)  # the first is in the prefill

    def start(self) -> None:
        """Start the program, and wait until it is parked."""
        self._session.start(_until_enough, self._model, self._input_ids, self._enough)
        self.steps = 1
        self._wait()

    def _wait(self) -> None:
        if self._session.wait() is not djinn.Phase.PAUSED:
            self._session.result()  # raises what went wrong
            raise NotBitExact("the other session ended before it was to")

    def sizes(self) -> list[int]:
        """Of each storage."""
        return self._session.storage_sizes

    def pause(self) -> None:
        """IO_WAIT."""
        self._session.io_wait()

    @property
    def host_bytes(self) -> int:
        """In the arena."""
        return self._session.host_bytes

    def aim(self) -> None:
        """Set the breakpoint anew."""
        self._session.break_at(self._layer)
        self.steps += 1

    def aim_at_the_end(self) -> None:
        """Tell the program that it is enough."""
        self._enough.set()

    def resume(self) -> None:
        """RESUME."""
        self._session.resume()

    def step(self) -> None:
        """Wait until it is parked."""
        self._wait()

    def finish(self) -> Logits:
        """Return the program's result."""
        found: Logits = self._session.result()
        self._session.close()
        return found


def _until_enough(model: LlamaForCausalLM, input_ids: torch.Tensor, enough: threading.Event) -> Logits:
    """The user's call: a prefill and greedy decode steps; one more when it is told that it is enough.

    Logits go to host memory, where a program keeps what it streams: on the device they would be swapped as well.
    """
    output = model(input_ids, use_cache=True, logits_to_keep=1)
    cache, logits = output.past_key_values, output.logits
    found = [logits.cpu()]
    while True:
        last = enough.is_set()  # a step that is told on the way is followed by one more
        (logits,) = decode(model, logits, cache, 1)
        found.append(logits.cpu())
        if last:
            return found


class OtherByHand(Other):
    """The quickest copies by hand: ``offload``, which computes and copies on ``stream``, its own."""

    def __init__(self, offload: SteppedOffload, stream: torch.cuda.Stream | None) -> None:
        self._offload, self._stream = offload, stream

    def current(self) -> AbstractContextManager[object]:
        """Its stream."""
        return torch.cuda.stream(self._stream)

    def start(self) -> None:
        """Run up to the breakpoint."""
        self._offload.prepare()
        self.steps = 1

    def sizes(self) -> list[int]:
        """Of each tensor."""
        return self._offload.state_sizes()

    def pause(self) -> None:
        """Copy out."""
        self._offload.pause()

    @property
    def host_bytes(self) -> int:
        """Of the copies."""
        return self._offload.host_bytes()

    def streams(self) -> list[torch.cuda.Stream]:
        """That of the copies behind."""
        return self._offload.streams()

    def aim(self) -> None:
        """It stops wherever :meth:`step` says."""
        self.steps += 1

    def aim_at_the_end(self) -> None:
        """The same."""

    def resume(self) -> None:
        """Copy the frontier back and wait for it."""
        if self._offload.away:
            self._offload.resume()

    def step(self) -> None:
        """Compute on."""
        self._offload.step()

    def finish(self) -> Logits:
        """Run to the end."""
        return [logits.cpu() for logits in self._offload.finish()]
