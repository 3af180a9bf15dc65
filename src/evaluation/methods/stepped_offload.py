"""The ordered offload of a session that goes on from token to token, and is paused in each decode step.

It has a stream of its own, so that it computes and copies beside others of the process. Knows nothing of Djinn.
"""

from typing import Any

import torch

from evaluation.measure.programs import Logits, Stopped, start_at_layer, stop_at_layer
from evaluation.methods.offloads import OrderedOffload


class SteppedOffload(OrderedOffload):
    """Comes to the same layer in each decode step; made, and called, where its stream is the current one.

    ``away``: whether its state is in host memory.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        device = self.subject.device
        self._compute = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.away = False

    def pause(self) -> None:
        """Copy all to the host, and let go of the device's tensors."""
        super().pause()
        self.away = True

    def _bring_rest(self, stopped: Stopped) -> None:
        if self.away:
            with torch.cuda.stream(self._compute):  # on the helper's thread: whose stream reads what is brought
                super()._bring_rest(stopped)

    def step(self) -> None:
        """Compute up to the breakpoint in the next decode step, while the rest is brought back, if it was away."""
        model, cache = self.subject.model, self.stopped.cache
        self._begin()
        with self._waits:
            logits = start_at_layer(model, self.stopped, self.before_layer)
            self.before_decode()
            self._earlier.append(logits.cpu())  # where a program keeps what it streams
            self.stopped = stop_at_layer(model, self.layer, logits[:, -1:].argmax(-1), True, cache)
        self._end()
        self.away = False

    def finish(self) -> Logits:
        """Run to the end."""
        logits = super().finish()
        self.away = False
        return logits
